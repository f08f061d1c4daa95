"""Checkpoints: every bit comes back, the right ones stay, damage is stepped over and never deleted."""

import shutil
from types import SimpleNamespace
from typing import Any

import flax
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict

from espl_jax.records import checkpoint
from espl_jax.records.checkpoint import Checkpointer, CheckpointError, KeepLastAndBest


@flax.struct.dataclass
class PolicyState:
    """The shape of what train.py saves."""

    trainable: Any
    opt_state: Any
    updates: Any


OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2))


def records(keep_last=2, keep_best=1):
    return ConfigDict({"keep_last": keep_last, "keep_best": keep_best})


def make_policy(seed=0):
    """A few adam steps on weights of two dtypes, so that no array is trivial."""
    keys = jax.random.split(jax.random.key(seed), 2)
    trainable = {
        "layer": {"a": jax.random.normal(keys[0], (4, 3)), "b": jax.random.normal(keys[1], (5,)).astype(jnp.bfloat16)},
        "frozen": {},
    }
    opt_state = OPTIMIZER.init(trainable)
    for _ in range(2):
        updates, opt_state = OPTIMIZER.update(jax.tree.map(jnp.sin, trainable), opt_state, trainable)
        trainable = optax.apply_updates(trainable, updates)
    return PolicyState(trainable, opt_state, jnp.int32(seed))


def assert_same_bits(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


def save_all(workdir, scores, **keep):
    """Saves step 1, 2, ... with these scores (None: not measured); returns the steps that stay."""
    with Checkpointer(workdir, records(**keep)) as checkpointer:
        for step, score in enumerate(scores, start=1):
            metrics = {"train/reward": 0.0} if score is None else {checkpoint.SCORE: score}
            checkpointer.save(step, {"updates": jnp.int32(step)}, {"population": {}}, metrics)
        checkpointer.wait()
        return checkpointer.steps()


def test_round_trip_of_policy_and_host(tmp_path):
    policy, host = (
        make_policy(3),
        {"population": {"prompts": ["è \u2028"]}, "config": {"seed": 1}, "counters": {"t": 1.5}},
    )
    with Checkpointer(tmp_path, records()) as checkpointer:
        checkpointer.save(7, policy, host, {})
    abstract = jax.eval_shape(lambda: make_policy(3))
    with Checkpointer(tmp_path, records()) as checkpointer:
        step, restored, found = checkpointer.restore_latest(abstract)
        assert checkpointer.latest_host() == found
    assert step == 7
    assert_same_bits(restored, policy)
    assert found == {"format": checkpoint.FORMAT, "step": 7, "score": None, **host}


def test_every_bit_pattern_survives(tmp_path):
    """NaN payloads, infinities, signed zeros and subnormals of each dtype."""
    patterns = np.arange(2**16, dtype=np.uint16)
    bits = {
        "bfloat16": patterns.view(ml_dtypes.bfloat16),
        "float16": patterns.view(np.float16),
        "float32": (patterns.astype(np.uint32) << 16 | 1).view(np.float32),
        "int8": np.arange(-128, 128).astype(np.int8),
        "uint32": np.array([0, 1, 2**32 - 1], np.uint32),
        "bool": np.array([True, False]),
    }
    policy = jax.tree.map(jnp.asarray, bits)
    with Checkpointer(tmp_path, records()) as checkpointer:
        checkpointer.save(0, policy, {}, {})
        _, restored, _ = checkpointer.restore_latest(policy)
    assert_same_bits(restored, bits)


def test_what_a_killed_save_left_is_gone_once_it_is_open(tmp_path):
    leftover = tmp_path / "checkpoints" / "7.orbax-checkpoint-tmp-12345" / "policy"
    leftover.mkdir(parents=True)
    (leftover / "array").write_bytes(b"half")
    (tmp_path / "checkpoints" / "notes.txt").write_text("mine", encoding="utf-8")
    with Checkpointer(tmp_path, records()) as checkpointer:
        assert [path.name for path in checkpointer.folder.iterdir()] == ["notes.txt"]
        assert checkpointer.steps() == []


def test_nothing_saved_is_none(tmp_path):
    with Checkpointer(tmp_path, records()) as checkpointer:
        assert checkpointer.restore_latest({}) is None
        assert checkpointer.latest_host() is None
        assert checkpointer.best_step() is None
        assert checkpointer.steps() == []


def test_works_under_a_transfer_guard(tmp_path):
    policy = make_policy()
    try:
        jax.config.update("jax_transfer_guard", "disallow")
        with Checkpointer(tmp_path, records()) as checkpointer:
            checkpointer.save(1, policy, {}, {})
            restored = checkpointer.restore_latest(policy).policy
    finally:
        jax.config.update("jax_transfer_guard", "allow")
    assert_same_bits(restored, policy)


def test_buffers_may_be_donated_at_once(tmp_path):
    increment = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    policy = {"w": jnp.zeros((300, 1000))}
    with Checkpointer(tmp_path, records(keep_last=4)) as checkpointer:
        for step in range(4):
            checkpointer.save(step, policy, {}, {})
            policy = increment(policy)
        for step in range(4):
            np.testing.assert_array_equal(checkpointer.restore(step, policy).policy["w"], step)


def test_the_last_and_the_best_stay(tmp_path):
    assert save_all(tmp_path, [0.1, 0.9, 0.3, 0.2, 0.1], keep_last=2, keep_best=1) == [2, 4, 5]
    with Checkpointer(tmp_path, records()) as checkpointer:
        assert checkpointer.best_step() == 2
    assert sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) == [2, 4, 5]


def test_one_that_is_last_and_best_counts_for_both(tmp_path):
    assert save_all(tmp_path, [0.1, 0.2, 0.3, 0.4], keep_last=2, keep_best=1) == [3, 4]


def test_unmeasured_and_nan_are_never_best(tmp_path):
    assert save_all(tmp_path, [0.2, None, float("nan"), None, None], keep_last=1, keep_best=2) == [1, 5]


def test_scores_are_remembered_by_the_next_process(tmp_path):
    save_all(tmp_path, [0.5, 0.1], keep_last=1, keep_best=1)
    with Checkpointer(tmp_path, records(1, 1)) as checkpointer:
        for step in (3, 4):
            checkpointer.save(step, {"updates": jnp.int32(step)}, {}, {checkpoint.SCORE: 0.2})
        checkpointer.wait()
        assert checkpointer.steps() == [1, 4]


@given(
    scores=st.lists(st.one_of(st.none(), st.sampled_from([0.0, 0.25, 0.5])), max_size=12),
    last=st.integers(1, 4),
    best=st.integers(0, 4),
)
def test_policy_keeps_exactly_the_union(scores, last, best):
    known = {step: score for step, score in enumerate(scores) if score is not None}
    infos = [SimpleNamespace(step=step) for step in range(len(scores))]
    kept = KeepLastAndBest(last, best, known).should_preserve(infos, context=None)
    expected = set(range(len(scores))[-last:])
    for _ in range(min(best, len(known))):  # take the best, the later of equals, one at a time
        top = max(known, key=lambda step: (known[step], step))
        del known[top]
        expected.add(top)
    assert {step for step, keep in enumerate(kept) if keep} == expected


@pytest.mark.parametrize("keep", [{"keep_last": 0}, {"keep_best": -1}])
def test_keeping_nothing_is_refused(tmp_path, keep):
    with pytest.raises(ValueError, match="keep_last"):
        Checkpointer(tmp_path, records(**keep))


def two_checkpoints(workdir, policies):
    with Checkpointer(workdir, records()) as checkpointer:
        for step, policy in policies.items():
            checkpointer.save(step, policy, {"population": {"step": step}}, {})


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # orbax's readers, when one of them fails
def test_truncating_any_file_falls_back_or_does_no_harm(tmp_path):
    """Whatever file of the newest is cut, what comes back is a whole checkpoint: the newest or the one before."""
    policies = {1: make_policy(1), 2: make_policy(2)}
    two_checkpoints(tmp_path / "whole", policies)
    newest = tmp_path / "whole" / "checkpoints" / "2"
    fell_back = set()
    for number, file in enumerate(sorted(path for path in newest.rglob("*") if path.is_file())):
        workdir = tmp_path / str(number)
        shutil.copytree(tmp_path / "whole", workdir)
        target = workdir / "checkpoints" / "2" / file.relative_to(newest)
        target.write_bytes(target.read_bytes()[: file.stat().st_size // 2])
        with Checkpointer(workdir, records()) as checkpointer:
            step, policy, host = checkpointer.restore_latest(policies[1])
        assert_same_bits(policy, policies[step])
        assert host["population"] == {"step": step}
        if step == 1:
            assert (workdir / "unreadable" / "2" / file.relative_to(newest)).exists()
            fell_back.add(file.relative_to(newest).parts[0])
    assert {"host", "policy"} <= fell_back


def test_after_falling_back_the_number_can_be_saved_again(tmp_path, caplog):
    policies = {1: make_policy(1), 2: make_policy(2)}
    two_checkpoints(tmp_path, policies)
    (tmp_path / "checkpoints" / "2" / "host" / "metadata").write_text("{")
    with Checkpointer(tmp_path, records()) as checkpointer:
        assert checkpointer.latest_host()["step"] == 1
        assert checkpointer.restore_latest(policies[1]).step == 1
        assert "checkpoint 2 cannot be read" in caplog.text
        checkpointer.save(2, policies[2], {}, {})
        checkpointer.wait()
        assert_same_bits(checkpointer.restore_latest(policies[1]).policy, policies[2])


def test_when_all_are_damaged_nothing_is_moved_or_started_over(tmp_path):
    two_checkpoints(tmp_path, {1: make_policy(1)})
    (tmp_path / "checkpoints" / "1" / "host" / "metadata").write_text("")
    with Checkpointer(tmp_path, records()) as checkpointer:
        with pytest.raises(CheckpointError, match=r"none of the checkpoints \[1\]"):
            checkpointer.restore_latest(make_policy(1))
    assert (tmp_path / "checkpoints" / "1").exists()


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"w": jnp.zeros((3, 2)), "updates": jnp.int32(0)}, r"w is float32\[2, 3\] but the run needs float32\[3, 2\]"),
        ({"w": jnp.zeros((2, 3), jnp.bfloat16), "updates": jnp.int32(0)}, r"the run needs bfloat16\[2, 3\]"),
        ({"w": jnp.zeros((2, 3))}, r"updates is int32\[\] but the run needs absent"),
        ({"w": jnp.zeros((2, 3)), "updates": jnp.int32(0), "v": jnp.zeros(1)}, r"v is absent but the run needs"),
    ],
)
def test_other_arrays_than_saved_are_refused_not_stepped_over(tmp_path, wanted, message):
    two_checkpoints(tmp_path, {1: {"w": jnp.ones((2, 3)), "updates": jnp.int32(1)}})
    with Checkpointer(tmp_path, records()) as checkpointer:
        with pytest.raises(checkpoint.MismatchError, match=message):
            checkpointer.restore_latest(wanted)
    assert (tmp_path / "checkpoints" / "1").exists()


def test_a_newer_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    two_checkpoints(tmp_path, {1: {"w": jnp.ones(1)}})
    monkeypatch.setattr(checkpoint, "FORMAT", 1)
    for read in (lambda: Checkpointer(tmp_path, records()), lambda: checkpoint.read_raw(tmp_path)):
        with pytest.raises(checkpoint.FormatError, match="update espl_jax"):
            read()


def test_host_that_is_not_json_is_refused_at_the_call(tmp_path):
    with Checkpointer(tmp_path, records()) as checkpointer:
        with pytest.raises(TypeError):
            checkpointer.save(1, {"w": jnp.ones(1)}, {"population": object()}, {})
        assert checkpointer.steps() == []


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(CheckpointError, match="cannot be used"):
        Checkpointer(tmp_path, records()).save(1, {"w": jnp.ones(1)}, {}, {})
