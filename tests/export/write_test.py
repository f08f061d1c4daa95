"""Exports of tiny runs: what is written loads, answers as the run's policy does, and is whole or not there."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from espl_jax import finished, prompts
from espl_jax.evolution.render import render_genome
from espl_jax.export import card, check, write
from espl_jax.policy import adapter_files
from espl_jax.policy.state import load_policy, open_model
from espl_jax.rollout import visible
from espl_jax.structs import Chat, Message, Population, Request
from tests import tiny_run
from tests.evolution.scripted import prompt

ROOT = Path(__file__).parents[2]
RULES = ("Say \"it\" twice\\n.", "Add {{ 1 }}.")
CHATS = [(Message("user", f"What is {number} + 4?"),) for number in range(20)]


@pytest.fixture(scope="module")
def workdir(tiny_qwen3, tmp_path_factory) -> Path:
    """A run of 2 steps whose last prompt somebody wrote."""
    workdir = tmp_path_factory.mktemp("runs") / "two"
    changes = {"evaluation.every": 2, "evolution.crossover_probability": 0.0}
    tiny_run.run(tiny_qwen3, workdir, num_steps=1, **changes)
    prompts.add(workdir, "\n".join(RULES), parent="0")
    tiny_run.run(tiny_qwen3, workdir, num_steps=2, **changes)
    return workdir


@pytest.fixture(scope="module")
def written(workdir) -> str:
    """The id of that prompt."""
    return str(next(p.id for p in prompts.load(workdir).prompts if p.genome.principles == RULES))


@pytest.fixture(scope="module")
def merged(workdir, written, tmp_path_factory) -> tuple[Path, check.Findings]:
    out = tmp_path_factory.mktemp("out") / "deep" / "model"
    return out, write.export(workdir, out, written)


def greedy(policy, variables, chats) -> list[str]:
    requests = [
        Request(number, policy.tokenizer.render(Chat(str(number), chat)), (0, 0, 0, number, 0), 12, 0.0, 1.0)
        for number, chat in enumerate(chats)
    ]
    return [policy.tokenizer.decode(visible(policy, one)) for one in policy.sampler(variables, requests)]


def test_the_export_answers_as_the_run_does(workdir, merged, written):
    out, findings = merged
    assert findings.chats == 4 and findings.difference < 1e-4 < 1e-2 < findings.learned
    run = finished.read(workdir)
    policy, trainable = finished.load(run)
    asked = [check.opened(chat, finished.choose(run, written).genome, "system") for chat in CHATS]
    expected = greedy(policy, policy.variables(trainable), asked)

    alone = tiny_run.tiny_config(out)
    other, untrained = load_policy(alone, *open_model(alone))
    assert greedy(other, other.variables(untrained), CHATS) == expected, "the prompt is in the export's own template"
    assert greedy(policy, {"params": policy.frozen}, asked) != expected, "nothing was learned; the test needs another seed"


def test_what_an_export_consists_of(workdir, merged, written):
    out, _ = merged
    config = json.loads((out / "config.json").read_text())
    assert config["architectures"] == ["Qwen3ForCausalLM"] and config["dtype"] == "float32"
    generation = json.loads((out / "generation_config.json").read_text())
    assert generation["top_k"] == 0 and generation["eos_token_id"] == [0, 2] and generation["temperature"] == 0.6
    text = (out / "README.md").read_text(encoding="utf-8")
    said = render_genome(prompts.load(workdir)[int(written)].genome)
    assert all(f"    {line}" in text for line in said.splitlines())
    assert f"| {written} | human | 0 | 1 |" in text and "| 0 | root | - | 0 |" in text
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert f"| validation/pass@1 | {rows[0]['validation/pass@1']:.4f} | {rows[-1]['validation/pass@1']:.4f} |" in text
    assert oct(out.stat().st_mode & 0o777) == oct((out / "README.md").stat().st_mode & 0o777 | 0o111)


def test_an_adapter_is_pefts_and_does_the_same(workdir, tmp_path, tiny_qwen3):
    findings = write.export(workdir, tmp_path / "adapter", "best", "adapter")
    assert findings.difference < 1e-4
    adapter = adapter_files.read(tmp_path / "adapter")
    assert Path(adapter.base) == tiny_qwen3 and adapter.rank == 4 and not (tmp_path / "adapter" / "model.safetensors").exists()
    assert (tmp_path / "adapter" / "chat_template.jinja").exists()
    assert "library_name: peft" in (tmp_path / "adapter" / "README.md").read_text()


def test_all_weights_and_an_earlier_step(tiny_qwen3, tmp_path):
    changes = {"rl.lora_rank": 0, "method": "rl", "evaluation.every": 0, "rl.learning_rate": 1e-3}
    tiny_run.run(tiny_qwen3, tmp_path / "run", num_steps=2, **changes)
    findings = write.export(tmp_path / "run", tmp_path / "one", step=1, dtype="bfloat16")
    assert findings.learned is None and 0 < findings.difference < check.TOLERANCE["bfloat16"]
    assert json.loads((tmp_path / "one" / "config.json").read_text())["dtype"] == "bfloat16"
    first, second = (finished.read(tmp_path / "run", step).trainable["head"] for step in (1, 2))
    saved = load_file(tmp_path / "one" / "model.safetensors")["lm_head.weight"]
    assert np.array_equal(saved, first.astype(saved.dtype)) and not np.array_equal(first, second)
    with pytest.raises(write.ExportError, match="trained all weights .* use --form=merged"):
        write.export(tmp_path / "run", tmp_path / "two", form="adapter")


def test_an_export_that_differs_is_refused_and_leaves_nothing(workdir, tmp_path):
    def damaged(source, new):
        write.write_merged(source, new)
        file = new / "model.safetensors"
        tensors = load_file(file)
        tensors["model.layers.1.mlp.up_proj.weight"] = tensors["model.layers.1.mlp.up_proj.weight"] * 1.05
        save_file(tensors, file, metadata={"format": "pt"})

    with mock.patch.dict(write.FORMS, merged=damaged), pytest.raises(check.CheckError, match="differ from our policy's"):
        write.export(workdir, tmp_path / "out")
    with mock.patch.object(write, "with_prompt", lambda template, *_: template + "!"):
        with pytest.raises(check.CheckError, match="the export renders"):
            write.export(workdir, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--prompt=77"], "the prompt is '77'; use best, newest, none or an id, 0 to "),
        (["--step=9"], "there is no checkpoint of step 9"),
        (["--workdir=/nowhere"], "'/nowhere', where no run has written a config.json"),
        (["--out=/"], "'/', which is there already"),
    ],
)
def test_mistakes_are_one_sentence(workdir, tmp_path, flags, said):
    line = [sys.executable, "-m", "espl_jax.export", f"--workdir={workdir}", f"--out={tmp_path / 'out'}", *flags]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1, done.stderr
    assert said in done.stderr and not (tmp_path / "out").exists()


def test_lineage_has_every_ancestor_once():
    parents = {0: (), 1: (0,), 2: (0,), 3: (1, 2), 4: (1,), 5: (3, 1)}
    population = Population(tuple(dataclasses.replace(prompt(i), parents=of) for i, of in parents.items()))
    assert [one.id for one in card.ancestry(population, population[5])] == [5, 3, 2, 1, 0]
