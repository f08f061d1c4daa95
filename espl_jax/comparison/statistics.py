"""The statistics of a comparison: numbers in, numbers out.

A value belongs to a seed and, within it, to a held-out problem (the mean over its samples). Data sets that are drawn by the
seed have other problems for each, so problems are always taken within their seed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from espl_jax.report.intervals import LEVEL, Interval

RESAMPLES = 2000  # of a bootstrap
FLIPS = 9999  # sign flips of a permutation test; all of them where there are no more

Values = Mapping[int, Mapping[str, float]]  # seed -> problem -> mean reward


@dataclass(frozen=True)
class Paired:
    """How much better the first of two methods is than the second, on the same seeds and problems.

    p_problems: two-sided, of flipping the sign of each problem's difference. p_seeds: of flipping each seed's. ahead: seeds in
    which the first is better.
    """

    difference: Interval
    p_problems: float
    p_seeds: float
    ahead: int
    seeds: int
    problems: int


def two_level(groups: Sequence[Sequence[float]], seed: int) -> Interval:
    """The mean over groups of each group's mean, and its interval when groups (seeds) are drawn anew and, in each, its values
    (problems) too. One group: its values alone are drawn. Raises ValueError without values."""
    if not groups or not all(len(group) for group in groups):
        raise ValueError("a bootstrap needs at least one value in each group, and at least one group")
    arrays = [np.asarray(group, np.float64) for group in groups]
    rng, number = np.random.default_rng(seed), len(arrays)
    drawn = rng.integers(0, number, (RESAMPLES, number))
    means = np.empty(drawn.shape)
    for index, values in enumerate(arrays):
        places = drawn == index
        picked = rng.integers(0, len(values), (int(places.sum()), len(values)))
        means[places] = values[picked].mean(axis=1)
    low, high = np.quantile(means.mean(axis=1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(np.mean([values.mean() for values in arrays])), float(low), float(high))


def interval(values: Values, seed: int) -> Interval:
    """`two_level` over seeds and their problems."""
    return two_level([list(problems.values()) for problems in values.values()], seed)


def differences(first: Values, second: Values) -> dict[int, list[float]]:
    """First minus second, by seed, of the problems that both have; seeds that share none are left out."""
    found = {}
    for seed in sorted(set(first) & set(second)):
        shared = sorted(set(first[seed]) & set(second[seed]))
        if shared:
            found[seed] = [first[seed][problem] - second[seed][problem] for problem in shared]
    return found


def paired(first: Values, second: Values, seed: int) -> Paired | None:
    """The comparison of two methods; None where they share no seed's problem."""
    by_seed = differences(first, second)
    if not by_seed:
        return None
    groups = list(by_seed.values())
    means = [float(np.mean(group)) for group in groups]
    # Each problem weighs as in the mean over seeds of means over problems, which is what is tested.
    cells = np.concatenate([np.asarray(group) / (len(group) * len(groups)) for group in groups])
    return Paired(
        difference=two_level(groups, seed),
        p_problems=sign_flip_p(cells, seed),
        p_seeds=sign_flip_p(np.asarray(means), seed),
        ahead=sum(mean > 0 for mean in means),
        seeds=len(groups),
        problems=len(cells),
    )


def sign_flip_p(values: np.ndarray, seed: int) -> float:
    """Two-sided p of the sum of paired differences when each sign is as likely as the other: exact for few values.

    scipy.stats.permutation_test; with n values it is never below 2 / 2^n.
    """
    if len(values) < 2 or not np.any(values):
        return 1.0
    found = stats.permutation_test(
        (values,), lambda x, axis: x.sum(axis=axis), permutation_type="samples", n_resamples=FLIPS, vectorized=True,
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    return min(float(found.pvalue), 1.0)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values adjusted for how many there are (Holm 1979): rejecting those below a level errs at all that rarely."""
    order = np.argsort(p_values, kind="stable")
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


@dataclass(frozen=True)
class Band:
    """A curve of several seeds: mean, lowest and highest at each x."""

    x: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def band(curves: Sequence[tuple[Sequence[float], Sequence[float]]]) -> Band | None:
    """The mean of curves (x rising, y) and their range, at every x that one of them has and all of them reach.

    Between its own points a curve is a straight line. None when there is no x that all reach.
    """
    curves = [(x, y) for x, y in curves if len(x)]
    if not curves:
        return None
    first, last = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    grid = sorted({value for x, _ in curves for value in x if first <= value <= last})
    if not grid:
        return None
    values = np.array([np.interp(grid, x, y) for x, y in curves])
    return Band(tuple(grid), *(tuple(map(float, row)) for row in (values.mean(0), values.min(0), values.max(0))))
