"""A run of GEPA (Agrawal et al., arXiv 2507.19457) through its package: weights stay as they are, a prompt is evolved.

A step is one iteration of the package: a parent is sampled on a few training problems, the editor writes a new text, which is
sampled on the same problems and, if it does better there, on the Pareto set, and is kept. The records are those of any run.
Candidates are prompts; a rating's mu is the mean reward on the Pareto set and sigma is 0, so that the best prompt is GEPA's.
Both sets are parts of the training problems: nothing is chosen by what is held out.
"""

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from espl_jax import config as configs
from espl_jax import tasks
from espl_jax.baselines import gepa_adapter
from espl_jax.baselines.gepa_adapter import COMPONENT, Adapter, Outcome, Reflector, Silent
from espl_jax.baselines.gepa_replay import COMPETED, REFLECTED, TRIED, Recorded, ReplayError
from espl_jax.editors import EDITORS
from espl_jax.evolution.reflection import UNBORN, ask, reflection_to_json
from espl_jax.evolution.render import render_genome
from espl_jax.policy.state import EDITORS as OURS
from espl_jax.records import costs, ledger, summary
from espl_jax.records.artifacts import rollout_rows
from espl_jax.records.logbook import Logbook, enable_compilation_cache
from espl_jax.rollout import plan_groups, sample
from espl_jax.structs import (
    Call,
    Chat,
    Genome,
    Message,
    Population,
    Problem,
    Prompt,
    Rating,
    Reflection,
    Rollouts,
    RunState,
    Task,
)
from espl_jax.tasks.splits import draw
from espl_jax.train import Run, Step, before_training, hold_out, set_up

STAGE = "reflection"  # of the one call that a step has
REQUESTS = "ledger/rollout/requests"


def run(config: ConfigDict, workdir: str | Path) -> RunState:
    """Runs until a budget is spent or config.num_steps iterations are done, going on where an earlier run stopped."""
    config = configs.resolve(config)
    enable_compilation_cache(config.records.compilation_cache)
    with Logbook(config, workdir) as logbook, contextlib.closing(tasks.build(config.task, config.seed, config.tools)) as task:
        feedback, pareto = split(task, config)
        run, state = set_up(config, task, logbook)
        with jax.transfer_guard("disallow"):
            if logbook.fresh:
                step = before_training(run, state)
                logbook.commit(step)
                state = step.state
            if not ledger.is_last(config, state.step, state.counters):
                state = optimize(run, state, feedback, pareto)
        logbook.finish(state)
    return state


def split(task: Task, config: ConfigDict) -> tuple[tuple[Problem, ...], tuple[Problem, ...]]:
    """The training problems that candidates are reflected on by, and the Pareto set that they are chosen by.

    Raises ConfigError when one of them would be empty.
    """
    number, there = config.gepa.num_pareto or len(task.train) // 2, len(task.train)
    if not 0 < number < there:
        raise configs.ConfigError(
            f"gepa.num_pareto is {config.gepa.num_pareto}, of {there} training problems; use a smaller number, or more problems"
        )
    pareto = draw("gepa.num_pareto", task.train, number, config.seed, "pareto")
    chosen = {problem.id for problem in pareto}
    return tuple(problem for problem in task.train if problem.id not in chosen), pareto


def optimize(run: Run, state: RunState, feedback: Sequence[Problem], pareto: Sequence[Problem]) -> RunState:
    """Lets the package go on from its beginning, first answered from the records of the steps that are done."""
    package, session = gepa_adapter.load_package(), Session(run, state, pareto)
    package.optimize(
        seed_candidate={COMPONENT: render_genome(state.population.prompts[0].genome)},
        trainset=list(feedback),
        valset=list(pareto),
        adapter=Adapter(session.solve, run.task, run.config.evolution.max_trajectory_words),
        reflection_lm=Reflector(session.reflect),
        reflection_minibatch_size=run.config.gepa.minibatch,
        stop_callbacks=session.settle,
        logger=Silent(),
        track_best_outputs=False,
        seed=run.config.seed,
    )
    return session.state


class Session:
    """What stands between the package and the run: answers it, and commits each of its iterations as a step.

    It remembers what the iteration under way has sampled and asked, because the package tells nobody else.
    """

    def __init__(self, run: Run, state: RunState, pareto: Sequence[Problem]):
        """state: that the run goes on from; at step 0 it has sampled nothing but the first evaluation."""
        self.state, self._pareto = state, {problem.id for problem in pareto}
        self._run, self._restored = run, state
        self._recorded = Recorded(run.logbook.workdir, state.step)
        self._population = dataclasses.replace(state.population, prompts=state.population.prompts[:1])
        self._metric_calls = 0
        self._failure: Exception | None = None
        self._begin(1)

    def _begin(self, step: int) -> None:
        self._step, self._replaying = step, self._recorded.begin(step)
        self._sampled: dict[str, list[Rollouts]] = {COMPETED: [], TRIED: []}
        self._calls: list[Call] = []

    def solve(self, text: str, problems: Sequence[Problem]) -> list[Outcome]:
        """One trajectory of each problem under a prompt: recorded, or sampled and graded."""
        self._metric_calls += len(problems)
        known = self._prompt(text)
        tried = known is None and problems[0].id not in self._pareto  # the Pareto set is for candidates that are kept
        if self._replaying:
            return self._recorded.outcomes(TRIED if tried else COMPETED, problems)
        prompt = known or Prompt(len(self._population.prompts), _genome(text), Rating(0.0, 0.0), (), "mutation", self._step)
        rollouts = self._sample(prompt, problems)
        if tried:
            self._sampled[TRIED].append(dataclasses.replace(rollouts, prompt_ids=(UNBORN,)))
        else:
            self._sampled[COMPETED].append(rollouts)
        rewards = rollouts.rewards_PQG[0, :, 0].tolist()
        notes = [grade.note for grade in rollouts.grades]
        return [Outcome(*parts) for parts in zip(problems, rollouts.texts, rewards, notes, strict=True)]

    def _prompt(self, text: str) -> Prompt | None:
        """The candidate that says this; None for one that is only tried."""
        return next((prompt for prompt in self._population.prompts if render_genome(prompt.genome) == text.strip()), None)

    def _sample(self, prompt: Prompt, problems: Sequence[Problem]) -> Rollouts:
        config, policy = self._run.config, self._run.policy
        with self._run.logbook.phase("sample"):
            plan = plan_groups(
                policy.tokenizer, [prompt], problems, 1, config.sampling, "rollout", self._step, self._run.task,
                config.evolution.layout, config.tools,
            )
            variables = policy.variables(self._restored.policy.trainable)
            [rollouts] = sample(policy, variables, [plan], self._run.task.grader)
        return rollouts

    def reflect(self, prompt: str) -> str:
        """The editor's reply. What goes wrong is kept for `settle`: the package would go on without the reply."""
        if self._replaying:
            return self._recorded.reply(prompt)
        if self._failure is not None:
            raise self._failure
        run = self._run
        chat = Chat(f"gepa/{STAGE}", (Message("user", prompt),))
        try:
            with run.logbook.phase("reflect"):
                make = EDITORS[run.config.evolution.editor]
                [reply] = ask(make(run.policy, self._restored.policy, run.config, self._step, run.logbook.workdir), [chat])
        except Exception as error:
            self._failure = error
            raise
        self._calls.append(Call(STAGE, chat, reply))
        return reply.text

    def settle(self, gepa_state: Any) -> bool:
        """After an iteration: commits it, unless it is recorded; whether it was the last. Called before the first too."""
        if self._failure is not None:
            raise self._failure
        if gepa_state.i < 0:
            return False
        if gepa_state.total_num_evals != self._metric_calls:
            raise RuntimeError(
                f"the package gepa has counted {gepa_state.total_num_evals} metric calls, but was given {self._metric_calls}"
            )
        self._population = grown(self._population, gepa_state, self._step)
        if self._step <= self._restored.step:
            self._check_replay()
        else:
            step = self._finish(gepa_state)
            self._run.logbook.commit(step)
            self.state = step.state
        last = self._step >= self._restored.step and ledger.is_last(self._run.config, self._step, self.state.counters)
        self._begin(self._step + 1)
        return last

    def _check_replay(self) -> None:
        """Raises ReplayError unless the package stands where the run stood."""
        self._recorded.check_used_up()
        if self._step == self._restored.step and self._population != self._restored.population:
            raise ReplayError(
                f"from the records of {self._run.logbook.workdir} the package gepa comes to other candidates than are saved; "
                "go on with the version that the run was started with, or start again in another --workdir"
            )

    def _finish(self, gepa_state: Any) -> Step:
        """The step of an iteration, with an evaluation when it is due."""
        config, policy = self._run.config, self._run.policy
        reflections = reflections_of(gepa_state, self._calls, self._population, self._step)
        several = [rollouts for sampled in self._sampled.values() for rollouts in sampled]
        metrics = rollout_metrics(policy.spec, several)
        metrics |= costs.of_reflections(policy.spec if config.evolution.editor in OURS else None, reflections)
        metrics |= summary.population_metrics(self._population, reflections, config.evolution)
        metrics |= {
            "gepa/metric_calls": float(gepa_state.total_num_evals),
            "gepa/pareto_reward": float(np.mean(list(gepa_state.pareto_front_valset.values()))),
        }
        state = RunState(
            self._step, self._restored.policy, self._population, summary.add_counts(self.state.counters, metrics)
        )
        files = {name: [row for one in sampled for row in _rows(one)] for name, sampled in self._sampled.items()}
        files |= {
            "prompts.jsonl": [_shown(prompt) for prompt in self._population.prompts if prompt.id in _competed(several)],
            REFLECTED: [reflection_to_json(reflection) for reflection in reflections],
        }
        if due(config, self._step, self.state.counters, state.counters):
            scores, transcripts = hold_out(self._run, state)
            metrics, files = metrics | scores, files | transcripts
            state = dataclasses.replace(state, counters=summary.add_counts(state.counters, scores))
        return Step(state, metrics, files)


def grown(population: Population, gepa_state: Any, step: int) -> Population:
    """The package's candidates as prompts: those that are new were born in this step. mu: mean reward on the Pareto set."""
    scores = gepa_state.program_full_scores_val_set
    prompts = list(population.prompts)
    for index, candidate in enumerate(gepa_state.program_candidates[len(prompts) :], start=len(prompts)):
        parents = tuple(parent for parent in gepa_state.parent_program_for_candidate[index] if parent is not None)
        prompts.append(Prompt(index, _genome(candidate[COMPONENT]), Rating(0.0, 0.0), parents, "mutation", step))
    rated = (dataclasses.replace(prompt, rating=Rating(float(scores[prompt.id]), 0.0)) for prompt in prompts)
    return dataclasses.replace(population, prompts=tuple(rated))


def _genome(text: str) -> Genome:
    return Genome("document", document=text.strip())


def reflections_of(gepa_state: Any, calls: Sequence[Call], population: Population, step: int) -> list[Reflection]:
    """The attempt of the package's last iteration, with its child or the reason why there is none."""
    trace = gepa_state.full_program_trace[-1]
    parents = (trace["selected_program_candidate"],)
    child = next((prompt for prompt in population.prompts if prompt.born == step and prompt.parents == parents), None)
    if child is not None:
        return [Reflection("mutation", parents, tuple(calls), child=child)]
    if "new_subsample_scores" not in trace:
        return [Reflection("mutation", parents, tuple(calls), reason="every answer to the step's problems was right")]
    before, after = sum(trace["subsample_scores"]), sum(trace["new_subsample_scores"])
    number = len(trace["subsample_scores"])
    reason = f"not accepted: {after:.3g} against its parent's {before:.3g} on the same {number} problems"
    return [Reflection("mutation", parents, tuple(calls), reason=reason)]


def rollout_metrics(spec: Any, several: Sequence[Rollouts]) -> dict[str, float]:
    """Means over a step's trajectories, and their tokens and ledger: each call of the sampler by itself."""
    completions = [completion for rollouts in several for completion in rollouts.completions]
    grades = [grade for rollouts in several for grade in rollouts.grades]
    metrics = {
        "train/reward": float(np.mean([grade.score for grade in grades])),
        "train/finish_stop": float(np.mean([completion.finish == "stop" for completion in completions])),
        "train/finish_length": float(np.mean([completion.finish == "length" for completion in completions])),
        "train/completion_tokens": float(np.mean([completion.drawn.sum() for completion in completions])),
        "train/graded_with_error": float(np.mean([bool(grade.note) for grade in grades])),
    }
    for rollouts in several:
        counted = summary.token_counts(rollouts, "rollout") | costs.of_rollouts("rollout", spec, [rollouts])
        metrics = summary.add_counts(metrics, counted)
    return metrics


def due(config: ConfigDict, step: int, before: Any, after: Any) -> bool:
    """Whether an evaluation is due: after as many replies as evaluation.every steps of E-SPL ask for, and after the last."""
    if not config.evaluation.every:
        return False
    replies = config.evaluation.every * config.evolution.num_prompts * config.task.num_problems * config.task.num_samples
    asked = [counters[REQUESTS] if REQUESTS in counters else 0.0 for counters in (before, after)]
    return asked[0] // replies < asked[1] // replies or ledger.is_last(config, step, after)


def _competed(several: Sequence[Rollouts]) -> set[int]:
    return {prompt_id for rollouts in several for prompt_id in rollouts.prompt_ids}


def _rows(rollouts: Rollouts) -> list[dict[str, Any]]:
    return rollout_rows(rollouts, np.zeros_like(rollouts.rewards_PQG))


def _shown(prompt: Prompt) -> dict[str, Any]:
    rating = {"mu": prompt.rating.mu, "sigma": prompt.rating.sigma}
    return {"id": prompt.id, "text": render_genome(prompt.genome), "rating": rating}
