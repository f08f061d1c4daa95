"""Ratings against accuracy: which prompts are measured, on what, and the rank correlation by hand."""

import dataclasses

import pytest

from espl_jax import ratings
from espl_jax.structs import Match, Population
from experiments import base
from tests.evaluate_test import POPULATION, TASK, parrot, prompt  # noqa: F401  (parrot is a fixture)


def match(*prompt_ids):
    return Match(1, prompt_ids, (0.0,) * len(prompt_ids), (0,) * len(prompt_ids))


PLAYED = dataclasses.replace(POPULATION, matches=(match(0, 1), match(1, 2), match(1, 0)))


def config(rated):
    found = base.get_config()
    found.evaluation.rated, found.evaluation.num_samples = rated, 2
    return found


def rated(*pairs):
    return [{"mu": mu, "reward": reward} for mu, reward in pairs]


def test_those_that_played_most_are_measured_dead_ones_too():
    assert [one.id for one in ratings.most_played(PLAYED, 2)] == [1, 0]
    assert [one.id for one in ratings.most_played(PLAYED, 9)] == [1, 0, 2]
    assert ratings.most_played(POPULATION, 9) == (), "nobody has played"


def test_each_is_sampled_on_test_and_its_reward_stands_beside_its_rating(parrot):  # noqa: F811
    """The parrot is right in one of two problems, "0" under Count and "1" without."""
    found = ratings.hold_out(parrot, {}, PLAYED, TASK, 5, config(3))
    [requests] = parrot.asked
    assert len(requests) == 3 * 2 * 2 and len({request.counter for request in requests}) == 12
    metrics, files = ratings.files(PLAYED, found)
    assert metrics == {"ratings/prompts": 3}, "all rewards are alike"
    assert [(row["prompt"], row["mu"], row["matches"], row["reward"]) for row in files[ratings.FILE]] == [
        (1, 28.0, 3, 0.5), (0, 30.0, 2, 0.5), (2, 25.0, 1, 0.5)
    ]  # fmt: skip
    assert len(files["rated.jsonl"]) == 12


def test_without_a_test_set_validation_is_what_counts(parrot):  # noqa: F811
    ratings.hold_out(parrot, {}, PLAYED, dataclasses.replace(TASK, test=()), 5, config(1))
    assert len(parrot.asked[0]) == 3 * 2


def test_nothing_is_sampled_where_nothing_is_asked_for_or_nobody_has_played(parrot):  # noqa: F811
    assert ratings.hold_out(parrot, {}, PLAYED, TASK, 5, config(0)) == []
    assert ratings.hold_out(parrot, {}, Population((prompt(0, 25.0),)), TASK, 5, config(4)) == []
    assert ratings.files(PLAYED, []) == ({}, {}) and parrot.asked == []


def test_the_correlation_by_hand():
    """Ranks 1 2 3 4 against 2 1 4 3: 1 - 6 * 4 / (4 * 15) = 0.6."""
    found = rated((10, 0.3), (20, 0.1), (30, 0.9), (40, 0.5))
    assert ratings.correlation(found) == pytest.approx(0.6)
    assert ratings.metrics(found) == {"ratings/prompts": 4, "ratings/spearman": pytest.approx(0.6)}
    assert ratings.correlation(rated((1, 1), (2, 2))) is None
    assert ratings.correlation(rated((1, 1), (1, 2), (1, 3))) is None
    assert ratings.correlation(rated((1, 1), (2, 1), (3, 1))) is None
