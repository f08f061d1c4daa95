from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from espl_jax.evolution.selection import SELECTION, select
from espl_jax.structs import Population
from tests.evolution.scripted import config, prompt


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def five() -> Population:
    """mu + 2 sigma: 22, 34, 31, 32, 26; mu - 2 sigma: 18, 14, 29, 20, 22."""
    ratings = [(20, 1), (24, 5), (30, 0.5), (26, 3), (24, 1)]
    return Population(tuple(prompt(i, mu=mu, sigma=sigma) for i, (mu, sigma) in enumerate(ratings)))


def chosen(state=None, seed=0, **changes) -> list[int]:
    return draws(range(seed, seed + 1), state, **changes)[0]


def draws(seeds, state=None, **changes) -> list[list[int]]:
    state, settings = state or five(), config(**changes)
    return [[prompt.id for prompt in select(state, settings, rng(seed), step=1)] for seed in seeds]


@pytest.mark.parametrize("name", sorted(SELECTION))
@pytest.mark.parametrize("count", [1, 2, 5, 9])
@pytest.mark.parametrize("window", [1, 3, 10])
def test_never_a_duplicate_always_the_window_and_fewer_when_it_holds_fewer(name, count, window):
    for ids in draws(range(10), selection=name, num_prompts=count, window=window):
        assert len(ids) == len(set(ids)) == min(count, window, 5)
        assert set(ids) <= set(range(5)[-window:])


@pytest.mark.parametrize("name", sorted(SELECTION))
def test_the_generator_decides_everything(name):
    assert chosen(seed=3, selection=name) == chosen(seed=3, selection=name)


@pytest.mark.parametrize("name", sorted(SELECTION))
def test_the_retired_are_not_selected_and_leave_room_in_the_window(name):
    state = Population(five().prompts, retired=frozenset({4}))
    assert sorted(chosen(state, selection=name, num_prompts=3, window=3)) == [1, 2, 3]


def test_champion_is_first_and_the_rest_is_uniform():
    found = draws(range(2000), selection="champion", num_prompts=2)
    assert {ids[0] for ids in found} == {1}
    counts = Counter(ids[1] for ids in found)
    assert set(counts) == {0, 2, 3, 4}
    assert all(abs(count - 500) < 80 for count in counts.values())


def test_champion_follows_optimism():
    assert chosen(selection="champion", num_prompts=1, optimism=0.0) == [2]


def test_newest_is_first_and_the_rest_varies():
    found = draws(range(200), selection="newest", num_prompts=2)
    assert {ids[0] for ids in found} == {4}
    assert {ids[1] for ids in found} == {0, 1, 2, 3}


def test_ucb_takes_the_highest_bounds():
    assert chosen(selection="ucb", num_prompts=3) == [1, 3, 2]


def test_lucb_has_a_safe_champion_and_hopeful_challengers():
    assert chosen(selection="lucb", num_prompts=3) == [2, 1, 3]


def test_ties_go_to_the_older():
    state = Population(tuple(prompt(i) for i in range(4)))
    assert chosen(state, selection="ucb", num_prompts=2) == [0, 1]
    assert chosen(state, selection="champion", num_prompts=1) == [0]


def test_uniform_reaches_all_alike():
    counts = Counter(ids[0] for ids in draws(range(2000), selection="uniform", num_prompts=1))
    assert all(abs(counts[i] - 400) < 80 for i in range(5))


def test_softmax_has_the_probabilities_it_should():
    """Scores 22 and 24 at temperature 2: exp(-1) / (1 + exp(-1)) = 0.2689 for the lower."""
    state = Population((prompt(0, mu=20, sigma=1), prompt(1, mu=22, sigma=1)))
    changes = {"selection": "softmax", "num_prompts": 1, "selection_temperature": 2.0}
    lower = draws(range(4000), state, **changes).count([0]) / 4000
    assert lower == pytest.approx(0.2689, abs=0.025)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("temperature", [1e-300, 1e-9])
def test_softmax_with_a_tiny_temperature_is_a_ranking(temperature):
    assert chosen(selection="softmax", num_prompts=4, selection_temperature=temperature) == [1, 3, 2, 4]


@pytest.mark.filterwarnings("error")
def test_softmax_with_huge_scores():
    state = Population((prompt(0, mu=1e6), prompt(1, mu=-1e6)))
    assert chosen(state, selection="softmax", num_prompts=2) == [0, 1]


def test_bad_settings_are_errors():
    with pytest.raises(ValueError, match="'best'"):
        chosen(selection="best")
    with pytest.raises(ValueError, match="window is 0"):
        chosen(window=0)
    with pytest.raises(ValueError, match="selection_temperature is 0"):
        chosen(selection="softmax", selection_temperature=0.0)


@pytest.mark.parametrize("islands", [1, 3])
@pytest.mark.parametrize("name", sorted(SELECTION))
def test_the_pinned_always_compete_in_order_and_the_rest_fills_up(name, islands):
    state = Population(five().prompts, pinned=frozenset({3, 0}))
    for ids in draws(range(20), state, selection=name, num_prompts=4, window=2, islands=islands):
        assert ids[:2] == [0, 3] and ids[2:] == [4], "3 and 4 are in the window, and 3 has its place"
    assert draws(range(3), state, selection=name, num_prompts=1, window=2) == [[0, 3]] * 3, "all of them, and nobody else"


def test_nothing_pinned_changes_nothing_and_a_guest_keeps_its_place_behind_the_pinned():
    plain = draws(range(50), selection="uniform", num_prompts=3)
    assert draws(range(50), Population(five().prompts, pinned=frozenset()), selection="uniform", num_prompts=3) == plain
    born = tuple(replace(p, operator="mutation", born=p.id) for p in five().prompts)
    settings = {"islands": 2, "migration_every": 1, "num_prompts": 2, "selection": "ucb"}
    assert chosen(Population(born), **settings) == [1, 2], "island 1 has 1 and 3, its guest is 2"
    assert chosen(Population(born, pinned=frozenset({0})), **settings) == [0, 2]
    assert chosen(Population(born, pinned=frozenset({2})), **settings) == [2, 1], "who is pinned is no guest"
