"""Islands take turns, keep to themselves and now and then have a guest."""

from dataclasses import replace

import numpy as np
import pytest

from espl_jax.evolution.islands import guests, lives_on, residents
from espl_jax.evolution.selection import SELECTION, select
from espl_jax.structs import Population
from tests.evolution.scripted import config, prompt


def born(*steps: int) -> Population:
    """A root, and a child of mu 30 + i born at each of the steps."""
    children = [replace(prompt(i + 1, f"rule {i}", mu=30.0 + i), operator="mutation", born=s) for i, s in enumerate(steps)]
    return Population((prompt(0), *children))


def ids(prompts) -> list[int]:
    return [p.id for p in prompts]


def test_each_island_has_its_own_children_and_the_root():
    state = born(1, 2, 3, 4, 5)
    assert ids(residents(state, 7, 3)) == [0, 1, 4]  # 7 mod 3 = 1: born at 1 and 4
    assert ids(residents(state, 8, 3)) == [0, 2, 5]
    assert ids(residents(state, 8, 1)) == [0, 1, 2, 3, 4, 5]


def test_every_prompt_lives_on_one_island_and_the_root_on_all():
    for p in born(*range(1, 20)).prompts:
        assert sum(lives_on(p, island, 4) for island in range(4)) == (4 if p.id == 0 else 1)


def test_an_island_without_anybody_opens_to_all():
    state = Population(born(1, 4).prompts, retired=frozenset({0}))
    assert ids(residents(state, 3, 3)) == [1, 2]


def test_the_neighbours_best_is_a_guest_in_every_fifth_turn():
    state, settings = born(1, 2, 3, 4, 5), config(islands=3, migration_every=5)
    assert [step for step in range(40) if guests(state, step, settings)] == [0, 1, 2, 15, 16, 17, 30, 31, 32]
    assert ids(guests(state, 16, settings)) == [3]  # island 1's neighbour is island 0: born at 3
    assert ids(guests(state, 15, settings)) == [5]  # island 0's is island 2: the better of 2 and 5
    for changes in ({"islands": 1}, {"migration_every": 0}, {"num_prompts": 1}):
        assert guests(state, 15, config(**{"islands": 3, "migration_every": 5} | changes)) == ()


@pytest.mark.parametrize("name", sorted(SELECTION))
def test_a_guest_competes_whatever_the_strategy_and_nobody_twice(name):
    state, settings = born(*range(1, 30)), config(islands=3, migration_every=1, selection=name, window=4, num_prompts=3)
    for step in range(30, 36):
        chosen = select(state, settings, np.random.default_rng(step), step)
        assert len(set(ids(chosen))) == 3
        assert [lives_on(p, step % 3, 3) for p in chosen] == [True, True, False]
