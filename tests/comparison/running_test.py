"""Runs at the same time have their own cores."""

import json
import os
import sys

import pytest

from espl_jax.comparison import running

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not bind processes to cores")
TELL = "import json, os, sys, time; time.sleep(0.5); print(json.dumps(sorted(os.sched_getaffinity(0))))"


@pytest.mark.parametrize(
    "cores, processes, shares",
    [
        ({0, 1, 2, 3}, 2, [(0, 2), (1, 3)]), ({4, 5, 9}, 2, [(4, 9), (5,)]), ({0, 1}, 1, [()]), ({0, 1}, 3, [(), (), ()]),
    ],
)  # fmt: skip
def test_cores_are_shared_out_where_there_are_enough(monkeypatch, cores, processes, shares):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: cores)
    assert running.core_shares(processes) == shares


def test_a_run_has_its_share_and_gives_it_back(tmp_path):
    mine = sorted(os.sched_getaffinity(0))
    with open(tmp_path / "lock", "w") as lock, open(tmp_path / "log", "wb") as log:
        runner = running.Runner(None, lock, print)
        for share in ((mine[0],), ()):
            runner._cores.put(share)
        assert [runner._process([sys.executable, "-c", TELL], log) for _ in range(3)] == [0, 0, 0]
        assert runner._process([sys.executable, "-c", "raise SystemExit(3)"], log) == 3
    told = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert told == [[mine[0]], mine, [mine[0]]]
