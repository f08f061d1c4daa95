"""What a policy is made of, and the optimizer's steps by hand."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from espl_jax.policy import state as states
from experiments import base


def tiny_config(directory, **rl):
    config = base.get_config()
    config.model.update(path=str(directory), dtype="float32", max_length=128)
    config.rl.update(lora_rank=4, lora_alpha=8.0)
    config.rl.update(rl)
    return config


def make(config):
    return states.make_policy(config, *states.open_model(config))


# -- the optimizer -----------------------------------------------------------------------------------------------------


def steps_of(count, gradient=1.0, weight=0.0, num_steps=10, **changes):
    """How far one weight moves in each of `count` steps of a constant gradient."""
    rl = dict(
        learning_rate=1.0, schedule="constant", warmup_steps=0, adam_b1=0.9, adam_b2=0.95, adam_eps=1e-12,
        weight_decay=0.0, max_grad_norm=0.0, num_minibatches=1,
    )  # fmt: skip
    optimizer = states.make_optimizer(SimpleNamespace(**(rl | changes)), num_steps)
    params = jnp.float32(weight)
    opt_state, moves = optimizer.init(params), []
    for _ in range(count):
        move, opt_state = optimizer.update(jnp.float32(gradient), opt_state, params)
        moves.append(-float(move))
    return moves


@pytest.mark.parametrize("gradient", [0.01, 5.0])
def test_adam_moves_by_the_learning_rate_under_a_constant_gradient(gradient):
    np.testing.assert_allclose(steps_of(3, gradient, learning_rate=0.25), [0.25] * 3, rtol=1e-5)


def test_a_linear_schedule_reaches_0_after_the_last_step():
    np.testing.assert_allclose(steps_of(6, schedule="linear", num_steps=5), [1, 0.8, 0.6, 0.4, 0.2, 0], atol=1e-6)


def test_a_cosine_schedule():
    expected = [(1 + np.cos(np.pi * k / 4)) / 2 for k in range(5)]
    np.testing.assert_allclose(steps_of(5, schedule="cosine", num_steps=4), expected, atol=1e-6)


@pytest.mark.parametrize(
    "schedule, after",
    [("constant", [1, 1, 1, 1]), ("linear", [1, 0.75, 0.5, 0.25]), ("cosine", [1, 0.853553, 0.5, 0.146447])],
)
def test_warmup_rises_to_the_learning_rate_and_the_schedule_takes_the_rest(schedule, after):
    moves = steps_of(8, schedule=schedule, warmup_steps=4, num_steps=8)
    np.testing.assert_allclose(moves[:4], [1 / 4, 2 / 4, 3 / 4, 1], rtol=1e-5)
    np.testing.assert_allclose(moves[4:], after, rtol=1e-5)


def test_a_schedule_counts_the_optimizer_steps_of_all_minibatches():
    moves = steps_of(4, schedule="linear", num_steps=2, num_minibatches=2)
    np.testing.assert_allclose(moves, [1, 0.75, 0.5, 0.25], rtol=1e-5)


def test_warmup_may_be_as_long_as_the_run():
    assert np.isfinite(steps_of(6, schedule="linear", warmup_steps=6, num_steps=4)).all()


def test_gradients_are_clipped_by_their_global_norm():
    """With eps 1 the first step is g / (g + 1): 10/11 as it is, 1/2 once clipped to 1; smaller ones are left alone."""
    np.testing.assert_allclose(steps_of(1, 10.0, adam_eps=1.0), [10 / 11], rtol=1e-5)
    np.testing.assert_allclose(steps_of(1, 10.0, adam_eps=1.0, max_grad_norm=1.0), [1 / 2], rtol=1e-5)
    np.testing.assert_allclose(steps_of(1, 0.25, adam_eps=1.0, max_grad_norm=1.0), [0.2], rtol=1e-5)


def test_weight_decay_is_decoupled():
    (move,) = steps_of(1, weight=3.0, learning_rate=0.1, weight_decay=0.5)
    np.testing.assert_allclose(move, 0.1 + 0.1 * 0.5 * 3, rtol=1e-5)


# -- policies ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def adapted(tiny_qwen3):
    return make(tiny_config(tiny_qwen3))


def test_under_an_adapter_the_base_is_frozen_and_is_the_reference(adapted):
    policy, state = adapted
    assert {leaf.dtype for leaf in jax.tree.leaves(policy.frozen)} == {jnp.dtype(jnp.bfloat16)}
    assert policy.reference["params"] is policy.frozen, "no second copy"
    assert policy.plain_reference == {"params": policy.frozen}
    flat = traverse_util.flatten_dict(state.trainable)
    assert len(flat) == 2 * 2 * 7 and {leaf.dtype for leaf in flat.values()} == {jnp.dtype(jnp.float32)}
    off = traverse_util.flatten_dict(policy.reference["lora"])
    assert all(not np.asarray(leaf).any() for path, leaf in off.items() if path[-1] == "b")
    assert policy.model.lora_scale == 8 / 4
    assert int(state.updates) == 0
    variables = policy.variables(state.trainable)
    assert variables["params"] is policy.frozen and variables["lora"] is state.trainable


def test_optimizer_state_is_as_the_weights_are(adapted):
    _, state = adapted
    (adam,) = [s for s in jax.tree.leaves(state.opt_state, is_leaf=is_adam) if is_adam(s)]
    for moment in (adam.mu, adam.nu):
        jax.tree.map(lambda m, w: np.testing.assert_array_equal(m, np.zeros(w.shape)), moment, state.trainable)
        assert jax.tree.map(lambda m: m.sharding, moment) == jax.tree.map(lambda w: w.sharding, state.trainable)


def is_adam(x):
    return isinstance(x, optax.ScaleByAdamState)


def test_the_run_s_seed_decides_the_adapter_and_the_config_its_targets(tiny_qwen3):
    config = tiny_config(tiny_qwen3, lora_targets=("q",))

    def q():
        flat = traverse_util.flatten_dict(make(config)[1].trainable)
        assert {path[-2] for path in flat} == {"q"}
        return np.asarray(flat["layers_0", "attention", "q", "a"])

    first, again = q(), q()
    np.testing.assert_array_equal(first, again)
    config.seed = 1
    assert (q() != first).all()


def test_full_weights_merge_the_adapter(adapted):
    policy, state = adapted
    full = states.full_weights(policy, state)
    jax.tree.map(np.testing.assert_array_equal, full, policy.frozen)
    low = state.trainable["layers_0"]["mlp"]["up"]
    trained = jax.tree.map(lambda x: x, state.trainable)
    trained["layers_0"]["mlp"]["up"] = low | {"b": jnp.ones_like(low["b"])}
    merged = states.full_weights(policy, state.replace(trainable=trained))["layers_0"]["mlp"]["up"]["kernel"]
    expected = policy.frozen["layers_0"]["mlp"]["up"]["kernel"].astype(jnp.float32) + 2 * low["a"].sum(1, keepdims=True)
    np.testing.assert_allclose(merged.astype(jnp.float32), expected, rtol=1e-2, atol=1e-2)


def test_full_fine_tuning_trains_everything_in_float32_and_copies_only_what_is_needed(tiny_qwen3):
    config = tiny_config(tiny_qwen3, lora_rank=0)
    config.method = "rl"
    policy, state = make(config)
    assert policy.frozen is None and policy.reference is None
    assert {leaf.dtype for leaf in jax.tree.leaves(state.trainable)} == {jnp.dtype(jnp.float32)}
    assert policy.variables(state.trainable) == {"params": state.trainable}
    assert states.full_weights(policy, state) is state.trainable
    config.method = "espl"
    policy, state = make(config)
    ours, copy = state.trainable["embedding"], policy.reference["params"]["embedding"]
    np.testing.assert_array_equal(ours, copy)
    assert ours.unsafe_buffer_pointer() != copy.unsafe_buffer_pointer(), "training must not overwrite the reference"


@pytest.mark.parametrize(
    "method, editor, kl_coef, needed",
    [
        ("rl", "reference", 0.0, False),
        ("rl", "current", 0.1, True),
        ("espl", "reference", 0.0, True),
        ("espl", "current", 0.0, False),
        ("espl", "current", 0.1, True),
        ("evolution", "reference", 0.0, True),
        ("evolution", "current", 0.1, False),
        ("reflection", "current", 0.0, False),
    ],
)
def test_who_needs_a_reference(method, editor, kl_coef, needed):
    config = base.get_config()
    config.method, config.evolution.editor, config.rl.kl_coef = method, editor, kl_coef
    assert states.needs_reference(config) == needed


def test_editors(adapted):
    policy, state = adapted
    assert states.EDITORS["reference"](policy, state) is policy.reference
    assert states.EDITORS["current"](policy, state)["lora"] is state.trainable


def test_a_context_longer_than_the_model_s_is_refused(tiny_qwen3):
    config = tiny_config(tiny_qwen3)
    config.model.max_length = 4097
    with pytest.raises(ValueError, match="model.max_length is 4097, but .* up to 4096; lower model.max_length"):
        states.open_model(config)


def test_the_sampler_is_made_from_the_config(adapted):
    policy, _ = adapted
    config = base.get_config()
    assert policy.sampler.stop_ids == policy.tokenizer.stop_ids
    assert policy.sampler.decoding == config.sampling and policy.sampler.max_length == 128
    assert (policy.model.remat, policy.sampler.model.remat) == ("layer", "none")
