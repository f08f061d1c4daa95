"""One atomic checkpoint holds both halves of a run: the policy's arrays and, as JSON, everything on the host.

  DIR/checkpoints/12/policy   arrays (trained weights or adapter, optimizer, counters), written by every process
  DIR/checkpoints/12/host     {"format", "step", "score" (validation/pass@1 or null), "population", "config", ...}
  DIR/unreadable/12           checkpoints that could not be read and were stepped back over

orbax writes a checkpoint under a temporary name and renames it when all of it is on disk: a process that is killed at
any moment leaves whole checkpoints and, at worst, a temporary folder that the next Checkpointer deletes.
"""

import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

FORMAT = 1  # of the host item; a reader refuses a higher one
SCORE = "validation/pass@1"  # what "best" means


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read; the message says in one sentence what to do."""


class Restored(NamedTuple):
    """A checkpoint: the number of steps done, the policy's arrays, and the host's half as JSON."""

    step: int
    policy: Any
    host: dict[str, Any]


class KeepLastAndBest:
    """orbax's rule of which checkpoints stay: the last `last` and the `best` highest scores (the later of equals).

    scores: by step, filled by the owner. orbax can store metrics itself, but cannot open a folder in which one such
    file is damaged.
    """

    def __init__(self, last: int, best: int, scores: Mapping[int, float]):
        if last < 1 or best < 0:
            raise ValueError(f"records.keep_last is {last} and records.keep_best {best}; use at least 1 and 0")
        self._last, self._best, self._scores = last, best, scores

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """One verdict for each checkpoint, oldest first."""
        steps = [info.step for info in checkpoints]
        kept = set(ranked(steps, self._scores)[: self._best]) | set(steps[-self._last :])
        return [step in kept for step in steps]


def ranked(steps: Sequence[int], scores: Mapping[int, float]) -> list[int]:
    """The steps that have a score, best first, the later of equals first."""
    return sorted((step for step in steps if step in scores), key=lambda step: (scores[step], step), reverse=True)


class Checkpointer:
    """Saves and restores the run in a work directory. Every process of a run makes one and calls it alike.

    A context manager: leaving it waits for the save under way.
    """

    def __init__(self, workdir: str | Path, records: ConfigDict):
        """records: keep_last, keep_best (experiments/base.py). Raises CheckpointError if the folder cannot be made."""
        self._workdir = Path(workdir).absolute()
        self._saving: int | None = None
        self._scores: dict[int, float] = {}
        policy = KeepLastAndBest(records.keep_last, records.keep_best, self._scores)
        options = ocp.CheckpointManagerOptions(preservation_policy=policy)
        with self._clear_errors(f"the folder {self.folder} cannot be used"):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._delete_unfinished()
            self._manager = ocp.CheckpointManager(self.folder, item_names=("policy", "host"), options=options)
        for host in filter(None, map(self._readable_host, self.steps())):
            self._note_score(host)

    @property
    def folder(self) -> Path:
        """Where the checkpoints are."""
        return self._workdir / "checkpoints"

    def save(self, step: int, policy: Any, host: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """Starts saving and returns once the arrays are copied; they may be donated or changed then.

        policy: a pytree of arrays, sharded in any way. host: what JSON can hold. metrics: of this step; only
        validation/pass@1 is looked at, and may be missing. Waits for the save before. Raises CheckpointError when this
        save or the one before failed, TypeError when host is not JSON.
        """
        known = {"format": FORMAT, "step": step, "score": _score(metrics)}
        item = json.loads(json.dumps({**host, **known}))  # a copy, and an error now if it is not JSON
        self.wait()
        self._saving = step
        self._note_score(item)
        args = ocp.args.Composite(policy=ocp.args.StandardSave(policy), host=ocp.args.JsonSave(item))
        with self._clear_errors(f"the checkpoint of step {step} was not saved"):
            self._manager.save(step, args=args)

    def wait(self) -> None:
        """Blocks until the save under way is on disk. Raises CheckpointError if it failed."""
        with self._clear_errors(f"the checkpoint of step {self._saving} was not saved"):
            self._manager.wait_until_finished()

    def steps(self) -> list[int]:
        """Steps of the checkpoints, oldest first, one that is being saved included."""
        return list(self._manager.all_steps())

    def best_step(self) -> int | None:
        """The kept step of the highest validation/pass@1, the later of equals; None when none was measured."""
        self.wait()
        return next(iter(ranked(self.steps(), self._scores)), None)

    def latest_host(self) -> dict[str, Any] | None:
        """The host's half of the newest checkpoint that has one, without reading arrays; None without checkpoints.

        For checking a resumed run's config before a model is loaded.
        """
        self.wait()
        return next(filter(None, map(self._readable_host, reversed(self.steps()))), None)

    def restore_latest(self, abstract_policy: Any) -> Restored | None:
        """The newest checkpoint that can be read, each array straight into its sharding; None when there is none.

        abstract_policy: the policy's pytree with jax.ShapeDtypeStruct (and shardings) or arrays as leaves. A checkpoint
        that cannot be read is logged, moved to DIR/unreadable and stepped over. Raises CheckpointError when none can be
        read, MismatchError when the arrays are of another shape, dtype or name than asked for.
        """
        self.wait()
        damaged = []
        for step in reversed(self.steps()):
            found = self._try_restore(step, abstract_policy)
            if found is not None:
                self._move_aside(damaged)
                return found
            damaged.append(step)
        if damaged:
            raise CheckpointError(
                f"none of the checkpoints {damaged} in {self.folder} can be read; move that folder away to start again"
            )
        return None

    def restore(self, step: int, abstract_policy: Any) -> Restored:
        """The checkpoint of one step, say best_step(), as restore_latest does it; what is wrong with it is raised."""
        self.wait()
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, abstract_policy)
        with jax.transfer_guard("allow"):
            host = _read_host(self.folder / str(step))
            _check_arrays(_names(_metadata(self.folder / str(step))), _names(abstract))
            items = ocp.args.Composite(policy=ocp.args.StandardRestore(abstract))
            return Restored(host["step"], self._manager.restore(step, args=items)["policy"], host)

    def close(self) -> None:
        """Waits for the save under way and ends orbax's threads. Raises CheckpointError if the save failed."""
        with self._clear_errors(f"the checkpoint of step {self._saving} was not saved"):
            self._manager.close()

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, kind: type | None, *exception: object) -> None:
        try:
            self.close()
        except CheckpointError as error:
            if kind is None:
                raise
            logging.error("%s", error)  # the exception on its way out is the one to show

    def _delete_unfinished(self) -> None:
        # orbax's own clean-up is a thread that nobody can wait for: in a run that ends at once it dies with a traceback.
        if jax.process_index() == 0:
            for path in filter(ocp.utils.is_tmp_checkpoint, self.folder.iterdir()):
                shutil.rmtree(path)

    def _readable_host(self, step: int) -> dict[str, Any] | None:
        try:
            return _read_host(self.folder / str(step))
        except FormatError:
            raise
        except (OSError, ValueError, KeyError) as error:
            logging.warning("the host's half of checkpoint %d cannot be read: %s", step, _first_line(error))
            return None

    def _note_score(self, host: Mapping[str, Any]) -> None:
        self._scores.pop(host["step"], None)
        if host["score"] is not None:
            self._scores[host["step"]] = host["score"]

    def _try_restore(self, step: int, abstract_policy: Any) -> Restored | None:
        """None when any process cannot read its part; a policy that asks for other arrays is raised as it is."""
        restored = None
        try:
            restored = self.restore(step, abstract_policy)
        except (MismatchError, FormatError):
            raise
        except Exception as error:  # orbax and tensorstore raise many kinds for a damaged file
            logging.warning("checkpoint %d cannot be read: %s", step, _first_line(error))
        return restored if _everywhere(restored is not None) else None

    def _move_aside(self, steps: Sequence[int]) -> None:
        """Puts unreadable checkpoints out of the way of those that will be saved under their numbers."""
        for step in steps if jax.process_index() == 0 else ():
            target = self._workdir / "unreadable" / str(step)
            while target.exists():
                target = target.with_name(target.name + "x")
            target.parent.mkdir(exist_ok=True)
            (self.folder / str(step)).rename(target)
            logging.warning("checkpoint %d could not be read and is kept in %s", step, target)
        if steps:
            _everywhere(True)
            self._manager.reload()

    @contextmanager
    def _clear_errors(self, what: str) -> Iterator[None]:
        """Lets copies to the host happen under a caller's transfer guard, and says in one sentence what failed."""
        try:
            with jax.transfer_guard("allow"):
                yield
        except Exception as error:
            raise CheckpointError(
                f"{what}: {_first_line(error)}; checkpoints saved before are kept, "
                "and the run goes on from the newest when it is started again"
            ) from error


class MismatchError(ValueError):
    """A checkpoint holds other arrays than were asked for."""


class FormatError(ValueError):
    """A checkpoint was written by a newer version of this program."""


def read_raw(workdir: str | Path, step: int | None = None, only: str = "") -> Restored:
    """A checkpoint as nested dicts and lists of numpy arrays, without a model, whatever devices wrote it. Changes nothing.

    step: which; None: the newest. only: name of the one item of the policy to read ("trainable"); "": all. Raises
    FileNotFoundError when there is no such checkpoint, and whatever orbax raises for a damaged one.
    """
    folder = Path(workdir).absolute() / "checkpoints"
    steps = ocp.path.step.checkpoint_steps(folder) if folder.exists() else []
    if not steps:
        raise FileNotFoundError(f"there is no checkpoint in {folder}")
    if step is not None and step not in steps:
        raise FileNotFoundError(f"there is no checkpoint of step {step} in {folder}; those of {sorted(steps)} are there")
    chosen = folder / str(max(steps) if step is None else step)
    host, saved = _read_host(chosen), _metadata(chosen)
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), {only: saved[only]} if only else saved)
    wanted = ocp.args.PyTreeRestore(item=as_numpy, restore_args=as_numpy, partial_restore=bool(only))
    policy = ocp.PyTreeCheckpointHandler().restore(epath.Path(chosen / "policy"), args=wanted)
    return Restored(host["step"], policy, host)


def _read_host(checkpoint: Path) -> dict[str, Any]:
    """The host's half. Raises FormatError when it is newer than this program."""
    host = ocp.JsonCheckpointHandler().restore(epath.Path(checkpoint / "host"))
    if host["format"] > FORMAT:
        raise FormatError(f"{checkpoint} has format {host['format']} and this program knows {FORMAT}; update espl_jax")
    return host


def _metadata(checkpoint: Path) -> Any:
    """The tree of saved arrays with their shapes and dtypes."""
    return ocp.PyTreeCheckpointHandler().metadata(epath.Path(checkpoint / "policy")).tree


def _score(metrics: Mapping[str, float]) -> float | None:
    """validation/pass@1; none when it was not measured or is not finite."""
    return float(metrics[SCORE]) if SCORE in metrics and math.isfinite(metrics[SCORE]) else None


def _names(tree: Any) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and dtype of each array by its path, "opt_state.1.0.mu.layer"."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    name = jax.tree_util.keystr
    return {name(path, simple=True, separator="."): (tuple(x.shape), np.dtype(x.dtype)) for path, x in leaves}


def _check_arrays(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    for name in sorted(saved.keys() | wanted.keys()):
        if saved.get(name) != wanted.get(name):
            raise MismatchError(
                f"the checkpoint's array {name} is {_described(saved.get(name))} but the run needs "
                f"{_described(wanted.get(name))}; was it saved with another model, adapter or optimizer?"
            )


def _described(array: tuple[tuple[int, ...], np.dtype] | None) -> str:
    return "absent" if array is None else f"{array[1].name}{list(array[0])}"


def _everywhere(ok: bool) -> bool:
    """Whether all processes say so; also a barrier."""
    if jax.process_count() == 1:
        return ok
    with jax.transfer_guard("allow"):
        return bool(np.all(multihost_utils.process_allgather(np.asarray(ok))))


def _first_line(error: BaseException) -> str:
    text = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {text}"[:300]
