"""Trajectories to packed rows: which go together, how wide the rows are, and that nothing is lost."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from espl_jax.policy import packing


def sizes(trees):
    return [tree.size for tree in trees]


def alone(tokens):
    """(context, length) of samples that share nothing, with so many tokens altogether each."""
    return [np.array([1000 + i]) for i in range(len(tokens))], list(tokens)


def test_widths_are_even_steps_of_whole_blocks():
    assert packing.widths_up_to(1792, 7) == [256, 512, 768, 1024, 1280, 1536, 1792]
    assert packing.widths_up_to(1024, 2) == [512, 1024]
    assert packing.widths_up_to(300, 2) == [256, 384] and packing.widths_up_to(128, 4) == [128]
    assert packing.widths_up_to(1024, 2, parts=4) == [512, 1024] and packing.widths_up_to(512, 2, parts=4) == [512]


def test_gaps_are_filled_by_what_comes_later():
    """One behind the other, 60, 90, 40 and 10 tokens take three rows of 100."""
    assert sorted(sizes(packing.pack(*alone([60, 90, 40, 10]), 100))) == [100, 100]


def test_two_devices_get_a_half_each():
    """All 1,000 tokens fit into one row, beside which the other device would have an empty one."""
    samples = alone([500, 200, 200, 100])
    assert sizes(packing.pack_evenly(*samples, [256, 512, 1024], devices=1)) == [1000]
    assert sizes(packing.pack_evenly(*samples, [256, 512, 1024], devices=2)) == [500, 500]
    assert sizes(packing.pack_evenly(*samples, [1024], devices=2)) == [1000]


def test_rows_are_narrow_only_where_that_takes_no_further_turn():
    """1,900 tokens in two turns of one row of 1,024; in rows of 768 there would be three."""
    samples = alone([600, 400, 400, 500])
    assert sizes(packing.pack_evenly(*samples, [256, 512, 768, 1024], devices=1)) == [1000, 900]


def test_what_shares_a_context_stays_together_where_that_costs_no_row():
    """Two groups of three: 50 shared tokens and 30 of each sample make 140; split, the rows would hold 50 more each."""
    contexts = [np.arange(50)] * 3 + [np.arange(100, 150)] * 3
    trees = packing.pack(contexts, [31] * 6, 150)
    assert sizes(trees) == [140, 140]
    assert [sorted(samples_of(tree)) for tree in trees] == [[0, 1, 2], [3, 4, 5]]


@settings(deadline=None, max_examples=60)
@given(
    groups=st.lists(st.tuples(st.integers(1, 60), st.lists(st.integers(1, 60), min_size=1, max_size=4)), min_size=1),
    shared=st.integers(0, 50),
    devices=st.integers(1, 3),
    count=st.integers(1, 4),
)
def test_every_sample_is_in_one_row_behind_its_whole_context(groups, shared, devices, count):
    contexts, lengths = [], []
    for i, (own, group) in enumerate(groups):
        context = np.concatenate([np.arange(shared), 100 + 1000 * i + np.arange(own)])
        contexts += [context] * len(group)
        lengths += group
    widths = packing.widths_up_to(256, count)
    trees = packing.pack_evenly(contexts, lengths, widths, devices)
    assert sorted(sample for tree in trees for sample in samples_of(tree)) == list(range(len(lengths)))
    assert all(tree.fits(widths[-1]) for tree in trees) and sizes(trees) == sorted(sizes(trees), reverse=True)
    assert -(-len(trees) // devices) == -(-len(packing.pack(contexts, lengths, 256)) // devices)
    for tree in trees:
        for segment in tree.segments:
            if segment.sample >= 0:
                assert segment.length == lengths[segment.sample] - 1
                assert path(tree, segment.parent) == contexts[segment.sample].tolist()


def samples_of(tree):
    return [segment.sample for segment in tree.segments if segment.sample >= 0]


def path(tree, number):
    """The tokens from the root down to a segment."""
    tokens = []
    while number >= 0:
        segment = tree.segments[number]
        tokens = [*segment.tokens.tolist(), *tokens]
        number = segment.parent
    return tokens
