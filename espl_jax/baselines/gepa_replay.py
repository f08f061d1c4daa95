"""Answers that a killed run of gepa has recorded, given again in their order.

The package can save its state, but neither its random numbers nor its place among the training problems, and it evaluates the
first candidate again. All that it does follows from its seed and our answers, though: so a run is begun anew and is answered
from the records of the steps that are done, without sampling or asking anything, until it stands where it stood.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from espl_jax.baselines.gepa_adapter import Outcome
from espl_jax.records import artifacts
from espl_jax.structs import Problem

COMPETED, TRIED = "rollouts.jsonl", "acceptance_mutation.jsonl"  # under candidates that are kept; under one that is tried
REFLECTED = "reflections.jsonl"


class ReplayError(ValueError):
    """The package asks for something else than it did when the records were made."""


class Recorded:
    """The records of steps up to `last`."""

    def __init__(self, workdir: Path, last: int):
        self._workdir, self._last = workdir, last
        self._rows: dict[str, list[dict[str, Any]]] = {}

    def begin(self, step: int) -> bool:
        """Goes to a step; whether it is recorded. Raises ReplayError when the step before has answers left."""
        self.check_used_up()
        self._rows = {}
        if step > self._last:
            return False
        folder = artifacts.step_folder(self._workdir, step)
        rows = {name: _rows(folder / name) for name in (COMPETED, TRIED, REFLECTED)}
        self._rows = rows | {REFLECTED: [call for row in rows[REFLECTED] for call in row["calls"]]}
        return True

    def check_used_up(self) -> None:
        """Raises ReplayError when the package has asked for less than it did."""
        if any(self._rows.values()):
            raise _differs(self._workdir)

    def outcomes(self, name: str, problems: Sequence[Problem]) -> list[Outcome]:
        """The next recorded trajectories, which must be of these problems."""
        rows, self._rows[name] = self._rows[name][: len(problems)], self._rows[name][len(problems) :]
        if [row["problem"] for row in rows] != [problem.id for problem in problems]:
            raise _differs(self._workdir)
        return [Outcome(problem, row["text"], row["reward"], row["note"]) for problem, row in zip(problems, rows, strict=True)]

    def reply(self, prompt: str) -> str:
        """The recorded reply to a step's one reflection, which must have been asked in these words."""
        asked, self._rows[REFLECTED] = self._rows[REFLECTED], []
        if len(asked) != 1 or asked[0]["chat"]["messages"][-1]["content"] != prompt:
            raise _differs(self._workdir)
        return asked[0]["reply"]["text"]


def _rows(path: Path) -> list[dict[str, Any]]:
    return artifacts.read_rows(path) if path.exists() else []


def _differs(workdir: Path) -> ReplayError:
    return ReplayError(
        f"the package gepa asks for something else than what is recorded in {workdir}; go on with the version that the run was "
        "started with, or start again in another --workdir"
    )
