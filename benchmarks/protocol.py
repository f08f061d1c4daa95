"""How the driver talks to a contestant: one JSON object a line, over the contestant's standard input and output.

driver -> contestant: {"call": NAME, "arguments": {...}}, then waits. contestant -> driver: {"result": ...} or {"error": TEXT}.
A contestant does nothing but wait while another one runs. Only the standard library is used here, because the peers'
environments do not have espl_jax.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


class ContestantError(RuntimeError):
    """A contestant that failed, or ended without an answer."""


def serve(contestant: Any) -> None:
    """Answers calls of `contestant`'s methods until the driver hangs up.

    What libraries print on standard output goes to standard error, so that it cannot be taken for an answer.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        message = json.loads(line)
        try:
            answer = {"result": getattr(contestant, message["call"])(**message["arguments"])}
        except Exception:
            answer = {"error": traceback.format_exc(limit=-8)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def timed(work: Any) -> float:
    """Seconds that `work()` takes; it must block until its results exist."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


class Contestant:
    """The driver's end: a child process whose methods are called by name.

    name: in tables. command: argv of a program that calls `serve`. environment: added to the process's own.
    Everything the child prints goes to `log`.
    """

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path):
        self.name, self.log = name, log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w", encoding="utf-8") as stderr:
            self.process = subprocess.Popen(
                list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, cwd=ROOT,
                env={**os.environ, **environment}, text=True, encoding="utf-8",
            )

    def call(self, method: str, **arguments: Any) -> Any:
        """What the contestant's method returns. Raises ContestantError with its traceback, or the end of its log."""
        line = ""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps({"call": method, "arguments": arguments}) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        if not line:
            tail = "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-10:])
            why = f"exit status {self.process.wait()}; -9 is what a machine out of memory gives"
            raise ContestantError(f"{self.name} ended while it ran {method} ({why}); the end of {self.log}:\n{tail}")
        answer = json.loads(line)
        if "error" in answer:
            raise ContestantError(f"{self.name} failed in {method}:\n{answer['error']}")
        return answer["result"]

    def close(self) -> None:
        """Hangs up and waits; a child that does not end in time is killed."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
