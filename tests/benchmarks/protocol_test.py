"""The driver and a contestant as two processes."""

import sys
from pathlib import Path

import pytest

from benchmarks.protocol import ROOT, Contestant, ContestantError, timed

FAKE = Path(__file__).parent / "fake_contestant.py"


@pytest.fixture
def fake(tmp_path):
    contestant = Contestant("fake", [sys.executable, str(FAKE)], {"PYTHONPATH": str(ROOT)}, tmp_path / "log.txt")
    yield contestant
    contestant.close()


def test_a_call_is_answered_and_prints_go_to_the_log(fake):
    assert fake.call("sample", seconds=1.5) == {"seconds": 1.5, "useful_tokens": 3}
    assert fake.call("sample", seconds=2.5)["seconds"] == 2.5
    fake.close()
    assert "not an answer" in fake.log.read_text(encoding="utf-8")
    assert fake.process.returncode == 0


def test_a_failure_names_the_contestant_and_leaves_it_usable(fake):
    with pytest.raises(ContestantError, match="(?s)fake failed in fail.*no such weights"):
        fake.call("fail")
    assert fake.call("sample", seconds=1.0)["seconds"] == 1.0


def test_a_contestant_that_ends_is_told_apart_from_one_that_fails(fake):
    with pytest.raises(ContestantError, match="fake ended while it ran end .exit status 3"):
        fake.call("end")
    with pytest.raises(ContestantError, match="fake ended while it ran sample"):
        fake.call("sample", seconds=1.0)


def test_timed_measures_what_it_runs():
    done = []
    assert timed(lambda: done.append(1)) >= 0 and done == [1]
