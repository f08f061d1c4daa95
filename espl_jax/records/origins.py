"""Where each line of a prompt comes from: the step, the reflection and the edit that first wrote it, as the records tell."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from espl_jax.evolution.apply import APPLIED
from espl_jax.records import artifacts
from espl_jax.structs import Genome, Population, Prompt


@dataclass(frozen=True)
class Origin:
    """line: of a prompt. prompt: the oldest forebear that handed it down. op, stage, problem_id: the edit that wrote it there,
    the model call that proposed the edit and the problem that it was shown; "" where no edit did: of a root, or a person's."""

    line: str
    prompt: Prompt
    op: str = ""
    stage: str = ""
    problem_id: str = ""

    def __str__(self) -> str:
        """One line, for people."""
        born = f"prompt {self.prompt.id}, step {self.prompt.born}, {self.prompt.operator}"
        if not self.op:
            return born
        about = f" of problem {self.problem_id}" if self.problem_id else ""
        return f"{born} of {', '.join(map(str, self.prompt.parents))}: {self.op}, by the {self.stage}{about}"


def origins(workdir: str | Path, population: Population, prompt: Prompt) -> list[Origin]:
    """One for each line of a prompt. Raises OSError where the folder of a step that wrote one is gone."""
    return [_origin(Path(workdir), line, oldest_with(population, prompt, line)) for line in lines(prompt.genome)]


def lines(genome: Genome) -> list[str]:
    """Principles, or the lines of a document that say something."""
    return list(genome.principles) or [line.strip() for line in genome.document.splitlines() if line.strip()]


def oldest_with(population: Population, prompt: Prompt, line: str) -> Prompt:
    """The forebear that first had the line, through parents that all have it."""
    heirs = [population[parent] for parent in prompt.parents if line in lines(population[parent].genome)]
    return oldest_with(population, heirs[0], line) if heirs else prompt


def _origin(workdir: Path, line: str, prompt: Prompt) -> Origin:
    written = list(_edits(workdir, line, prompt)) if prompt.parents else []
    return Origin(line, prompt, *written[-1]) if written else Origin(line, prompt)


def _edits(workdir: Path, line: str, prompt: Prompt) -> Iterator[tuple[str, str, str]]:
    """(op, stage, problem) of the edits that gave the prompt the line; the last is what stands."""
    for reflection in _reflections(workdir, prompt):
        for call in reflection["calls"]:
            for operation in call["operations"]:
                if operation["fate"] == APPLIED and line in operation["text"]:
                    yield operation["op"], call["stage"], call["problem_id"]


def _reflections(workdir: Path, prompt: Prompt) -> list[dict[str, Any]]:
    """The recorded reflections that wrote the prompt: one, or none of a person's."""
    path = artifacts.step_folder(workdir, prompt.born) / "reflections.jsonl"
    rows = artifacts.read_rows(path) if prompt.operator in ("mutation", "crossover") else []
    return [row for row in rows if row["child"] and row["child"]["id"] == prompt.id]
