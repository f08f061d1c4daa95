"""Where problems and rewards come from. `build(config.task, config.seed, config.tools)` gives the Task of a run.

One file a task (math, jsonl, gym, toy), or a folder (search/ for agentic search, smallworld/ for invented operations), and what
they share: sources.py (where rows are read from), splits.py (train, validation and test apart; the order of an epoch),
extraction.py (how an answer is read off a reply), grading.py and worker.py (grading in processes that can be killed). Nothing
here imports JAX, and heavy libraries are imported where they are used, because each grading worker imports this package.
"""

from collections.abc import Callable

from ml_collections import ConfigDict

from espl_jax.structs import Task
from espl_jax.tasks import gym, jsonl, math, toy
from espl_jax.tasks.choices import choose
from espl_jax.tasks.extraction import EXTRACTION
from espl_jax.tasks.search import task as search_task  # not as search: that is the package's own name
from espl_jax.tasks.smallworld import task as smallworld_task

# Builders: (config.task, config.seed, config.tools) -> Task; only conversations need the tools.
TASKS: dict[str, Callable[[ConfigDict, int, ConfigDict], Task]] = {
    "math": math.build,
    "jsonl": jsonl.build,
    "reasoning_gym": gym.build,
    "search": search_task.build,
    "smallworld": smallworld_task.build,
    "toy": toy.build,
}

LEAST = {
    "num_problems": 1,
    "num_samples": 1,
    "grading_workers": 1,
    "num_train": 0,
    "num_validation": 0,
    "num_test": 0,
}


def build(config: ConfigDict, seed: int, tools: ConfigDict) -> Task:
    """The task that `config` (the `task` section of a run's config) names, its splits drawn by `seed` (0 or more).

    tools: the `tools` section. Raises ValueError, before anything is loaded, for an impossible value, and for a training set
    that is smaller than one step's problems. No process is started before the first answer is graded; Task.close ends them.
    """
    check(config, seed)
    task = choose("task.name", config.name, TASKS)(config, seed, tools)
    if len(task.train) < config.num_problems:
        raise ValueError(
            f"task.num_problems is {config.num_problems} but there are only {len(task.train)} training problems; "
            "lower task.num_problems or give more training problems"
        )
    return task


def check(config: ConfigDict, seed: int):
    """Raises ValueError for the first field that cannot be right whatever the task is."""
    choose("task.name", config.name, TASKS)
    choose("task.extraction", config.extraction, EXTRACTION)
    for name, least in LEAST.items():
        if config[name] < least:
            raise ValueError(f"task.{name} is {config[name]}; use {least} or more")
    if not 0 < config.grading_timeout < float("inf"):
        raise ValueError(f"task.grading_timeout is {config.grading_timeout}; use a number of seconds above 0")
    if seed < 0:
        raise ValueError(f"seed is {seed}; use 0 or more")
