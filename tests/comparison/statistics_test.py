"""The statistics of comparisons against cases worked out by hand, by enumeration, and by how often they err."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espl_jax.comparison import statistics


def test_seeds_that_differ_decide_the_interval():
    """Two seeds, 0 and 1: resampled means are 0, 1/2 and 1 with probabilities 1/4, 1/2 and 1/4."""
    found = statistics.two_level([[0.0] * 50, [1.0] * 50], seed=1)
    assert (found.mean, found.low, found.high) == (0.5, 0.0, 1.0)


def test_one_seed_has_its_problems_drawn():
    found = statistics.two_level([[0.0, 1.0]], seed=1)
    assert (found.mean, found.low, found.high) == (0.5, 0.0, 1.0)
    assert statistics.two_level([[0.3, 0.3], [0.3]], seed=0).low == pytest.approx(0.3)


def test_a_seed_with_more_problems_weighs_no_more():
    assert statistics.two_level([[1.0], [0.0] * 9], seed=0).mean == 0.5
    with pytest.raises(ValueError, match="at least one"):
        statistics.two_level([[1.0], []], seed=0)


@settings(max_examples=30)
@given(st.lists(st.integers(-4, 4), min_size=2, max_size=8))
def test_the_permutation_test_is_that_of_all_signs(values):
    """Independent: every way of setting the signs is counted."""
    sums = [abs(sum(s * v for s, v in zip(signs, values))) for signs in itertools.product((1, -1), repeat=len(values))]
    expected = np.mean([total >= abs(sum(values)) for total in sums])
    assert statistics.sign_flip_p(np.asarray(values, float), 0) == pytest.approx(expected)


def test_three_seeds_cannot_show_more_than_a_quarter():
    assert statistics.sign_flip_p(np.array([0.2, 0.3, 0.25]), 0) == 0.25
    assert statistics.sign_flip_p(np.array([0.2]), 0) == 1.0


def test_equal_methods_are_told_apart_as_rarely_as_the_level_says():
    rng = np.random.default_rng(0)
    rejected = sum(statistics.sign_flip_p(rng.normal(size=10), 0) < 0.1 for _ in range(200))
    assert 7 <= rejected <= 33  # 10% of 200 is 20, three standard errors are 13


def test_only_shared_problems_of_shared_seeds_are_compared():
    first = {0: {"a": 0.5, "b": 1.0, "only": 9.0}, 1: {"c": 0.4}, 2: {"x": 1.0}}
    second = {0: {"a": 0.25, "b": 0.5}, 1: {"c": 0.5}, 3: {"x": 0.0}}
    assert statistics.differences(first, second) == {0: [0.25, 0.5], 1: [pytest.approx(-0.1)]}
    found = statistics.paired(first, second, seed=0)
    assert found.difference.mean == pytest.approx((0.375 - 0.1) / 2)
    assert (found.ahead, found.seeds, found.problems) == (1, 2, 3)
    assert statistics.paired(first, {7: {"a": 1.0}}, 0) is None


def test_a_method_against_itself_is_no_difference():
    values = {0: {"a": 0.5, "b": 0.1}, 1: {"a": 0.7, "b": 0.3}}
    found = statistics.paired(values, values, seed=0)
    assert (found.difference.mean, found.difference.low, found.difference.high) == (0.0, 0.0, 0.0)
    assert (found.p_problems, found.p_seeds, found.ahead) == (1.0, 1.0, 0)


def test_holms_rule_by_hand():
    """Sorted 0.01, 0.03, 0.04 are multiplied by 3, 2 and 1, and never fall."""
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([0.9, 0.8]) == [1.0, 1.0]
    assert statistics.holm([]) == []


def test_a_band_by_hand():
    """The second curve is a straight line from 0 to 1 between 0 and 4; the first ends at 3."""
    found = statistics.band([([0.0, 1.0, 3.0], [0.0, 1.0, 1.0]), ([0.0, 4.0], [0.0, 1.0])])
    assert found.x == (0.0, 1.0, 3.0)
    assert found.low == (0.0, 0.25, 0.75) and found.high == (0.0, 1.0, 1.0)
    assert found.mean == (0.0, 0.625, 0.875)
    assert statistics.band([([0.0, 1.0], [0.0, 1.0]), ([2.0], [0.0])]) is None and statistics.band([]) is None
