"""Ratings over time against a replay of the matches; changes that can be undone; a drawing without overlaps."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espl_jax.evolution.population import root_population
from espl_jax.evolution.rating import child_rating_crossover, child_rating_mutation, rate
from espl_jax.report import choosing, lineage, reading
from espl_jax.structs import Genome, Population, Prompt, Rating
from experiments import base
from tests.report import synthetic


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("synthetic") / "run"
    synthetic.write(workdir, steps=24, births=0.8, seed=3)
    return reading.read(workdir, choosing.chooser(workdir))


def test_histories_are_those_of_a_replay(record):
    """Independent: births and matches are played again with evolution/rating.py, from the root's prior on."""
    config = base.get_config().evolution
    population, replayed = root_population(Genome("principles"), config), {0: [(0, Rating(25.0, 25.0 / 3))]}
    for step in range(1, 25):
        for match in record.population.matches:
            if match.step == step:
                population = rate(population, match.prompt_ids, match.scores, step, config)
                for prompt_id in match.prompt_ids:
                    replayed[prompt_id].append((step, population[prompt_id].rating))
        for prompt in record.population.prompts:
            if prompt.born == step:
                parents = [population[parent].rating for parent in prompt.parents]
                birth = child_rating_mutation(parents[0], 1.0) if len(parents) == 1 else child_rating_crossover(parents, 1.0)
                population = replace(population, prompts=(*population.prompts, replace(prompt, rating=birth)))
                replayed[prompt.id] = [(step, birth)]
    assert population == record.population and len(replayed) > 15
    assert lineage.histories(record) == replayed


def test_a_history_ends_with_the_rating_of_the_population(record):
    for prompt_id, history in lineage.histories(record).items():
        assert history[-1][1] == record.population[prompt_id].rating
        assert history[0][0] == record.population[prompt_id].born


def genomes(kind):
    lines = st.lists(st.text("abc ", max_size=12).filter(lambda text: "\n" not in text), max_size=6)
    if kind == "principles":
        return lines.map(lambda texts: Genome("principles", tuple(texts)))
    return lines.map(lambda texts: Genome("document", document="\n".join(texts)))


@pytest.mark.parametrize("kind", ["principles", "document"])
def test_a_difference_gives_back_both_sides(kind):
    @settings(max_examples=60)
    @given(genomes(kind), genomes(kind))
    def check(old, new):
        before, after = lineage.lines_of(old), lineage.lines_of(new)
        changes = lineage.difference(old, new)
        now = [entry[2] if entry[0] == "~" else entry[1] for entry in changes if entry[0] != "-"]
        assert now == list(range(len(after)))
        gone = [entry[1] for entry in changes if entry[0] in "-~"]
        kept = [after[entry[1]] for entry in changes if entry[0] == "="]
        assert [line for index, line in enumerate(before) if index not in gone] == kept and len(set(gone)) == len(gone)
        for kind, *entry in changes:
            if kind == "~":
                i, j, spans = entry
                assert "".join(words for part, words in spans if part != "+") == before[i]
                assert "".join(words for part, words in spans if part != "-") == after[j]

    check()


def test_a_changed_principle_is_shown_word_by_word():
    old = Genome("principles", ("Check the sign of each term.", "Estimate first."))
    new = Genome("principles", ("Check the sign of every term.", "Name the cases."))
    assert lineage.difference(old, new) == [
        ["-", 1],
        ["~", 0, 0, [["=", "Check the sign of "], ["-", "each"], ["+", "every"], ["=", " term."]]],
        ["+", 1],
    ]


@st.composite
def families(draw):
    prompts = [Prompt(0, Genome("principles"), Rating(25, 8), (), "root", 0)]
    step = 0
    for number in range(1, draw(st.integers(1, 40))):
        step += draw(st.integers(0, 2))
        parents = tuple(draw(st.lists(st.integers(0, number - 1), min_size=1, max_size=2, unique=True)))
        prompts.append(Prompt(number, Genome("principles"), Rating(25, 8), parents, "mutation", step))
    return prompts


@settings(max_examples=100)
@given(families())
def test_no_two_prompts_stand_in_one_place_and_no_line_runs_behind_another(prompts):
    places = lineage.places(prompts, gap=1)
    assert len({(place.step, place.lane) for place in places.values()}) == len(prompts)
    for prompt in prompts[1:]:
        parent, place = places[prompt.parents[0]], places[prompt.id]
        if parent.lane == place.lane:
            between = [p for p in places.values() if p.lane == place.lane and parent.step < p.step < place.step]
            assert not between


def test_who_won_and_who_has_children(record):
    population: Population = record.population
    won = lineage.record_of(population.matches)
    assert sum(first for first, _ in won.values()) >= len(population.matches)
    assert sum(played for _, played in won.values()) == sum(len(match.prompt_ids) for match in population.matches)
    children = lineage.children(population)
    assert sorted((p, c) for p, found in children.items() for c in found) == sorted(
        (parent, prompt.id) for prompt in population.prompts for parent in prompt.parents
    )
