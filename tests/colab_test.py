"""The notebook runs from top to bottom, here on a tiny random model."""

import json
import shlex
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from tests.tiny_run import CACHE

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "colab" / "espl_quickstart.ipynb"
SMALL = {
    "task.num_train": 8, "task.num_validation": 4, "task.num_test": 4, "task.num_problems": 2, "sampling.max_new_tokens": 4,
    "sampling.batch_size": 16, "rl.lora_rank": 4, "evolution.max_new_tokens": 8, "evaluation.every": 2,
    "evaluation.num_samples": 1, "evaluation.max_new_tokens": 4, "records.tensorboard": False,
    "records.compilation_cache": CACHE,
}  # fmt: skip


def test_there_are_no_outputs_in_the_repository():
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert code and all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


def test_the_notebook_runs_and_the_prompt_written_in_it_competes(tiny_qwen3, tmp_path, monkeypatch):
    flags = [f"--config.{name}={value}" for name, value in {"model.path": tiny_qwen3, **SMALL}.items()]
    environment = {
        "ESPL_INSTALL": "0", "ESPL_STEPS": "1", "ESPL_MORE_STEPS": "1", "ESPL_WORKDIR": str(tmp_path / "run"),
        "ESPL_FLAGS": shlex.join(flags),
    }  # fmt: skip
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(NOTEBOOK.parent)}}
    NotebookClient(notebook, timeout=300, resources=resources).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 4, "two plots, drawn twice"
    assert not any("\x1b" in output.get("text", "") for output in outputs), "control codes of a terminal"
    competed = (tmp_path / "run" / "steps" / "000002" / "prompts.jsonl").read_text(encoding="utf-8")
    assert "Write the sum alone, as a number." in competed
    assert "human of [0]" in outputs[-1]["text"]
