"""Work behind the run's back: one job at a time, in order, and no error lost."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

from absl import logging


class Background:
    """Runs jobs in a thread, of which at most one is under way. A context manager that waits for the last one.

    What a job raises is raised, with the traceback of where it happened, by the next start() or wait(). On the way out of
    another exception the job is still waited for, and its error is only logged.
    """

    def __init__(self, name: str):
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._job: Future[None] | None = None

    def start(self, job: Callable[[], None]) -> None:
        """Starts a job once the one before has ended."""
        self.wait()
        self._job = self._thread.submit(job)

    def wait(self) -> None:
        """Blocks until nothing is under way. Interrupted, it may be called again."""
        if self._job is None:
            return
        wait([self._job])
        job, self._job = self._job, None
        job.result()

    def __enter__(self) -> "Background":
        return self

    def __exit__(self, kind: type | None, *exception: object) -> None:
        try:
            self.wait()
        except Exception:
            if kind is None:
                raise
            logging.exception("what was being recorded is incomplete")  # the exception on its way out is the one to show
        finally:
            self._thread.shutdown()
