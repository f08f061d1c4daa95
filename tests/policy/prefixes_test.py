"""Shared prefixes: nothing is lost, and no other plan would compute fewer tokens."""

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espl_jax.policy.prefixes import plan

SEQUENCES = st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=6), min_size=1, max_size=6)


def whole(forest, i):
    return forest.tokens(forest.context_of[i]).tolist()


def fewest(sequences, shortest):
    """Tokens of the best of all partitions into sets that share a head, and single sequences."""
    distinct = sorted(set(map(tuple, sequences)))

    def cost(members):
        if len(members) == 1:
            return len(members[0])
        columns = zip(*(tokens[:-1] for tokens in members))
        length = len(list(itertools.takewhile(lambda column: len(set(column)) == 1, columns)))
        return sum(map(len, members)) - (length * (len(members) - 1) if length >= shortest else 0)

    return min(sum(map(cost, parts)) for parts in partitions(distinct))


def partitions(items):
    if not items:
        yield []
        return
    for parts in partitions(items[1:]):
        yield [[items[0]], *parts]
        for i, part in enumerate(parts):
            yield [*parts[:i], [items[0], *part], *parts[i + 1 :]]


def same(a, b):
    assert [h.tolist() for h in a.heads] == [h.tolist() for h in b.heads]
    assert [(c.head, c.tail.tolist()) for c in a.contexts] == [(c.head, c.tail.tolist()) for c in b.contexts]


def test_by_hand():
    """Two prompts with two problems each, one of them asked twice, and a sequence that shares nothing."""
    sequences = [[1, 2, 3, 4], [9], [1, 2, 3, 5, 6], [7, 7, 7, 1], [1, 2, 3, 4], [7, 7, 7, 2]]
    ours = plan(sequences, shortest_head=3)
    assert [head.tolist() for head in ours.heads] == [[1, 2, 3], [7, 7, 7]]
    assert [(c.head, c.tail.tolist()) for c in ours.contexts] == [(0, [4]), (0, [5, 6]), (1, [1]), (1, [2]), (-1, [9])]
    assert ours.context_of.tolist() == [0, 4, 1, 2, 0, 3]
    assert ours.size == 3 + 3 + 1 + 2 + 1 + 1 + 1
    assert [ours.head_length(i) for i in range(5)] == [3, 3, 3, 3, 0]
    assert {array.dtype.name for array in [*ours.heads, *(c.tail for c in ours.contexts), ours.context_of]} == {"int32"}
    assert plan(sequences, shortest_head=4).heads == ()


def test_a_head_leaves_every_context_its_last_token():
    """[1, 2, 3] begins [1, 2, 3, 4], but its last token is its own."""
    ours = plan([[1, 2, 3], [1, 2, 3, 4]], shortest_head=1)
    assert [head.tolist() for head in ours.heads] == [[1, 2]]
    assert [c.tail.tolist() for c in ours.contexts] == [[3], [3, 4]]


def test_a_long_head_is_worth_more_than_a_wide_one_and_the_rest_share_what_they_can():
    a, b = [1] * 40, [2] * 60
    ours = plan([a + [5], a + b + [6], a + b + [7], a + [8]])
    assert [len(head) for head in ours.heads] == [40, 100]
    assert [(c.head, len(c.tail)) for c in ours.contexts] == [(0, 1), (0, 1), (1, 1), (1, 1)]


@given(SEQUENCES, st.integers(1, 3))
@settings(max_examples=300)
def test_every_sequence_is_found_again_and_no_plan_is_smaller(sequences, shortest):
    ours = plan(sequences, shortest)
    assert [whole(ours, i) for i in range(len(sequences))] == sequences
    assert ours.size == fewest(sequences, shortest)
    assert len(ours.contexts) == len(set(map(tuple, sequences)))
    heads = [c.head for c in ours.contexts]
    assert all(heads.count(i) >= 2 and len(head) >= shortest for i, head in enumerate(ours.heads))
    assert all(len(c.tail) for c in ours.contexts)
    assert [h if h >= 0 else len(ours.heads) for h in heads] == sorted(h if h >= 0 else len(ours.heads) for h in heads)


@given(st.data(), SEQUENCES)
def test_the_order_of_the_sequences_does_not_matter(data, sequences):
    order = data.draw(st.permutations(range(len(sequences))))
    ours, other = plan(sequences, 1), plan([sequences[i] for i in order], 1)
    same(ours, other)
    assert other.context_of.tolist() == ours.context_of[list(order)].tolist()


def test_nothing_and_an_empty_sequence():
    assert plan([]).contexts == ()
    with pytest.raises(ValueError, match="no tokens"):
        plan([[1], []])


@pytest.mark.parametrize("kind", ["flat", "chain"])
def test_a_thousand_contexts_of_a_thousand_tokens_take_well_under_a_second(kind):
    """Under 20 prompts; and, the worst case, each the beginning of the next."""
    rng = np.random.default_rng(0)
    prompts = rng.integers(0, 50000, (20, 800))
    flat = [np.append(prompts[i % 20], rng.integers(0, 50000, 200)) for i in range(1000)]
    chain = [flat[0][: i + 1] for i in range(1000)]
    began = time.perf_counter()
    plan({"flat": flat, "chain": chain}[kind])
    assert time.perf_counter() - began < 1
