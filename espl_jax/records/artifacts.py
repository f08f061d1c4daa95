"""What a run leaves for people and programs to read: config.json, population.json and a folder for each step.

  DIR/config.json             the whole config as JSON
  DIR/population.json         every prompt with its rating and lineage, every match
  DIR/steps/000012/           what happened in step 12: prompts, rollouts, reflections, evaluation

A step's folder is written under a temporary name and then renamed: it is whole or absent.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from espl_jax.records import json_files
from espl_jax.structs import Rollouts

Rows = Sequence[dict[str, Any]]
RULEBOOKS = "rulebooks.json"  # in step 0: held-out set -> what the task itself could say, where it has that


def config_json(config: ConfigDict) -> dict[str, Any]:
    """The config as nested dicts, lists and scalars: what JSON gives back after a round trip (tuples are lists)."""
    return json.loads(json_files.dumps(config.to_dict()))


def write_json(path: str | Path, value: Mapping[str, Any]) -> None:
    """Replaces a JSON file (config.json, population.json) in one move, creating its folder if need be."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    json_files.write_atomic(path, json_files.dumps(dict(value), indent=2) + "\n")


def step_folder(workdir: str | Path, step: int) -> Path:
    """DIR/steps/000012."""
    return Path(workdir) / "steps" / f"{step:06d}"


def write_step(workdir: str | Path, step: int, files: Mapping[str, Rows | dict[str, Any]]) -> Path:
    """Writes the folder of one step, whole or not at all.

    files: "name.jsonl" -> one dict a line, "name.json" -> one dict. Returns the folder. Raises FileExistsError when the
    step has a folder already (a resume begins with resume.rewind) and ValueError for another kind of name.
    """
    folder = step_folder(workdir, step)
    if folder.exists():
        raise FileExistsError(f"{folder} is there already; a resumed run must rewind before it writes")
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name, content in files.items():
        json_files.write_synced(temporary / name, _text(name, content))
    json_files.sync_folder(temporary)
    os.rename(temporary, folder)
    json_files.sync_folder(folder.parent)
    return folder


def _text(name: str, content: Rows | dict[str, Any]) -> str:
    if name.endswith(".jsonl"):
        return json_files.lines(content)
    if name.endswith(".json"):
        return json_files.dumps(content, indent=2) + "\n"
    raise ValueError(f"a step's file is called {name!r}; use NAME.jsonl for rows or NAME.json for one object")


def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a .jsonl file."""
    return [json.loads(line) for line in Path(path).read_bytes().splitlines()]


def rollout_rows(rollouts: Rollouts, advantages_PQG: np.ndarray) -> list[dict[str, Any]]:
    """One dict for each trajectory, in the order of (prompt, problem, sample).

    tokens (drawn by the policy) and context_tokens are counts; logprob and behavior_logprob are means over the tokens (natural
    log) under the policy itself and under what was really drawn from; problem, question, answer, reward, extracted and note are
    the task's. A conversation has its turns in messages, and in tool_tokens a count of what the policy did not draw. Raises
    ValueError when the advantages have another shape than the rewards.
    """
    if advantages_PQG.shape != rollouts.rewards_PQG.shape:
        raise ValueError(f"advantages {advantages_PQG.shape} do not fit rewards {rollouts.rewards_PQG.shape}")
    return [
        _rollout_row(rollouts, p, q, g, float(advantages_PQG[p, q, g]))
        for p, q, g in np.ndindex(*rollouts.rewards_PQG.shape)
    ]


def _rollout_row(rollouts: Rollouts, p: int, q: int, g: int, advantage: float) -> dict[str, Any]:
    index = rollouts.index(p, q, g)
    problem, completion, grade = rollouts.problems[q], rollouts.completions[index], rollouts.grades[index]
    drawn = completion.drawn
    row = {
        "prompt": rollouts.prompt_ids[p],
        "problem": problem.id,
        "sample": g,
        "question": problem.question,
        "answer": problem.answer,
        "text": rollouts.texts[index],
        "reward": float(rollouts.rewards_PQG[p, q, g]),
        "extracted": grade.extracted,
        "note": grade.note,
        "finish": completion.finish,
        "advantage": advantage,
        "tokens": int(drawn.sum()),
        "context_tokens": len(rollouts.context_tokens[p][q]),
        "logprob": _mean(completion.untempered[drawn]),
        "behavior_logprob": _mean(completion.behavior[drawn]),
    }
    if rollouts.conversations is None:
        return row
    messages = [{"role": turn.role, "content": turn.content} for turn in rollouts.conversations[index]]
    return row | {"tool_tokens": int((~drawn).sum()), "messages": messages}


def _mean(values: np.ndarray) -> float | None:
    """The mean in double precision; none of nothing."""
    return float(np.mean(values, dtype=np.float64)) if len(values) else None
