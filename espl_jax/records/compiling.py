"""How many programs this process has compiled, or read from its cache on disk, and how long it waited for them."""

import functools

import jax

EVENT = "/jax/core/compile/backend_compile_duration"  # jax's name for it; once a program, in whichever way it is had


@functools.cache
def _seconds() -> list[float]:
    """Seconds of each program from the first call on; jax keeps a listener for as long as the process lives."""
    found: list[float] = []

    def heard(event: str, seconds: float, **_: object) -> None:
        if event == EVENT:
            found.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(heard)
    return found


class Compiling:
    """Counts programs from its making on."""

    def __init__(self):
        self._taken = len(_seconds())

    def take(self) -> dict[str, float]:
        """What came since the last take as metrics: {"time/programs": 2.0, "time/compile": 31.5}, a number and seconds."""
        new = _seconds()[self._taken :]
        self._taken += len(new)
        return {"time/programs": float(len(new)), "time/compile": sum(new)}
