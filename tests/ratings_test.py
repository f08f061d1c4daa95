"""Ratings against accuracy: which prompts are measured, on what, and the rank correlation by hand."""

import dataclasses

import pytest

from espl_jax import ratings
from espl_jax.evaluate import evaluate
from espl_jax.structs import Match
from experiments import base
from tests.evaluate_test import POPULATION, TASK, parrot  # noqa: F401  (parrot is a fixture)


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


def test_the_reward_of_each_on_test_stands_beside_its_rating(parrot):  # noqa: F811
    """The parrot is right in one of two problems, "0" under Count and "1" without."""
    rated = ratings.most_played(PLAYED, 3)
    _, transcripts, others = evaluate(parrot, {}, PLAYED, TASK, 5, config(3), rated)
    metrics, files = ratings.files(PLAYED, rated, [transcripts["test"], *others])
    assert metrics == {"ratings/prompts": 3}, "all rewards are alike"
    assert [(row["prompt"], row["mu"], row["matches"], row["reward"]) for row in files[ratings.FILE]] == [
        (1, 28.0, 3, 0.5), (0, 30.0, 2, 0.5), (2, 25.0, 1, 0.5)
    ]  # fmt: skip
    assert len(files["rated.jsonl"]) == 12 and [row["prompt"] for row in files["rated.jsonl"]] == [1] * 4 + [0] * 4 + [2] * 4


def test_a_chosen_prompt_that_is_not_rated_is_left_out(parrot):  # noqa: F811
    rated = (PLAYED.prompts[2],)
    _, transcripts, others = evaluate(parrot, {}, PLAYED, TASK, 5, config(1), rated)
    _, files = ratings.files(PLAYED, rated, [transcripts["test"], *others])
    assert [row["prompt"] for row in files[ratings.FILE]] == [2]


def test_nothing_comes_of_nobody():
    assert ratings.files(PLAYED, (), []) == ({}, {})


def test_the_correlation_by_hand():
    """Ranks 1 2 3 4 against 2 1 4 3: 1 - 6 * 4 / (4 * 15) = 0.6."""
    found = rated((10, 0.3), (20, 0.1), (30, 0.9), (40, 0.5))
    assert ratings.correlation(found) == pytest.approx(0.6)
    assert ratings.metrics(found) == {"ratings/prompts": 4, "ratings/spearman": pytest.approx(0.6)}
    assert ratings.correlation(rated((1, 1), (2, 2))) is None
    assert ratings.correlation(rated((1, 1), (1, 2), (1, 3))) is None
    assert ratings.correlation(rated((1, 1), (2, 1), (3, 1))) is None
