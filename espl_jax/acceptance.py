"""Whether a child is taken into the population: every one, or only one that is not worse than its parent in a paired test.

The paired test (config.evolution.acceptance=paired) samples parent and child anew, under the weights as they are after the
step's update, on the step's problems and with the same random numbers for both (the counter words name the problem and the
sample, not the prompt), so that two prompts that say the same fare the same. It costs 2 x Q x G trajectories a child, counted
as tokens/..._acceptance: with P prompts a step, 2/P of the step's own rollouts, for each child.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from espl_jax.policy.state import Policy
from espl_jax.records.artifacts import rollout_rows
from espl_jax.records.summary import token_counts
from espl_jax.rollout import Plan, plan_groups, sample
from espl_jax.structs import Population, Problem, Prompt, Reflection, Rollouts, Task

Examine = Callable[[Prompt, Prompt], Rollouts]  # parent, child -> their trajectories, the parent's first
Trials = dict[str, Rollouts]  # what was sampled to judge children, by the operator that made them


def admit_all(child: Prompt, parent: Prompt, examine: Examine) -> tuple[str, Rollouts | None]:
    """No test."""
    return "", None


def paired(child: Prompt, parent: Prompt, examine: Examine) -> tuple[str, Rollouts | None]:
    """Why a child is refused: its mean reward is lower than its first parent's; or ""."""
    rollouts = examine(parent, child)
    before, after = (float(value) for value in rollouts.values_P)
    samples = rollouts.rewards_PQG[0].size
    refusal = f"not accepted: {after:.3f} against its parent's {before:.3f} on the same {samples} samples"
    return (refusal if after < before else ""), rollouts


# config.evolution.acceptance -> (child, parent, examine) -> why it is refused or "", and what was sampled for that
ACCEPTANCE = {"none": admit_all, "paired": paired}


def judge(
    policy: Policy, variables: Any, population: Population, reflection: Reflection, problems: tuple[Problem, ...], task: Task,
    step: int, config: Any,
) -> tuple[Reflection, Trials]:
    """The reflection, its child taken back if it is refused; and the trajectories of the test, if there was one."""
    if reflection.child is None:
        return reflection, {}

    def examine(parent: Prompt, child: Prompt) -> Rollouts:
        plan = paired_plan(policy, parent, child, problems, task, step, config)
        [rollouts] = sample(policy, variables, [plan], task.grader)
        return rollouts

    parent = population[reflection.parents[0]]
    refusal, rollouts = ACCEPTANCE[config.evolution.acceptance](reflection.child, parent, examine)
    if refusal:
        reflection = dataclasses.replace(reflection, child=None, reason=refusal)
    return reflection, {} if rollouts is None else {reflection.operator: rollouts}


def paired_plan(
    policy: Policy, parent: Prompt, child: Prompt, problems: tuple[Problem, ...], task: Task, step: int, config: Any
) -> Plan:
    """Parent and child on the same problems, sample by sample with the same counter."""
    plan = plan_groups(
        policy.tokenizer, [parent, child], problems, config.task.num_samples, config.sampling, "acceptance", step, task,
        config.evolution.layout, config.tools,
    )
    both = tuple(dataclasses.replace(request, counter=without_prompt(request.counter)) for request in plan.requests)
    return dataclasses.replace(plan, requests=both)


def without_prompt(counter: tuple[int, ...]) -> tuple[int, ...]:
    """Counter words of plan_groups with 0 for the prompt."""
    purpose, step, _, problem, sample_number = counter
    return purpose, step, 0, problem, sample_number


def metrics(trials: Trials, reflections: list[Reflection]) -> dict[str, float]:
    """Tests passed and failed, and their tokens; nothing where no child was tested."""
    counts: dict[str, float] = {}
    for rollouts in trials.values():
        for name, value in token_counts(rollouts, "acceptance").items():
            counts[name] = counts[name] + value if name in counts else value
    accepted = sum(reflection.operator in trials and reflection.child is not None for reflection in reflections)
    if not trials:
        return {}
    return counts | {"evolution/accepted": float(accepted), "evolution/refused": float(len(trials) - accepted)}


def files(trials: Trials) -> dict[str, Any]:
    """One file an operator, with every sample; the child, which has no number while it is tested, is -1."""
    return {
        f"acceptance_{operator}.jsonl": rollout_rows(rollouts, np.zeros_like(rollouts.rewards_PQG))
        for operator, rollouts in trials.items()
    }
