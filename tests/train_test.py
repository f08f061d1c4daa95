"""Whole runs on a tiny random model: what they write, the four methods, and that a killed run ends like any other."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from espl_jax import train
from espl_jax.evolution import population as populations
from espl_jax.fingerprint import fingerprint
from tests import tiny_run

ROOT = Path(__file__).parents[1]


def read_jsonl(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def finished(tiny_qwen3, tmp_path_factory) -> tuple[Path, object]:
    """An undisturbed run of 6 steps and its last state."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    return workdir, tiny_run.run(tiny_qwen3, workdir, num_steps=6)


def test_a_run_records_every_step(finished):
    workdir, state = finished
    rows = read_jsonl(workdir / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(7))
    names = {"train/reward", "policy/logprob_gap", "evolution/children", "time/sample", "tokens/generated_rollout"}
    assert all(names <= row.keys() for row in rows[1:])
    assert all("validation/pass@1" in row and "validation_no_prompt/pass@1" in row for row in rows)
    saved = json.loads((workdir / "population.json").read_text(encoding="utf-8"))
    assert populations.from_json(saved) == state.population
    rollouts = read_jsonl(workdir / "steps" / "000002" / "rollouts.jsonl")
    assert len(rollouts) == rows[2]["train/prompts"] * 3 * 4
    assert np.mean([row["reward"] for row in rollouts]) == pytest.approx(rows[2]["train/reward"])


def test_sampler_and_trainer_agree_in_every_step(finished):
    rows = [row for row in read_jsonl(finished[0] / "metrics.jsonl") if "policy/logprob_gap_max" in row]
    assert rows and max(row["policy/logprob_gap_max"] for row in rows) < 1e-4
    assert all(row["policy/ratio"] == pytest.approx(1.0, abs=1e-4) for row in rows)


def test_every_child_is_traceable_to_the_reflection_that_wrote_it(finished):
    workdir, state = finished
    children = state.population.prompts[1:]
    assert children, "no child was born in 6 steps; the test needs another seed"
    for child in children:
        reflections = read_jsonl(workdir / "steps" / f"{child.born:06d}" / "reflections.jsonl")
        found = [r for r in reflections if r["child"] and r["child"]["id"] == child.id]
        assert len(found) == 1
        applied = [op["text"] for call in found[0]["calls"] for op in call["operations"] if op["fate"] == "applied"]
        inherited = set(state.population[child.parents[0]].genome.principles)
        assert set(child.genome.principles) <= inherited | set(applied)


def test_no_reflection_shows_another_problems_rollouts(finished):
    for path in sorted((finished[0] / "steps").glob("*/reflections.jsonl")):
        questions = {row["problem"]: row["question"] for row in read_jsonl(path.parent / "rollouts.jsonl")}
        for call in (call for reflection in read_jsonl(path) for call in reflection["calls"] if call["problem_id"]):
            shown = call["chat"]["messages"][0]["content"]
            assert {q for q in questions.values() if q in shown} == {questions[call["problem_id"]]}


def test_a_run_killed_at_random_moments_ends_with_the_same_bytes(finished, tiny_qwen3, tmp_path):
    """kill -9, three times, wherever the run happens to be; then it goes on to the end."""
    command = [sys.executable, "-m", "tests.tiny_run", str(tiny_qwen3), str(tmp_path / "killed"), "num_steps=6"]
    rng, kills = random.Random(0), 0
    while kills < 3:
        before = len(list((tmp_path / "killed" / "steps").glob("0*")))
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(list((tmp_path / "killed" / "steps").glob("0*"))) <= before:
            time.sleep(0.02)  # until it has written a step that it had not
        time.sleep(rng.uniform(0.0, 0.8))
        if process.poll() is not None:
            break  # it ended before the last kill
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    assert kills >= 2
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert fingerprint(tmp_path / "killed") == fingerprint(finished[0])


def test_extending_a_run_gives_the_longer_run(finished, tiny_qwen3, tmp_path):
    tiny_run.run(tiny_qwen3, tmp_path / "run", num_steps=2)
    tiny_run.run(tiny_qwen3, tmp_path / "run", num_steps=6)
    assert fingerprint(tmp_path / "run") == fingerprint(finished[0])


def test_rated_prompts_are_measured_at_the_end_and_change_nothing(finished, tiny_qwen3, tmp_path):
    workdir = tmp_path / "run"
    state = tiny_run.run(tiny_qwen3, workdir, num_steps=6, **{"evaluation.rated": 2})
    assert state.population == finished[1].population
    [path] = workdir.glob("steps/*/ratings.jsonl")
    rated = read_jsonl(path)
    assert path.parent.name == "000006" and len(rated) == 2 and rated[0]["matches"] >= rated[1]["matches"] > 0
    samples = read_jsonl(path.with_name("rated.jsonl"))
    assert len(samples) == 2 * 4 * 2 and {row["prompt"] for row in samples} == {row["prompt"] for row in rated}
    for row in rated:
        rewards = [sample["reward"] for sample in samples if sample["prompt"] == row["prompt"]]
        assert row["reward"] == pytest.approx(sum(rewards) / len(rewards))
        assert row["mu"] == state.population[row["prompt"]].rating.mu
    before, now = (read_jsonl(folder / "metrics.jsonl")[-1] for folder in (finished[0], workdir))
    name = "ledger/evaluation/trajectories"
    further = [sample for sample in samples if sample["prompt"] != now["evaluation/prompt"]]  # the others were evaluated anyway
    assert len(further) == 8 and now[name] == before[name] + len(further) and now["ratings/prompts"] == 2


def test_reflection_is_asked_before_anyone_waits_for_the_update(tiny_qwen3, tmp_path, monkeypatch):
    events, make, mutate = [], train.make_updater, train.mutate

    def make_watched(*arguments):
        update = make(*arguments)

        def watched(*arguments):
            state, learned = update(*arguments)
            events.append("update")
            return state, lambda: (events.append("learned"), learned())[1]

        return watched

    monkeypatch.setattr(train, "make_updater", make_watched)
    monkeypatch.setattr(train, "mutate", lambda *arguments: (events.append("mutate"), mutate(*arguments))[1])
    tiny_run.run(tiny_qwen3, tmp_path, num_steps=1)
    assert events == ["update", "mutate", "learned"]


def test_another_seed_gives_another_run(finished, tiny_qwen3, tmp_path):
    tiny_run.run(tiny_qwen3, tmp_path / "run", seed=1, num_steps=1)
    mine, other = (read_jsonl(path / "steps" / "000001" / "rollouts.jsonl") for path in (tmp_path / "run", finished[0]))
    assert [row["text"] for row in mine] != [row["text"] for row in other]


def test_a_contradicting_config_is_refused_before_the_model_is_loaded(finished, tiny_qwen3):
    with pytest.raises(ValueError, match=r"rl\.learning_rate was 0\.01 and is now 0\.02"):
        tiny_run.run(tiny_qwen3 / "not-there", finished[0], **{"rl.learning_rate": 0.02, "model.path": str(tiny_qwen3)})


@pytest.mark.parametrize(
    ("method", "trains", "most_prompts"), [("rl", True, 1), ("evolution", False, 3), ("reflection", False, 3)]
)
def test_methods_change_what_they_should(method, trains, most_prompts, tiny_qwen3, tmp_path):
    state = tiny_run.run(tiny_qwen3, tmp_path, method=method, num_steps=2, **{"evolution.crossover_probability": 0.0})
    assert (int(state.policy.updates) > 0) == trains
    assert len(state.population.prompts) <= most_prompts
    if method == "reflection":
        assert len(state.population.alive) == 1
        assert all(prompt.operator in ("root", "mutation") for prompt in state.population.prompts)
    if method == "rl":
        assert not state.population.matches


def test_full_fine_tuning_agrees_with_its_sampler_too(tiny_qwen3, tmp_path):
    tiny_run.run(tiny_qwen3, tmp_path, num_steps=2, **{"rl.lora_rank": 0, "rl.kl_coef": 0.1, "rl.loss": "ppo"})
    rows = read_jsonl(tmp_path / "metrics.jsonl")[1:]
    assert max(row["policy/logprob_gap_max"] for row in rows) < 1e-4
    assert rows[0]["policy/kl"] == pytest.approx(0.0, abs=1e-6) and rows[1]["policy/kl"] > 0
