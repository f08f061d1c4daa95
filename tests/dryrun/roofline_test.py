"""Roofline seconds, the decode simulation and the spread of lengths, by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from espl_jax.dryrun import roofline
from espl_jax.dryrun.chips import Chip
from espl_jax.dryrun.hlo import Collective

CHIP = Chip("made up", memory=1e9, flops=1e12, bandwidth=1e11, links=8e9, axes=2)


def test_the_slowest_of_three_bounds():
    sent = [Collective("all-reduce", ("f32", (1,)), 4_000_000, 4, 2.0), Collective("all-gather", ("f32", (1,)), 4, 1, 9.0)]
    found = roofline.seconds(CHIP, 4, 8e12, 5e10, sent)
    # 2 x 6 MB over 2 GB/s (half of the links are one way, half of these one axis), 2 x twice round 4 devices
    assert (found.compute, found.memory) == (2.0, 0.5)
    assert found.links == pytest.approx(12e6 / 2e9 + 2 * 2 * 2e-6)
    assert (found.bound, found.by) == (2.0, "compute")


def test_a_slot_takes_the_next_sequence_when_it_is_free():
    # slots: [3, then 2], [4]
    assert roofline.decode_steps([3, 4, 2], slots=2, before=0).tolist() == [1, 2, 3, 4, 2]
    assert roofline.decode_steps([2], slots=8, before=10).tolist() == [11, 12]
    # 4 steps in the first block of 4, one needs the second as well
    assert roofline.reached_share(np.array([1, 2, 3, 4, 5]), (4, 4)) == pytest.approx((4 * 0.5 + 1) / 5)


@given(st.integers(1, 200), st.integers(2, 5000), st.floats(0.01, 1))
def test_lengths_have_the_mean_and_stay_within_what_is_allowed(count, longest, share):
    mean = max(1.0, share * longest)
    lengths = roofline.spread(count, mean, longest)
    assert len(lengths) == count and lengths.min() >= 1 and lengths.max() <= longest
    assert lengths.mean() == pytest.approx(mean, abs=0.6)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 10))
def test_a_run_of_the_slots_is_no_shorter_than_its_work(lengths, slots):
    steps = len(roofline.decode_steps(lengths, slots, 0))
    assert max(max(lengths), sum(lengths) / slots) <= steps <= max(lengths) + sum(lengths) / slots
