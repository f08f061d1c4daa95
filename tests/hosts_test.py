"""Runs of two and four real processes against the run of one; processes that die, differ or are told to end."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest

from espl_jax.fingerprint import fingerprint
from espl_jax.records import metrics
from espl_jax.records.checkpoint import read_raw
from tests.hosts import processes

STEPS = 4


def leaves(tree) -> list[np.ndarray]:
    return [tree] if isinstance(tree, np.ndarray) else [leaf for key in sorted(tree) for leaf in leaves(tree[key])]


def texts(workdir: Path, step: int) -> list[str]:
    lines = (workdir / "steps" / f"{step:06d}" / "rollouts.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines]


@pytest.fixture(scope="module")
def one(tiny_qwen3, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("one")
    processes.run(1, tiny_qwen3, workdir)
    return workdir


@pytest.fixture(scope="module")
def two(tiny_qwen3, tmp_path_factory) -> tuple[Path, list]:
    workdir = tmp_path_factory.mktemp("two")
    return workdir, processes.run(2, tiny_qwen3, workdir)


def test_two_processes_give_the_run_of_one(one, two):
    alone, together = read_raw(one), read_raw(two[0])
    assert alone.step == together.step == STEPS
    assert [prompt["genome"] for prompt in alone.host["population"]["prompts"]] == [
        prompt["genome"] for prompt in together.host["population"]["prompts"]
    ]
    assert alone.host["population"] == together.host["population"]
    assert all(texts(one, step) == texts(two[0], step) for step in range(1, STEPS + 1))
    for a, b in zip(leaves(alone.policy["trainable"]), leaves(together.policy["trainable"]), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)  # Adam's steps are the learning rate, 1e-2, times a sign


def test_the_first_process_writes_the_records_and_shows_progress(two):
    workdir, [(_, shown, _), (_, silent, _)] = two
    assert f"step {STEPS}/{STEPS}" in shown and "step " not in silent  # gloo says a line of its own
    assert [row["step"] for row in metrics.read(workdir)] == list(range(STEPS + 1))
    assert json.loads((workdir / "config.json").read_text())["hosts"]["process_id"] == 0
    assert not (workdir / "superseded").exists()


def test_four_processes_with_split_weights_sample_and_learn_the_same(one, tiny_qwen3, tmp_path):
    processes.run(4, tiny_qwen3, tmp_path, num_steps=1, **{"mesh.data": 2, "mesh.fsdp": 2})
    assert texts(tmp_path, 1) == texts(one, 1)
    alone, together = (metrics.read(workdir, 1)[1] for workdir in (one, tmp_path))
    for name in ("train/reward", "evolution/children", "tokens/trained"):
        assert alone[name] == together[name]
    assert together["policy/grad_norm"] == pytest.approx(alone["policy/grad_norm"], rel=1e-3)


def test_told_to_end_and_killed_twice_the_run_is_that_of_one_that_nobody_disturbed(two, tiny_qwen3, tmp_path):
    running = processes.start(2, tiny_qwen3, tmp_path)
    processes.wait_for(tmp_path / "checkpoints" / "0")
    for _ in range(2):  # the second changes nothing
        running[1].send_signal(signal.SIGTERM)
    ends = processes.finish(running)
    saved = read_raw(tmp_path).step
    assert [code for code, _, _ in ends] == [75, 75] and 0 < saved < STEPS, ends[0][2][-3000:]
    assert all(f"goes on after step {saved}" in errors for _, _, errors in ends)

    for victim in (1, 0):
        seen = read_raw(tmp_path).step
        running = processes.start(2, tiny_qwen3, tmp_path)
        processes.wait_for(tmp_path / "checkpoints" / str(seen + 1))
        running[victim].kill()
        code, _, errors = processes.finish(running, seconds=60)[1 - victim]
        assert code == 75, errors[-3000:]
        assert "another process of this run is gone" in errors and "start the same command again" in errors

    processes.run(2, tiny_qwen3, tmp_path)
    assert fingerprint(tmp_path) == fingerprint(two[0])


def test_a_step_that_outlasts_the_grace_is_dropped(tiny_qwen3, tmp_path):
    [running] = processes.start(1, tiny_qwen3, tmp_path, **{"records.grace": 0, "num_steps": 1000})
    processes.wait_for(tmp_path / "checkpoints" / "1")
    running.send_signal(signal.SIGTERM)
    [(code, _, errors)] = processes.finish([running])
    assert code == 75 and "did not end within records.grace seconds" in errors
    assert read_raw(tmp_path).step >= 1


@pytest.mark.parametrize(
    ("strange", "count", "sentence"),
    [
        ("differ", 2, "after step 2 the processes of this run are not in the same state: process 1 differs from process 0 in"),
        ("full", 1, "step 2 could not be recorded in "),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_sentence_and_the_last_good_step_is_kept(
    strange, count, sentence, tiny_qwen3, tmp_path, monkeypatch
):
    monkeypatch.setenv("STRANGE", strange)
    ends = processes.finish(processes.start(count, tiny_qwen3, tmp_path, "tests.hosts.strange_run"))
    for code, _, errors in ends:
        last = errors.strip().splitlines()[-1]
        assert code == 1 and last.startswith("error: ") and sentence in last, errors[-3000:]
    assert read_raw(tmp_path).step == 1
