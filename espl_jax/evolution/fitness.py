"""What selection goes by: the rating, or the rating less for whoever is one of a crowd, or the problems that a prompt leads.

A fitness shows selection the candidates with other ratings; whoever is chosen keeps its own. The softmax strategy draws
with p ~ exp(score / T), T = config.selection_temperature; fitness is defined so that this p is what its source says.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from espl_jax.evolution.distance import DISTANCES
from espl_jax.evolution.pareto import problems_led
from espl_jax.evolution.trials import newest_values
from espl_jax.structs import Population, Prompt, Rating

NEVER = 1e-9  # the weight of a prompt that leads no problem: it comes after all that lead one


def rating(candidates: Sequence[Prompt], population: Population, config) -> tuple[Prompt, ...]:
    """The candidates as they are."""
    return tuple(candidates)


def shared(candidates: Sequence[Prompt], population: Population, config) -> tuple[Prompt, ...]:
    """Fitness sharing (Goldberg, Richardson 1987): exp(mu / T) is divided by the candidate's niche count.

    The count sums 1 - distance / niche_radius over the candidates within the radius, itself included: n equal prompts are
    together as fit as one.
    """
    apart = DISTANCES[config.distance]
    found = []
    for prompt in candidates:
        others = [other for other in candidates if other.id != prompt.id]
        crowd = 1.0 + sum(max(0.0, 1 - apart(prompt, other, population) / config.niche_radius) for other in others)
        lower = prompt.rating.mu - config.selection_temperature * math.log(crowd)
        found.append(replace(prompt, rating=Rating(lower, prompt.rating.sigma)))
    return tuple(found)


def pareto(candidates: Sequence[Prompt], population: Population, config) -> tuple[Prompt, ...]:
    """As many chances as problems led (pareto.problems_led, after GEPA); a prompt not tried of late has as many as any."""
    led, tried = problems_led(population, config.tie_margin), newest_values(population)
    most = max((1, *led.values()))
    counts = [led[prompt.id] if prompt.id in tried else most for prompt in candidates]
    scores = [config.selection_temperature * math.log(max(count, NEVER)) for count in counts]
    return tuple(replace(prompt, rating=Rating(score, 0.0)) for prompt, score in zip(candidates, scores, strict=True))


FITNESS = {"rating": rating, "shared": shared, "pareto": pareto}
