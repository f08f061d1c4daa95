"""Runs at the same time have their own cores."""

import json
import os
import subprocess
import sys
import threading

import pytest

from espl_jax.comparison import running

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not bind processes to cores")
TELL = "import json, os; print(json.dumps(sorted(os.sched_getaffinity(0))))"


@pytest.mark.parametrize(
    "cores, processes, shares",
    [
        ({0, 1, 2, 3}, 2, [(0, 2), (1, 3)]), ({4, 5, 9}, 2, [(4, 9), (5,)]), ({0, 1}, 1, [()]), ({0, 1}, 3, [(), (), ()]),
    ],
)  # fmt: skip
def test_cores_are_shared_out_where_there_are_enough(monkeypatch, cores, processes, shares):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: cores)
    assert running.core_shares(processes) == shares


def test_what_a_worker_starts_has_its_share_of_the_cores():
    mine, meet = os.sched_getaffinity(0), threading.Barrier(2, timeout=60)

    def started(_):
        meet.wait()  # both workers are at work, neither does both jobs
        return tuple(json.loads(subprocess.check_output([sys.executable, "-c", TELL])))

    with running.workers(2) as pool:
        told = list(pool.map(started, range(2)))
    assert sorted(told) == sorted(share or tuple(sorted(mine)) for share in running.core_shares(2))
    assert os.sched_getaffinity(0) == mine
