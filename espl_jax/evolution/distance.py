"""How far apart two prompts are, in [0, 1], and what follows from it: niches, species, and how diverse a population is."""

from collections.abc import Sequence
from itertools import combinations

from espl_jax.evolution.trials import newest_values
from espl_jax.evolution.words import similarity
from espl_jax.structs import Population, Prompt

UNKNOWN = 1.0  # of two prompts that share no problem: nothing says that they do the same


def text_distance(first: Prompt, second: Prompt, population: Population) -> float:
    """1 - Jaccard similarity of the words of two prompts; two empty ones are the same."""
    return 1.0 - similarity(_text(first), _text(second))


def _text(prompt: Prompt) -> str:
    return "\n".join((*prompt.genome.principles, prompt.genome.document))


def behaviour_distance(first: Prompt, second: Prompt, population: Population) -> float:
    """Mean difference of two prompts' latest mean rewards over the problems that both have been tried on of late."""
    known = newest_values(population)
    if first.id == second.id:
        return 0.0
    gap = _gap(known.get(first.id, {}), known.get(second.id, {}))
    return UNKNOWN if gap is None else gap


def _gap(first: dict[str, float], second: dict[str, float]) -> float | None:
    shared = sorted(first.keys() & second.keys())
    return sum(abs(first[name] - second[name]) for name in shared) / len(shared) if shared else None


DISTANCES = {"text": text_distance, "behaviour": behaviour_distance}


def species(prompts: Sequence[Prompt], population: Population, config) -> list[list[Prompt]]:
    """The prompts in clusters: single linkage at config.niche_radius by config.distance, each in the given order."""
    clusters: list[list[Prompt]] = []
    for prompt in prompts:
        near = [cluster for cluster in clusters if any(_near(prompt, other, population, config) for other in cluster)]
        joined = [member for cluster in near for member in cluster] + [prompt]
        clusters = [cluster for cluster in clusters if cluster not in near] + [joined]
    return clusters


def _near(first: Prompt, second: Prompt, population: Population, config) -> bool:
    return DISTANCES[config.distance](first, second, population) < config.niche_radius


def diversity_metrics(population: Population, config) -> dict[str, float]:
    """How different the newest config.window living prompts are, which are those that can be selected.

    evolution/diversity: mean distance in text of all pairs, 0 for one prompt. evolution/species: clusters, see `species`.
    evolution/behaviour_distance: mean distance in behaviour of the pairs that share a problem; absent when none does.
    """
    prompts = population.alive[-config.window :]
    apart = [text_distance(first, second, population) for first, second in combinations(prompts, 2)]
    known = newest_values(population)
    pairs = combinations([known[prompt.id] for prompt in prompts if prompt.id in known], 2)
    gaps = [gap for first, second in pairs if (gap := _gap(first, second)) is not None]
    metrics = {
        "evolution/diversity": sum(apart) / len(apart) if apart else 0.0,
        "evolution/species": float(len(species(prompts, population, config))),
    }
    return metrics | ({"evolution/behaviour_distance": sum(gaps) / len(gaps)} if gaps else {})
