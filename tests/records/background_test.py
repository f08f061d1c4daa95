"""One job at a time, in order; errors come back to whoever goes on."""

import threading
import traceback

import pytest

from espl_jax.records.background import Background


def test_jobs_run_in_order_and_one_at_a_time():
    gate, seen = threading.Event(), []
    with Background("test") as background:
        background.start(lambda: (gate.wait(), seen.append(1)))
        assert seen == []
        threading.Timer(0.2, gate.set).start()
        background.start(lambda: seen.append(2))  # waits for the first
        assert seen[0] == 1
    assert seen == [1, 2]


def fail():
    raise OSError("disk full")


@pytest.mark.parametrize("go_on", [lambda b: b.start(lambda: None), lambda b: b.wait(), lambda b: b.__exit__(None)])
def test_an_error_is_raised_once_with_its_own_traceback(go_on):
    background = Background("test")
    background.start(fail)
    with pytest.raises(OSError, match="disk full") as raised:
        go_on(background)
    assert "fail" in [frame.name for frame in traceback.extract_tb(raised.value.__traceback__)]
    background.wait()


def test_an_exception_of_the_run_waits_for_the_job_and_is_the_one_raised():
    gate, seen = threading.Event(), []
    with pytest.raises(KeyboardInterrupt), Background("test") as background:
        background.start(lambda: (gate.wait(), seen.append("done"), fail()))
        threading.Timer(0.2, gate.set).start()
        raise KeyboardInterrupt
    assert seen == ["done"]
