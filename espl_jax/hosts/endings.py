"""How a run ends before its time: told to by SIGTERM, or because another of its processes is gone.

Both end with exit code 75 (EX_TEMPFAIL): what is saved is whole, and the same command goes on from there. A step is a
transaction, so SIGTERM waits for the step under way only `grace` seconds, then drops it; what is being written is finished.
Signals belong to the process, so this module's state does too.
"""

import ctypes
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

import jax
from absl import logging

RESTART = 75  # start the same command again
GONE = (
    "another process of this run is gone (the lines above say which), so this one stops too; what was saved is kept: start "
    "the same command again in every process, and the run goes on from the newest checkpoint"
)
DROPPED = (
    "SIGTERM came, and the step under way did not end within records.grace seconds; it is dropped: start the same command "
    "again, and the run goes on from the newest checkpoint"
)
HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int)

recording = threading.Lock()  # held while a step is being written: nobody leaves in between
_told = threading.Event()
_aborted = [RESTART]  # the exit code when the runtime aborts
_kept: list[object] = []  # what C and the signal module hold no reference to


class ToldToEnd(RuntimeError):
    """SIGTERM came; the step it came in is saved."""


def told_to_end() -> bool:
    """Whether this process has been sent SIGTERM."""
    return _told.is_set()


def listen(grace: float) -> None:
    """From now on SIGTERM is heard, even while the main thread waits for the device. grace: in seconds."""
    ear, mouth = socket.socketpair()
    mouth.setblocking(False)
    signal.set_wakeup_fd(mouth.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, lambda *_: None)  # a second one changes nothing
    _kept.append(mouth)
    threading.Thread(target=_hear, args=(ear, grace), name="sigterm", daemon=True).start()


def _hear(ear: socket.socket, grace: float) -> None:
    while signal.SIGTERM not in ear.recv(16):
        pass
    logging.warning("SIGTERM: the run ends after this step, or in %g s without it", grace)
    _told.set()
    threading.Event().wait(grace)
    recording.acquire()  # and never released
    exit_now(RESTART, DROPPED)


def translate_aborts() -> None:
    """Has the process exit with 75 when the runtime aborts it, as jax.distributed does once another process is gone."""
    handler = HANDLER(lambda signum: exit_now(_aborted[0], GONE if _aborted[0] == RESTART else ""))
    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = [ctypes.c_int, HANDLER], ctypes.c_void_p
    libc.signal(signal.SIGABRT, handler)
    _kept.append(handler)


def exit_now(code: int, message: str) -> NoReturn:
    """Ends the process without waiting for anybody."""
    if message:
        os.write(2, f"error: {message}\n".encode())
    os._exit(code)


def leave(code: int, aborted: int) -> NoReturn:
    """Ends the process; one of several waits, a while, for the others to come to their end too.

    code: when all come. aborted: when some do not.
    """
    if jax.distributed.is_initialized():
        _aborted[0] = aborted
        _shut_down(lambda: exit_now(aborted, GONE if aborted == RESTART else ""))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _shut_down(otherwise: Callable[[], NoReturn]) -> None:
    try:
        jax.distributed.shutdown()
    except Exception:  # its errors have many types; all say that somebody is missing
        otherwise()
