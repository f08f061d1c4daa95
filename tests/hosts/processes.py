"""Runs of several real processes on this machine: the tiny run of tests/tiny_run.py, started once for each process."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEARTBEAT = 10  # seconds
QUICK = {"num_steps": 4, "evaluation.every": 0, "hosts.heartbeat_seconds": HEARTBEAT, "records.grace": 100}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def start(count: int, model: Path, workdir: Path, module: str = "tests.tiny_run", **fields) -> list[subprocess.Popen]:
    """`count` processes of one run; of one alone when count is 1."""
    fields, address = QUICK | fields, f"localhost:{free_port()}"
    started = []
    for i in range(count):
        mine = {"hosts.coordinator": address, "hosts.num_processes": count, "hosts.process_id": i} if count > 1 else {}
        changes = [f"{name}={json.dumps(value)}" for name, value in (fields | mine).items()]
        command = [sys.executable, "-m", module, str(model), str(workdir), *changes]
        pipe, environment = subprocess.PIPE, os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": "1"}
        started.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True))
    return started


def finish(processes: list[subprocess.Popen], seconds: float = 300) -> list[tuple[int, str, str]]:
    """(exit code, standard output, standard error) of each; none outlives this."""
    try:
        ends = [process.communicate(timeout=seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *texts) for process, texts in zip(processes, ends)]


def run(count: int, model: Path, workdir: Path, **fields) -> list[tuple[int, str, str]]:
    """A run to its end, which must be a good one."""
    ends = finish(start(count, model, workdir, **fields))
    for code, _, errors in ends:
        assert code == 0, errors[-3000:]
    return ends


def wait_for(path: Path, seconds: float = 200) -> None:
    """Until there is something at the path."""
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not come"
        time.sleep(0.02)
