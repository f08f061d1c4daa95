"""Budgets: what counts for them, and how they end a run."""

import json

from espl_jax.records import ledger
from tests import tiny_run

PAID = ("rollout", "reflection")
SAMPLING = {"evaluation.every": 2, "evolution.crossover_probability": 0.0}


def test_a_budget_is_for_all_but_evaluation():
    counters = {"ledger/rollout/prompt_tokens": 10.0, "ledger/reflection/generated_tokens": 5.0, "tokens/x": 99.0}
    counters |= {"ledger/evaluation/prompt_tokens": 1000.0, "ledger/rollout/prefilled_tokens": 7.0, "ledger/update/flops": 3.0}
    assert ledger.spent(counters, "budget_tokens") == 15 and ledger.spent(counters, "budget_flops") == 3
    config = tiny_run.base.get_config()
    assert not ledger.is_last(config, 59, counters) and ledger.is_last(config, 60, counters)
    for budget, last in ({"budget_tokens": 15}, True), ({"budget_tokens": 16}, False), ({"budget_flops": 3.0}, True):
        config = tiny_run.base.get_config()
        config.update(budget)
        assert ledger.is_last(config, 1, counters) is last


def test_a_budget_ends_a_run_with_an_evaluation_and_a_raised_one_goes_on_as_if_there_had_been_none(tiny_qwen3, tmp_path):
    whole = tiny_run.run(tiny_qwen3, tmp_path / "whole", num_steps=2, **SAMPLING)
    rows = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert ledger.spent(whole.counters, "budget_tokens") == sum(
        row[f"tokens/{what}_{purpose}"] for row in rows[1:] for what in ("prompt", "generated") for purpose in PAID
    )
    after_one = ledger.spent(rows[1], "budget_tokens")
    budget = {"budget_tokens": int(after_one), **SAMPLING}
    first = tiny_run.run(tiny_qwen3, tmp_path / "run", num_steps=2, **budget)
    ended = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert first.step == ended["step"] == 1 and "validation/pass@1" in ended and "validation/pass@1" not in rows[1]
    assert tiny_run.run(tiny_qwen3, tmp_path / "run", num_steps=2, **budget).step == 1, "it has ended"

    raised = tiny_run.run(tiny_qwen3, tmp_path / "run", num_steps=2, **SAMPLING)
    assert raised.population == whole.population
    extra = {name: ended[name] for name in ended if name.startswith("ledger/evaluation/")}
    for name, value in whole.counters.items():
        if name.startswith("ledger/"):
            assert raised.counters[name] == value + (extra[name] if name in extra else 0.0), name


def test_totals_add_up_metrics_and_have_the_phases_seconds():
    rows = [
        {"step": 0, "ledger/evaluation/requests": 4.0, "time/evaluate": 1.5},
        {"step": 1, "ledger/rollout/requests": 2.0, "ledger/rollout/flops": 8.0, "time/sample": 0.25, "time/evaluate": 0.5},
        {"step": 2, "ledger/rollout/requests": 3.0, "ledger/acceptance/requests": 6.0, "time/sample": 0.5},
    ]
    assert ledger.totals(rows) == {
        "acceptance": {"requests": 6.0},
        "evaluation": {"requests": 4.0, "seconds": 2.0},
        "rollout": {"requests": 5.0, "flops": 8.0, "seconds": 0.75},
    }
    assert ledger.totals([]) == {}
