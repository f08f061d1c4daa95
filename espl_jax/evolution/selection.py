"""Which prompts compete in a step (Zhang, Chen, Stadie, arXiv 2602.14697v3).

Every strategy takes the candidates (oldest first), how many to choose (at most as many as there are), a numpy
Generator and config.evolution; it returns distinct candidates, those it chose on purpose first. Of equals the older
is chosen.
"""

from collections.abc import Sequence

import numpy as np

from espl_jax.evolution.fitness import FITNESS
from espl_jax.evolution.islands import guests, residents
from espl_jax.structs import Population, Prompt


def select(population: Population, config, rng: np.random.Generator, step: int) -> tuple[Prompt, ...]:
    """config.num_prompts distinct prompts from the newest config.window living ones; all of them when there are fewer.

    Pinned prompts take places first, oldest first, whatever the window and the island; when more are pinned than there are
    places, all of them compete and nobody else. The rest are those of the island whose turn `step` is, by config.fitness, and
    its guest (islands.py) behind them. Raises ValueError for an unknown strategy and for a window or number below 1.
    """
    if config.selection not in SELECTION:
        raise ValueError(f"evolution.selection is {config.selection!r}; use one of {sorted(SELECTION)}")
    if config.window < 1 or config.num_prompts < 1:
        raise ValueError(f"window is {config.window} and num_prompts {config.num_prompts}; use 1 or more")
    pinned = tuple(prompt for prompt in population.alive if prompt.id in population.pinned)
    visiting = tuple(_others(guests(population, step, config), pinned))[: max(config.num_prompts - len(pinned), 0)]
    window = FITNESS[config.fitness](residents(population, step, config.islands)[-config.window :], population, config)
    candidates = _others(window, pinned)
    count = max(0, min(config.num_prompts - len(pinned) - len(visiting), len(candidates)))
    chosen = SELECTION[config.selection](candidates, count, rng, config) if count else ()
    return pinned + tuple(population[prompt.id] for prompt in chosen) + visiting


def bound(prompt: Prompt, width: float) -> float:
    """mu + width * sigma: an upper confidence bound, or a lower one for a negative width."""
    return prompt.rating.mu + width * prompt.rating.sigma


def _top(candidates: Sequence[Prompt], count: int, width: float) -> tuple[Prompt, ...]:
    return tuple(sorted(candidates, key=lambda prompt: (-bound(prompt, width), prompt.id))[:count])


def _others(candidates: Sequence[Prompt], chosen: Sequence[Prompt]) -> list[Prompt]:
    ids = {prompt.id for prompt in chosen}
    return [prompt for prompt in candidates if prompt.id not in ids]


def uniform(candidates: Sequence[Prompt], count: int, rng: np.random.Generator, config) -> tuple[Prompt, ...]:
    """Any, with equal chances."""
    return tuple(candidates[i] for i in rng.choice(len(candidates), count, replace=False)) if count else ()


def champion(candidates: Sequence[Prompt], count: int, rng: np.random.Generator, config) -> tuple[Prompt, ...]:
    """The highest mu + optimism * sigma, the rest uniformly: what the authors recommend."""
    first = _top(candidates, 1, config.optimism)
    return first + uniform(_others(candidates, first), count - 1, rng, config)


def newest(candidates: Sequence[Prompt], count: int, rng: np.random.Generator, config) -> tuple[Prompt, ...]:
    """The newest, the rest uniformly: what the authors' commands used."""
    first = (candidates[-1],)
    return first + uniform(_others(candidates, first), count - 1, rng, config)


def ucb(candidates: Sequence[Prompt], count: int, rng: np.random.Generator, config) -> tuple[Prompt, ...]:
    """The highest mu + optimism * sigma; nothing is random."""
    return _top(candidates, count, config.optimism)


def lucb(candidates: Sequence[Prompt], count: int, rng: np.random.Generator, config) -> tuple[Prompt, ...]:
    """One champion by mu - optimism * sigma, challengers by mu + optimism * sigma; nothing is random."""
    first = _top(candidates, 1, -config.optimism)
    return first + _top(_others(candidates, first), count - 1, config.optimism)


def softmax(candidates: Sequence[Prompt], count: int, rng: np.random.Generator, config) -> tuple[Prompt, ...]:
    """One after the other with p ~ exp((mu + optimism * sigma) / selection_temperature) among those left."""
    if not config.selection_temperature > 0:
        raise ValueError(f"selection_temperature is {config.selection_temperature}; use a number above 0")
    left, chosen = list(candidates), []
    while len(chosen) < count:
        scores = np.array([bound(prompt, config.optimism) for prompt in left])
        with np.errstate(over="ignore"):  # a tiny temperature sends all but the best to exp(-inf) = 0
            weights = np.exp((scores - scores.max()) / config.selection_temperature)
        chosen.append(left.pop(rng.choice(len(left), p=weights / weights.sum())))
    return tuple(chosen)


SELECTION = {
    "champion": champion,
    "newest": newest,
    "softmax": softmax,
    "ucb": ucb,
    "lucb": lucb,
    "uniform": uniform,
}
