"""Held-out evaluation: n samples a problem, pass@1..n, under a chosen prompt and under none."""

from collections.abc import Sequence
from dataclasses import replace
from math import comb
from typing import Any

import numpy as np

from espl_jax.evolution import population as populations
from espl_jax.evolution.render import render_genome
from espl_jax.policy.state import Policy
from espl_jax.rollout import PURPOSES, Plan, plan_groups, sample, under
from espl_jax.structs import Genome, Population, Prompt, Rating, Rollouts, Task

NO_PROMPT = Prompt(id=2**31 - 1, genome=Genome("principles"), rating=Rating(0.0, 0.0), parents=(), operator="root", born=0)
RULEBOOK = replace(NO_PROMPT, id=2**31 - 2)


def pass_at_k(correct: int, samples: int, k: int) -> float:
    """Unbiased estimate of the chance that one of k samples is correct (Chen et al., arXiv 2107.03374, equation 1)."""
    return 1.0 - comb(samples - correct, k) / comb(samples, k)


def pass_metrics(rewards_QG: np.ndarray, prefix: str) -> dict[str, float]:
    """prefix/pass@1..n, means over problems; a sample is correct when its reward is 1. prefix/reward: the mean reward."""
    correct_Q = (rewards_QG >= 1.0).sum(axis=1)
    n = rewards_QG.shape[1]
    metrics = {f"{prefix}/pass@{k}": float(np.mean([pass_at_k(int(c), n, k) for c in correct_Q])) for k in range(1, n + 1)}
    return metrics | {f"{prefix}/reward": float(rewards_QG.mean())}


def choose_prompt(population: Population, choice: str) -> Prompt:
    """The prompt that evaluation uses: best (highest mu), newest, none, or the one with the id that `choice` names."""
    named = {
        "best": lambda: populations.best(population),
        "newest": lambda: populations.newest(population),
        "none": lambda: NO_PROMPT,
    }
    return named[choice]() if choice in named else population[int(choice)]


def measured(population: Population, task: Task, choice: str) -> dict[str, float]:
    """What the task can tell of a prompt without asking the policy (Task.measure), of the one that evaluation would use."""
    return task.measure(choose_prompt(population, choice).genome) if task.measure else {}


def rated_set(task: Task, config: Any) -> str:
    """The set that rated prompts are compared on: test, or validation where test is not evaluated."""
    return "test" if config.evaluation.test and task.test else "validation"


def evaluate(
    policy: Policy, variables: Any, population: Population, task: Task, step: int, config: Any, rated: Sequence[Prompt] = ()
) -> tuple[dict[str, float], dict[str, Rollouts], list[Rollouts]]:
    """Metrics and transcripts of every held-out set that config.evaluation asks for, and further trajectories for `rated`.

    All are sampled in one call. rated: prompts that are asked about rated_set as well. What the chosen one of them replies is
    in the transcripts; what the others do comes as a list of one, or of none where there is no other.

    Sets: validation, and test with the task's further sets if asked (nothing is ever chosen by them); "<set>_no_prompt" is the
    same without a prompt, which is the very same evaluation while the chosen prompt is empty, and then not sampled twice;
    "<set>_rulebook" is the same under the task's own rulebook, where it has one. task: as it is in this step.
    """
    chosen = choose_prompt(population, config.evaluation.prompt)
    splits = {"validation": task.validation} | ({"test": task.test, **task.further} if config.evaluation.test else {})
    empty, without = not render_genome(chosen.genome), config.evaluation.without_prompt

    def plan(split: str, *prompts: Prompt) -> Plan:
        return plan_groups(
            policy.tokenizer, prompts, splits[split], config.evaluation.num_samples, config.evaluation,
            split if split in PURPOSES else "test", step, task, config.evolution.layout, config.tools,
        )

    plans: dict[str, Plan] = {}
    others = [prompt for prompt in rated if prompt.id != chosen.id]
    for split in (split for split, problems in splits.items() if problems):
        plans[split] = plan(split, chosen, *(others if split == rated_set(task, config) else ()))
        if without and not empty:
            plans[f"{split}_no_prompt"] = plan(split, NO_PROMPT)
        if split in task.rulebooks:
            plans[f"{split}_rulebook"] = plan(split, replace(RULEBOOK, genome=task.rulebooks[split]))
    sampled = dict(zip(plans, sample(policy, variables, list(plans.values()), task.grader)))
    transcripts = {name: under(rollouts, [0]) for name, rollouts in sampled.items()}
    further = [under(rollouts, range(1, 1 + len(others))) for rollouts in sampled.values() if len(rollouts.prompt_ids) > 1]
    metrics = {"evaluation/prompt": float(chosen.id), **measured(population, task, config.evaluation.prompt)}
    for name, rollouts in transcripts.items():
        metrics |= pass_metrics(rollouts.rewards_PQG[0], name)
        if without and empty and name in splits:
            metrics |= pass_metrics(rollouts.rewards_PQG[0], f"{name}_no_prompt")
    return metrics, transcripts, further
