"""Evolutionary System Prompt Learning, top to bottom (Zhang, Chen, Stadie, arXiv 2602.14697v3).

Start here. `run` sets up and loops; `iterate` is one iteration of the method: select prompts, sample trajectories under each of
them, update the weights, rate the prompts by the same trajectories, let the model reflect on these and write children. An
iteration maps one RunState to the next and changes nothing else; `logbook.commit` makes it last. The host runs ahead of the
device: replies are graded while others are still sampled, editors are asked while the gradient is computed, and a step is
recorded while the next one samples. No result depends on who is first.
"""

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from espl_jax import config as configs
from espl_jax import tasks
from espl_jax.evaluate import evaluate
from espl_jax.evolution.crossover import crossover
from espl_jax.evolution.mutation import mutate
from espl_jax.evolution.population import add_child, root_population
from espl_jax.evolution.rating import rate
from espl_jax.evolution.reflection import best_prompt
from espl_jax.evolution.selection import select
from espl_jax.policy.advantages import advantages, with_signal
from espl_jax.policy.state import EDITORS, Policy, PolicyState, make_policy, open_model
from espl_jax.policy.update import Updater, make_updater
from espl_jax.records import summary
from espl_jax.records.logbook import Logbook, enable_compilation_cache
from espl_jax.rollout import longest_context, make_editor, plan_groups, root_genome, sample
from espl_jax.structs import Population, Reflection, Rollouts, RunState, Task
from espl_jax.tasks.splits import batch_at


@dataclasses.dataclass(frozen=True)
class Run:
    """What stays fixed while a run goes on."""

    config: ConfigDict
    task: Task
    policy: Policy
    update: Updater
    logbook: Logbook


@dataclasses.dataclass(frozen=True)
class Step:
    """What an iteration gives: the next state, its metrics, and the files that tell what happened."""

    state: RunState
    metrics: dict[str, float]
    files: dict[str, Any]


def run(config: ConfigDict, workdir: str | Path) -> RunState:
    """Trains to config.num_steps in `workdir`, going on where an earlier run in it stopped."""
    config = configs.resolve(config)
    enable_compilation_cache(config.records.compilation_cache)
    with Logbook(config, workdir) as logbook, contextlib.closing(tasks.build(config.task, config.seed)) as task:
        run, state = set_up(config, task, logbook)
        with jax.transfer_guard("disallow"):
            if logbook.fresh:
                logbook.commit(before_training(run, state))
            while state.step < config.num_steps:
                state = logbook.take_in(state)
                step = iterate(run, state)
                logbook.commit(step)
                state = step.state
        logbook.finish(state)
    return state


def set_up(config: ConfigDict, task: Task, logbook: Logbook) -> tuple[Run, RunState]:
    """Loads the model and makes, or restores, the state; whatever can be refused is refused before weights are read."""
    directory, spec, tokenizer = open_model(config)
    population = root_population(root_genome(config.evolution), config.evolution)
    configs.check_lengths(config, longest_context(tokenizer, population.prompts[0], task, config.evolution.layout))
    policy, policy_state = make_policy(config, directory, spec, tokenizer)
    update = make_updater(policy, policy_state, config)
    state = logbook.restore(RunState(step=0, policy=policy_state, population=population, counters={}))
    return Run(config, task, policy, update, logbook), state


def iterate(run: Run, state: RunState) -> Step:
    """One iteration of E-SPL."""
    config, task, policy, phase = run.config, run.task, run.policy, run.logbook.phase
    step = state.step + 1
    select_rng, update_rng, reflect_rng = (np.random.default_rng((config.seed, step, use)) for use in range(3))

    # 1. Select the prompts that compete, from the newest of the population.
    prompts = select(state.population, config.evolution, select_rng)
    problems = batch_at(task.train, step - 1, config.task.num_problems, config.seed)

    # 2. Sample trajectories of every problem under every prompt, and grade them.
    with phase("sample"):
        plan = plan_groups(
            policy.tokenizer, prompts, problems, config.task.num_samples, config.sampling, "rollout", step, task,
            config.evolution.layout,
        )
        [rollouts] = sample(policy, policy.variables(state.policy.trainable), [plan], task.grader)

    # 3. Update the weights, each trajectory conditioned on the prompt it was sampled under. The device is told what to compute
    # and not waited for; what it learned is asked at the end.
    advantages_PQG = advantages(rollouts.rewards_PQG, config.rl.baseline, config.rl.normalize_std)
    keep_PQ = with_signal(advantages_PQG)
    metrics = summary.rollout_metrics(rollouts, keep_PQ) | summary.token_counts(rollouts, "rollout")
    policy_state, learned = state.policy, None
    if config.method in configs.TRAINS_WEIGHTS:
        with phase("update"):
            run.logbook.wait_for_copies()  # the new weights take the place of the old, which may still be being saved
            policy_state, learned = run.update(policy_state, rollouts, advantages_PQG, keep_PQ, update_rng)

    # 4. Rate the prompts by the same trajectories: ranks within one step are comparable, scores across steps are not.
    population, reflections = state.population, []
    if config.method in configs.WRITES_PROMPTS:
        population = rate(population, rollouts.prompt_ids, rollouts.values_P.tolist(), step, config.evolution)
        # 5., 6. and 7. Mutate the best, perhaps cross over; children join the population.
        with phase("reflect"):
            population, reflections = reflect(run, policy_state, population, rollouts, step, reflect_rng)
    if learned is not None:
        with phase("update"):
            metrics |= learned()
    metrics |= summary.population_metrics(population, reflections)
    files = summary.step_files(prompts, rollouts, advantages_PQG, reflections)

    state = RunState(step, policy_state, population, summary.add_counts(state.counters, metrics))
    if config.evaluation.every and (step % config.evaluation.every == 0 or step == config.num_steps):
        scores, transcripts = hold_out(run, state)
        metrics, files = metrics | scores, files | transcripts
    return Step(state, metrics, files)


def reflect(
    run: Run, policy_state: PolicyState, population: Population, rollouts: Rollouts, step: int, rng: np.random.Generator
) -> tuple[Population, list[Reflection]]:
    """Lets the editor write children of the step's best prompt; every attempt is recorded, born or not."""
    config, describe = run.config.evolution, run.task.describe
    editor = make_editor(run.policy, EDITORS[config.editor](run.policy, policy_state), config, step)
    mutating, crossing = rng.random(2) < (config.mutation_probability, config.crossover_probability)
    reflections = []
    if mutating:
        parent = best_prompt(rollouts)
        reflection = mutate(population, rollouts, parent, step, describe, editor, config, rng)
        population, reflection = adopt(population, reflection, config.max_population)
        reflections.append(reflection)
    if crossing:
        reflection = crossover(population, rollouts, step, describe, editor, config)
        population, reflection = adopt(population, reflection, config.max_population)
        reflections.append(reflection)
    return population, reflections


def adopt(population: Population, reflection: Reflection, max_population: int) -> tuple[Population, Reflection]:
    """The population with the reflection's child, if there is one, and the reflection with the child's id."""
    if reflection.child is None:
        return population, reflection
    population, child = add_child(population, reflection.child, max_population)
    return population, reflection.with_child_id(child.id)


def hold_out(run: Run, state: RunState) -> tuple[dict[str, float], dict[str, Any]]:
    """Metrics and transcripts on the held-out sets."""
    with run.logbook.phase("evaluate"):
        variables = run.policy.variables(state.policy.trainable)
        scores, transcripts = evaluate(run.policy, variables, state.population, run.task, state.step, run.config)
    for name, rollouts in transcripts.items():
        scores |= summary.token_counts(rollouts, name)
    return scores, summary.evaluation_files(transcripts)


def before_training(run: Run, state: RunState) -> Step:
    """Step 0: nothing but the first evaluation."""
    scores, files = hold_out(run, state) if run.config.evaluation.every else ({}, {})
    return Step(state, scores, files)
