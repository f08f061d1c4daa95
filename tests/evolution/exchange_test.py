"""Populations for other programs, and prompts out of their files."""

import json
from dataclasses import replace

import pytest

from espl_jax.evolution import exchange
from espl_jax.evolution import population as populations
from espl_jax.structs import Genome, Match, Population, Prompt, Rating
from tests.evolution.scripted import principles

# As the authors' Program.state_dict and EvolutionPool.state_dict write it (facts: exchange.py), texts by us.
THEIRS = {
    "max_pool_size": 200,
    "max_program_id": 9,
    "evolution_pool": [
        {
            "principles": {}, "program_id": 0, "timestep": -1, "self_modified_from": -1, "self_modify_id_list": [8],
            "parents_list": None, "children_list": [9], "past_score_history": [0.4], "rating": {"mu": 25.0, "sigma": 8.0},
        },
        {
            "principles": {"G0": "Check signs.", "C3": " Draw a\npicture. "}, "program_id": 9, "timestep": 4,
            "self_modified_from": -1, "self_modify_id_list": [], "parents_list": [0, 8], "children_list": [],
            "past_score_history": [], "rating": {"mu": 27.5, "sigma": 6.0},
        },
    ],
}  # fmt: skip


def family() -> Population:
    """A root, its mutant (retired) and the child of both; one match."""
    prompts = (
        Prompt(0, principles(), Rating(25.0, 8.0), (), "root", 0),
        Prompt(1, principles("Check signs."), Rating(26.0, 7.0), (0,), "mutation", 3),
        Prompt(2, principles("Check signs.", "Draw."), Rating(27.5, 6.0), (0, 1), "crossover", 5),
    )
    return Population(prompts, (Match(4, (1, 0), (0.75, 0.5), (0, 1)),), frozenset({1}))


def test_the_authors_form_field_by_field():
    assert exchange.authors_pool(family(), 200) == {
        "max_pool_size": 200,
        "max_program_id": 2,
        "evolution_pool": [
            {
                "principles": {}, "program_id": 0, "timestep": -1, "self_modified_from": -1, "self_modify_id_list": [1],
                "parents_list": None, "children_list": [2], "past_score_history": [0.5], "rating": {"mu": 25.0, "sigma": 8.0},
            },
            {
                "principles": {"G0": "Check signs.", "G1": "Draw."}, "program_id": 2, "timestep": 4, "self_modified_from": -1,
                "self_modify_id_list": [], "parents_list": [0, 1], "children_list": [], "past_score_history": [],
                "rating": {"mu": 27.5, "sigma": 6.0},
            },
        ],
    }  # fmt: skip
    assert exchange.authors_pool(replace(family(), retired=frozenset()), 200)["evolution_pool"][1]["self_modified_from"] == 0


@pytest.mark.parametrize("form", sorted(exchange.FORMS))
def test_what_is_written_is_read_again(form):
    written = json.loads(json.dumps(exchange.FORMS[form](family(), 200)))
    assert exchange.genomes(written) == [(0, principles()), (2, principles("Check signs.", "Draw."))]


def test_the_authors_file_is_read():
    assert exchange.genomes(THEIRS) == [(0, principles()), (9, principles("Check signs.", "Draw a picture."))]


def test_documents_go_in_our_own_form_alone():
    documents = Population((Prompt(0, Genome("document", document="Search."), Rating(1, 1), (), "root", 0),))
    with pytest.raises(ValueError, match="holds documents.*--form=own"):
        exchange.authors_pool(documents, 200)
    assert exchange.genomes(populations.to_json(documents)) == [(0, documents.prompts[0].genome)]


@pytest.mark.parametrize(
    "data", [[], {}, 3, {"evolution_pool": "x"}, {"evolution_pool": [3]}, {"evolution_pool": [{"program_id": 1}]},
             {"evolution_pool": [{"program_id": 1, "principles": ["a"]}]}, {"prompts": []}],
)  # fmt: skip
def test_other_files_are_refused_in_a_sentence(data):
    with pytest.raises(ValueError) as error:
        exchange.genomes(data)
    assert "\n" not in str(error.value)
