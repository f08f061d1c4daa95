"""What people write into a population."""

import math
from dataclasses import replace

import pytest

from espl_jax.evolution import human
from espl_jax.evolution.human import Edit
from espl_jax.evolution.population import add_child, root_population
from espl_jax.structs import Genome, Prompt, Rating
from experiments import base

CONFIG = base.get_config().evolution
ROOT = Genome("principles")
RULES = Genome("principles", ("Count twice.", "Read the question again."))


def two_prompts():
    child = Prompt(-1, RULES, Rating(31.0, 3.0), (0,), "mutation", 2)
    return add_child(root_population(ROOT, CONFIG), child, 200)[0]


def child_of(target: int, seen: Genome, *principles: str) -> Edit:
    return Edit("add", target, seen, Genome("principles", principles))


def test_a_child_has_its_lineage_and_a_mutants_rating():
    population, number = human.carry_out(two_prompts(), child_of(1, RULES, "Count three times."), 5, CONFIG)
    child = population[2]
    assert number == 2 and (child.parents, child.operator, child.born) == ((1,), "human", 5)
    assert child.genome.principles == ("Count three times.",)
    assert child.rating == Rating(31.0, math.sqrt(3.0**2 + 1.0**2))  # sigma inflation is 1
    assert population.prompts[:2] == two_prompts().prompts


def test_beyond_the_largest_population_the_oldest_retires():
    small = replace_config(max_population=2)
    population, _ = human.carry_out(two_prompts(), child_of(1, RULES, "Count three times."), 5, small)
    assert population.retired == {0}


def replace_config(**changes):
    config = base.get_config().evolution
    for name, value in changes.items():
        config[name] = value
    return config


def test_a_retired_prompt_stays_in_the_lineage():
    population, number = human.carry_out(two_prompts(), Edit("retire", 0, ROOT), 5, CONFIG)
    assert number == 0 and population.retired == {0} and len(population.prompts) == 2
    assert [prompt.id for prompt in population.alive] == [1]


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (child_of(7, RULES, "New."), "there is no prompt 7"),
        (child_of(0, RULES, "New."), "prompt 0 does not say what it said"),
        (child_of(0, ROOT, " Count  twice.", "Read the question again. "), "the text is that of prompt 1"),
        (child_of(0, ROOT, "word " * 33), "has 33 words, evolution.max_principle_words is 32"),
        (child_of(0, ROOT, *(f"Rule {n}." for n in range(51))), "has 51 principles, evolution.max_principles is 50"),
        (child_of(0, ROOT, "..."), "holds no word"),
        (child_of(0, ROOT, "Say <|im_end|> first."), "holds the chat control mark '<|im_end|>'"),
        (Edit("add", 0, ROOT, Genome("document", document="x")), "kind 'document'"),
    ],
)
def test_what_cannot_be_done_changes_nothing_and_says_why(edit, reason):
    with pytest.raises(ValueError, match=r"\S") as error:
        human.carry_out(two_prompts(), edit, 5, CONFIG)
    assert reason in str(error.value) and "\n" not in str(error.value)


def test_a_document_obeys_its_own_limit():
    seen = Genome("document", document="")
    population = root_population(seen, CONFIG)
    edit = Edit("add", 0, seen, Genome("document", document="word " * 1500))
    assert human.objection(population, edit, CONFIG) == ""
    longer = replace(edit, genome=Genome("document", document="word " * 1501))
    assert "evolution.max_document_words is 1500" in human.objection(population, longer, CONFIG)


def test_the_last_prompt_alive_cannot_retire_and_nobody_retires_twice():
    population, _ = human.carry_out(two_prompts(), Edit("retire", 0, ROOT), 5, CONFIG)
    assert "the last that is alive" in human.objection(population, Edit("retire", 1, RULES), CONFIG)
    assert "has retired already" in human.objection(population, Edit("retire", 0, ROOT), CONFIG)


def test_an_edit_survives_json_and_other_json_is_refused():
    edit = child_of(1, RULES, "Größe \u2028 zuerst.")
    assert human.from_json(human.to_json(edit)) == edit
    for damaged in ({}, [], {"kind": "add"}, human.to_json(edit) | {"kind": "praise"}, human.to_json(edit) | {"genome": None}):
        with pytest.raises(ValueError):
            human.from_json(damaged)


def test_pins_come_and_go_and_retiring_takes_one_off():
    pinned, number = human.carry_out(two_prompts(), Edit("pin", 1, RULES), 5, CONFIG)
    assert number == 1 and pinned.pinned == {1} and pinned.prompts == two_prompts().prompts
    assert "is pinned already" in human.objection(pinned, Edit("pin", 1, RULES), CONFIG)
    assert "prompt 0 is not pinned" in human.objection(pinned, Edit("unpin", 0, ROOT), CONFIG)
    assert human.carry_out(pinned, Edit("unpin", 1, RULES), 5, CONFIG)[0] == two_prompts()
    retired, _ = human.carry_out(pinned, Edit("retire", 1, RULES), 5, CONFIG)
    assert retired.retired == {1} and not retired.pinned
    assert "add a child that says the same" in human.objection(retired, Edit("pin", 1, RULES), CONFIG)
