"""Which runs a comparison has, what each is started with, and whether what is there already belongs to it.

A method is a name of config.METHODS, or two of them in sequence, "gepa+rl": the first, which trains no weights, finds a prompt
for half of the budget, and the second begins with that prompt, as a document, and has the rest. A variant is a method under a
name of its own, with fields that are set for it alone: "newest=espl,evolution.selection=newest".
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from espl_jax import config as configs
from espl_jax.evolution import population as populations
from espl_jax.evolution.render import render_genome
from espl_jax.records import artifacts, json_files, ledger, metrics, resume
from espl_jax.structs import Population

# unit of --budget -> the field of a run
UNITS = {"tokens": "budget_tokens", "flops": "budget_flops", "rollouts": "budget_rollouts"}
NO_END = 1_000_000  # num_steps of a run that its budget ends
FIRST_SHARE = 0.5  # of the budget, that the first of two in sequence has
SET_HERE = ("method", "seed", *UNITS.values())  # fields that the command has flags of its own for
READ = {bool: lambda text: {"true": True, "false": False}[text.lower()], int: int, float: float, str: str}  # a field's value
NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,40}")  # of a variant; its runs' folder is called so
POPULATION = "population.json"  # what a run leaves its prompts in
ROOT = "prompt.txt"  # beside the runs of a sequence: what the second begins with


@dataclass(frozen=True)
class Budget:
    """What each run may spend. field: of the configuration."""

    field: str
    amount: float

    def __str__(self) -> str:
        unit = next(unit for unit, field in UNITS.items() if field == self.field)
        return f"{self.amount:.3g} {unit}" if unit == "flops" else f"{self.amount:,.0f} {unit}"


@dataclass(frozen=True)
class Variant:
    """A method by another name. fields: of the configuration, that are set for it alone."""

    method: str
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class Job:
    """A method with a seed. method: its name, or that of the `variant` that it is; parts: what it runs one after the other;
    folder: of the method and seed."""

    method: str
    seed: int
    folder: Path
    variant: Variant | None = None

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple((self.variant.method if self.variant else self.method).split("+"))

    @property
    def workdirs(self) -> tuple[Path, ...]:
        """Of each part; that of a method by itself is the folder."""
        if len(self.parts) == 1:
            return (self.folder,)
        return tuple(self.folder / f"{number}-{part}" for number, part in enumerate(self.parts, start=1))

    def __str__(self) -> str:
        return f"{self.method}, seed {self.seed}"


@dataclass(frozen=True)
class Plan:
    """A comparison. config: of every run, but for what `settings` says; source, overrides: how a process is told of it."""

    workdir: Path
    config: ConfigDict
    source: str
    overrides: Mapping[str, Any]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    budget: Budget
    variants: Mapping[str, Variant] = field(default_factory=dict)

    @property
    def jobs(self) -> list[Job]:
        """All runs; each seed by every method before the next seed, so that an early look compares something."""
        names = (*self.methods, *self.variants)
        return [
            Job(name, seed, self.workdir / name / f"seed{seed}", self.variants[name] if name in self.variants else None)
            for seed in self.seeds
            for name in names
        ]


def parse_budget(text: str) -> Budget:
    """ "tokens:40000" or "flops:2e14". Raises ConfigError."""
    unit, _, amount = text.partition(":")
    try:
        value = float(amount)
    except ValueError:
        value = math.nan
    if unit not in UNITS or not value > 0 or math.isinf(value):
        raise configs.ConfigError(f"--budget is {text!r}; give {', '.join(UNITS)} and a number, such as tokens:40000")
    return Budget(UNITS[unit], value)


def parse_seeds(words: Sequence[str]) -> tuple[int, ...]:
    """Seeds from their digits. Raises ConfigError."""
    if not words or not all(word.isdigit() for word in words) or len(set(words)) < len(words):
        raise configs.ConfigError(f"--seeds is {','.join(words)!r}; give different whole numbers, such as 0,1,2")
    return tuple(map(int, words))


def make(
    workdir: str | Path, config: ConfigDict, source: str, overrides: Mapping[str, Any], methods: Sequence[str],
    seeds: Sequence[str], budget: str, variants: Sequence[str] = (),
) -> Plan:
    """The plan that the flags ask for. Raises ConfigError for the first mistake that can be seen without a model or data."""
    named = parse_variants(variants, config)
    _check_methods(methods, named)
    for name in SET_HERE:
        if name in overrides:
            raise configs.ConfigError(f"--config.{name} is given, but runs differ in it; use --methods, --seeds and --budget")
    if config.hosts.coordinator:
        raise configs.ConfigError(
            f"hosts.coordinator is {config.hosts.coordinator!r}, but a comparison starts runs of one process; set it to ''"
        )
    if not config.evaluation.every:
        raise configs.ConfigError("evaluation.every is 0, so that nothing would be there to compare; use 1 or more")
    if config.rl.schedule != "constant" and "num_steps" not in overrides:
        raise configs.ConfigError(
            f"rl.schedule is {config.rl.schedule!r}, which needs to know its last step, but a budget ends the runs; set "
            "--config.rl.schedule=constant, or --config.num_steps as an end for all"
        )
    plan = Plan(
        Path(workdir).absolute(), config, source, overrides, tuple(methods), parse_seeds(seeds), parse_budget(budget), named
    )  # fmt: skip
    for job in plan.jobs:
        for number in range(len(job.parts)):
            configs.resolve(part_config(plan, job, number, root=None))
    return plan


def parse_variants(texts: Sequence[str], config: ConfigDict) -> dict[str, Variant]:
    """ "newest=espl,evolution.selection=newest", by name. config: whose fields have the types. Raises ConfigError."""
    named: dict[str, Variant] = {}
    for text in texts:
        name, _, rest = text.partition("=")
        method, *changes = rest.split(",")
        if not NAME.fullmatch(name) or name in configs.METHODS or name in named or not changes:
            raise configs.ConfigError(
                f"--variant is {text!r}; give a name that is no method's and comes once, a method and at least one field, such "
                "as newest=espl,evolution.selection=newest"
            )
        fields = [change.partition("=") for change in changes]
        named[name] = Variant(method, {key: typed(config, key, value) for key, _, value in fields})
    return named


def typed(config: ConfigDict, name: str, text: str) -> Any:
    """The text as a value of the field's type. Raises ConfigError."""
    if name in SET_HERE:
        raise configs.ConfigError(f"--variant sets {name}, which --methods, --seeds and --budget are for")
    try:
        return READ[type(configs.field(config, name))](text)
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise configs.ConfigError(
            f"--variant has {name}={text}, no field with a value of its type; see experiments/base.py"
        ) from error


def _check_methods(methods: Sequence[str], variants: Mapping[str, Variant]) -> None:
    for method in (*methods, *(variant.method for variant in variants.values())):
        parts = method.split("+")
        if unknown := [part for part in parts if part not in configs.METHODS]:
            raise configs.ConfigError(
                f"--methods has {unknown[0]!r}; use some of {', '.join(configs.METHODS)}, or two in sequence such as gepa+rl"
            )
        if len(parts) > 2 or (len(parts) == 2 and parts[0] in configs.TRAINS_WEIGHTS):
            raise configs.ConfigError(
                f"--methods has {method!r}, but a sequence has two parts, of which the first trains no weights; use gepa+rl or "
                "evolution+rl"
            )
    if not (methods or variants) or len(set(methods)) < len(methods):
        raise configs.ConfigError(f"--methods is {','.join(methods)!r}; name each method once")


def settings(plan: Plan, job: Job, number: int, root: Path | None) -> dict[str, Any]:
    """What part `number` of a job sets in the configuration. root: a file with the prompt that it begins with.

    A second part has what the first has left of the whole budget, as far as that has come.
    """
    amount = plan.budget.amount
    if len(job.parts) == 2:
        first = FIRST_SHARE * plan.budget.amount
        amount = first if number == 0 else max(amount - _spent(job.workdirs[0], plan.budget.field), 1.0)
    amounts = {field: 0 for field in UNITS.values()} | {plan.budget.field: amount}
    fields: dict[str, Any] = {"method": job.parts[number], "seed": job.seed}
    fields |= {field: float(amount) if field == "budget_flops" else math.ceil(amount) for field, amount in amounts.items()}
    fields |= job.variant.fields if job.variant else {}
    if "num_steps" not in plan.overrides:
        fields["num_steps"] = NO_END
    if number:
        fields |= {"evolution.genome": "document", "evolution.root": "" if root is None else str(root)}
    return fields


def part_config(plan: Plan, job: Job, number: int, root: Path | None) -> ConfigDict:
    """The configuration of one run."""
    config = ConfigDict(plan.config.to_dict())
    config.update_from_flattened_dict(settings(plan, job, number, root))
    return config


def command(plan: Plan, job: Job, number: int, program: Sequence[str]) -> list[str]:
    """The command line of one run. program: what starts espl_jax.main."""
    fields = dict(plan.overrides) | settings(plan, job, number, root_of(job, number))
    changes = [f"--config.{name}={value}" for name, value in fields.items()]
    return [*program, f"--config={plan.source}", f"--workdir={job.workdirs[number]}", *changes]


def root_of(job: Job, number: int) -> Path | None:
    """The file that a second part begins with."""
    return job.folder / ROOT if number else None


def hand_over(job: Job) -> None:
    """Writes the best prompt of the first part, for the second to begin with."""
    json_files.write_atomic(job.folder / ROOT, best_text(job.workdirs[0]) + "\n")


def best_text(workdir: Path) -> str:
    """The best prompt of a run as the model reads it; "" where it is empty."""
    return render_genome(populations.best(population_of(workdir)).genome)


def population_of(workdir: Path) -> Population:
    """The population that a run has left."""
    return populations.from_json(json.loads((workdir / POPULATION).read_bytes()))


def is_done(plan: Plan, job: Job, number: int) -> bool:
    """Whether a run has ended: it has spent its budget, or done its steps."""
    rows = rows_of(job.workdirs[number])
    config = part_config(plan, job, number, root=None)
    return bool(rows) and ledger.is_last(config, rows[-1]["step"], totals(rows))


def rows_of(workdir: Path) -> list[dict[str, Any]]:
    """The metrics of a run, none if it has recorded nothing."""
    return metrics.read(workdir) if (workdir / metrics.FILE).exists() else []


def totals(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The sum of every ledger/ metric."""
    sums: dict[str, float] = {}
    for row in rows:
        for name, value in row.items():
            if name.startswith("ledger/"):
                sums[name] = sums[name] + value if name in sums else value
    return sums


def _spent(workdir: Path, budget: str) -> float:
    return ledger.spent(totals(rows_of(workdir)), budget)


def check_existing(plan: Plan) -> None:
    """Raises ValueError when a run that is there was started with another configuration, or may have spent more."""
    for job in plan.jobs:
        for number, workdir in enumerate(job.workdirs):
            path = workdir / "config.json"
            if path.exists():
                _check_run(plan, job, number, workdir, json.loads(path.read_bytes()))


def _check_run(plan: Plan, job: Job, number: int, workdir: Path, saved: Mapping[str, Any]) -> None:
    rows = rows_of(workdir)
    root = root_of(job, number)
    if root is not None and not root.exists():
        root = None
    now = artifacts.config_json(configs.resolve(part_config(plan, job, number, root)))
    field = plan.budget.field
    moved = saved[field] != now[field] and (number or len(job.parts) == 2)
    if now[field] < saved[field] or moved:
        raise configs.ConfigError(
            f"the run in {workdir} was started with {field}={saved[field]:g} and would now have {now[field]:g}; use the same "
            "budget, a higher one where no method is a sequence, or another --workdir"
        )
    try:
        resume.check_config(saved, now, rows[-1]["step"] if rows else 0)
    except ValueError as error:
        raise configs.ConfigError(f"the run in {workdir} does not fit this comparison: {error}") from error
