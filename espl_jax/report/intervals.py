"""How sure a mean reward is: percentile bootstrap over problems (Efron and Tibshirani, 1993)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
LEVEL = 0.95

RULE = (
    f"Bands are {LEVEL:.0%} percentile intervals of {RESAMPLES:,} bootstrap resamples: problems are drawn with replacement, "
    "each with all of its samples; where there is a single problem, its samples are. They say how much the mean would move "
    "with other problems, not with another seed of the run."
)


@dataclass(frozen=True)
class Interval:
    """A mean and the ends of its interval."""

    mean: float
    low: float
    high: float


def bootstrap(groups: Sequence[Sequence[float]], seed: int) -> Interval:
    """The mean over groups of each group's mean, and its interval when groups (problems) are drawn anew.

    groups: the values of each problem's samples. The same seed gives the same interval. Raises ValueError without values.
    """
    if not groups or not all(len(group) for group in groups):
        raise ValueError("a bootstrap needs at least one value in each group, and at least one group")
    units = np.array([np.mean(group) for group in groups] if len(groups) > 1 else groups[0], np.float64)
    drawn = np.random.default_rng(seed).integers(0, len(units), (RESAMPLES, len(units)))
    low, high = np.quantile(units[drawn].mean(axis=1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(units.mean()), float(low), float(high))
