"""Calibration against hand-made records, and against matches drawn as TrueSkill says they come."""

import math
from pathlib import Path

import numpy as np
import pytest

from espl_jax.attribution.calibration import Meeting, calibrate, meetings_of, win_probability
from espl_jax.report.reading import RunRecord, StepRecord
from espl_jax.structs import Genome, Match, Population, Prompt, Rating
from experiments import base


def record(matches, ratings):
    """A run with these matches and the ratings before each, by step."""
    prompts = tuple(Prompt(i, Genome("principles"), Rating(25, 8), (), "root", 0) for i in range(3))
    steps = tuple(StepRecord(step, known, (), (), (), {}, {}) for step, known in ratings.items())
    config = base.get_config().to_dict()
    return RunRecord(Path("."), config, ({"step": 1},), Population(prompts, tuple(matches)), steps, {}, {}, ())


def test_the_win_probability_is_trueskills():
    """mu 30 against 25, sigma 3 and 4, beta 25/6: Phi(5 / sqrt(2 beta^2 + 25)) = Phi(0.6475) = 0.7413."""
    found = win_probability(Rating(30.0, 3.0), Rating(25.0, 4.0), 25 / 6)
    assert found == pytest.approx(0.5 * (1 + math.erf(5 / math.sqrt(2 * (25 / 6) ** 2 + 25) / math.sqrt(2))))
    assert found == pytest.approx(0.7413, abs=5e-4)
    assert win_probability(Rating(25.0, 1.0), Rating(25.0, 5.0), 25 / 6) == 0.5


def test_every_pair_of_a_match_counts_from_the_favourites_side():
    match = Match(1, (0, 1, 2), (0.1, 0.9, 0.9), (1, 0, 0))
    found = meetings_of(record([match], {1: {0: Rating(30.0, 1.0), 1: Rating(25.0, 1.0), 2: Rating(20.0, 1.0)}}))
    assert [one.observed for one in found] == [0.0, 0.0, 0.5]  # 0 is the favourite twice and loses; 1 and 2 draw
    assert all(one.predicted > 0.5 for one in found)
    assert found[1].predicted > found[0].predicted == pytest.approx(found[2].predicted)
    assert meetings_of(record([match], {})) == []


def test_bins_and_scores_by_hand():
    found = calibrate([Meeting(0.5, 0.5), Meeting(0.55, 1.0), Meeting(0.95, 1.0), Meeting(1.0, 0.0)])
    assert (found.meetings, found.draws) == (4, 1)
    assert found.brier == pytest.approx((0.0 + 0.45**2 + 0.05**2 + 1.0) / 4)
    assert found.brier_of_even == pytest.approx(0.75 / 4)
    assert [(one.low, one.high, one.meetings) for one in found.bins] == [(0.5, 0.6, 2), (0.9, 1.0, 2)]
    assert found.bins[1].predicted == pytest.approx(0.975) and found.bins[1].observed == 0.5
    assert calibrate([]) is None


def test_matches_that_come_as_predicted_are_calibrated():
    rng, found = np.random.default_rng(0), []
    for _ in range(4000):
        first, second = (Rating(*rng.uniform((15, 1), (35, 6))) for _ in range(2))
        strength = [rng.normal(rating.mu, math.hypot(rating.sigma, 25 / 6)) for rating in (first, second)]
        probability, won = win_probability(first, second, 25 / 6), float(strength[0] > strength[1])
        found.append(Meeting(probability, won) if probability >= 0.5 else Meeting(1 - probability, 1 - won))
    calibrated = calibrate(found)
    for one in calibrated.bins:
        assert one.observed == pytest.approx(one.predicted, abs=4 * math.sqrt(0.25 / one.meetings))
    assert calibrated.brier < calibrated.brier_of_even == 0.25
