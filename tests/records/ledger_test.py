"""What a run spends, by hand, and budgets that end it."""

import json

import numpy as np
import pytest

from espl_jax.policy.model import ModelSpec
from espl_jax.records import ledger
from espl_jax.structs import Call, Chat, Completion, Grade, Message, Problem, Reflection, Reply, Rollouts
from tests import tiny_run

SPEC = ModelSpec(
    vocab_size=10, width=4, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=3, mlp_width=5, rope_theta=1e4,
    rope_scaling=None, norm_eps=1e-6, tied_head=True, qkv_bias=False, qk_norm=False, max_positions=64,
)  # fmt: skip
BODY = 2 * 2 * (24 + 12 + 12 + 24 + 60)  # operations a token in the matrices of 2 layers: q, k, v, o and three of 4 x 5
HEAD = 2 * 40  # operations a token of the logits
SEEN = 4 * 2 * 6  # operations a token for each position that it sees
PAID = ("rollout", "reflection")
SAMPLING = {"evaluation.every": 2, "evolution.crossover_probability": 0.0}


def completion(*own: bool) -> Completion:
    nothing = np.zeros(len(own), np.float32)
    return Completion(0, np.zeros(len(own), np.int32), nothing, nothing, nothing, "stop", np.array(own))


def rollouts(*completions: Completion) -> Rollouts:
    """One prompt, two problems whose contexts have 3 tokens of 5 and 4 in common, two samples each."""
    problems = tuple(Problem(str(i), str(i), "") for i in range(2))
    contexts = ((np.array([7, 7, 7, 1, 1], np.int32), np.array([7, 7, 7, 2], np.int32)),)
    return Rollouts(
        (0,), problems, contexts, completions, ("",) * 4, (Grade(0.0),) * 4, np.zeros((1, 2, 2), np.float32)
    )


SPOKE, TALKED = completion(True, True), completion(True, False, False, True, True)  # two tokens; two replies, a tool between
MIXED = rollouts(SPOKE, SPOKE, SPOKE, TALKED)


def seen(first: int, last: int) -> int:
    """Positions seen by tokens at positions first to last."""
    return sum(position + 1 for position in range(first, last + 1))


def test_rollouts_by_hand():
    counts = ledger.of_rollouts("rollout", SPEC, [MIXED])
    contexts = 6 * BODY + SEEN * (seen(0, 4) + seen(3, 3))  # 3 tokens in common, then 2 and 1
    fed = 1 + 1 + 1 + 4  # all but the last token of each
    behind = fed * BODY + SEEN * (2 * seen(5, 5) + seen(4, 4) + seen(4, 7)) + (2 + 2 + 2 + 3) * HEAD
    assert counts == {
        "ledger/rollout/requests": 5.0,
        "ledger/rollout/prompt_tokens": 2 * 5 + 2 * 4 + 2,
        "ledger/rollout/prefilled_tokens": 5 + 4 + 2,  # too little in common for a head (prefixes.SHORTEST_HEAD)
        "ledger/rollout/generated_tokens": 2 + 2 + 2 + 3,
        "ledger/rollout/flops": contexts + behind,
    }
    assert ledger.of_rollouts("rollout", SPEC, []) == {}


@pytest.mark.parametrize("rank, kl, passes", [(4, 0.0, 2), (0, 0.0, 3), (0, 0.1, 4)])
def test_an_update_costs_so_many_forward_passes_of_what_had_signal(rank, kl, passes):
    rl = tiny_run.base.get_config().rl
    rl.lora_rank, rl.kl_coef = rank, kl
    counts = ledger.of_update(SPEC, MIXED, np.array([[True, False]]), rl)
    forward = 5 * BODY + SEEN * seen(0, 4) + 2 * (BODY + SEEN * seen(5, 5) + 2 * HEAD)
    assert counts == {"ledger/update/requests": 2.0, "ledger/update/flops": passes * forward}
    assert ledger.of_update(SPEC, MIXED, np.zeros((1, 2), bool), rl)["ledger/update/flops"] == 0.0


def test_reflections_by_hand_and_a_servers_operations_are_not_ours():
    chat = Chat("a", (Message("user", "x"),))
    calls = tuple(Call("critique", chat, Reply("a", "x", "stop", prompt, drawn)) for prompt, drawn in ((5, 3), (2, 1)))
    reflection = Reflection("mutation", (0,), calls, reason="none")
    counts = ledger.of_reflections(SPEC, [reflection, reflection])
    flops = 7 * BODY + SEEN * seen(0, 6) + 3 * HEAD + 2 * BODY + SEEN * seen(0, 1) + HEAD
    assert counts["ledger/reflection/flops"] == 2 * flops
    assert [counts[f"ledger/reflection/{what}"] for what in ("requests", "prompt_tokens", "generated_tokens")] == [4, 14, 8]
    assert ledger.of_reflections(None, [reflection])["ledger/reflection/flops"] == 0.0


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
