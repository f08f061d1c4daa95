"""A run's work directory as one thing: opened or gone on with, committed to step by step, closed.

Steps are recorded behind the run's back, while the device works on the next one: in order, one at a time.
"""

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
from absl import logging
from ml_collections import ConfigDict

from espl_jax.evolution import population as populations
from espl_jax.evolution.render import render_genome
from espl_jax.records import artifacts, metrics, resume
from espl_jax.records.background import Background
from espl_jax.records.checkpoint import Checkpointer
from espl_jax.records.console import Console
from espl_jax.records.timer import Timer
from espl_jax.structs import RunState


class Logbook:
    """Everything that a run writes. A context manager; `restore` comes first, then `commit` once a step."""

    def __init__(self, config: ConfigDict, workdir: str | Path):
        """Opens the directory and refuses, before anything expensive, a config that contradicts the run in it."""
        self.workdir, self._config = Path(workdir).absolute(), config
        self._as_json = artifacts.config_json(config)
        self._timer, self._started = Timer(), time.monotonic()
        self._copied = threading.Event()
        self._copied.set()
        self._exits = contextlib.ExitStack()
        self._checkpoints = self._exits.enter_context(Checkpointer(self.workdir, config.records))
        saved = self._checkpoints.latest_host()
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
        last = -1 if found is None else found.step
        aside = resume.rewind(self.workdir, last)
        if aside is not None:
            logging.warning("going on from step %d; what was recorded after it is kept in %s", max(last, 0), aside)
        resume.write_config(self.workdir, self._as_json)
        self._metrics = self._exits.enter_context(
            metrics.open_metrics(self.workdir, self._config.records, self._as_json, last)
        )
        self._console = self._exits.enter_context(Console(self._config.num_steps, state.step))
        self._background = self._exits.enter_context(Background("records"))  # the first to end
        self.fresh = found is None
        return state

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Shows that the run is in this phase, and counts its seconds as time/<name>; those of all phases are time/step.

        These are seconds of the program, not of the device, which works through its queue meanwhile: a phase waits for what it
        reads and for all that was queued before. time/sample ends with the last grade. time/update packs and queues the
        gradient and, where no reflection comes between, waits for it; else time/reflect does, since the editor's calls queue
        behind the gradient. time/record, counted in the next step's row, waits until the step before has been recorded.
        """
        self._console.phase(name)
        with self._timer(name):
            yield

    def commit(self, step: Any) -> None:
        """Starts recording a finished train.Step, once the one before is recorded; an error of that one is raised here."""
        state, numbers = step.state, dict(step.metrics)
        with self.phase("record"):
            self._background.wait()
            seconds = self._timer.take()
            numbers |= {**seconds, "time/step": sum(seconds.values())}
            if generated := sum(value for name, value in numbers.items() if name.startswith("tokens/generated_")):
                numbers["time/tokens_per_second"] = generated / numbers["time/step"]
            self._copied.clear()
            self._background.start(partial(self._record, state, numbers, step.files))
            if jax.process_count() > 1:  # orbax's barriers run on the devices, in the same order in every process
                self._background.wait()
        self._console.step_done(state.step, numbers, populations.best(state.population))

    def _record(self, state: RunState, numbers: Mapping[str, float], files: Mapping[str, Any]) -> None:
        """Writes the step's folder, the population, the metrics and, when due, the checkpoint, and waits for it.

        The checkpoint comes last: what is recorded without one is moved aside and written again when the run goes on.
        """
        try:
            population = populations.to_json(state.population)
            artifacts.write_step(self.workdir, state.step, files)
            artifacts.write_json(self.workdir / "population.json", population)
            self._metrics.write(state.step, numbers)
            if state.step % self._config.records.checkpoint_every == 0 or state.step == self._config.num_steps:
                host = {"population": population, "counters": dict(state.counters), "config": self._as_json}
                self._checkpoints.save(state.step, _arrays(state.policy), host, numbers)
        finally:
            self._copied.set()
        self._checkpoints.wait()

    def wait_for_copies(self) -> None:
        """Waits until no record needs the arrays of the state committed last: an update may replace them in place."""
        self._copied.wait()

    def finish(self, state: RunState) -> None:
        """Waits for the last record and shows before, after and the best prompt."""
        self._background.wait()
        evaluated = [row for row in metrics.read(self.workdir) if any(name.endswith("/pass@1") for name in row)]
        first, last = (evaluated[0], evaluated[-1]) if evaluated else ({}, {})
        best = render_genome(populations.best(state.population).genome)
        self._console.finish(first, last, best, time.monotonic() - self._started)


def _arrays(policy: Any) -> dict[str, Any]:
    """The policy's arrays by field, as they are named in a checkpoint."""
    return {"trainable": policy.trainable, "opt_state": policy.opt_state, "updates": policy.updates}


def enable_compilation_cache(folder: str) -> None:
    """Keeps compiled programs on disk between runs; "" keeps none."""
    if folder:
        path = Path(folder).expanduser()
        path.mkdir(parents=True, exist_ok=True)
        jax.config.update("jax_compilation_cache_dir", str(path))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
