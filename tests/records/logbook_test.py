"""Steps are recorded behind the run: whole, in order, with the arrays they had, and no error is lost."""

import dataclasses
import threading
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from espl_jax.evolution.population import root_population
from espl_jax.policy.state import PolicyState
from espl_jax.records import artifacts, checkpoint, metrics
from espl_jax.records.logbook import Logbook
from espl_jax.structs import Genome, RunState
from experiments import base

increment = jax.jit(lambda policy: jax.tree.map(lambda x: x + 1, policy), donate_argnums=0)


@pytest.fixture
def config():
    config = base.get_config()
    config.records.tensorboard = False
    config.num_steps = 3
    return config


def start(config) -> RunState:
    policy = PolicyState({"w": jnp.zeros((300, 400))}, {"m": jnp.zeros(7)}, jnp.int32(0))
    return RunState(0, policy, root_population(Genome("principles"), config.evolution), {"tokens/generated_rollout": 0.0})


def commit(logbook, state):
    files = {"rollouts.jsonl": [{"step": state.step}]}
    logbook.commit(SimpleNamespace(state=state, metrics={"train/reward": state.step / 4}, files=files))


def following(state) -> RunState:
    """The next state, which takes the place of this one's arrays."""
    return dataclasses.replace(state, step=state.step + 1, policy=increment(state.policy))


@pytest.fixture
def gate(monkeypatch):
    """Nothing is written before it is set; it opens by itself after a while."""
    gate, write = threading.Event(), artifacts.write_step
    monkeypatch.setattr(artifacts, "write_step", lambda *args: (gate.wait(20), write(*args)))
    yield gate
    gate.set()


def test_the_run_goes_on_while_a_step_is_recorded_with_the_arrays_it_had(config, tmp_path, gate):
    with Logbook(config, tmp_path) as logbook:
        state = logbook.restore(start(config))
        commit(logbook, state)
        assert not (tmp_path / "metrics.jsonl").read_bytes(), "still at the gate"
        threading.Timer(0.3, gate.set).start()
        logbook.wait_for_copies()
        state = following(state)
        for _ in range(2):
            commit(logbook, state)
            logbook.wait_for_copies()
            state = following(state)
        logbook.finish(state)
    assert [row["step"] for row in metrics.read(tmp_path)] == [0, 1, 2]
    saved = checkpoint.read_raw(tmp_path)
    assert saved.step == 2 and saved.host["counters"] == {"tokens/generated_rollout": 0.0}
    np.testing.assert_array_equal(saved.policy["trainable"]["w"], 2)


def broken(*_):
    raise OSError("disk full")


def test_an_error_ends_the_run_at_the_next_step_and_leaves_what_can_be_gone_on_with(config, tmp_path, monkeypatch):
    with pytest.raises(OSError, match="disk full"), Logbook(config, tmp_path) as logbook:
        state = logbook.restore(start(config))
        commit(logbook, state)
        logbook.wait_for_copies()
        monkeypatch.setattr(artifacts, "write_json", broken)
        state = following(state)
        commit(logbook, state)
        logbook.wait_for_copies()
        state = following(state)
        commit(logbook, state)
    monkeypatch.undo()
    assert (tmp_path / "steps" / "000001").exists() and not (tmp_path / "steps" / "000002").exists()
    with Logbook(config, tmp_path) as logbook:
        assert logbook.restore(start(config)).step == 0
    assert (tmp_path / "superseded" / "000" / "steps" / "000001").exists()


def test_an_error_of_the_last_step_is_raised_by_finish(config, tmp_path, monkeypatch):
    with pytest.raises(OSError, match="disk full"), Logbook(config, tmp_path) as logbook:
        state = logbook.restore(start(config))
        monkeypatch.setattr(artifacts, "write_step", broken)
        commit(logbook, state)
        logbook.finish(state)


def test_an_interrupted_run_finishes_the_record_under_way(config, tmp_path, gate):
    with pytest.raises(KeyboardInterrupt), Logbook(config, tmp_path) as logbook:
        commit(logbook, logbook.restore(start(config)))
        threading.Timer(0.3, gate.set).start()
        raise KeyboardInterrupt
    assert [row["step"] for row in metrics.read(tmp_path)] == [0]
    assert checkpoint.read_raw(tmp_path).step == 0
