"""Where each principle of a prompt comes from: the step that first had it, and the model's reply that stated it.

A principle is followed from child to parent for as long as a parent has it word for word; the reply is found among the recorded
reflections of the step in which the oldest of them was born.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from espl_jax.records import artifacts
from espl_jax.structs import Population, Prompt

FILE = "reflections.jsonl"
ROOT = "root"


@dataclass(frozen=True)
class Origin:
    """A principle's. prompt: the oldest that has it. step: in which that was born. stage: of the reflection (critique,
    consolidation, crossover), or the prompt's operator where no recorded reply says it. problem: that the reply was about, ""
    where it was about no single one."""

    text: str
    prompt: int
    step: int
    stage: str
    problem: str

    @property
    def told(self) -> str:
        """ "step 3, critique of 8151e1937567"."""
        if self.stage == ROOT:
            return ROOT
        return f"step {self.step}, {self.stage}" + (f" of {self.problem}" if self.problem else "")


def origins(workdir: Path, population: Population, prompt: Prompt) -> tuple[Origin, ...]:
    """Of each of the prompt's principles, in their order; of a document nothing."""
    found = []
    for text in prompt.genome.principles:
        first = oldest(population, prompt, text)
        stage, problem = stated(workdir, first, text)
        found.append(Origin(text, first.id, first.born, stage, problem))
    return tuple(found)


def oldest(population: Population, prompt: Prompt, text: str) -> Prompt:
    """The prompt that an unbroken line of parents with this principle begins with; of several parents the first that has it."""
    while with_it := [one for one in map(population.__getitem__, prompt.parents) if says(one, text)]:
        prompt = with_it[0]
    return prompt


def says(prompt: Prompt, text: str) -> bool:
    """Whether this is one of its principles."""
    return folded(text) in map(folded, prompt.genome.principles)


def stated(workdir: Path, prompt: Prompt, text: str) -> tuple[str, str]:
    """(stage, problem) of the last recorded reply that gave a newborn prompt this principle."""
    path = artifacts.step_folder(workdir, prompt.born) / FILE
    rows = artifacts.read_rows(path) if prompt.parents and path.exists() else ()
    calls = [call for row in rows if is_of(row, prompt) for call in row["calls"]]
    said = [
        (call["stage"], call["problem_id"])
        for call in calls
        for operation in call["operations"]
        if operation["fate"] == "applied" and folded(operation["text"]) == folded(text)
    ]
    return said[-1] if said else (prompt.operator, "")


def is_of(row: Mapping[str, Any], prompt: Prompt) -> bool:
    """Whether a recorded reflection made this prompt."""
    return row["child"] is not None and row["child"]["id"] == prompt.id


def folded(text: str) -> str:
    """A text without what its line breaks and blanks are."""
    return " ".join(text.split())
