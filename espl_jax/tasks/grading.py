"""Grading beside the run, in worker processes that are killed when an answer takes too long: no answer can hold up a run.

The workers are fresh interpreters that talk over a pipe: nothing is forked (JAX has threads) and the program's main
module is not imported again (it would import JAX), which rules out multiprocessing's pools.
"""

import contextlib
import os
import pickle
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait

from espl_jax.structs import Grade, Grader, Problem

REPLY_CHARACTERS = 200_000  # only the end of a longer reply is graded: answers come last
MEMORY_BYTES = 4 << 30  # address space of a worker
DEATHS = 3  # of its workers before an answer is blamed: they may be killed from outside, several at once
STARTUP_SECONDS = 180.0  # imports may be slow on a network disk
ORPHAN_SECONDS = 5.0  # a worker whose parent is gone outlives an answer's time limit by this much

Verifier = Callable[[Problem, str], Grade]


class Once:
    """A grader's front for one call: equal (problem, text) pairs are submitted once."""

    def __init__(self, grader: Grader):
        self._grader = grader
        self._futures: dict[tuple[str, str], Future[Grade]] = {}

    def submit(self, problem: Problem, text: str) -> Future[Grade]:
        """The grade of a reply, some time."""
        key = (problem.id, text)
        if key not in self._futures:
            self._futures[key] = self._grader.submit(problem, text)
        return self._futures[key]


def grade_all(grader: Grader, pairs: Sequence[tuple[Problem, str]]) -> list[Grade]:
    """One Grade a pair, in order, once all are there."""
    once = Once(grader)
    futures = [once.submit(problem, text) for problem, text in pairs]
    return [future.result() for future in futures]


class Inline:
    """A plain function as a grader: for verifiers that are quick and safe enough to run in the caller's thread."""

    def __init__(self, verify: Verifier):
        self._verify = verify

    def submit(self, problem: Problem, text: str) -> Future[Grade]:
        """The grade, already there. Raises what the function raises."""
        future: Future[Grade] = Future()
        future.set_result(self._verify(problem, text))
        return future

    def close(self) -> None:
        """Nothing was started."""


@dataclass(eq=False)
class _Job:
    problem: Problem
    text: str
    deaths: int = 0  # of its workers: it may not have been the job's fault
    future: Future[Grade] = field(default_factory=Future)


class GradingPool:
    """Grades replies in `workers` processes; `timeout` is in seconds, per answer.

    factory: a picklable function without arguments, called once in each worker for its verifier; what is slow to
    import belongs in there. Processes start with the first answers and are kept until close(). One thread hands the answers
    out and listens; it alone knows the workers.
    """

    def __init__(self, factory: Callable[[], Verifier], workers: int, timeout: float):
        self._factory = pickle.dumps(factory)
        self._size = workers
        self._timeout = timeout
        self._workers: list[_Worker] = []
        self._lock = threading.Lock()  # of what follows, by which callers and the thread meet
        self._thread: threading.Thread | None = None
        self._inbox: list[_Job | None] = []  # None: end
        self._ear, self._bell = Pipe(duplex=False)  # rung when the inbox is no longer empty

    def submit(self, problem: Problem, text: str) -> Future[Grade]:
        """The grade of a reply, some time.

        An answer past the time limit, or whose worker dies three times, scores 0 and its note says so. The future holds an
        error (RuntimeError) only if workers cannot start (the factory failed) or the pool is closed.
        """
        job = _Job(problem, text[-REPLY_CHARACTERS:])
        job.future.set_running_or_notify_cancel()  # it will not be cancelled
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="grading", daemon=True)
                self._thread.start()
            self._tell(job)
        return job.future

    def close(self) -> None:
        """Ends the workers and the thread. A later submit() starts new ones."""
        with self._lock:
            thread = self._thread
            if thread is not None:
                self._tell(None)
        if thread is not None:
            thread.join()

    def _tell(self, message: _Job | None) -> None:
        if not self._inbox:
            self._bell.send_bytes(b"!")
        self._inbox.append(message)

    def _told(self) -> list[_Job | None]:
        """What is new in the inbox."""
        if self._inbox:
            self._ear.recv_bytes()
        messages, self._inbox = self._inbox, []
        return messages

    def _serve(self) -> None:
        """The thread: grades until it is told to end. Then no process is left, and no future without an outcome."""
        waiting: deque[_Job] = deque()
        failure: BaseException = RuntimeError("the grading pool was closed before the answer was graded")
        try:
            self._dispatch(waiting)
        except BaseException as error:  # noqa: BLE001  whoever asks for the grades raises it
            failure = error
        with self._lock:
            abandoned = [*waiting, *(worker.job for worker in self._workers), *self._told()]
            self._end()
            self._thread = None
        for job in abandoned:
            if job is not None:
                job.future.set_exception(failure)

    def _dispatch(self, waiting: deque[_Job]) -> None:
        while True:
            self._hire(len(waiting) + sum(worker.job is not None for worker in self._workers))
            for worker in self._workers:
                if worker.idle and waiting:
                    worker.give(waiting.popleft(), self._timeout)
            for worker in self._due():
                self._settle(worker, waiting)
            with self._lock:
                messages = self._told()
            waiting.extend(job for job in messages if job is not None)
            if None in messages:
                return

    def _hire(self, wanted: int) -> None:
        """Replaces workers that ended; starts no more than there are answers to grade."""
        for worker in [worker for worker in self._workers if worker.ended]:
            worker.end()
            self._workers.remove(worker)
        while len(self._workers) < min(self._size, wanted):
            self._workers.append(_Worker(self._factory, self._timeout))

    def _due(self) -> list["_Worker"]:
        """Waits for news of any kind; the workers that have something to say or are past their deadline."""
        busy = [worker for worker in self._workers if not worker.idle]
        deadline = min((worker.deadline for worker in busy), default=None)
        remaining = None if deadline is None else max(0.0, deadline - time.monotonic())
        heard = wait([self._ear, *(worker.connection for worker in busy)], remaining)
        now = time.monotonic()
        return [worker for worker in busy if worker.connection in heard or worker.deadline <= now]

    def _settle(self, worker: "_Worker", waiting: deque[_Job]) -> None:
        """Hears what became of a worker's job; one whose worker died goes back to the head of the queue."""
        grade = worker.outcome(self._timeout)
        job, worker.job = worker.job, None
        if job is None:  # it has started
            return
        job.deaths += grade is None
        if grade is None and job.deaths < DEATHS:
            waiting.appendleft(job)
        else:
            job.future.set_result(grade or Grade(0.0, note="worker died"))

    def _end(self) -> None:
        for worker in self._workers:
            worker.end()
        self._workers = []


class _Worker:
    """A process and what it is doing: starting (no job), idle, or grading a job; `deadline` is in monotonic seconds."""

    def __init__(self, factory: bytes, timeout: float):
        self.connection, theirs = Pipe()
        limits = [str(MEMORY_BYTES), str(timeout + ORPHAN_SECONDS)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "espl_jax.tasks.worker", str(theirs.fileno()), *limits],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=_environment(),
        )
        theirs.close()
        self.idle = False
        self.job: _Job | None = None
        self.deadline = time.monotonic() + STARTUP_SECONDS
        _send(self.connection, factory)

    @property
    def ended(self) -> bool:
        """Whether the process is gone and nothing is left to hear from it."""
        return self.idle and self.process.poll() is not None

    def give(self, job: _Job, timeout: float):
        """Starts on a job; if the process is gone, outcome() finds out."""
        self.idle, self.job = False, job
        self.deadline = time.monotonic() + timeout
        _send(self.connection, pickle.dumps((job.problem, job.text)))

    def outcome(self, timeout: float) -> Grade | None:
        """The grade of its job; None if the process died, or if all it had to say is that it has started."""
        if not self.connection.poll():
            self.end()
            self._must_have_started(f"is still not ready after {STARTUP_SECONDS:.0f} s")
            return Grade(0.0, note=f"timeout after {timeout:g} s")
        try:
            message = self.connection.recv()
        except (EOFError, OSError):
            self.end()
            self._must_have_started("ended before it was ready")
            return None
        if isinstance(message, str):
            self._must_have_started(f"failed with {message}")
        self.idle = True
        return message

    def end(self):
        """Kills the process and leaves nothing of it behind."""
        self.idle = True
        self.process.kill()
        self.process.wait()
        self.connection.close()

    def _must_have_started(self, problem: str):
        if self.job is None:
            raise RuntimeError(f"a grading worker {problem}; its own output, if any, is above")


def _send(connection: Connection, pickled: bytes):
    with contextlib.suppress(OSError):  # the process is gone; the next read says so
        connection.send_bytes(pickled)


def _environment() -> dict[str, str]:
    """Ours, with the same import path, one thread a library, and set order that is the same in every worker."""
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    single = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    return {**os.environ, **single, "PYTHONPATH": path, "PYTHONHASHSEED": "0", "PYTHONWARNINGS": "ignore"}
