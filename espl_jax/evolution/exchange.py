"""Populations as files that other programs read, and prompts out of such files.

Two forms. `own` is population.json itself: every prompt ever born, with ratings, lineage and matches. `authors` is the
evolution_pool.json of Zhang, Chen and Stadie's code, one program for each living prompt; its fields are those that
Program.state_dict and EvolutionPool.state_dict write there (tinker_cookbook/recipes/system_prompt_learning_rl.py):
principles {id: text}, program_id, timestep (-1: the root), self_modified_from (-1: no mutant), self_modify_id_list (mutants of
it), parents_list (null: no crossover), children_list, past_score_history, rating {mu, sigma}.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from espl_jax.evolution import population as populations
from espl_jax.structs import Genome, Population, Prompt


def authors_pool(population: Population, max_population: int) -> dict[str, Any]:
    """The living prompts as an evolution_pool.json. Raises ValueError for documents, of which that form knows none."""
    if any(prompt.genome.kind != "principles" for prompt in population.alive):
        raise ValueError("the population holds documents, which the authors' form has no place for; use --form=own")
    return {
        "max_pool_size": max_population,
        "max_program_id": max(prompt.id for prompt in population.prompts),
        "evolution_pool": [_program(population, prompt) for prompt in population.alive],
    }


def _program(population: Population, prompt: Prompt) -> dict[str, Any]:
    children = [other for other in population.prompts if prompt.id in other.parents]
    crossed = len(prompt.parents) > 1
    matches = [match for match in population.matches if prompt.id in match.prompt_ids]
    return {
        "principles": {f"G{number}": text for number, text in enumerate(prompt.genome.principles)},
        "program_id": prompt.id,
        "timestep": prompt.born - 1,  # their steps begin with 0
        "self_modified_from": prompt.parents[0] if len(prompt.parents) == 1 else -1,
        "self_modify_id_list": [child.id for child in children if len(child.parents) == 1],
        "parents_list": list(prompt.parents) if crossed else None,
        "children_list": [child.id for child in children if len(child.parents) > 1],
        "past_score_history": [match.scores[match.prompt_ids.index(prompt.id)] for match in matches],
        "rating": {"mu": prompt.rating.mu, "sigma": prompt.rating.sigma},
    }


# --form -> (population, config.evolution.max_population) -> JSON values
FORMS = {"own": lambda population, max_population: populations.to_json(population), "authors": authors_pool}


def genomes(data: Any) -> list[tuple[int, Genome]]:
    """The prompts of a file of either form that still compete there: their numbers and what they say, oldest first.

    Raises ValueError, in a sentence, for anything else.
    """
    if isinstance(data, Mapping) and "evolution_pool" in data:
        return _of_authors(data["evolution_pool"])
    if isinstance(data, Mapping) and "prompts" in data:
        return [(prompt.id, prompt.genome) for prompt in populations.from_json(data).alive]
    raise ValueError("it is neither a population.json nor an evolution_pool.json: it has no `prompts` and no `evolution_pool`")


def _of_authors(programs: Any) -> list[tuple[int, Genome]]:
    if not isinstance(programs, Sequence) or isinstance(programs, str):
        raise ValueError("its evolution_pool is not a list of programs")
    return [_read(program, place) for place, program in enumerate(programs)]


def _read(program: Any, place: int) -> tuple[int, Genome]:
    number = program.get("program_id") if isinstance(program, Mapping) else None
    principles = program.get("principles") if isinstance(program, Mapping) else None
    texts = list(principles.values()) if isinstance(principles, Mapping) else None
    if not isinstance(number, int) or texts is None or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"entry {place} of its evolution_pool has no program_id, or principles that are not {{id: text}}")
    return number, Genome("principles", tuple(" ".join(text.split()) for text in texts))
