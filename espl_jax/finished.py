"""What a run has come to, opened without training: its weights on this machine's devices, its prompts, its configuration.

Nothing in the work directory is changed, so that the run may be going on meanwhile.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from espl_jax.evaluate import NO_PROMPT
from espl_jax.evolution import population as populations
from espl_jax.policy import sharding
from espl_jax.policy.state import Policy, load_policy, open_model
from espl_jax.policy.weights import TABLES
from espl_jax.records.checkpoint import Restored, read_raw
from espl_jax.structs import Population, Prompt
from experiments import base

# A run's mesh is of other devices than are here: all of these split the weights.
HERE = {"mesh.data": 1, "mesh.fsdp": -1, "mesh.tensor": 1, "mesh.sequence": 1}


class FinishedError(ValueError):
    """What was asked for is not there; the message says in one sentence what is."""


@dataclass(frozen=True)
class Finished:
    """A checkpoint of a run. trainable: the adapter or all weights, numpy, by name. score: validation/pass@1 or None."""

    workdir: Path
    config: ConfigDict
    step: int
    population: Population
    counters: Mapping[str, float]
    score: float | None
    trainable: Any


def read(workdir: str | Path, step: int | None = None) -> Finished:
    """The newest checkpoint of a run, or that of a step. Raises FinishedError or FileNotFoundError when there is none."""
    workdir = Path(workdir)
    if not (workdir / "config.json").is_file():
        raise FinishedError(f"--workdir is {str(workdir)!r}, where no run has written a config.json; give a run's directory")
    restored: Restored = read_raw(workdir, step, only="trainable")
    host = restored.host
    return Finished(
        workdir=workdir,
        config=completed(host["config"]),
        step=restored.step,
        population=populations.from_json(host["population"]),
        counters=host["counters"],
        score=host["score"],
        trainable=restored.policy["trainable"],
    )


def steps(workdir: str | Path) -> list[int]:
    """The steps whose checkpoints are kept, oldest first."""
    return sorted(int(path.name) for path in (Path(workdir) / "checkpoints").glob("*") if path.name.isdigit())


def completed(saved: Mapping[str, Any]) -> ConfigDict:
    """A saved configuration, with defaults for the fields that are newer than it; what is no field any more is left out."""
    config = base.get_config()
    with config.unlocked():
        _take_over(config, saved)
    return config


def _take_over(config: ConfigDict, saved: Mapping[str, Any]) -> None:
    for name, value in saved.items():
        if name not in config:
            continue
        if isinstance(value, Mapping):
            _take_over(config[name], value)
        else:
            config[name] = tuple(value) if isinstance(value, list) else value


def choose(run: Finished, name: str) -> Prompt:
    """The prompt called best (highest mu), newest, none (an empty one), or by its id. Raises FinishedError for another."""
    named = {"best": populations.best, "newest": populations.newest, "none": lambda _: NO_PROMPT}
    if name in named:
        return named[name](run.population)
    ids = [prompt.id for prompt in run.population.prompts]
    if not name.isdigit() or int(name) not in ids:
        raise FinishedError(f"the prompt is {name!r}; use {', '.join(named)} or an id, 0 to {max(ids)}")
    return run.population[int(name)]


def load(run: Finished, **changes: Any) -> tuple[Policy, Any]:
    """The policy on this machine's devices, and its trained weights there. changes: of the configuration, by dotted name."""
    config = run.config.copy_and_resolve_references()
    config.update_from_flattened_dict(HERE | changes)
    policy, fresh = load_policy(config, *open_model(config))
    return policy, place(run, fresh)


def place(run: Finished, like: Any) -> Any:
    """The trained weights of a checkpoint on the devices, laid out like those of `load`."""
    return jax.tree_util.tree_map_with_path(_placed, run.trainable, like)


def _placed(path: tuple, saved: np.ndarray, fresh: jax.Array) -> jax.Array:
    """A saved array laid out as the fresh one; the padding of tables (Decoder.vocab_rows) depends on the devices."""
    if path[0].key in TABLES:
        rows = min(len(saved), len(fresh))
        saved = np.pad(saved[:rows], ((0, len(fresh) - rows), (0, 0)))
    if saved.shape != fresh.shape:
        where = jax.tree_util.keystr(path, simple=True, separator="/")
        raise FinishedError(f"the checkpoint has {where} of shape {saved.shape}, but the model here needs {fresh.shape}")
    return sharding.put(saved, fresh.sharding)
