"""What a run has left in its directory, read into one value: what the report shows, and what other reports may start from.

A run that is still going on can be read as well: every file is whole or absent (records/artifacts.py), a torn last line of
metrics.jsonl is left out. Long texts are not kept beyond what a page can show: of the trajectories only those that
choosing.py names, and the texts of reflections up to MAX_TEXT characters each.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from espl_jax.evolution import population as populations
from espl_jax.records import inbox, ledger, metrics
from espl_jax.structs import Population, Rating

MAX_TEXT = 20_000  # characters of one text that are kept in memory; the page may show less (trimming.py)
CUT = "\n\n[... {} characters are left out here; they are on disk ...]\n\n"

Row = Mapping[str, Any]


class RunError(ValueError):
    """A work directory that cannot be read; the message names the file and the remedy in one sentence."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one trajectory ended, in numbers: a reward for a sample of a problem under a prompt."""

    prompt: int
    problem: str
    reward: float


@dataclass(frozen=True, slots=True)
class Transcript:
    """One trajectory that is shown whole. turns: (role, text), the question first. label: why this one was chosen."""

    prompt: int
    problem: str
    sample: int
    reward: float
    finish: str
    tokens: int
    extracted: str
    note: str
    label: str
    turns: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """One model call of a reflection. turns: the conversation and, last, the reply. operations: as in structs.Operation."""

    stage: str
    problem: str
    error: str
    finish: str
    prompt_tokens: int
    generated_tokens: int
    turns: tuple[tuple[str, str], ...]
    operations: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at a child. child: its id, or -1 where `reason` says why there is none. rating: of the newborn."""

    step: int
    operator: str
    parents: tuple[int, ...]
    child: int
    rating: Rating | None
    reason: str
    calls: tuple[Asked, ...]


@dataclass(frozen=True)
class StepRecord:
    """One folder of steps/. ratings: of those who competed, before the step. evaluations: by the name of the held-out set."""

    step: int
    ratings: Mapping[int, Rating]
    outcomes: tuple[Outcome, ...]
    transcripts: tuple[Transcript, ...]
    attempts: tuple[Attempt, ...]
    evaluations: Mapping[str, tuple[Outcome, ...]]
    evaluation_transcripts: Mapping[str, tuple[Transcript, ...]]


@dataclass(frozen=True)
class RunRecord:
    """A run as far as it has come.

    metrics: the rows of metrics.jsonl. problems: id -> (question, answer) of all that occur. notes: prompt id -> what
    the person who wrote it noted. unreadable: a sentence for each step folder that is damaged; it is not among `steps`.
    """

    workdir: Path
    config: Row
    metrics: tuple[Row, ...]
    population: Population
    steps: tuple[StepRecord, ...]
    problems: Mapping[str, tuple[str, str]]
    notes: Mapping[int, str]
    unreadable: tuple[str, ...]

    @property
    def last_step(self) -> int:
        """The last step that is recorded."""
        return self.metrics[-1]["step"]

    @property
    def finished(self) -> bool:
        """Whether the run has done all of its steps, or spent its budget."""
        return _ended(self.config, self.metrics)

    @property
    def attempts(self) -> list[Attempt]:
        """Every attempt at a child, in the order of steps."""
        return [attempt for step in self.steps for attempt in step.attempts]


# (kind of rows: "rollouts" or a held-out set, step, rows) -> (label, row) of those whose texts are kept
Choose = Callable[[str, int, Sequence[Row]], list[tuple[str, Row]]]


def read(workdir: str | Path, choose: Choose) -> RunRecord:
    """The record of the run in `workdir`. Raises RunError when there is none, when its first step is not recorded yet, or
    when a file that everything hangs on is damaged."""
    workdir = Path(workdir)
    if not (workdir / "config.json").exists():
        raise RunError(f"--workdir is {str(workdir)!r}, where no run has left its config.json; give a run's directory")
    config = _json_file(workdir / "config.json")
    rows = _metrics(workdir)
    population = _population(workdir)
    problems: dict[str, tuple[str, str]] = {}
    steps, unreadable = [], []
    for folder in sorted((workdir / "steps").glob("[0-9]*")):
        try:
            steps.append(_step(folder, choose, problems))
        except FileNotFoundError:  # a run that is resumed meanwhile moves aside what it will write again
            unreadable.append(f"{folder} went away while it was read; write the report again")
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            unreadable.append(f"{folder} cannot be read ({type(error).__name__}: {error})")
    return RunRecord(workdir, config, rows, population, tuple(steps), problems, _notes(workdir), tuple(unreadable))


def finished(workdir: str | Path) -> bool:
    """Whether the run has done all of its steps, or spent its budget. Raises RunError as `read` does."""
    workdir = Path(workdir)
    return _ended(_json_file(workdir / "config.json"), _metrics(workdir))


def budget_spent(config: Row, rows: Sequence[Row]) -> float:
    """The share of its budget that a run has spent, the largest if it has several; 0 without one."""
    budgets = [name for name in ledger.BUDGETS if name in config and config[name]]
    return max((sum(ledger.spent(row, name) for row in rows) / config[name] for name in budgets), default=0.0)


def _ended(config: Row, rows: Sequence[Row]) -> bool:
    return rows[-1]["step"] >= config["num_steps"] or budget_spent(config, rows) >= 1


def _json_file(path: Path) -> Any:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read ({error}); put it back from a backup, or start the run again") from error
    if not isinstance(value, dict):
        raise RunError(f"{path} holds no JSON object; put it back from a backup, or start the run again")
    return value


def _metrics(workdir: Path) -> tuple[Row, ...]:
    try:
        rows = tuple(metrics.read(workdir))
    except FileNotFoundError:
        rows = ()
    except ValueError as error:
        raise RunError(f"{workdir / metrics.FILE} is damaged: {error}; take that line out") from error
    if not rows:
        raise RunError(f"the run in {workdir} has recorded no step yet; wait for its first")
    return rows


def _population(workdir: Path) -> Population:
    path = workdir / "population.json"
    if not path.exists():
        raise RunError(f"{path} is missing; start the run again, which writes it after its next step")
    try:
        return populations.from_json(_json_file(path))
    except (ValueError, TypeError) as error:
        raise RunError(f"{path} is damaged: {error}; start the run again, which writes it after its next step") from error


def _notes(workdir: Path) -> dict[int, str]:
    """What people noted with the prompts that they wrote."""
    try:
        fates, edits = inbox.fates(workdir), inbox.edits(workdir)
    except ValueError as error:
        raise RunError(str(error)) from error
    return {fates[name].id: edit.note for name, edit in edits.items() if name in fates and isinstance(edit, inbox.Edit)
            and edit.kind == "add"}  # fmt: skip


def _step(folder: Path, choose: Choose, problems: dict[str, tuple[str, str]]) -> StepRecord:
    step = int(folder.name)
    evaluations, evaluation_transcripts = {}, {}
    for path in sorted(folder.glob("evaluation_*.jsonl")):
        name = path.stem.removeprefix("evaluation_")
        evaluations[name], evaluation_transcripts[name] = _trajectories(path, name, step, choose, problems)
    outcomes, transcripts = _trajectories(folder / "rollouts.jsonl", "rollouts", step, choose, problems)
    return StepRecord(
        step=step,
        ratings={row["id"]: Rating(**row["rating"]) for row in rows_of(folder / "prompts.jsonl")},
        outcomes=outcomes,
        transcripts=transcripts,
        attempts=tuple(_attempt(step, row) for row in rows_of(folder / "reflections.jsonl")),
        evaluations=evaluations,
        evaluation_transcripts=evaluation_transcripts,
    )


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of a .jsonl file, none if it is absent. Raises ValueError that names the line that is no JSON object."""
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines() if path.exists() else (), start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"line {number} of {path.name} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"line {number} of {path.name} is no JSON object")
        rows.append(row)
    return rows


def _trajectories(
    path: Path, kind: str, step: int, choose: Choose, problems: dict[str, tuple[str, str]]
) -> tuple[tuple[Outcome, ...], tuple[Transcript, ...]]:
    """Every outcome of a file, and the transcripts that were chosen."""
    rows = rows_of(path)
    for row in rows:
        problems.setdefault(row["problem"], (shortened(_text(row, "question")), shortened(_text(row, "answer"))))
    outcomes = tuple(Outcome(row["prompt"], row["problem"], float(row["reward"])) for row in rows)
    return outcomes, tuple(_transcript(label, row) for label, row in choose(kind, step, rows))


def _transcript(label: str, row: Row) -> Transcript:
    return Transcript(
        prompt=row["prompt"],
        problem=row["problem"],
        sample=row["sample"],
        reward=float(row["reward"]),
        finish=_text(row, "finish"),
        tokens=row["tokens"],
        extracted=_text(row, "extracted"),
        note=_text(row, "note"),
        label=label,
        turns=turns(row),
    )


def turns(row: Row) -> tuple[tuple[str, str], ...]:
    """A trajectory as a conversation: its messages where it has them, else the question and the reply."""
    if row.get("messages"):
        return tuple((message["role"], shortened(message["content"])) for message in row["messages"])
    return ("user", shortened(_text(row, "question"))), ("assistant", shortened(_text(row, "text")))


def _attempt(step: int, row: Row) -> Attempt:
    child = row["child"]
    return Attempt(
        step=step,
        operator=row["operator"],
        parents=tuple(row["parents"]),
        child=-1 if child is None else child["id"],
        rating=None if child is None else Rating(**child["rating"]),
        reason=row["reason"],
        calls=tuple(_asked(call) for call in row["calls"]),
    )


def _asked(call: Row) -> Asked:
    chat, reply = call["chat"], call["reply"]
    asked = tuple((message["role"], shortened(message["content"])) for message in chat["messages"])
    return Asked(
        stage=call["stage"],
        problem=call["problem_id"],
        error=call["error"],
        finish=reply["finish"],
        prompt_tokens=reply["prompt_tokens"],
        generated_tokens=reply["generated_tokens"],
        turns=(*asked, ("reply", shortened(reply["text"]))),
        operations=tuple(call["operations"]),
    )


def _text(row: Row, name: str) -> str:
    """A text of a row; "" where an older run has not written it."""
    return str(row[name]) if name in row and row[name] is not None else ""


def shortened(text: str, limit: int = MAX_TEXT) -> str:
    """The text; one longer than `limit` characters has its middle replaced by a note that says how much is missing."""
    if len(text) <= limit:
        return text
    head = limit * 2 // 3
    tail = limit - head
    return text[:head] + CUT.format(f"{len(text) - limit:,}") + text[len(text) - tail :]
