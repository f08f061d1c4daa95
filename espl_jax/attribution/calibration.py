"""How well ratings foretell matches: predicted win probability against observed wins, from a run's records.

Of each match every pair of prompts counts once, seen from the one that was rated higher. The ratings are those before the
match, as the step's prompts.jsonl has them, so no rule of rating is assumed but TrueSkill's own of who wins (Herbrich, Minka,
Graepel, NIPS 2006): P(i beats j) = Phi((mu_i - mu_j) / sqrt(2 beta^2 + sigma_i^2 + sigma_j^2)). A draw is half a win.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean

from espl_jax.report.reading import RunRecord
from espl_jax.structs import Rating

EDGES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass(frozen=True)
class Meeting:
    """Two prompts in a match. predicted: that the favourite wins, 0.5 or more; observed: 1, 0, or 0.5 for a draw."""

    predicted: float
    observed: float


@dataclass(frozen=True)
class Bin:
    """Meetings whose prediction lies in [low, high): how many, and the means of prediction and outcome."""

    low: float
    high: float
    meetings: int
    predicted: float
    observed: float


@dataclass(frozen=True)
class Calibration:
    """brier: mean squared error of the predictions (Brier 1950), 0 is perfect; brier_of_even: of always saying 0.5."""

    meetings: int
    draws: int
    brier: float
    brier_of_even: float
    bins: tuple[Bin, ...]


def win_probability(first: Rating, second: Rating, beta: float) -> float:
    """That the first beats the second in a match without draws."""
    spread = math.sqrt(2 * beta**2 + first.sigma**2 + second.sigma**2)
    return NormalDist().cdf((first.mu - second.mu) / spread)


def meetings_of(record: RunRecord) -> list[Meeting]:
    """Every pair of every match whose ratings are recorded."""
    before = {step.step: step.ratings for step in record.steps}
    beta, found = record.config["evolution"]["trueskill_beta"], []
    for match in record.population.matches:
        known = before[match.step] if match.step in before else {}
        placed = [(known[name], rank) for name, rank in zip(match.prompt_ids, match.ranks) if name in known]
        for i, (first, rank) in enumerate(placed):
            found += [_meeting(win_probability(first, other, beta), rank, theirs) for other, theirs in placed[i + 1 :]]
    return found


def _meeting(probability: float, rank: int, other: int) -> Meeting:
    won = 0.5 if rank == other else float(rank < other)
    return Meeting(probability, won) if probability >= 0.5 else Meeting(1.0 - probability, 1.0 - won)


def calibrate(meetings: Sequence[Meeting]) -> Calibration | None:
    """The figures; None without meetings."""
    if not meetings:
        return None
    bins = []
    for low, high in zip(EDGES, EDGES[1:]):
        inside = [one for one in meetings if low <= one.predicted < high or one.predicted == high == 1.0]
        if inside:
            means = fmean(one.predicted for one in inside), fmean(one.observed for one in inside)
            bins.append(Bin(low, high, len(inside), *means))
    return Calibration(
        meetings=len(meetings),
        draws=sum(one.observed == 0.5 for one in meetings),
        brier=fmean((one.predicted - one.observed) ** 2 for one in meetings),
        brier_of_even=fmean((0.5 - one.observed) ** 2 for one in meetings),
        bins=tuple(bins),
    )
