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

from espl_jax import acceptance, ratings, tasks
from espl_jax import config as configs
from espl_jax.editors import EDITORS
from espl_jax.evaluate import evaluate, measured, rated_set
from espl_jax.evolution.crossover import crossover
from espl_jax.evolution.guards import Library
from espl_jax.evolution.mutation import mutate
from espl_jax.evolution.parents import PARENTS
from espl_jax.evolution.population import add_child, root_population
from espl_jax.evolution.rating import rate
from espl_jax.evolution.selection import select
from espl_jax.evolution.trials import add_trial
from espl_jax.policy.advantages import advantages, with_signal
from espl_jax.policy.state import EDITORS as OURS
from espl_jax.policy.state import Policy, PolicyState, make_policy, open_model
from espl_jax.policy.update import Updater, make_updater
from espl_jax.records import costs, ledger, summary
from espl_jax.records.logbook import Logbook, enable_compilation_cache
from espl_jax.rollout import longest_context, plan_groups, root_genome, sample
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
    library: Library


@dataclasses.dataclass(frozen=True)
class Step:
    """What an iteration gives: the next state, its metrics, and the files that tell what happened."""

    state: RunState
    metrics: dict[str, float]
    files: dict[str, Any]


def run(config: ConfigDict, workdir: str | Path) -> RunState:
    """Trains to config.num_steps in `workdir`, or until a budget is spent, going on where an earlier run in it stopped."""
    config = configs.resolve(config)
    enable_compilation_cache(config.records.compilation_cache)
    with Logbook(config, workdir) as logbook, contextlib.closing(tasks.build(config.task, config.seed, config.tools)) as task:
        run, state = set_up(config, task, logbook)
        with jax.transfer_guard("disallow"):
            if logbook.fresh:
                step = before_training(run, state)
                logbook.commit(step)
                state = step.state
            while not ledger.is_last(config, state.step, state.counters):
                state = logbook.take_in(state)
                step = iterate(run, state)
                logbook.commit(step)
                state = step.state
        logbook.finish(state)
    return state


def set_up(config: ConfigDict, task: Task, logbook: Logbook) -> tuple[Run, RunState]:
    """Loads the model and makes, or restores, the state; whatever can be refused is refused before weights are read."""
    directory, spec, tokenizer = open_model(config)
    population = root_population(root_genome(config.evolution, task), config.evolution)
    configs.check_lengths(config, longest_context(tokenizer, population.prompts[0], task, config.evolution.layout))
    policy, policy_state = make_policy(config, directory, spec, tokenizer)
    update = make_updater(policy, policy_state, config)
    state = logbook.restore(RunState(step=0, policy=policy_state, population=population, counters={}))
    return Run(config, task, policy, update, logbook, Library(task.ever_trained, task.protected)), state


def iterate(run: Run, state: RunState) -> Step:
    """One iteration of E-SPL."""
    config, policy, phase = run.config, run.policy, run.logbook.phase
    step = state.step + 1
    task = run.task.at(step)
    select_rng, update_rng, reflect_rng = (np.random.default_rng((config.seed, step, use)) for use in range(3))

    # 1. Select the prompts that compete, from the newest of the population.
    prompts = select(state.population, config.evolution, select_rng, step)
    problems = batch_at(task.train, step - 1, config.task.num_problems, config.seed)

    # 2. Sample trajectories of every problem under every prompt, and grade them.
    with phase("sample"):
        plan = plan_groups(
            policy.tokenizer, prompts, problems, config.task.num_samples, config.sampling, "rollout", step, task,
            config.evolution.layout, config.tools,
        )
        [rollouts] = sample(policy, policy.variables(state.policy.trainable), [plan], task.grader)

    # 3. Update the weights, each trajectory conditioned on the prompt it was sampled under. The device is told what to compute
    # and not waited for; what it learned is asked at the end.
    advantages_PQG = advantages(rollouts.rewards_PQG, config.rl.baseline, config.rl.normalize_std)
    keep_PQ = with_signal(advantages_PQG)
    metrics = summary.rollout_metrics(rollouts, keep_PQ) | summary.token_counts(rollouts, "rollout")
    metrics |= costs.of_rollouts("rollout", policy.spec, [rollouts])
    metrics |= summary.conversation_metrics(rollouts, task.environment, "train")
    policy_state, learned = state.policy, None
    if config.method in configs.TRAINS_WEIGHTS:
        with phase("update"):
            run.logbook.wait_for_copies()  # the new weights take the place of the old, which may still be being saved
            policy_state, learned = run.update(policy_state, rollouts, advantages_PQG, keep_PQ, update_rng)
        metrics |= costs.of_update(policy.spec, rollouts, keep_PQ, config.rl)

    # 4. Rate the prompts by the same trajectories: ranks within one step are comparable, scores across steps are not.
    population, reflections, trials = state.population, [], {}
    if config.method in configs.WRITES_PROMPTS:
        population = rate(population, rollouts.prompt_ids, rollouts.values_P.tolist(), step, config.evolution)
        population = add_trial(population, rollouts, step, config.evolution.max_age)
        # 5., 6. and 7. Mutate the best, perhaps cross over; children join the population.
        with phase("reflect"):
            population, reflections, trials = reflect(run, policy_state, population, rollouts, step, reflect_rng)
        metrics |= costs.of_reflections(policy.spec if config.evolution.editor in OURS else None, reflections)
        metrics |= costs.of_rollouts("acceptance", policy.spec, list(trials.values()))
        metrics |= measured(population, task, config.evaluation.prompt)
    if learned is not None:
        with phase("update"):
            metrics |= learned()
    metrics |= summary.population_metrics(population, reflections, config.evolution) | acceptance.metrics(trials, reflections)
    files = summary.step_files(prompts, rollouts, advantages_PQG, reflections) | acceptance.files(trials)

    state = RunState(step, policy_state, population, summary.add_counts(state.counters, metrics))
    last = ledger.is_last(config, step, state.counters)
    if config.evaluation.every and (step % config.evaluation.every == 0 or last):
        scores, transcripts = hold_out(run, state, last)
        metrics, files = metrics | scores, files | transcripts
        state = dataclasses.replace(state, counters=summary.add_counts(state.counters, scores))
    return Step(state, metrics, files)


def reflect(
    run: Run, policy_state: PolicyState, population: Population, rollouts: Rollouts, step: int, rng: np.random.Generator
) -> tuple[Population, list[Reflection], acceptance.Trials]:
    """Lets the editor write children of the step's prompts; every attempt is recorded, born or not, and every test."""
    config, task = run.config.evolution, run.task.at(step)
    editor = EDITORS[config.editor](run.policy, policy_state, run.config, step, run.logbook.workdir)
    mutating, crossing = rng.random(2) < (config.mutation_probability, config.crossover_probability)
    reflections, trials = [], {}

    def settle(reflection: Reflection) -> Population:
        variables = run.policy.variables(policy_state.trainable)
        reflection, trial = acceptance.judge(
            run.policy, variables, population, reflection, rollouts.problems, task, step, run.config
        )
        grown, reflection = adopt(population, reflection, config.max_population)
        reflections.append(reflection)
        trials.update(trial)
        return grown

    if mutating:
        parent = PARENTS[config.parent](population, rollouts, rng, config)
        population = settle(mutate(population, rollouts, parent, step, task.describe, editor, config, rng, run.library))
    if crossing:
        population = settle(crossover(population, rollouts, step, task.describe, editor, config, run.library))
    return population, reflections, trials


def adopt(population: Population, reflection: Reflection, max_population: int) -> tuple[Population, Reflection]:
    """The population with the reflection's child, if there is one, and the reflection with the child's id."""
    if reflection.child is None:
        return population, reflection
    population, child = add_child(population, reflection.child, max_population)
    return population, reflection.with_child_id(child.id)


def hold_out(run: Run, state: RunState, last: bool = False) -> tuple[dict[str, float], dict[str, Any]]:
    """Metrics and transcripts on the held-out sets; at the last step of the rated prompts too."""
    task = run.task.at(state.step)
    asked = run.policy, run.policy.variables(state.policy.trainable), state.population, task, state.step, run.config
    with run.logbook.phase("evaluate"):
        rated = ratings.most_played(state.population, run.config.evaluation.rated) if last else ()
        scores, transcripts, further = evaluate(*asked, rated)
    for name, rollouts in transcripts.items():
        scores |= summary.token_counts(rollouts, name) | summary.conversation_metrics(rollouts, task.environment, name)
    scores |= costs.of_rollouts(ledger.FREE, run.policy.spec, [*transcripts.values(), *further])
    of_chosen = [rollouts for name, rollouts in transcripts.items() if name == rated_set(task, run.config)]
    compared, files = ratings.files(state.population, rated, [*of_chosen, *further])
    return scores | compared, summary.evaluation_files(transcripts) | files


def before_training(run: Run, state: RunState) -> Step:
    """Step 0: the first evaluation, and what the task itself could say."""
    scores, files = hold_out(run, state) if run.config.evaluation.every else ({}, {})
    state = dataclasses.replace(state, counters=summary.add_counts(state.counters, scores))
    return Step(state, scores, files | summary.rulebook_files(run.task))
