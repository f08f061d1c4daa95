"""The figures of an attribution: which part of a prompt helps, what is in the prompt and what in the weights, calibration."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from espl_jax import config as configs
from espl_jax import finished, tasks
from espl_jax.attribution import calibration, parts
from espl_jax.attribution.calibration import Calibration
from espl_jax.attribution.measure import Rewards, measure
from espl_jax.comparison import statistics
from espl_jax.evaluate import NO_PROMPT
from espl_jax.finished import Finished, FinishedError
from espl_jax.report import reading
from espl_jax.report.intervals import Interval
from espl_jax.structs import Genome, Prompt, Task

UNTRAINED = "untrained"
NONE = "none"


@dataclass(frozen=True)
class Effect:
    """How much better one condition is than another on the same problems and random numbers. p: as in statistics.Paired."""

    difference: Interval
    p: float


@dataclass(frozen=True)
class PartEffect:
    """A part of the prompt, the reward without it, and what having it adds."""

    name: str
    text: str
    without: float
    effect: Effect


@dataclass(frozen=True)
class Moved:
    """The gain of prompt and weights over neither, split in two that add up to total: of the trained weights without a prompt,
    and what the prompt adds to them. start, end: rewards before and after."""

    start: float
    end: float
    weights: Effect
    prompt: Effect
    total: Effect


@dataclass(frozen=True)
class Attribution:
    """matrix[weights][prompt]: mean rewards. moved: None where no untrained weights are at hand. measured: samples a problem
    and problems, (0, 0) where only the records were read; calibration: None without matches."""

    workdir: str
    step: int
    prompt: int
    measured: tuple[int, int]
    whole: Interval | None
    parts: tuple[PartEffect, ...]
    matrix: Mapping[str, Mapping[str, Interval]]
    moved: Moved | None
    calibration: Calibration | None


def attribute(workdir: str | Path, prompt: str, samples: int, step: int | None) -> Attribution:
    """All figures. samples: of each problem; 0: what the records alone say. Raises FinishedError, RunError, OSError."""
    record = reading.read(workdir, lambda kind, step, rows: [])
    foretold = calibration.calibrate(calibration.meetings_of(record))
    run = finished.read(workdir, step)
    chosen = finished.choose(run, prompt)
    if samples < 1:
        return Attribution(str(workdir), run.step, chosen.id, (0, 0), None, (), {}, None, foretold)
    with contextlib.closing(tasks.build(run.config.task, run.config.seed, run.config.tools)) as task:
        if not task.validation:
            raise FinishedError("the run's task has no validation problems to measure on; --samples=0 reads the records alone")
        left_out = parts.without_each(chosen.genome, task.protected)
        rewards = sampled(run, chosen, left_out, samples, task)
    newest = rewards[_named(run.step)]
    whole = newest[str(chosen.id)]
    return Attribution(
        workdir=str(workdir),
        step=run.step,
        prompt=chosen.id,
        measured=(samples, len(task.validation)),
        whole=_interval(whole),
        parts=tuple(
            PartEffect(part.name, part.text, _interval(newest[part.name]).mean, effect(whole, newest[part.name]))
            for part in left_out
        ),
        matrix={
            weights: {name: _interval(values) for name, values in row.items() if name not in {part.name for part in left_out}}
            for weights, row in rewards.items()
        },
        moved=moved(rewards, _named(run.step), str(chosen.id)),
        calibration=foretold,
    )


def sampled(
    run: Finished, chosen: Prompt, left_out: list[parts.Part], samples: int, task: Task
) -> dict[str, dict[str, Rewards]]:
    """Weights -> prompt -> rewards. Prompts: best, newest, none, the chosen one; under the run's weights also that without each
    of its parts."""
    prompts = _prompts(run, chosen)
    # Nothing is trained: no second copy of the weights as a reference.
    policy, trainable = finished.load(run, **{"evolution.editor": "current", "rl.kl_coef": 0.0})
    rewards: dict[str, dict[str, Rewards]] = {}

    def under(name: str, variables: Any, genomes: Mapping[str, Genome]) -> None:
        rewards[name] = measure(policy, variables, genomes, task.validation, samples, task, run.config)

    if policy.reference is not None:
        under(UNTRAINED, policy.reference, prompts)
    if run.config.method in configs.TRAINS_WEIGHTS:
        for step in [step for step in finished.steps(run.workdir) if step != run.step]:
            earlier = finished.place(finished.read(run.workdir, step), trainable)
            under(_named(step), policy.variables(earlier), prompts)
    under(_named(run.step), policy.variables(trainable), prompts | {part.name: part.without for part in left_out})
    return rewards


def _prompts(run: Finished, chosen: Prompt) -> dict[str, Genome]:
    named = [chosen, finished.choose(run, "best"), finished.choose(run, "newest")]
    return {str(prompt.id): prompt.genome for prompt in named} | {NONE: NO_PROMPT.genome}


def _named(step: int) -> str:
    return f"step {step}"


def moved(rewards: Mapping[str, Mapping[str, Rewards]], now: str, prompt: str) -> Moved | None:
    """What the weights have taken up; None without the untrained ones."""
    if UNTRAINED not in rewards:
        return None
    start, bare, both = rewards[UNTRAINED][NONE], rewards[now][NONE], rewards[now][prompt]
    return Moved(
        start=_interval(start).mean,
        end=_interval(both).mean,
        weights=effect(bare, start),
        prompt=effect(both, bare),
        total=effect(both, start),
    )


def effect(first: Rewards, second: Rewards) -> Effect:
    """First minus second, with the interval over problems."""
    found = statistics.paired({0: first}, {0: second}, seed=0)
    return Effect(found.difference, found.p_problems)


def _interval(rewards: Rewards) -> Interval:
    return statistics.two_level([list(rewards.values())], seed=0)
