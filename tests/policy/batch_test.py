"""Rollouts to micro-batches: shapes, indices and weights written out."""

import dataclasses

import numpy as np
import pytest

from espl_jax.policy import batch as batching
from espl_jax.policy.batch import Row
from espl_jax.structs import Completion, Grade, Problem, Rollouts


def completion(name, tokens, start=-1.0):
    """A completion whose three log-probabilities differ by whole numbers, so that no two can be confused."""
    n = len(tokens)
    behavior = (start - 0.01 * np.arange(n)).astype(np.float32)
    return Completion(name, np.asarray(tokens, np.int32), behavior, behavior - 1, behavior - 2, "length")


def row(name, context, tokens, advantage=1.0, temperature=0.5):
    return Row(np.asarray(context, np.int32), completion(name, tokens), advantage, temperature)


TWO = [row("a", [5, 6, 7], [8, 9], advantage=0.5), row("b", [11], range(12, 17), advantage=-2.0, temperature=0.7)]


def ends(trees, T):
    """A layout that shows who may be seen by whom."""
    return np.stack([tree.ends(T) for tree in trees])


def batches(rows, weights, devices=1, budget=256, ratio="tempered"):
    return batching.micro_batches(rows, weights, devices, budget, ratio, ends)


def test_two_rows_written_out():
    """In the order of the contexts but for their last token; each completion without its last token."""
    (ours,) = batches(TWO, [0.25, 0.125])
    assert ours.tokens.shape == ours.targets.shape == (1, 128)  # half of the budget is enough
    assert ours.tokens[0, :9].tolist() == [11, 12, 13, 14, 15, 5, 6, 7, 8] and not ours.tokens[0, 9:].any()
    assert ours.positions[0, :9].tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3]
    assert ours.attend[0, :10].tolist() == [5, 5, 5, 5, 5, 9, 9, 9, 9, 0]
    assert ours.source[0, :7].tolist() == [0, 1, 2, 3, 4, 7, 8] and set(ours.source[0, 7:]) == {127}
    assert ours.targets[0, :7].tolist() == [12, 13, 14, 15, 16, 8, 9] and not ours.targets[0, 7:].any()
    assert ours.weight[0, :8].tolist() == [0.125] * 5 + [0.25] * 2 + [0]
    assert ours.advantage[0, :8].tolist() == [-2.0] * 5 + [0.5] * 2 + [0]
    np.testing.assert_allclose(ours.temperature[0, :8], [0.7] * 5 + [0.5] * 2 + [1])
    kinds = {name: getattr(ours, name).dtype for name in ("tokens", "source", "targets", "weight", "denominator")}
    assert [kind.name for kind in kinds.values()] == ["int32", "int32", "int32", "float32", "float32"]


def test_what_is_shared_stands_once():
    """A head of 40 tokens, two contexts under it, and samples of 3, 1 and 2 tokens."""
    head = list(range(100, 140))
    rows = [row("a", [*head, 1], [7, 8, 9]), row("b", [*head, 1], [6]), row("c", [*head, 2, 3], [4, 5])]
    (ours,) = batches(rows, [1, 1, 1])
    assert ours.tokens[0, 40:46].tolist() == [1, 7, 8, 2, 3, 4] and not ours.tokens[0, 46:].any()
    assert ours.positions[0, 40:46].tolist() == [40, 41, 42, 40, 41, 42]
    assert ours.attend[0, :46].tolist() == [46] * 40 + [43] + [43] * 2 + [46] * 2 + [46]
    assert ours.source[0, :6].tolist() == [40, 40, 41, 42, 44, 45]
    assert ours.targets[0, :6].tolist() == [7, 6, 8, 9, 4, 5]


def three_turns():
    """Replies of 2, 1 and 3 tokens; between them 2 and 1 that the policy did not draw."""
    own = np.array([True, True, False, False, True, False, True, True, True])
    plain = completion("c", [20, 21, 90, 91, 22, 92, 23, 24, 25])
    columns = {name: getattr(plain, name) * own for name in ("behavior", "tempered", "untempered")}
    return Row(np.array([5, 6, 7], np.int32), dataclasses.replace(plain, own=own, **columns), 0.5, 0.7)


def test_only_what_the_policy_drew_carries_loss():
    """Three turns, written out: all tokens are conditioned on; those between the replies are nobody's target."""
    (ours,) = batches([three_turns()], [0.25])
    assert ours.tokens[0, :12].tolist() == [5, 6, 7, 20, 21, 90, 91, 22, 92, 23, 24, 0]
    assert ours.positions[0, :11].tolist() == list(range(11)) and ours.attend[0, :11].tolist() == [3 + 8] * 11
    assert ours.targets[0, :7].tolist() == [20, 21, 22, 23, 24, 25, 0]
    assert ours.source[0, :7].tolist() == [2, 3, 6, 8, 9, 10, 127]
    assert ours.weight[0, :7].tolist() == [0.25] * 6 + [0]
    np.testing.assert_allclose(ours.denominator[0, :6], -2 - 0.01 * np.array([0, 1, 4, 6, 7, 8]), rtol=1e-6)
    np.testing.assert_allclose(ours.match[0, :6], ours.denominator[0, :6])


@pytest.mark.parametrize(
    "aggregation, expected", [("token", [1 / 8, 1 / 8]), ("sequence", [1 / 12, 1 / 4]), ("constant", [1 / 20, 1 / 20])]
)
def test_weights_count_what_the_policy_drew(aggregation, expected):
    """6 of 9 tokens, and 2 of 2."""
    rows = [three_turns(), row("a", [1], [2, 3])]
    np.testing.assert_allclose(batching.token_weights(rows, aggregation, max_new_tokens=10), expected)


@pytest.mark.parametrize(
    "ratio, denominator, match", [("tempered", -2, -2), ("untempered", -3, -3), ("behavior", -1, -2)]
)
def test_the_ratio_decides_which_log_probabilities_are_packed(ratio, denominator, match):
    (ours,) = batches(TWO, [1, 1], ratio=ratio)
    np.testing.assert_allclose(ours.denominator[0, :2], [denominator, denominator - 0.01])
    np.testing.assert_allclose(ours.match[0, :2], [match, match - 0.01])
    np.testing.assert_allclose(ours.denominator[0, 5:7], [denominator, denominator - 0.01], rtol=1e-6)


@pytest.mark.parametrize(
    "aggregation, expected",
    [("token", [1 / 8, 1 / 8, 1 / 8]), ("sequence", [1 / 3, 1 / 6, 1 / 15]), ("constant", [1 / 30, 1 / 30, 1 / 30])],
)
def test_token_weights_of_lengths_1_2_and_5(aggregation, expected):
    rows = [row("a", [1], [2]), *TWO]
    np.testing.assert_allclose(batching.token_weights(rows, aggregation, max_new_tokens=10), expected)


def test_micro_batches_hold_every_target_once_within_the_budget():
    rng = np.random.default_rng(0)
    heads = rng.integers(0, 99, (3, 50))
    rows = [
        row(i, [*heads[i % 3], i % 7], rng.integers(0, 99, rng.integers(1, 60)), advantage=float(i)) for i in range(60)
    ]
    ours = batches(rows, [1] * 60, budget=512)
    assert len(ours) > 2 and {b.tokens.shape for b in ours} <= {(1, 512), (1, 256)}
    found = [t for b in ours for t in zip(b.advantage[b.weight > 0].tolist(), b.targets[b.weight > 0].tolist())]
    assert sorted(found) == sorted((float(i), int(t)) for i, r in enumerate(rows) for t in r.completion.tokens)


def test_a_trajectory_longer_than_the_budget_has_a_wider_row_of_its_own():
    rows = [row("long", range(300), range(100)), row("short", [1], [2])]
    shapes = [b.tokens.shape for b in batches(rows, [1, 1], budget=128)]
    assert shapes == [(1, 128), (1, 512)]


def test_rows_are_dealt_to_devices():
    rows = [row(i, [i], range(90)) for i in range(5)]
    ours = batches(rows, [1] * 5, devices=2, budget=128)
    assert [b.tokens.shape for b in ours] == [(2, 128)] * 3
    assert sum(int((b.weight > 0).sum()) for b in ours) == 450 and not ours[-1].weight[1].any()


def test_minibatches_partition_the_rows():
    rows = [row(str(i), [1], [2]) for i in range(11)]
    shares = list(batching.minibatches(rows, 3, np.random.default_rng(0)))
    names = [[r.completion.id for r in share] for share in shares]
    assert sorted(map(len, names)) == [3, 4, 4]
    assert sorted(sum(names, []), key=int) == [str(i) for i in range(11)]
    assert sum(names, []) != [str(i) for i in range(11)], "shuffled"
    again = list(batching.minibatches(rows, 3, np.random.default_rng(0)))
    assert [[r.completion.id for r in share] for share in again] == names


def test_one_minibatch_keeps_the_order_and_none_is_ever_empty():
    rows = [row(str(i), [1], [2]) for i in range(3)]
    (share,) = batching.minibatches(rows, 1, np.random.default_rng(0))
    assert [r.completion.id for r in share] == ["0", "1", "2"]
    assert [len(share) for share in batching.minibatches(rows, 5, np.random.default_rng(0))] == [1, 1, 1]
    assert not list(batching.minibatches([], 2, np.random.default_rng(0)))


def test_rows_with_signal_are_those_of_the_kept_groups_in_order():
    P, Q, G = 2, 3, 2
    problems = tuple(Problem(str(q), f"question {q}", "") for q in range(Q))
    contexts = tuple(tuple(np.array([10 * p + q + 1]) for q in range(Q)) for p in range(P))
    names = [(p, q, g) for p in range(P) for q in range(Q) for g in range(G)]
    rollouts = Rollouts(
        prompt_ids=(0, 1), problems=problems, context_tokens=contexts,
        completions=tuple(completion(name, [1]) for name in names), texts=("",) * 12, grades=(Grade(0.0),) * 12,
        rewards_PQG=np.zeros((P, Q, G), np.float32),
    )  # fmt: skip
    advantages_PQG = np.arange(12, dtype=np.float32).reshape(P, Q, G)
    keep_PQ = np.array([[False, True, False], [True, False, True]])
    rows = batching.rows_with_signal(rollouts, advantages_PQG, keep_PQ, temperature=0.6)
    assert [r.completion.id for r in rows] == [(0, 1, 0), (0, 1, 1), (1, 0, 0), (1, 0, 1), (1, 2, 0), (1, 2, 1)]
    assert [r.advantage for r in rows] == [2, 3, 6, 7, 10, 11]
    assert [r.context.tolist() for r in rows] == [[2], [2], [11], [11], [13], [13]]
    assert {r.temperature for r in rows} == {0.6}
