"""Where a step's seconds go."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Timer:
    """Sums wall-clock seconds by phase: `with timer("sample"): ...`, then `timer.take()`.

    JAX dispatches asynchronously: what the device does counts in the phase that first reads a result on the host.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self._clock = clock
        self._seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = self._clock()
        try:
            yield
        finally:
            self._seconds[phase] = self._seconds.setdefault(phase, 0.0) + self._clock() - start

    def take(self) -> dict[str, float]:
        """The seconds since the last take as metrics, {"time/sample": 1.5, ...}; starts over."""
        taken = {f"time/{phase}": seconds for phase, seconds in self._seconds.items()}
        self._seconds = {}
        return taken
