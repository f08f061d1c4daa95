"""Fitness sharing, leading by problem, and what selection makes of both."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from espl_jax.evolution.fitness import FITNESS, pareto, shared
from espl_jax.evolution.pareto import problems_led
from espl_jax.evolution.selection import select
from espl_jax.evolution.trials import add_trial
from espl_jax.structs import Population, Rating
from tests.evolution.scripted import config, population, principles, problem, prompt, rollouts

PROBLEMS = [problem(f"question {i}?", str(i)) for i in range(4)]


def chances(candidates, settings) -> np.ndarray:
    """p ~ exp((mu + lambda sigma) / T) of the softmax strategy."""
    scores = np.array([p.rating.mu + settings.optimism * p.rating.sigma for p in candidates]) / settings.selection_temperature
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


@given(st.integers(1, 6), st.floats(0.2, 5.0))
def test_a_crowd_of_equals_is_as_fit_as_one(crowd, temperature):
    settings = config(selection_temperature=temperature)
    candidates = [prompt(0, "Draw a figure.", mu=20.0)] + [prompt(i + 1, "Check the units.", mu=21.0) for i in range(crowd)]
    found = chances(shared(candidates, Population(tuple(candidates)), settings), settings)
    alone = chances(candidates[:2], settings)
    assert found[0] == pytest.approx(alone[0]) and found[1:].sum() == pytest.approx(alone[1])


def test_half_the_radius_away_is_half_a_neighbour():
    candidates = [prompt(0, "a b c d"), prompt(1, "b c d e")]  # distance 0.4
    found = shared(candidates, Population(tuple(candidates)), config(niche_radius=0.8, selection_temperature=2.0))
    assert [p.rating for p in found] == [Rating(pytest.approx(25 - 2 * np.log(1.5)), 5.0)] * 2


def test_selection_returns_prompts_with_their_own_ratings():
    for name in FITNESS:
        state = population(*(principles(text) for text in ("one rule", "another", "a third way")))
        for chosen in select(state, config(fitness=name), np.random.default_rng(0), 1):
            assert chosen == state[chosen.id]


def tried(rewards) -> Population:
    """Prompts 0, 1, ... with mean rewards [prompt][problem]."""
    state = population(*(principles(f"rule {i}") for i in range(len(rewards))))
    samples = rollouts(tuple(range(len(rewards))), PROBLEMS[: len(rewards[0])], [[[v] for v in row] for row in rewards])
    return add_trial(state, samples, 1, 5)


def test_who_leads_what():
    # prompt 0 leads 0 and 1, 1 leads 1 alone (so 0 beats it), 2 leads 2; on problem 3 all are alike
    rewards = [[1.0, 0.5, 0.0, 0.2], [0.0, 0.5, 0.0, 0.2], [0.0, 0.0, 0.1, 0.2]]
    assert problems_led(tried(rewards), 0.01) == {0: 2, 1: 0, 2: 1}
    close = [[1.0, 0.5], [0.995, 0.0]]
    assert problems_led(tried(close), 0.01) == {0: 1, 1: 0}  # problem 0 is a draw of all


def test_the_retired_lead_nothing_and_hold_nobody_back():
    state = tried([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    assert problems_led(state, 0.01) == {0: 1, 1: 0, 2: 1}
    assert problems_led(Population(state.prompts, state.matches, frozenset({0}), state.trials), 0.01) == {1: 1, 2: 1}


@given(st.lists(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=3, max_size=3), min_size=2, max_size=5))
def test_whoever_leads_a_problem_is_not_beaten_everywhere(rewards):
    led = problems_led(tried(rewards), 0.0)
    for i, mine in enumerate(rewards):
        better = [all(a > b for a, b in zip(other, mine)) for other in rewards]
        assert not (led[i] and any(better))
    differing = [column for column in zip(*rewards) if len(set(column)) > 1]
    assert (sum(led.values()) > 0) == bool(differing)


def test_pareto_chances_are_in_proportion_to_problems_led_and_the_untried_have_the_most():
    state = tried([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    state = Population((*state.prompts, prompt(3, "new")), trials=state.trials)
    settings = config(selection_temperature=3.0)
    assert chances(pareto(state.prompts, state, settings), settings) == pytest.approx([0.4, 0.2, 0.0, 0.4], abs=1e-6)
