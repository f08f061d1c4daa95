"""The experiments as a user starts them: on the command line, with small local stand-ins for model and data."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from espl_jax import config as configs
from espl_jax.tasks.search.build import build
from espl_jax.tasks.search.passages import Passage
from tests.tiny_run import CACHE

ROOT = Path(__file__).parents[1]
NAMES = sorted(path.stem for path in (ROOT / "experiments").glob("*.py") if path.stem != "__init__")


def main(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "espl_jax.main", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_is_a_valid_config(name):
    config = importlib.import_module(f"experiments.{name}").get_config()
    assert config.is_locked
    configs.resolve(config)


def test_beyondaime_runs_two_steps_on_a_tiny_model(tiny_qwen3, tmp_path):
    rows = [{"problem": f"What is ${n} + {n}$?", "answer": 2 * n} for n in range(4)]
    data = tmp_path / "beyondaime.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    small = {
        "num_steps": 2, "model.path": tiny_qwen3, "model.max_length": 2048, "task.train": data, "task.test": "",
        "task.num_validation": 1, "task.num_problems": 3, "task.num_samples": 2, "sampling.max_new_tokens": 16,
        "evaluation.max_new_tokens": 16, "evaluation.num_samples": 2, "evolution.max_new_tokens": 32,
        "records.compilation_cache": "",
    }  # fmt: skip
    flags = [f"--config.{name}={value}" for name, value in small.items()]
    done = main("--config=experiments/beyondaime.py", f"--workdir={tmp_path / 'run'}", *flags)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1, 2]
    assert "step 2/2" in done.stdout and "best prompt:" in done.stdout


SMALL_SEARCH = {
    "task.num_problems": 2, "task.num_samples": 2, "task.num_validation": 1, "task.num_test": 1, "evaluation.every": 0,
    "sampling.max_new_tokens": 160, "sampling.batch_size": 8, "tools.max_turns": 2, "tools.max_turn_tokens": 24,
    "tools.retriever": "local", "evaluation.max_new_tokens": 16, "evolution.max_new_tokens": 32, "records.tensorboard": False,
    "records.compilation_cache": CACHE,
}  # fmt: skip


def searched(name: str, model: Path, workdir: Path, **changes) -> list[dict]:
    """The metrics of a small run of an experiment in search."""
    small = {"model.path": model, **SMALL_SEARCH, **changes}
    done = main(f"--config=experiments/{name}.py", f"--workdir={workdir}", *(f"--config.{k}={v}" for k, v in small.items()))
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def test_search_runs_two_steps_on_a_tiny_model_and_local_files(tiny_qwen3, tmp_path):
    rows = [{"question": f"who wrote book {n}", "golden_answers": [f"Author {n}", f"A. {n}"]} for n in range(5)]
    data = tmp_path / "questions.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    index = build([Passage(str(n), f"Book {n}", f"Author {n} wrote it.") for n in range(5)], tmp_path / "index", "tiny")
    changes = {
        "num_steps": 2, "model.max_length": 4096, "task.train": data, "task.num_train": 3, "tools.index": index,
        "evolution.num_prompts": 2,
    }  # fmt: skip
    metrics = searched("search", tiny_qwen3, tmp_path / "run", **changes)
    assert [row["step"] for row in metrics] == [0, 1, 2] and metrics[2]["train/turns"] >= 1
    prompts = json.loads((tmp_path / "run" / "population.json").read_text(encoding="utf-8"))["prompts"]
    assert prompts[0]["genome"]["document"].startswith("You are a careful researcher.")


def test_search_quickstart_runs_a_step_on_a_tiny_model(tiny_qwen3, tmp_path):
    changes = {"num_steps": 1, "model.max_length": 2048, "model.adapter": "", "task.num_train": 4}
    assert len(searched("search_quickstart", tiny_qwen3, tmp_path / "run", **changes)) == 2
    prompts = json.loads((tmp_path / "run" / "population.json").read_text(encoding="utf-8"))["prompts"]
    root = (ROOT / "espl_jax" / "tasks" / "search" / "root.md").read_text(encoding="utf-8")
    assert prompts[0]["genome"] == {"kind": "document", "principles": [], "document": root.strip()}


@pytest.mark.parametrize(
    ("flag", "named"),
    [
        ("evolution.window=0", "evolution.window is 0"),
        ("rl.loss=reinforce", "rl.loss is 'reinforce'"),
        ("rl.num_minibatches=7", "rl.num_minibatches is 7"),
        ("evaluation.prompt=worst", "evaluation.prompt is 'worst'"),
        ("model.path=./no/such/model", "no/such/model"),
        ("evolution.root=no_such_file.txt", "evolution.root is 'no_such_file.txt'"),
        ("sampling.max_new_tokens=100000", "sampling.max_new_tokens is 100000"),
        ("model.chat_template_arguments=[", "model.chat_template_arguments"),
        ("mesh.data=3", "does not fit"),
    ],
)
def test_a_mistake_stops_with_one_sentence_that_names_it(flag, named, tmp_path):
    done = main("--config=experiments/quickstart.py", f"--workdir={tmp_path / 'run'}", f"--config.{flag}")
    assert done.returncode != 0 and not (tmp_path / "run" / "metrics.jsonl").exists()
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and named in last


def test_an_unknown_field_is_refused(tmp_path):
    done = main("--config=experiments/quickstart.py", f"--workdir={tmp_path}", "--config.rl.learning_rat=1")
    assert done.returncode != 0 and "learning_rat" in done.stderr


def test_a_prompt_longer_than_the_context_is_refused(tiny_qwen3, tmp_path):
    root = tmp_path / "root.txt"
    root.write_text("Think about every word of the question before answering it. " * 40, encoding="utf-8")
    done = main(
        "--config=experiments/quickstart.py", f"--workdir={tmp_path / 'run'}", f"--config.model.path={tiny_qwen3}",
        f"--config.evolution.root={root}", "--config.model.max_length=512",
    )  # fmt: skip
    assert done.returncode != 0 and "model.max_length=512" in done.stderr.splitlines()[-1]
