"""The runs of a comparison, each a process of its own, some of them at a time.

What has ended is not run again; what was cut off goes on, as a run does. One that fails is noted with the end of its log, and
the others go on. The comparison's lock is handed down to every process: while one is alive, also after the comparison itself
was killed, no second comparison works in the same directory.
"""

import contextlib
import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from espl_jax import config as configs
from espl_jax.comparison import plan as plans
from espl_jax.comparison.plan import Job, Plan

LOCK = "compare.lock"
LOG = "log.txt"  # in a run's directory: what it wrote to the terminal
PROGRAM = (sys.executable, "-m", "espl_jax.main")
LAST_LINES = 8  # of the log of a run that failed
GRACE = 60.0  # seconds that a run has to end in after SIGTERM

Say = Callable[[str], None]


@dataclass(frozen=True)
class Fate:
    """What became of a job. error: "" or how it failed, with the last lines of its log."""

    job: Job
    error: str = ""


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[IO[str]]:
    """The lock of a comparison's directory. Raises ConfigError while somebody has it."""
    workdir.mkdir(parents=True, exist_ok=True)
    with open(workdir / LOCK, "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise configs.ConfigError(
                f"another comparison, or a run that it left behind, is at work in {workdir}; wait for it or end it"
            ) from error
        yield lock


class Runner:
    """Runs the jobs of a plan."""

    def __init__(self, plan: Plan, lock: IO[str], say: Say, program: Sequence[str] = PROGRAM):
        """say: told of every start and end. program: what starts espl_jax.main."""
        self._plan, self._lock, self._say, self._program = plan, lock, say, tuple(program)
        self._alive: list[subprocess.Popen] = []
        self._stopping = threading.Event()

    def run(self, processes: int) -> list[Fate]:
        """Every job, in the order of the plan, so many at a time. An interrupt ends the runs, which save what they have."""
        with workers(processes) as pool:
            try:
                return list(pool.map(self._job, self._plan.jobs))
            except BaseException:
                self._stop()
                raise

    def _job(self, job: Job) -> Fate:
        began = time.monotonic()
        for number, workdir in enumerate(job.workdirs):
            if self._stopping.is_set():
                return Fate(job, "it was not started")
            try:
                error = self._part(job, number, workdir)
            except (OSError, ValueError, KeyError) as failure:  # its files are damaged, or cannot be written
                error = str(failure)
            if error:
                self._say(f"{job}: failed: {error}")
                return Fate(job, error)
        self._say(f"{job}: done, {time.monotonic() - began:.0f} s")
        return Fate(job)

    def _part(self, job: Job, number: int, workdir: Path) -> str:
        """Runs one part unless it has ended; returns how it failed or ""."""
        if plans.is_done(self._plan, job, number):
            return ""
        if number:
            plans.hand_over(job)
        workdir.mkdir(parents=True, exist_ok=True)
        self._say(f"{job}: {job.parts[number]} {'goes on' if plans.rows_of(workdir) else 'begins'} in {workdir}")
        with open(workdir / LOG, "ab") as log:
            code = self._process(plans.command(self._plan, job, number, self._program), log)
        if code:
            return f"exit code {code}; the end of {workdir / LOG}:\n{tail(workdir / LOG)}"
        return "" if plans.is_done(self._plan, job, number) else "it ended before its budget and its steps were spent"

    def _process(self, command: Sequence[str], log: IO[bytes]) -> int:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, pass_fds=(self._lock.fileno(),)
        )
        self._alive.append(process)
        if self._stopping.is_set():
            process.terminate()
        try:
            return process.wait()
        finally:
            self._alive.remove(process)

    def _stop(self) -> None:
        """Tells every run to end, and kills those that have not after a while."""
        self._stopping.set()
        waiting = list(self._alive)
        for process in waiting:
            process.terminate()
        end = time.monotonic() + GRACE
        while any(process.poll() is None for process in waiting) and time.monotonic() < end:
            time.sleep(0.1)
        for process in waiting:
            if process.poll() is None:
                process.kill()


def workers(processes: int) -> ThreadPoolExecutor:
    """So many threads, each bound to its share of the cores (core_shares); the processes that it starts are bound with it."""
    shares = core_shares(processes)

    def bind():
        if cores := shares.pop():
            os.sched_setaffinity(0, cores)  # of this thread alone

    return ThreadPoolExecutor(processes, thread_name_prefix="run", initializer=bind)


def core_shares(processes: int) -> list[tuple[int, ...]]:
    """The cores that each of so many processes may use: no two the same ones, since runs that share all of them wait for each
    other in every product. () for each, any core, where there are fewer cores than processes or the system has no such thing.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if not 1 < processes <= len(cores):
        return [()] * processes
    return [tuple(cores[number::processes]) for number in range(processes)]


def tail(path: Path) -> str:
    """The last lines of a log."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(line[:300] for line in [line for line in lines if line.strip()][-LAST_LINES:])
