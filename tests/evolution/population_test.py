import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espl_jax.evolution.population import add_child, best, from_json, newest, root_population, to_json, twin
from espl_jax.structs import Genome, Match, Population, Prompt, Rating
from tests.evolution.scripted import config, population, principles

CHILD = Prompt(-1, principles("check"), Rating(30.0, 2.0), (0,), "mutation", 4)


def grown(count: int, limit: int = 200) -> Population:
    state = root_population(principles(), config())
    for number in range(1, count):
        parents = (number - 1,)
        state, _ = add_child(state, Prompt(-1, principles(f"p{number}"), Rating(25, 5), parents, "mutation", 1), limit)
    return state


def test_root_has_the_prior_of_the_config():
    root = root_population(principles("a"), config(trueskill_mu=10.0)).prompts[0]
    assert root == Prompt(0, principles("a"), Rating(10.0, 25 / 3), (), "root", 0)


def test_children_get_consecutive_ids_and_the_argument_is_unchanged():
    before = root_population(principles(), config())
    after, child = add_child(before, CHILD, 200)
    assert (child.id, after[1], len(before.prompts)) == (1, child, 1)
    assert add_child(after, CHILD, 200)[1].id == 2


def test_the_oldest_retire_first_and_stay_in_the_lineage():
    state = grown(5, limit=3)
    assert [prompt.id for prompt in state.alive] == [2, 3, 4]
    assert state.retired == {0, 1}
    assert state[1].parents == (0,)


def test_ids_are_not_reused_when_only_one_may_live():
    state = grown(4, limit=1)
    assert [prompt.id for prompt in state.alive] == [3]


def test_unknown_parents_and_bad_limits_are_errors():
    state = root_population(principles(), config())
    with pytest.raises(ValueError, match=r"\[7\]"):
        add_child(state, Prompt(-1, principles(), Rating(1, 1), (0, 7), "crossover", 1), 5)
    with pytest.raises(ValueError, match="max_population is 0"):
        add_child(state, CHILD, 0)


def test_best_is_alive_and_of_equals_the_oldest():
    ratings = [99.0, 30.0, 30.0, 20.0]
    prompts = tuple(Prompt(i, principles(), Rating(mu, 1.0), (), "root", 0) for i, mu in enumerate(ratings))
    state = Population(prompts, retired=frozenset({0}))
    assert best(state).id == 1
    assert newest(state).id == 3


def test_twin_folds_white_space_and_forgets_the_retired():
    state = population(principles("a  b"), principles("c"))
    assert twin(state, principles("a b")).id == 0
    assert twin(state, principles("A b")) is None
    assert twin(Population(state.prompts, retired=frozenset({0})), principles("a b")) is None
    assert twin(population(Genome("document", document="x\n y")), Genome("document", document="x y")).id == 0


finite = st.floats(allow_nan=False, allow_infinity=False)


@given(mu=finite, sigma=finite, score=finite, texts=st.lists(st.text(max_size=20), max_size=3))
def test_json_round_trip_is_exact(mu, sigma, score, texts):
    prompts = (
        Prompt(0, principles(*texts), Rating(mu, sigma), (), "root", 0),
        Prompt(1, Genome("document", document="d"), Rating(1 / 3, math.pi), (0, 0), "crossover", 7),
    )
    state = Population(prompts, (Match(3, (0, 1), (score, 0.1), (0, 1)),), frozenset({0}))
    assert from_json(json.loads(json.dumps(to_json(state)))) == state


def test_damage_is_named():
    data = to_json(grown(2))
    with pytest.raises(ValueError, match="version 99"):
        from_json(data | {"version": 99})
    with pytest.raises(ValueError, match="'version'"):
        from_json({})
    with pytest.raises(ValueError, match="'matches'"):
        from_json({name: value for name, value in data.items() if name != "matches"})
    del data["prompts"][1]["rating"]["sigma"]
    with pytest.raises(ValueError, match="rating without the field 'sigma'"):
        from_json(data)


def test_the_pinned_do_not_retire_and_are_not_counted():
    state = replace(grown(3), pinned=frozenset({0}))
    for _ in range(3):
        state, _ = add_child(state, CHILD, 2)
    assert [prompt.id for prompt in state.alive] == [0, 4, 5]
    assert from_json(json.loads(json.dumps(to_json(state)))) == state


def test_a_file_from_before_there_were_pins_is_read():
    old = {name: value for name, value in to_json(grown(2)).items() if name != "pinned"}
    assert from_json(old) == grown(2)
