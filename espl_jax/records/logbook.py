"""A run's work directory as one thing: opened or gone on with, committed to step by step, closed.

Steps are recorded behind the run's back, while the device works on the next one: in order, one at a time.
"""

import contextlib
import dataclasses
import hashlib
import os
import threading
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
from absl import logging
from ml_collections import ConfigDict

from espl_jax import report
from espl_jax.evolution import population as populations
from espl_jax.evolution.render import render_genome
from espl_jax.hosts import endings, members
from espl_jax.records import artifacts, inbox, json_files, ledger, metrics, resume
from espl_jax.records.background import Background
from espl_jax.records.checkpoint import Checkpointer
from espl_jax.records.compiling import Compiling
from espl_jax.records.console import Console
from espl_jax.records.timer import Timer
from espl_jax.structs import RunState


class Logbook:
    """Everything that a run writes. A context manager; `restore` comes first, then `commit` once a step.

    Every process of a run has one and calls it alike: all write checkpoints, the first writes everything else.
    """

    def __init__(self, config: ConfigDict, workdir: str | Path, shows_prompts: bool = True):
        """Opens the directory and refuses, before anything expensive, a config that contradicts the run in it.

        shows_prompts: whether the best prompt is worth showing.
        """
        if "://" in str(workdir):
            raise ValueError(
                f"workdir is {str(workdir)!r}, but records are appended to and renamed, which an object store cannot do; use "
                "a disk that all processes share, or mount the bucket (gcsfuse) and give that path"
            )
        self.workdir, self._config, self._shows_prompts = Path(workdir).absolute(), config, shows_prompts
        self._as_json = artifacts.config_json(config)
        self._timer, self._compiling, self._started = Timer(), Compiling(), time.monotonic()
        self._copied = threading.Event()
        self._copied.set()
        self._exits = contextlib.ExitStack()
        self._checkpoints = self._exits.enter_context(Checkpointer(self.workdir, config.records))
        self._first = members.first()
        saved = self._checkpoints.latest_host()
        self._agree("at the start", {"checkpoints in the work directory": self._checkpoints.steps()})
        if saved is not None:
            for note in resume.check_config(saved["config"], self._as_json, saved["step"]):
                logging.warning("%s", note)

    def __enter__(self) -> "Logbook":
        return self

    def __exit__(self, *exception: object) -> None:
        self._exits.__exit__(*exception)

    def restore(self, start: RunState) -> RunState:
        """The state of the newest checkpoint, or `start`; `fresh` says which.

        What was recorded after that checkpoint is moved aside, since the run will write it again.
        """
        found = self._checkpoints.restore_latest(_arrays(start.policy))
        state = start
        if found is not None:
            state = RunState(
                step=found.step,
                policy=start.policy.replace(**found.policy),
                population=populations.from_json(found.host["population"]),
                counters=found.host["counters"],
            )
        if self._first:
            self._open_files(-1 if found is None else found.step)
        shown = None if self._first else self._exits.enter_context(open(os.devnull, "w", encoding="utf-8"))
        budgeted = any(self._config[budget] for budget in ledger.BUDGETS)
        self._console = self._exits.enter_context(Console(0 if budgeted else self._config.num_steps, state.step, shown))
        self._background = self._exits.enter_context(Background("records"))  # the first to end
        self.fresh = found is None
        return state

    def _open_files(self, last: int) -> None:
        aside = resume.rewind(self.workdir, last)
        if aside is not None:
            logging.warning("going on from step %d; what was recorded after it is kept in %s", max(last, 0), aside)
        resume.write_config(self.workdir, self._as_json)
        self._metrics = self._exits.enter_context(
            metrics.open_metrics(self.workdir, self._config.records, self._as_json, last)
        )

    def take_in(self, state: RunState) -> RunState:
        """The state with what people have asked for since the step before (espl_jax/prompts.py), alike in every process."""
        # One process looks; another could see a file that came a moment later.
        asked = members.broadcast(inbox.due(self.workdir, state.population, state.step) if self._first else None)
        population, fates = inbox.carry_out(state.population, asked, state.step, self._config.evolution)
        if self._first:
            inbox.record(self.workdir, fates)
        return dataclasses.replace(state, population=population)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Shows that the run is in this phase, and counts its seconds as time/<name>; those of all phases are time/step.

        These are seconds of the program, not of the device, which works through its queue meanwhile: a phase waits for what it
        reads and for all that was queued before. time/sample ends with the last grade. time/update packs and queues the
        gradient and, where no reflection comes between, waits for it; else time/reflect does, since the editor's calls queue
        behind the gradient. time/record, counted in the next step's row, waits until the step before has been recorded.
        time/compile are the seconds, within these, that went into time/programs new programs (records/compiling.py).
        """
        self._console.phase(name)
        with self._timer(name):
            yield

    def commit(self, step: Any) -> None:
        """Starts recording a finished train.Step, once the one before is recorded; an error of that one is raised here.

        Raises, in every process, Divergence before anything is written when the processes differ, and ToldToEnd once the step
        is saved when one of them was sent SIGTERM.
        """
        state, numbers = step.state, dict(step.metrics)
        self._agree(f"after step {state.step}", _parts(step))
        end = members.any_told_to_end() and not self._is_last(state)
        with self.phase("record"):
            self._background.wait()
            seconds = self._timer.take()
            numbers |= {**seconds, "time/step": sum(seconds.values()), **self._compiling.take()}
            if generated := sum(value for name, value in numbers.items() if name.startswith("tokens/generated_")):
                numbers["time/tokens_per_second"] = generated / numbers["time/step"]
            self._copied.clear()
            self._background.start(partial(self._record, state, numbers, step.files, end))
            if jax.process_count() > 1:  # orbax's barriers run on the devices, in the same order in every process
                self._background.wait()
        self._console.step_done(state.step, numbers, populations.best(state.population) if self._shows_prompts else None)
        if end:
            self._background.wait()
            raise endings.ToldToEnd(f"told to end; start the same command again, and the run goes on after step {state.step}")

    def _agree(self, where: str, parts: Mapping[str, Any]) -> None:
        """Raises Divergence unless every process says the same."""
        if jax.process_count() > 1:
            members.agree(where, {name: _digest(value) for name, value in parts.items()})

    def _record(self, state: RunState, numbers: Mapping[str, float], files: Mapping[str, Any], end: bool) -> None:
        """Writes the step's folder, the population, the metrics and, when due or at the end, the checkpoint; waits for it.

        The checkpoint comes last: what is recorded without one is moved aside and written again when the run goes on. A process
        that was told to end does not end in here.
        """
        with endings.recording:
            self._write(state, numbers, files, end or self._is_last(state))

    def _is_last(self, state: RunState) -> bool:
        return ledger.is_last(self._config, state.step, state.counters)

    def _write(self, state: RunState, numbers: Mapping[str, float], files: Mapping[str, Any], end: bool) -> None:
        try:
            population = populations.to_json(state.population)
            if self._first:
                self._write_files(state.step, population, numbers, files)
            if state.step % self._config.records.checkpoint_every == 0 or end:
                host = {"population": population, "counters": dict(state.counters), "config": self._as_json}
                self._checkpoints.save(state.step, _arrays(state.policy), host, numbers)
        finally:
            self._copied.set()
        self._checkpoints.wait()

    def _write_files(self, step: int, population: Any, numbers: Mapping[str, float], files: Mapping[str, Any]) -> None:
        try:
            artifacts.write_step(self.workdir, step, files)
            artifacts.write_json(self.workdir / "population.json", population)
            self._metrics.write(step, numbers)
        except OSError as error:  # a full disk, one that has become read-only, a network disk that is gone
            raise OSError(
                f"step {step} could not be recorded in {self.workdir}: {error}; the checkpoints before it are kept, and the "
                "run goes on from the newest when it is started again"
            ) from error

    def wait_for_copies(self) -> None:
        """Waits until no record needs the arrays of the state committed last: an update may replace them in place."""
        self._copied.wait()

    def finish(self, state: RunState) -> None:
        """Waits for the last record, shows before, after and the best prompt, and writes the report."""
        self._background.wait()
        if not self._first:
            return
        evaluated = [row for row in metrics.read(self.workdir) if any(name.endswith("/pass@1") for name in row)]
        first, last = (evaluated[0], evaluated[-1]) if evaluated else ({}, {})
        best = render_genome(populations.best(state.population).genome) if self._shows_prompts else None
        self._console.finish(first, last, best, time.monotonic() - self._started)
        if self._config.records.report:
            report.attempt(self.workdir)


def _arrays(policy: Any) -> dict[str, Any]:
    """The policy's arrays by field, as they are named in a checkpoint."""
    return {"trainable": policy.trainable, "opt_state": policy.opt_state, "updates": policy.updates}


def _parts(step: Any) -> dict[str, Any]:
    """What must be the same in every process after a step, by name: both halves' state, every text, reward and number."""
    state = step.state
    known = {"step": state.step, "population": populations.to_json(state.population), "counters": dict(state.counters)}
    return known | {"metrics": step.metrics} | dict(step.files)


def _digest(value: Any) -> str:
    return hashlib.sha256(json_files.dumps(value).encode("utf-8", "backslashreplace")).hexdigest()


def enable_compilation_cache(folder: str) -> None:
    """Keeps compiled programs on disk between runs; "" keeps none."""
    if folder:
        path = Path(folder).expanduser()
        path.mkdir(parents=True, exist_ok=True)
        jax.config.update("jax_compilation_cache_dir", str(path))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
