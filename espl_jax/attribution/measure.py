"""Rewards of prompts under weights, sample by sample with the same random numbers: two that say the same fare the same."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from espl_jax.acceptance import without_prompt
from espl_jax.evolution.render import render_genome
from espl_jax.policy.state import Policy
from espl_jax.rollout import plan_groups, sample
from espl_jax.structs import Genome, Problem, Prompt, Rating, Task

Rewards = Mapping[str, float]  # problem -> mean reward over its samples


def measure(
    policy: Policy, variables: Any, genomes: Mapping[str, Genome], problems: Sequence[Problem], samples: int, task: Task,
    config: Any,
) -> dict[str, Rewards]:
    """The rewards of each named genome, drawn as in evaluation. What reads alike is sampled once."""
    texts = {name: render_genome(genome) for name, genome in genomes.items()}
    distinct = {text: genomes[name] for name, text in texts.items()}
    prompts = [Prompt(number, genome, Rating(0.0, 0.0), (), "root", 0) for number, genome in enumerate(distinct.values())]
    plan = plan_groups(
        policy.tokenizer, prompts, problems, samples, config.evaluation, "attribution", 0, task, config.evolution.layout,
        config.tools,
    )
    same = tuple(dataclasses.replace(request, counter=without_prompt(request.counter)) for request in plan.requests)
    [rollouts] = sample(policy, variables, [dataclasses.replace(plan, requests=same)], task.grader)
    rewards = {
        text: {problem.id: float(value) for problem, value in zip(problems, rollouts.values_PQ[place], strict=True)}
        for place, text in enumerate(distinct)
    }
    return {name: rewards[text] for name, text in texts.items()}
