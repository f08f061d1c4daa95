"""Whom a mutation revises, among the prompts that competed in the step: only of these there are trajectories to reflect on."""

import numpy as np

from espl_jax.evolution.pareto import problems_led
from espl_jax.evolution.reflection import best_prompt
from espl_jax.structs import Population, Rollouts


def best(population: Population, rollouts: Rollouts, rng: np.random.Generator, config) -> int:
    """The prompt of the highest mean reward (Zhang, Chen, Stadie, arXiv 2602.14697v3)."""
    return best_prompt(rollouts)


def pareto(population: Population, rollouts: Rollouts, rng: np.random.Generator, config) -> int:
    """One that leads a problem of late, drawn in proportion to how many it leads (as GEPA does); the best when none does."""
    led = problems_led(population, config.tie_margin)
    counts = np.array([led[prompt_id] for prompt_id in rollouts.prompt_ids], float)
    if not counts.any():
        return best_prompt(rollouts)
    return rollouts.prompt_ids[int(rng.choice(len(counts), p=counts / counts.sum()))]


PARENTS = {"best": best, "pareto": pareto}
