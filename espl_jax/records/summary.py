"""What a step's metrics and files say: numbers and rows from rollouts, reflections and evaluations."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from espl_jax.evolution import population as populations
from espl_jax.evolution.distance import diversity_metrics
from espl_jax.evolution.reflection import reflection_metrics, reflection_to_json
from espl_jax.evolution.render import render_genome
from espl_jax.records.artifacts import RULEBOOKS, rollout_rows
from espl_jax.structs import Environment, Population, Prompt, Reflection, Rollouts, Task


def rollout_metrics(rollouts: Rollouts, keep_PQ: np.ndarray) -> dict[str, float]:
    """Rewards, finish reasons, lengths and share of groups without signal of a step's trajectories."""
    drawn = [completion.drawn for completion in rollouts.completions]
    metrics = {
        "train/reward": float(rollouts.rewards_PQG.mean()),
        "train/reward_best_prompt": float(rollouts.values_P.max()),
        "train/prompts": float(len(rollouts.prompt_ids)),
        "train/groups_without_signal": float(1 - keep_PQ.mean()),
        "train/finish_stop": finished(rollouts, "stop"),
        "train/finish_length": finished(rollouts, "length"),
        "train/completion_tokens": float(np.mean([own.sum() for own in drawn])),
        "train/graded_with_error": float(np.mean([bool(grade.note) for grade in rollouts.grades])),
    }
    if rollouts.conversations is None:
        return metrics
    return metrics | {
        "train/finish_turns": finished(rollouts, "turns"),
        "train/finish_calls": finished(rollouts, "calls"),
        "train/turns": float(np.mean([own[0] + np.sum(own[1:] & ~own[:-1]) for own in drawn])),
        "train/tool_tokens": float(np.mean([(~own).sum() for own in drawn])),
    }


def conversation_metrics(rollouts: Rollouts, environment: Environment | None, name: str) -> dict[str, float]:
    """What the environment counts in conversations (train/calls, validation/calls): means over those that have it."""
    if rollouts.conversations is None:
        return {}
    counts = [environment.metrics(messages) for messages in rollouts.conversations]
    kinds = sorted({kind for count in counts for kind in count})
    return {f"{name}/{kind}": float(np.mean([count[kind] for count in counts if kind in count])) for kind in kinds}


def finished(rollouts: Rollouts, reason: str) -> float:
    """The share of trajectories that ended so."""
    return float(np.mean([completion.finish == reason for completion in rollouts.completions]))


def token_counts(rollouts: Rollouts, purpose: str) -> dict[str, float]:
    """Tokens that a set of rollouts was asked with (each sample counted), generated, and was given between its turns."""
    G = rollouts.rewards_PQG.shape[2]
    prompts = G * sum(len(tokens) for row in rollouts.context_tokens for tokens in row)
    generated = sum(int(completion.drawn.sum()) for completion in rollouts.completions)
    counts = {f"tokens/prompt_{purpose}": float(prompts), f"tokens/generated_{purpose}": float(generated)}
    if rollouts.conversations is None:
        return counts
    everything = sum(len(completion.tokens) for completion in rollouts.completions)
    return counts | {f"tokens/tool_{purpose}": float(everything - generated)}


def population_metrics(population: Population, reflections: Sequence[Reflection], evolution: Any) -> dict[str, float]:
    """Counts and tokens of the step's reflections, where the population stands, and how diverse it is (distance.py)."""
    best = populations.best(population)
    counts = reflection_metrics(reflections)
    return {
        **counts,
        **diversity_metrics(population, evolution),
        "tokens/prompt_reflection": counts["evolution/prompt_tokens"],
        "tokens/generated_reflection": counts["evolution/generated_tokens"],
        "evolution/population": float(len(population.alive)),
        "evolution/best_id": float(best.id),
        "evolution/best_mu": best.rating.mu,
        "evolution/best_sigma": best.rating.sigma,
    }


def add_counts(totals: Mapping[str, float], step: Mapping[str, float]) -> dict[str, float]:
    """Running totals of every tokens/ and ledger/ metric and of the children born."""
    counted = {
        name: value for name, value in step.items() if name.startswith(("tokens/", "ledger/")) or name == "evolution/children"
    }
    return dict(totals) | {name: totals[name] + value if name in totals else value for name, value in counted.items()}


def step_files(
    prompts: Sequence[Prompt], rollouts: Rollouts, advantages_PQG: np.ndarray, reflections: Sequence[Reflection]
) -> dict[str, Any]:
    """The files of steps/NNNNNN: the prompts that competed, every trajectory, every reflection with its calls."""
    shown = [
        {"id": p.id, "text": render_genome(p.genome), "rating": {"mu": p.rating.mu, "sigma": p.rating.sigma}}
        for p in prompts
    ]
    return {
        "prompts.jsonl": shown,
        "rollouts.jsonl": rollout_rows(rollouts, advantages_PQG),
        "reflections.jsonl": [reflection_to_json(reflection) for reflection in reflections],
    }


def rulebook_files(task: Task) -> dict[str, Any]:
    """What the task itself could say, by held-out set, as the model would read it; nothing of a task without rulebooks."""
    rulebooks = {name: render_genome(genome) for name, genome in task.rulebooks.items()}
    return {RULEBOOKS: rulebooks} if rulebooks else {}


def evaluation_files(transcripts: Mapping[str, Rollouts]) -> dict[str, Any]:
    """One file a held-out set, with every sample."""
    return {
        f"evaluation_{name}.jsonl": rollout_rows(rollouts, np.zeros_like(rollouts.rewards_PQG))
        for name, rollouts in transcripts.items()
    }
