"""Ratings against accuracy: whether the prompts that won on training problems also fare better on held-out ones.

At the end of a run with evaluation.rated=N, the N prompts of the population that have played most matches are sampled on test
(on validation where test is not evaluated) under the last weights, in one call with the last evaluation. ratings.jsonl in the
last step's folder has each one's rating beside its mean reward, rated.jsonl every sample. Nothing is chosen by it, and it is
charged to evaluation.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from espl_jax.records.artifacts import rollout_rows
from espl_jax.rollout import under
from espl_jax.structs import Population, Prompt, Rollouts

FILE = "ratings.jsonl"
FEWEST = 3  # prompts, that a correlation is given for


def most_played(population: Population, number: int) -> tuple[Prompt, ...]:
    """So many prompts, dead ones too, that have played at least once, the older first among equals."""
    played = matches(population)
    ranked = sorted(filter(lambda prompt: played[prompt.id], population.prompts), key=lambda prompt: -played[prompt.id])
    return tuple(ranked[:number])


def matches(population: Population) -> Counter[int]:
    """Id -> matches that the prompt took part in."""
    return Counter(prompt_id for match in population.matches for prompt_id in match.prompt_ids)


def rows(population: Population, rollouts: Rollouts) -> list[dict[str, float]]:
    """For each prompt its rating, its matches and its mean reward on a held-out set."""
    played = matches(population)
    return [
        {
            "prompt": prompt_id, "mu": population[prompt_id].rating.mu, "sigma": population[prompt_id].rating.sigma,
            "matches": played[prompt_id], "reward": float(reward),
        }
        for prompt_id, reward in zip(rollouts.prompt_ids, rollouts.values_P, strict=True)
    ]  # fmt: skip


def correlation(rated: list[dict[str, float]]) -> float | None:
    """Spearman's rank correlation of mu and reward, -1 to 1; None for fewer than three prompts, or where all are alike."""
    mu, reward = ([row[name] for row in rated] for name in ("mu", "reward"))
    if len(rated) < FEWEST or np.ptp(mu) == 0 or np.ptp(reward) == 0:
        return None
    return float(stats.spearmanr(mu, reward).statistic)


def metrics(rated: list[dict[str, float]]) -> dict[str, float]:
    """ratings/spearman where it is defined, and how many prompts it is of."""
    found = correlation(rated)
    return {"ratings/prompts": float(len(rated))} | ({} if found is None else {"ratings/spearman": found})


def files(
    population: Population, rated: Sequence[Prompt], several: Sequence[Rollouts]
) -> tuple[dict[str, float], dict[str, Any]]:
    """Metrics and the two files, of what several rollouts have of the rated prompts, in their order; nothing of none."""
    found = {
        prompt_id: under(rollouts, [p]) for rollouts in several for p, prompt_id in enumerate(rollouts.prompt_ids)
    }
    chosen = [found[prompt.id] for prompt in rated if prompt.id in found]
    if not chosen:
        return {}, {}
    ratings = [row for rollouts in chosen for row in rows(population, rollouts)]
    samples = [row for rollouts in chosen for row in rollout_rows(rollouts, np.zeros_like(rollouts.rewards_PQG))]
    return metrics(ratings), {FILE: ratings, "rated.jsonl": samples}
