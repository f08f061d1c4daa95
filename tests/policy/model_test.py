"""The decoder by itself; its logits against transformers' are in weights_test.py."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from espl_jax.policy import lora, sharding
from espl_jax.policy.model import (
    FEW_ROWS,
    REMAT,
    Decoder,
    Llama3Rope,
    ModelSpec,
    abstract_params,
    apply_rope,
    product,
    rope_frequencies,
    rope_table,
)
from tests.tiny import random_params

SPEC = ModelSpec(
    vocab_size=300, width=32, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, mlp_width=48, rope_theta=1e4,
    rope_scaling=None, norm_eps=1e-6, tied_head=True, qkv_bias=True, qk_norm=False, max_positions=512,
)  # fmt: skip
LLAMA = dataclasses.replace(
    SPEC, rope_scaling=Llama3Rope(8.0, 1.0, 4.0, 16), qkv_bias=False, qk_norm=True, tied_head=False
)
RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, 300, (3, 14), dtype=np.int32)


def forward(model, params, tokens_BL):
    positions = jnp.broadcast_to(jnp.arange(tokens_BL.shape[1]), tokens_BL.shape)
    hidden, cache = model.apply({"params": params}, tokens_BL, positions)
    return model.apply({"params": params}, hidden, method="logits"), cache


run = jax.jit(forward, static_argnums=0)


@pytest.mark.parametrize("rows", [1, FEW_ROWS, FEW_ROWS + 1])
def test_a_product_is_the_same_from_either_side(rows):
    x, kernel_OI = RNG.normal(size=(rows, 1, 7)).astype(np.float32), RNG.normal(size=(5, 7)).astype(np.float32)
    np.testing.assert_allclose(jax.jit(product)(x, kernel_OI), x @ kernel_OI.T, rtol=1e-5, atol=1e-5)


def test_llama3_rope_keeps_short_waves_slows_long_ones_and_blends_between():
    """Llama 3.1's own numbers, the branches as its authors wrote them."""
    spec = dataclasses.replace(SPEC, head_dim=128, rope_theta=5e5, rope_scaling=Llama3Rope(8.0, 1.0, 4.0, 8192))
    ours = np.asarray(rope_frequencies(spec))
    expected = []
    for i in range(64):
        frequency = 5e5 ** (-2 * i / 128)
        wavelength = 2 * np.pi / frequency
        if wavelength < 8192 / 4:
            expected.append(frequency)
        elif wavelength > 8192:
            expected.append(frequency / 8)
        else:
            smooth = (8192 / wavelength - 1) / 3
            expected.append((1 - smooth) * frequency / 8 + smooth * frequency)
    np.testing.assert_allclose(ours, expected, rtol=1e-5)
    assert ours[0] == 1
    np.testing.assert_allclose(ours[28], 5e5**-0.4375, rtol=1e-5)  # wavelength 1956: kept
    np.testing.assert_allclose(ours[32], 5.248e-4, rtol=1e-3)  # 4443: between its own 1.41e-3 and an eighth of it
    np.testing.assert_allclose(ours[63], 5e5 ** (-126 / 128) / 8, rtol=1e-5)


def test_plain_rope_frequencies():
    np.testing.assert_allclose(rope_frequencies(SPEC), [1, 0.1, 0.01, 0.001], rtol=1e-5)


def test_rope_turns_the_halves_of_a_head_against_each_other():
    x = jnp.asarray([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])[None, None, None]
    ours = np.asarray(apply_rope(x, rope_table(jnp.full((1, 1), 3), SPEC)))[0, 0, 0]
    for i, frequency in enumerate([1, 0.1, 0.01, 0.001]):
        turned = (x[0, 0, 0, i] + 1j * x[0, 0, 0, i + 4]) * np.exp(3j * frequency)
        np.testing.assert_allclose([ours[i], ours[i + 4]], [turned.real, turned.imag], rtol=1e-5)


def test_padding_at_the_end_changes_nothing_before_it():
    model, params = Decoder(SPEC), random_params(SPEC, 0)
    padded = TOKENS.copy()
    padded[:, 9:] = 0
    ours, _ = run(model, params, padded)
    full, _ = run(model, params, TOKENS)
    np.testing.assert_array_equal(ours[:, :9], full[:, :9])
    assert np.abs(ours[:, 9:] - full[:, 9:]).max() > 1e-2


def test_every_token_before_it_matters():
    """A decoder that forgot its context would pass the tests above."""
    model, params = Decoder(SPEC), random_params(SPEC, 0)
    changed = TOKENS.copy()
    changed[:, 0] = (changed[:, 0] + 1) % 300
    difference = np.abs(run(model, params, changed)[0] - run(model, params, TOKENS)[0]).max(axis=(0, 2))
    assert (difference > 1e-4).all()


def test_bfloat16_compute_gives_float32_logits_near_those_of_float32():
    params = random_params(SPEC, 0)
    exact, _ = run(Decoder(SPEC), params, TOKENS)
    coarse, cache = run(Decoder(SPEC, dtype=jnp.bfloat16), params, TOKENS)
    assert coarse.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(cache)} == {jnp.dtype(jnp.bfloat16)}
    error = np.abs(coarse - exact).max()
    assert 0 < error < 0.05 * np.abs(exact).max()


@pytest.mark.parametrize("scan_layers", [False, True])
@pytest.mark.parametrize("remat", [kind for kind in REMAT if kind != "none"])
def test_recomputing_gives_equal_gradients(remat, scan_layers):
    spec = dataclasses.replace(SPEC, num_layers=1)
    params = random_params(spec, 0)

    def gradient(remat):
        model = Decoder(spec, remat=remat, scan_layers=scan_layers)
        loss = jax.jit(jax.value_and_grad(lambda params: jnp.mean(forward(model, params, TOKENS)[0] ** 2)))
        return loss(params)

    (plain, plain_grads), (again, remat_grads) = gradient("none"), gradient(remat)
    assert float(plain) == pytest.approx(float(again), rel=1e-6)
    for ours, expected in zip(*map(jax.tree.leaves, jax.device_get((remat_grads, plain_grads)))):
        assert np.abs(expected).max() > 0 or expected.shape == (16,)  # a bias of k cancels in the softmax
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


def test_constrain_sees_the_input_of_a_layer_its_heads_and_units_and_each_dimension_has_a_name():
    seen = []
    model = Decoder(SPEC, constrain=lambda x, names: seen.append((x.shape, names)) or x)
    jax.eval_shape(lambda params: forward(model, params, TOKENS), random_params(SPEC, 0))
    assert all(len(shape) == len(names) and {*names} <= {None, *sharding.RULES} for shape, names in seen)
    # all layers are traced as one: its input and what leaves both norms; then the head's input
    assert seen.count(((3, 14, SPEC.width), ("batch", "tokens", None))) == 3 + 1
    for shape, names in (
        ((3, 14, SPEC.num_heads, SPEC.head_dim), ("batch", "tokens", "heads", None)),
        ((3, 14, SPEC.mlp_width), ("batch", "tokens", "mlp")),
        ((SPEC.width, SPEC.mlp_width), (None, "mlp")),  # gate and up, their width gathered
    ):
        assert seen.count((shape, names)) in (1, 2)


def test_every_weight_has_a_name_for_each_dimension():
    shapes, names = abstract_params(Decoder(LLAMA))
    jax.tree.map(lambda shape, name: (len(shape.shape) == len(name)) or pytest.fail(f"{shape}: {name}"), shapes, names)
    kernels = names["layers_1"]["attention"]
    assert kernels["q"]["kernel"] == ("embed", "heads") and kernels["o"]["kernel"] == ("heads", "embed")
    assert names["head"] == names["embedding"] == ("vocab", "embed")
    assert "head" not in abstract_params(Decoder(SPEC))[0], "tied"


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="4 query heads and 3 key/value heads; the first must be a multiple"):
        dataclasses.replace(SPEC, num_kv_heads=3)


@pytest.mark.parametrize("remat", ["none", "layer"])
def test_a_loop_over_layers_is_the_layers_one_by_one(remat):
    """Hidden states, every layer's keys and values, and gradients of weights and adapter."""
    params = random_params(LLAMA, 0)
    shapes, names = abstract_params(Decoder(LLAMA))
    fresh = lora.init(lora.abstract(shapes, names, 2, ("q", "down"))[0], 0)
    adapter = jax.tree.map(lambda leaf: leaf + 0.1, fresh)
    positions = jnp.broadcast_to(jnp.arange(TOKENS.shape[1]), TOKENS.shape)

    def loss(variables, scan_layers):
        hidden, cache = Decoder(LLAMA, remat=remat, scan_layers=scan_layers).apply(variables, TOKENS, positions)
        return jnp.sum(hidden**2), (hidden, cache)

    both = [jax.grad(loss, has_aux=True)({"params": params, "lora": adapter}, scan) for scan in (True, False)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4), *both)
    assert float(jnp.abs(both[0][0]["lora"]["layers_1"]["mlp"]["down"]["b"]).sum()) > 0
