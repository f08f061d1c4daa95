"""Whom the best prompt of a step may cross with: anybody, only its like, or only others (Deb, Goldberg 1989, restrict mating
to the like, so that niches do not breed what fits neither; crossing with others is for variety)."""

from collections.abc import Sequence

from espl_jax.evolution.distance import DISTANCES
from espl_jax.structs import Population, Prompt


def anybody(best: Prompt, others: Sequence[Prompt], population: Population, config) -> list[Prompt]:
    """All of them."""
    return list(others)


def similar(best: Prompt, others: Sequence[Prompt], population: Population, config) -> list[Prompt]:
    """Those nearer than config.niche_radius."""
    return [other for other in others if DISTANCES[config.distance](best, other, population) < config.niche_radius]


def different(best: Prompt, others: Sequence[Prompt], population: Population, config) -> list[Prompt]:
    """Those that are not `similar`."""
    near = similar(best, others, population, config)
    return [other for other in others if other not in near]


MATING = {"any": anybody, "similar": similar, "different": different}
