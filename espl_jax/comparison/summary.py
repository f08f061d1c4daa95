"""The figures of a comparison, from what its runs have left. Only runs that have ended count."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import numpy as np

from espl_jax.comparison import statistics
from espl_jax.comparison.plan import UNITS, Budget
from espl_jax.comparison.reading import NO_PROMPT, Run
from espl_jax.comparison.statistics import Band, Paired
from espl_jax.report.intervals import Interval

STEP = "step"
AXES = (STEP, *UNITS.values())  # what learning curves go against
MEASURED = ("test", "validation")  # the first that every run has is what methods are compared by


@dataclass(frozen=True)
class Method:
    """A method over its seeds. final: by held-out set, at the last evaluation; start, by_seed: of the set compared by, before
    training, and of each seed at the end. The others are means over seeds; share: of the budget."""

    name: str
    final: Mapping[str, Interval]
    start: float
    by_seed: Mapping[int, float]
    steps: float
    spent: Mapping[str, float]
    share: float
    seconds: float
    children: float
    ledger: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Pair:
    """Two methods. p_adjusted: p_problems of `paired`, adjusted for the number of pairs (Holm)."""

    first: str
    second: str
    paired: Paired
    p_adjusted: float


@dataclass(frozen=True)
class Summary:
    """A comparison. measured: the held-out set that methods are compared by, "" while no run has ended. sets: all that are
    there. curves: axis -> method -> band over seeds; known: measure of what prompts know -> method -> band by steps. failed:
    how runs failed, by their names."""

    budget: Budget
    measured: str
    sets: tuple[str, ...]
    methods: tuple[Method, ...]
    pairs: tuple[Pair, ...]
    curves: Mapping[str, Mapping[str, Band]]
    known: Mapping[str, Mapping[str, Band]]
    runs: tuple[Run, ...]
    failed: Mapping[str, str]


def summarize(budget: Budget, runs: Sequence[Run], failed: Mapping[str, str]) -> Summary:
    """All figures. The same runs give the same figures. Raises ValueError when ended runs share no held-out set."""
    done = [run for run in runs if run.done and run.points]
    by_method: dict[str, list[Run]] = {}
    for run in done:
        by_method.setdefault(run.job.method, []).append(run)
    measured = _measured(done) if done else ""
    methods = tuple(_method(name, own, measured, budget) for name, own in by_method.items())
    return Summary(
        budget=budget,
        measured=measured,
        sets=tuple(sorted({name for run in done for name in run.points[-1].rewards})),
        methods=methods,
        pairs=_pairs(by_method, measured),
        curves={axis: _curves(by_method, partial(curve, measured=measured, axis=axis)) for axis in AXES},
        known={
            name: _curves(by_method, partial(known_curve, name=name))
            for name in sorted({name for run in done for name in run.known})
        },
        runs=tuple(runs),
        failed=failed,
    )


def _measured(runs: Sequence[Run]) -> str:
    for name in MEASURED:
        if all(name in run.points[-1].rewards for run in runs):
            return name
    raise ValueError("the runs were evaluated on no common held-out set; set task.num_validation or a test set")


def final(runs: Sequence[Run], name: str) -> dict[int, Mapping[str, float]]:
    """Seed -> problem -> reward at the last evaluation, of runs that have the set."""
    return {run.job.seed: run.points[-1].rewards[name] for run in runs if name in run.points[-1].rewards}


def _method(name: str, runs: Sequence[Run], measured: str, budget: Budget) -> Method:
    sets = sorted({one for run in runs for one in run.points[-1].rewards})
    by_seed = {seed: float(np.mean(list(values.values()))) for seed, values in final(runs, measured).items()}
    spent = {field: float(np.mean([run.spent[field] for run in runs])) for field in UNITS.values()}
    return Method(
        name=name,
        final={one: statistics.interval(final(runs, one), seed=0) for one in sets},
        start=float(np.mean([np.mean(list(run.points[0].rewards[measured].values())) for run in runs])),
        by_seed=by_seed,
        steps=float(np.mean([run.steps for run in runs])),
        spent=spent,
        share=spent[budget.field] / budget.amount,
        seconds=float(np.mean([run.seconds for run in runs])),
        children=float(np.mean([run.children for run in runs])),
        ledger=mean_ledger(runs),
    )


def mean_ledger(runs: Sequence[Run]) -> dict[str, dict[str, float]]:
    """{purpose: {what: mean over runs}}; a run without a purpose has spent nothing on it."""
    purposes = sorted({purpose for run in runs for purpose in run.totals})
    found: dict[str, dict[str, float]] = {}
    for purpose in purposes:
        whats = sorted({what for run in runs if purpose in run.totals for what in run.totals[purpose]})
        found[purpose] = {what: sum(_count(run, purpose, what) for run in runs) / len(runs) for what in whats}
    return found


def _count(run: Run, purpose: str, what: str) -> float:
    counts = run.totals[purpose] if purpose in run.totals else {}
    return counts[what] if what in counts else 0.0


def _pairs(by_method: Mapping[str, Sequence[Run]], measured: str) -> tuple[Pair, ...]:
    found = []
    for first, second in combinations(by_method, 2):
        paired = statistics.paired(final(by_method[first], measured), final(by_method[second], measured), seed=0)
        if paired is not None:
            found.append((first, second, paired))
    adjusted = statistics.holm([paired.p_problems for _, _, paired in found])
    return tuple(Pair(*pair, p) for pair, p in zip(found, adjusted, strict=True))


def _curves(
    by_method: Mapping[str, Sequence[Run]], curve_of: Callable[[Run], tuple[list[float], list[float]]]
) -> dict[str, Band]:
    bands = {name: statistics.band([curve_of(run) for run in runs]) for name, runs in by_method.items()}
    return {name: found for name, found in bands.items() if found is not None}


def curve(run: Run, measured: str, axis: str) -> tuple[list[float], list[float]]:
    """x (steps, or what was spent) and mean reward of each evaluation; evaluations after nothing was spent count once."""
    points: dict[float, float] = {}
    for point in run.points:
        if measured in point.rewards:
            x = float(point.step) if axis == STEP else point.spent[axis]
            points[x] = float(np.mean(list(point.rewards[measured].values())))
    return list(points), list(points.values())


def known_curve(run: Run, name: str) -> tuple[list[float], list[float]]:
    """Steps, and a measure of what the prompt knows that evaluation would use."""
    known = run.known.get(name, {})
    return [float(step) for step in known], list(known.values())


def without_prompt(method: Method, measured: str) -> Interval | None:
    """What the weights alone have learned."""
    return method.final[measured + NO_PROMPT] if measured + NO_PROMPT in method.final else None
