"""Whether a child is taken in: the paired test, its fairness, its records and its price."""

import json
from types import SimpleNamespace

import pytest

from espl_jax import acceptance
from espl_jax.evolution.reflection import UNBORN
from espl_jax.policy.chat import Tokenizer
from espl_jax.records.artifacts import read_rows
from espl_jax.rollout import plan_groups
from espl_jax.structs import Genome, Prompt, Rating, Reflection
from espl_jax.tasks import toy
from tests import tiny_run
from tests.evolution.scripted import population, principles, problem, rollouts

PROBLEMS = (problem("one?", "1"), problem("two?", "2"))
STATE = population(principles("Check."))
CHILD = Prompt(UNBORN, principles("Check twice."), Rating(25.0, 5.0), (0,), "mutation", 1)
BORN = Reflection("mutation", (0,), (), child=CHILD)


def judged(monkeypatch, before, after, choice="paired"):
    config = tiny_run.tiny_config("nowhere", **{"evolution.acceptance": choice})
    found = rollouts((0, UNBORN), PROBLEMS, [before, after])
    monkeypatch.setattr(acceptance, "paired_plan", lambda *arguments: None)
    monkeypatch.setattr(acceptance, "sample", lambda *arguments: [found])
    return acceptance.judge(None, None, STATE, BORN, PROBLEMS, SimpleNamespace(grader=None), 1, config)


@pytest.mark.parametrize(
    ("before", "after", "taken"),
    [([[1, 0], [1, 1]], [[1, 1], [1, 1]], True), ([[1, 0], [1, 1]], [[1, 1], [0, 1]], True),
     ([[1, 0], [1, 1]], [[1, 1], [0, 0]], False)],
)  # fmt: skip
def test_a_child_that_is_not_worse_is_taken(before, after, taken, monkeypatch):
    reflection, trials = judged(monkeypatch, before, after)
    assert (reflection.child is CHILD) == taken
    assert reflection.reason == ("" if taken else "not accepted: 0.500 against its parent's 0.750 on the same 4 samples")
    found = acceptance.metrics(trials, [reflection])
    assert (found["evolution/accepted"], found["evolution/refused"]) == (float(taken), float(not taken))
    assert found["tokens/generated_acceptance"] == 8 and len(acceptance.files(trials)["acceptance_mutation.jsonl"]) == 8


def test_without_a_test_or_a_child_nothing_is_sampled(monkeypatch):
    reflection, trials = judged(monkeypatch, [[1], [1]], [[0], [0]], choice="none")
    assert reflection is BORN and trials == {} and acceptance.metrics(trials, [reflection]) == {}
    unborn = Reflection("crossover", (0,), (), reason="no winner")
    assert acceptance.judge(None, None, STATE, unborn, PROBLEMS, None, 1, None) == (unborn, {})


def test_parent_and_child_draw_with_the_same_numbers_and_apart_from_every_rollout(tiny_qwen3):
    config = tiny_run.tiny_config(tiny_qwen3)
    task, policy = toy.build(config.task, 0, config.tools), SimpleNamespace(tokenizer=Tokenizer(tiny_qwen3, {}))
    parent = STATE[0]
    plan = acceptance.paired_plan(policy, parent, CHILD, task.train[:3], task, 2, config)
    half = len(plan.requests) // 2
    counters = [request.counter for request in plan.requests]
    assert counters[:half] == counters[half:] and len(set(counters)) == half == 3 * 4
    assert all((a.tokens.shape != b.tokens.shape) for a, b in zip(plan.requests[:half], plan.requests[half:]))
    own = plan_groups(
        policy.tokenizer, [parent], task.train[:3], 4, config.sampling, "rollout", 2, task, "system", config.tools
    )
    assert not set(counters) & {request.counter for request in own.requests}


def test_a_run_with_the_test_records_and_counts_it(tiny_qwen3, tmp_path):
    changes = {"evolution.acceptance": "paired", "evaluation.every": 0, "evolution.crossover_probability": 0.0}
    state = tiny_run.run(tiny_qwen3, tmp_path, num_steps=3, **changes)
    metrics = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    tested = 0
    for path in sorted(tmp_path.glob("steps/*/acceptance_mutation.jsonl")):
        rows, row = read_rows(path), metrics[int(path.parent.name)]
        [reflection] = read_rows(path.parent / "reflections.jsonl")
        means = {}
        for number in {entry["prompt"] for entry in rows}:
            rewards = [entry["reward"] for entry in rows if entry["prompt"] == number]
            assert len(rewards) == 3 * 4
            means[number] = sum(rewards) / len(rewards)
        assert set(means) == {reflection["parents"][0], UNBORN}
        accepted = means[UNBORN] >= means[reflection["parents"][0]]
        assert (row["evolution/accepted"], row["evolution/refused"]) == (accepted, not accepted)
        assert bool(reflection["child"]) == accepted and reflection["reason"].startswith("" if accepted else "not accepted")
        assert row["tokens/generated_acceptance"] == sum(entry["tokens"] for entry in rows)
        tested += 1
    assert tested >= 1, "no child was written in 3 steps; the test needs another seed"
    total = sum(row["tokens/generated_acceptance"] for row in metrics if "tokens/generated_acceptance" in row)
    assert state.counters["tokens/generated_acceptance"] == total


def test_a_twin_fares_as_its_parent_does(tiny_qwen3, tmp_path):
    """The same text under the same numbers: not one token differs."""
    from espl_jax.policy.state import make_policy, open_model
    from espl_jax.rollout import sample

    config = tiny_run.tiny_config(tiny_qwen3)
    policy, state = make_policy(config, *open_model(config))
    task = tiny_run.parity_task(config.task, 0, config.tools)
    twin = Prompt(UNBORN, Genome("principles", ("Check.",)), Rating(25.0, 5.0), (0,), "mutation", 1)
    plan = acceptance.paired_plan(policy, STATE[0], twin, task.train[:2], task, 1, config)
    [found] = sample(policy, policy.variables(state.trainable), [plan], task.grader)
    assert found.texts[:8] == found.texts[8:] and len(set(found.texts[:8])) > 4
    assert (found.rewards_PQG[0] == found.rewards_PQG[1]).all()
