"""What the runs of a comparison have left, read into one value."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from espl_jax import ratings
from espl_jax.comparison import plan as plans
from espl_jax.comparison.plan import Job, Plan
from espl_jax.evolution import population as populations
from espl_jax.evolution.render import render_genome
from espl_jax.records import artifacts, ledger
from espl_jax.records.origins import Origin, origins

NO_PROMPT = "_no_prompt"
KNOWN = "evolution/rules_"  # metrics of what a prompt knows begin so (Task.measure)
Rewards = Mapping[str, Mapping[str, float]]  # held-out set -> problem -> mean over its samples


@dataclass(frozen=True)
class Point:
    """An evaluation. step and spent (by field of a budget) count from the beginning of the job."""

    step: int
    spent: Mapping[str, float]
    rewards: Rewards


@dataclass(frozen=True)
class Run:
    """A job as far as it has come. totals: of its ledger, by purpose. children: prompts born. prompt, rulebook: texts of the
    best prompt and of what the task itself could say, "" without a rulebook. known: the task's own measures of what its prompts
    know, by step. origins: of the best prompt's lines, in the job's last part. rated: rows of ratings.jsonl (ratings.py)."""

    job: Job
    done: bool
    points: tuple[Point, ...]
    steps: int
    spent: Mapping[str, float]
    totals: Mapping[str, Mapping[str, float]]
    seconds: float
    children: int
    prompt: str
    known: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    rulebook: str = ""
    origins: tuple[Origin, ...] = ()
    rated: tuple[dict[str, Any], ...] = ()


def read(plan: Plan) -> list[Run]:
    """Every job that has recorded something."""
    return [run for job in plan.jobs if (run := read_job(plan, job)) is not None]


def read_job(plan: Plan, job: Job) -> Run | None:
    """The parts of a job, one behind the other; None when nothing is recorded. Raises ValueError or OSError for damage."""
    points: list[Point] = []
    rows: list[dict[str, Any]] = []
    known: dict[str, dict[int, float]] = {}
    steps, spent = 0, dict.fromkeys(plans.UNITS.values(), 0.0)
    for number, workdir in enumerate(job.workdirs):
        own = plans.rows_of(workdir)
        points += _points(workdir, own, steps, spent, first=number == 0)
        for name, step, value in _told(own):
            known.setdefault(name, {})[steps + step] = value
        steps += own[-1]["step"] if own else 0
        spent = {field: amount + ledger.spent(plans.totals(own), field) for field, amount in spent.items()}
        rows += own
    if not rows:
        return None
    return Run(
        job=job,
        done=all(plans.is_done(plan, job, number) for number in range(len(job.parts))),
        points=tuple(points),
        steps=steps,
        spent=spent,
        totals=ledger.totals(rows),
        seconds=_sum(rows, "time/step"),
        children=int(_sum(rows, "evolution/children")),
        known=known,
        **_best(job),
        rulebook=_rulebook(job),
        rated=_rated(job),
    )


def _points(
    workdir: Path, rows: Sequence[Mapping[str, Any]], steps: int, spent: Mapping[str, float], first: bool
) -> list[Point]:
    """The evaluations of one part, which begins after `steps` and `spent`. A second part's first repeats the first's last."""
    points, sums = [], dict(spent)
    for row in rows:
        sums = {field: amount + ledger.spent(row, field) for field, amount in sums.items()}
        rewards = evaluation(artifacts.step_folder(workdir, row["step"]), row)
        if rewards and (first or row["step"]):
            points.append(Point(steps + row["step"], sums, rewards))
    return points


def evaluation(folder: Path, row: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Mean reward of each problem in each held-out set of a step. row: the step's metrics, which name sets without a prompt
    also where, the prompt being empty, nothing was sampled for them."""
    found = {}
    for path in sorted(folder.glob("evaluation_*.jsonl")):
        samples: dict[str, list[float]] = {}
        for sample in artifacts.read_rows(path):
            samples.setdefault(sample["problem"], []).append(sample["reward"])
        means = {problem: sum(rewards) / len(rewards) for problem, rewards in samples.items()}
        found[path.stem.removeprefix("evaluation_")] = means
    same = {name + NO_PROMPT: name for name in found if f"{name}{NO_PROMPT}/reward" in row}
    return {twin: found[name] for twin, name in same.items()} | found


def _told(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, int, float]]:
    """Measure, step and value of all that the task told of what prompts know."""
    return ((name, row["step"], value) for row in rows for name, value in row.items() if name.startswith(KNOWN))


def _sum(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    return sum(row[name] for row in rows if name in row)


def _best(job: Job) -> dict[str, Any]:
    """prompt and origins of a Run: the text of the best prompt at the end, and where its lines come from."""
    written = [workdir for workdir in job.workdirs if (workdir / plans.POPULATION).exists()]
    if not written:
        return {"prompt": ""}
    population = plans.population_of(written[-1])
    best = populations.best(population)
    return {"prompt": render_genome(best.genome), "origins": tuple(origins(written[-1], population, best))}


def _rulebook(job: Job) -> str:
    """What the task itself could have said; "" where it says nothing."""
    path = artifacts.step_folder(job.workdirs[0], 0) / artifacts.RULEBOOKS
    return json.loads(path.read_bytes())["validation"] if path.exists() else ""


def _rated(job: Job) -> tuple[dict[str, Any], ...]:
    """The newest measurement of rated prompts."""
    paths = sorted((job.workdirs[-1] / "steps").glob(f"*/{ratings.FILE}"))
    return tuple(artifacts.read_rows(paths[-1])) if paths else ()


def failures(path: Path) -> dict[str, str]:
    """How jobs failed the last time, by their names; none without a comparison."""
    return json.loads(path.read_bytes())["failed"] if path.exists() else {}
