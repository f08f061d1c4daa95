"""The population of prompts: its root, its births, its lineage, and its form in a checkpoint.

State in, state out: every function returns a new Population (Zhang, Chen, Stadie, arXiv 2602.14697v3).
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from espl_jax.structs import Genome, Match, Population, Prompt, Rating, Trial

VERSION = 1


def root_population(genome: Genome, config) -> Population:
    """A population of one: prompt 0, with the prior rating of `config` (config.evolution), born at step 0."""
    rating = Rating(config.trueskill_mu, config.trueskill_sigma)
    return Population((Prompt(0, genome, rating, (), "root", 0),))


def add_child(population: Population, child: Prompt, max_population: int) -> tuple[Population, Prompt]:
    """The population with `child`, and the child under the id it was given (ids are consecutive, the root is 0).

    Beyond `max_population` living prompts the oldest retire; they stay in the lineage. Pinned ones neither count nor retire.
    Raises ValueError for parents that the population does not know, and for a max_population below 1.
    """
    known = {prompt.id for prompt in population.prompts}
    if unknown := set(child.parents) - known:
        raise ValueError(f"the child's parents {sorted(unknown)} are not in the population; add the parents first")
    if max_population < 1:
        raise ValueError(f"max_population is {max_population}; use 1 or more")
    child = replace(child, id=max(known) + 1)
    population = replace(population, prompts=population.prompts + (child,))
    counted = [prompt.id for prompt in population.alive if prompt.id not in population.pinned]
    leaving = frozenset(counted[: max(len(counted) - max_population, 0)])
    return replace(population, retired=population.retired | leaving), child


def best(population: Population) -> Prompt:
    """The living prompt with the highest mu; of equals the oldest."""
    return max(population.alive, key=lambda prompt: (prompt.rating.mu, -prompt.id))


def newest(population: Population) -> Prompt:
    """The living prompt that was born last."""
    return population.alive[-1]


def twin(population: Population, genome: Genome) -> Prompt | None:
    """The living prompt that says the same as `genome` (white space folded), or None."""
    for prompt in population.alive:
        if _folded(prompt.genome) == _folded(genome):
            return prompt
    return None


def _folded(genome: Genome) -> tuple:
    principles = tuple(" ".join(text.split()) for text in genome.principles)
    return genome.kind, principles, " ".join(genome.document.split())


def to_json(population: Population) -> dict[str, Any]:
    """The population as JSON values; floats survive `json.dumps` and `json.loads` exactly."""
    return {
        "version": VERSION,
        "prompts": [asdict(prompt) for prompt in population.prompts],
        "matches": [asdict(match) for match in population.matches],
        "retired": sorted(population.retired),
        "trials": [asdict(trial) for trial in population.trials],
        "pinned": sorted(population.pinned),
    }


def from_json(data: Mapping[str, Any]) -> Population:
    """The population that `to_json` wrote. Raises ValueError that names an unknown version or a missing field."""
    if (version := _field(data, "version", "population")) != VERSION:
        raise ValueError(f"the population has version {version!r}; this code reads version {VERSION}")
    return Population(
        prompts=tuple(_prompt(entry) for entry in _field(data, "prompts", "population")),
        matches=tuple(_match(entry) for entry in _field(data, "matches", "population")),
        retired=frozenset(_field(data, "retired", "population")),
        trials=tuple(_trial(entry) for entry in data["trials"]) if "trials" in data else (),  # older files have none
        pinned=frozenset(data["pinned"]) if "pinned" in data else frozenset(),
    )


def _prompt(data: Mapping[str, Any]) -> Prompt:
    genome, rating = _field(data, "genome", "prompt"), _field(data, "rating", "prompt")
    return Prompt(
        id=_field(data, "id", "prompt"),
        genome=Genome(
            kind=_field(genome, "kind", "genome"),
            principles=tuple(_field(genome, "principles", "genome")),
            document=_field(genome, "document", "genome"),
        ),
        rating=Rating(_field(rating, "mu", "rating"), _field(rating, "sigma", "rating")),
        parents=tuple(_field(data, "parents", "prompt")),
        operator=_field(data, "operator", "prompt"),
        born=_field(data, "born", "prompt"),
    )


def _match(data: Mapping[str, Any]) -> Match:
    return Match(
        step=_field(data, "step", "match"),
        prompt_ids=tuple(_field(data, "prompt_ids", "match")),
        scores=tuple(_field(data, "scores", "match")),
        ranks=tuple(_field(data, "ranks", "match")),
    )


def _trial(data: Mapping[str, Any]) -> Trial:
    return Trial(
        step=_field(data, "step", "trial"),
        prompt_ids=tuple(_field(data, "prompt_ids", "trial")),
        problem_ids=tuple(_field(data, "problem_ids", "trial")),
        values=tuple(tuple(row) for row in _field(data, "values", "trial")),
    )


def _field(data: Mapping[str, Any], name: str, owner: str) -> Any:
    if not isinstance(data, Mapping) or name not in data:
        raise ValueError(f"a {owner} without the field {name!r}: the file is damaged or not a population")
    return data[name]
