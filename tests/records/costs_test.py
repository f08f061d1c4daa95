"""What a step costs, by hand."""

import numpy as np
import pytest

from espl_jax.policy.model import ModelSpec
from espl_jax.records import costs
from espl_jax.structs import Call, Chat, Completion, Grade, Message, Problem, Reflection, Reply, Rollouts
from experiments import base

SPEC = ModelSpec(
    vocab_size=10, width=4, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=3, mlp_width=5, rope_theta=1e4,
    rope_scaling=None, norm_eps=1e-6, tied_head=True, qkv_bias=False, qk_norm=False, max_positions=64,
)  # fmt: skip
BODY = 2 * 2 * (24 + 12 + 12 + 24 + 60)  # operations a token in the matrices of 2 layers: q, k, v, o and three of 4 x 5
HEAD = 2 * 40  # operations a token of the logits
SEEN = 4 * 2 * 6  # operations a token for each position that it sees


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
    counts = costs.of_rollouts("rollout", SPEC, [MIXED])
    contexts = 6 * BODY + SEEN * (seen(0, 4) + seen(3, 3))  # 3 tokens in common, then 2 and 1
    fed = 1 + 1 + 1 + 4  # all but the last token of each
    behind = fed * BODY + SEEN * (2 * seen(5, 5) + seen(4, 4) + seen(4, 7)) + (2 + 2 + 2 + 3) * HEAD
    assert counts == {
        "ledger/rollout/requests": 5.0,
        "ledger/rollout/trajectories": 4.0,
        "ledger/rollout/prompt_tokens": 2 * 5 + 2 * 4 + 2,
        "ledger/rollout/prefilled_tokens": 5 + 4 + 2,  # too little in common for a head (prefixes.SHORTEST_HEAD)
        "ledger/rollout/generated_tokens": 2 + 2 + 2 + 3,
        "ledger/rollout/flops": contexts + behind,
    }
    assert costs.of_rollouts("rollout", SPEC, []) == {}


@pytest.mark.parametrize("rank, kl, passes", [(4, 0.0, 2), (0, 0.0, 3), (0, 0.1, 4)])
def test_an_update_costs_so_many_forward_passes_of_what_had_signal(rank, kl, passes):
    rl = base.get_config().rl
    rl.lora_rank, rl.kl_coef = rank, kl
    counts = costs.of_update(SPEC, MIXED, np.array([[True, False]]), rl)
    forward = 5 * BODY + SEEN * seen(0, 4) + 2 * (BODY + SEEN * seen(5, 5) + 2 * HEAD)
    assert counts == {"ledger/update/requests": 2.0, "ledger/update/flops": passes * forward}
    assert costs.of_update(SPEC, MIXED, np.zeros((1, 2), bool), rl)["ledger/update/flops"] == 0.0


def test_reflections_by_hand_and_a_servers_operations_are_not_ours():
    chat = Chat("a", (Message("user", "x"),))
    calls = tuple(Call("critique", chat, Reply("a", "x", "stop", prompt, drawn)) for prompt, drawn in ((5, 3), (2, 1)))
    reflection = Reflection("mutation", (0,), calls, reason="none")
    counts = costs.of_reflections(SPEC, [reflection, reflection])
    flops = 7 * BODY + SEEN * seen(0, 6) + 3 * HEAD + 2 * BODY + SEEN * seen(0, 1) + HEAD
    assert counts["ledger/reflection/flops"] == 2 * flops
    assert [counts[f"ledger/reflection/{what}"] for what in ("requests", "prompt_tokens", "generated_tokens")] == [4, 14, 8]
    assert costs.of_reflections(None, [reflection])["ledger/reflection/flops"] == 0.0
