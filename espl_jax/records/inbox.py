"""What people have written for a run to take in between two steps, and what became of it.

  DIR/edits/20261123T101500.250000-3f2a9c.json   one edit, as it was written; never changed
  DIR/edits/taken.json                           name -> the step after which the run took it in, and its fate

A run that goes on from an older checkpoint takes an edit in after the same step as before, so that it is the same run. An edit
whose prompt the run has not written yet waits for it.
"""

import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from absl import logging

from espl_jax.evolution import human
from espl_jax.evolution.human import Edit
from espl_jax.records import json_files
from espl_jax.structs import Population

FOLDER = "edits"
TAKEN = "taken.json"


@dataclass(frozen=True)
class Fate:
    """step: iterations done when the run looked at the edit. id: of the child, or of who retired; -1 when it was refused.
    refused: "" or why."""

    step: int
    id: int = -1
    refused: str = ""


def write(workdir: str | Path, edit: Edit) -> str:
    """Puts the edit where the run finds it; returns its name, by which edits are ordered."""
    folder = Path(workdir) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    now = time.time()
    moment = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now)) + f".{int(now % 1 * 1e6):06d}"
    name = f"{moment}-{secrets.token_hex(3)}"
    json_files.write_atomic(folder / f"{name}.json", json_files.dumps(human.to_json(edit), indent=2) + "\n")
    return name


def edits(workdir: str | Path) -> dict[str, Edit | str]:
    """All edits by name, oldest first; one that cannot be read is the reason why."""
    paths = sorted((Path(workdir) / FOLDER).glob("[!.]*.json"))
    return {path.stem: _read(path) for path in paths if path.name != TAKEN}


def _read(path: Path) -> Edit | str:
    try:
        return human.from_json(json.loads(path.read_bytes()))
    except (OSError, ValueError) as error:
        return f"{path.name} cannot be read: {error}"


def fates(workdir: str | Path) -> dict[str, Fate]:
    """What became of the edits that a run has looked at, by name. Raises ValueError when the file is damaged."""
    path = Path(workdir) / FOLDER / TAKEN
    if not path.exists():
        return {}
    try:
        return {name: Fate(**fate) for name, fate in json.loads(path.read_bytes()).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}); mend it, or move {path.parent} away to drop all edits") from error


def due(workdir: str | Path, population: Population, step: int) -> dict[str, Any]:
    """What a run that has done `step` iterations must look at now, as JSON values by name, oldest first.

    That is what nobody has looked at and is about a prompt that is there, and what was looked at after this very step
    before the run was killed.
    """
    seen, known = fates(workdir), {prompt.id for prompt in population.prompts}
    now = {}
    for name, edit in edits(workdir).items():
        waits = isinstance(edit, Edit) and edit.target not in known
        if seen[name].step == step if name in seen else not waits:
            now[name] = human.to_json(edit) if isinstance(edit, Edit) else edit
    return now


def carry_out(population: Population, edits: Mapping[str, Any], step: int, config) -> tuple[Population, dict[str, Fate]]:
    """The population after the edits that `due` gave, and the fate of each. config: config.evolution."""
    fates = {}
    for name, edit in edits.items():
        try:
            if isinstance(edit, str):
                raise ValueError(edit)
            population, prompt_id = human.carry_out(population, human.from_json(edit), step, config)
            fates[name] = Fate(step, prompt_id)
        except ValueError as error:
            fates[name] = Fate(step, refused=str(error))
    return population, fates


def record(workdir: str | Path, new: Mapping[str, Fate]) -> None:
    """Writes down, before the run goes on, what became of edits, and says so."""
    before = fates(workdir)
    after = before | new
    if after == before:
        return
    text = json_files.dumps({name: asdict(fate) for name, fate in after.items()}, indent=2)
    json_files.write_atomic(Path(workdir) / FOLDER / TAKEN, text + "\n")
    for name, fate in new.items():
        done = f"refused: {fate.refused}" if fate.refused else f"taken in after step {fate.step}: prompt {fate.id}"
        logging.warning("the edit %s was %s", name, done)
