"""The bootstrap against cases that can be worked out by hand, and its coverage."""

import numpy as np
import pytest

from espl_jax.report.intervals import bootstrap


def test_equal_problems_leave_no_doubt():
    found = bootstrap([[0.0, 1.0], [1.0, 0.0], [0.5, 0.5]], seed=1)
    assert (found.mean, found.low, found.high) == (0.5, 0.5, 0.5)


def test_two_problems_of_zero_and_one():
    """Resampled means are 0, 1/2 and 1 with probabilities 1/4, 1/2 and 1/4: the 2.5 and 97.5 percentiles are 0 and 1."""
    found = bootstrap([[0.0], [1.0]], seed=1)
    assert (found.mean, found.low, found.high) == (0.5, 0.0, 1.0)


def test_a_mean_of_problems_not_of_samples():
    assert bootstrap([[1.0], [0.0, 0.0, 0.0]], seed=0).mean == 0.5


def test_a_single_problem_has_its_samples_resampled():
    found = bootstrap([[0.0, 1.0, 1.0, 1.0]], seed=0)
    assert found.mean == 0.75 and found.low < 0.75 < found.high


def test_the_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        found = bootstrap([[value] for value in rng.normal(0.3, 1.0, 40)], seed=trial)
        hits += found.low <= 0.3 <= found.high
    assert 178 <= hits <= 199  # 95% of 200 is 190, less a little for percentile intervals of 40; four standard errors are 12


def test_the_seed_decides_and_nothing_is_no_interval():
    groups = [[0.1], [0.4], [0.9]]
    assert bootstrap(groups, 5) == bootstrap(groups, 5)
    with pytest.raises(ValueError, match="at least one"):
        bootstrap([], 0)
