"""Whom a mutation revises."""

from collections import Counter

import numpy as np
import pytest

from espl_jax.evolution.parents import PARENTS
from espl_jax.evolution.trials import add_trial
from tests.evolution.scripted import config, population, principles, problem, rollouts

PROBLEMS = [problem(f"question {i}?", str(i)) for i in range(3)]
STATE = population(*(principles(f"rule {i}") for i in range(3)))


def chosen(name: str, rewards, seeds=range(1), state=STATE) -> Counter:
    samples = rollouts((0, 1, 2), PROBLEMS, [[[v] for v in row] for row in rewards])
    state = add_trial(state, samples, 1, 5)
    return Counter(PARENTS[name](state, samples, np.random.default_rng(seed), config()) for seed in seeds)


def test_best_is_by_mean_and_pareto_by_problems_led():
    rewards = [[1.0, 1.0, 0.0], [0.9, 0.9, 0.9], [0.0, 0.0, 1.0]]
    assert chosen("best", rewards) == {1: 1}
    found = chosen("pareto", rewards, range(600))
    assert set(found) == {0, 2} and found[0] / 600 == pytest.approx(2 / 3, abs=0.07)


def test_pareto_remembers_earlier_steps_but_only_asks_who_competed():
    earlier = add_trial(STATE, rollouts((0, 2), PROBLEMS[:1], [[[0]], [[1]]]), 0, 5)
    samples = rollouts((0, 1), PROBLEMS[1:2], [[[1]], [[0]]])
    state = add_trial(earlier, samples, 1, 5)
    assert PARENTS["pareto"](state, samples, np.random.default_rng(0), config()) == 0


def test_without_a_leader_it_is_the_best():
    assert chosen("pareto", [[0.5] * 3] * 3) == {0: 1}
