"""Adapters: what a fresh, a switched-off and a merged one compute."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from espl_jax.policy import lora
from espl_jax.policy.model import Decoder, ModelSpec, abstract_params
from tests.tiny import random_params

SPEC = ModelSpec(
    vocab_size=300, width=32, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, mlp_width=48, rope_theta=1e4,
    rope_scaling=None, norm_eps=1e-6, tied_head=True, qkv_bias=True, qk_norm=False, max_positions=512,
)  # fmt: skip
MODEL = Decoder(SPEC, lora_scale=1.5)
PARAMS = random_params(SPEC, 0)
TOKENS = np.random.default_rng(0).integers(0, 300, (2, 12), dtype=np.int32)


@functools.cache
def fresh(rank=4, targets=lora.TARGETS, seed=0):
    shapes, _ = lora.abstract(*abstract_params(MODEL), rank, targets)
    return lora.init(shapes, seed)


def trained(adapter):
    """The adapter with every b random."""
    flat = traverse_util.flatten_dict(adapter)
    rng = np.random.default_rng(1)
    noise = {path: 0.1 * rng.standard_normal(x.shape) for path, x in flat.items() if path[-1] == "b"}
    return traverse_util.unflatten_dict(flat | {path: x.astype(np.float32) for path, x in noise.items()})


@jax.jit
def forward(variables):
    positions = jnp.broadcast_to(jnp.arange(TOKENS.shape[1]), TOKENS.shape)
    return MODEL.apply(variables, MODEL.apply(variables, TOKENS, positions)[0], method="logits")


def logits(variables):
    return np.asarray(forward(variables))


@functools.cache
def base():
    return logits({"params": PARAMS})


def test_a_fresh_adapter_changes_nothing():
    adapter = fresh()
    np.testing.assert_array_equal(logits({"params": PARAMS, "lora": adapter}), base())
    flat = traverse_util.flatten_dict(adapter)
    assert all(not leaf.any() for path, leaf in flat.items() if path[-1] == "b")
    for path, leaf in flat.items():
        if path[-1] == "a":
            bound = leaf.shape[0] ** -0.5
            assert 0.9 * bound < np.abs(leaf).max() <= bound, path
            assert abs(float(leaf.mean())) < 0.2 * bound, path


def test_every_matrix_is_drawn_anew():
    leaves = [np.asarray(leaf).ravel()[:32] for p, leaf in traverse_util.flatten_dict(fresh()).items() if p[-1] == "a"]
    assert len(np.unique(np.stack(leaves), axis=0)) == len(leaves) == 14
    assert (fresh(seed=1)["layers_0"]["mlp"]["up"]["a"] != fresh()["layers_0"]["mlp"]["up"]["a"]).all()


def test_switched_off_is_exactly_the_base():
    adapter = trained(fresh())
    assert np.abs(logits({"params": PARAMS, "lora": adapter}) - base()).max() > 0.1
    off = lora.switched_off(adapter)
    np.testing.assert_array_equal(logits({"params": PARAMS, "lora": off}), base())
    np.testing.assert_array_equal(off["layers_0"]["mlp"]["up"]["a"], adapter["layers_0"]["mlp"]["up"]["a"])
    assert np.asarray(adapter["layers_0"]["mlp"]["up"]["b"]).any(), "the argument is left as it was"


def test_merged_weights_compute_what_the_adapter_does():
    adapter = trained(fresh())
    merged = lora.merge(PARAMS, adapter, MODEL.lora_scale)
    np.testing.assert_allclose(logits({"params": merged}), logits({"params": PARAMS, "lora": adapter}), atol=2e-5)
    low = adapter["layers_1"]["attention"]["k"]
    expected = PARAMS["layers_1"]["attention"]["k"]["kernel"] + 1.5 * np.asarray(low["a"]) @ np.asarray(low["b"])
    np.testing.assert_allclose(merged["layers_1"]["attention"]["k"]["kernel"], expected, rtol=1e-5, atol=1e-6)


def test_merging_keeps_the_kernel_s_dtype():
    half = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), PARAMS)
    merged = lora.merge(half, trained(fresh()), 1.0)
    assert {leaf.dtype for leaf in jax.tree.leaves(merged)} == {jnp.dtype(jnp.bfloat16)}
    assert (merged["layers_0"]["mlp"]["up"]["kernel"] != half["layers_0"]["mlp"]["up"]["kernel"]).any()


@pytest.mark.parametrize("targets", [("q",), ("v", "down"), lora.TARGETS])
def test_only_the_targets_have_an_adapter_and_only_they_are_merged(targets):
    adapter = trained(fresh(rank=2, targets=targets))
    flat = traverse_util.flatten_dict(adapter)
    assert {path[-2] for path in flat} == set(targets) and len(flat) == 2 * 2 * len(targets)
    merged = traverse_util.flatten_dict(lora.merge(PARAMS, adapter, 1.0))
    for path, leaf in traverse_util.flatten_dict(PARAMS).items():
        assert (path[-1] == "kernel" and path[-2] in targets) == (np.asarray(merged[path]) != leaf).any(), path


def test_shapes_and_dimension_names_of_an_adapter():
    shapes, names = lora.abstract(*abstract_params(MODEL), 3, ("k", "down"))
    assert set(names["layers_0"]["mlp"]) == {"down"} and set(names["layers_0"]["attention"]) == {"k"}
    k, down = shapes["layers_1"]["attention"]["k"], shapes["layers_1"]["mlp"]["down"]
    assert (k["a"].shape, k["b"].shape) == ((32, 3), (3, 16))
    assert (down["a"].shape, down["b"].shape) == ((48, 3), (3, 32))
    assert names["layers_1"]["attention"]["k"] == {"a": ("embed", "lora"), "b": ("lora", "kv_heads")}
    assert names["layers_1"]["mlp"]["down"] == {"a": ("mlp", "lora"), "b": ("lora", "embed")}


def test_adapters_compute_in_the_model_s_dtype():
    adapter = trained(fresh())
    half = Decoder(SPEC, dtype=jnp.bfloat16, lora_scale=1.5)
    hidden, _ = jax.eval_shape(half.apply, {"params": PARAMS, "lora": adapter}, TOKENS, TOKENS)
    assert hidden.dtype == jnp.bfloat16
