"""A whole run on a tiny random model, for tests: python -m tests.tiny_run MODEL WORKDIR [field=json ...].

The task rewards replies whose length in characters is even, so that even a random model has groups with signal, updates its
weights and reflects; what its editor "writes" is noise, some of which is born.
"""

import getpass
import json
import sys
import tempfile
from pathlib import Path
from unittest import mock

from ml_collections import ConfigDict

from espl_jax import main, tasks
from espl_jax.structs import Grade, RunState, Task
from espl_jax.tasks import toy
from espl_jax.tasks.grading import Inline
from experiments import base

CACHE = str(Path(tempfile.gettempdir()) / f"espl_jax_tests_{getpass.getuser()}")  # the tests' runs compile the same programs


def parity_task(config: ConfigDict, seed: int, tools: ConfigDict) -> Task:
    task = toy.build(config, seed, tools)
    grader = Inline(lambda _, text: Grade(float(len(text) % 2 == 0), str(len(text))))
    return Task("parity", task.train, task.validation, task.test, task.question, grader, "Write a reply of even length.")


def tiny_config(model: Path, **changes) -> ConfigDict:
    config = base.get_config()
    values = {
        "num_steps": 3, "model.path": str(model), "model.max_length": 1024, "model.dtype": "float32",
        "model.weight_dtype": "float32", "task.name": "parity", "task.num_problems": 3, "task.num_samples": 4,
        "task.num_validation": 4, "sampling.temperature": 1.0, "sampling.top_p": 0.98, "sampling.max_new_tokens": 6,
        "sampling.batch_size": 8, "sampling.prefill_tokens": 512, "rl.lora_rank": 4, "rl.learning_rate": 1e-2,
        "rl.micro_batch_tokens": 256, "rl.head_chunk": 32, "rl.gap_warning": 1e-3, "evolution.num_prompts": 2,
        "evolution.max_problems": 2, "evolution.max_trajectories": 2, "evolution.max_new_tokens": 48,
        "evolution.temperature": 1.0, "evolution.edit_form": "sentence", "evolution.crossover_probability": 0.5,
        "evaluation.num_samples": 2, "evaluation.test": False, "evaluation.max_new_tokens": 6,
        "records.tensorboard": False, "records.report": False, "records.compilation_cache": CACHE,
    }  # fmt: skip
    for name, value in (values | changes).items():
        section, _, field = name.rpartition(".")
        (config[section] if section else config)[field] = value
    return config


def run(model: Path, workdir: Path, **changes) -> RunState:
    """Runs, or goes on with, a tiny run."""
    with mock.patch.dict(tasks.TASKS, parity=parity_task):
        return main.by_method(tiny_config(model, **changes), workdir)


def command(arguments: list[str]) -> None:
    """What the command line does: MODEL WORKDIR [field=json ...]."""
    fields = (argument.partition("=") for argument in arguments[2:])
    changes = {name: json.loads(value) for name, _, value in fields}
    tasks.TASKS["parity"] = parity_task
    main.start(tiny_config(Path(arguments[0]), **changes), arguments[1])


if __name__ == "__main__":
    command(sys.argv[1:])
