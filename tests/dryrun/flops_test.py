"""Operations counted in a jaxpr against numbers by hand, and against XLA's own count where there is no loop."""

import jax
import jax.numpy as jnp
import pytest

from espl_jax.dryrun import flops
from espl_jax.dryrun.hlo import Running
from espl_jax.policy.model import Decoder, ModelSpec, abstract_params

A, B = jnp.zeros((2, 3)), jnp.zeros((3, 3))


def counted(function, *args, **running):
    return flops.count(jax.make_jaxpr(function)(*args), Running(**running))


def test_loops_and_branches():
    step = 2 * 2 * 3 * 3
    assert counted(lambda a, b: a @ b, A, B) == step
    assert counted(lambda a, b: jax.lax.scan(lambda x, _: (x @ b, None), a, length=5)[0], A, B) == 5 * step
    assert counted(lambda a, b: jax.lax.fori_loop(0, b[0, 0].astype(int), lambda i, x: x @ b, a), A, B) == step
    assert counted(
        lambda a, b: jax.lax.fori_loop(0, b[0, 0].astype(int), lambda i, x: x @ b, a), A, B, loop=lambda depth: 4.0
    ) == 4 * step

    def either(a, b):
        return jax.lax.switch(b[0, 0].astype(int), [lambda: a, lambda: a @ b, lambda: a @ b @ b])

    assert counted(either, A, B) == 2 * step
    assert counted(either, A, B, branch=lambda count: 1 if count == 3 else None) == step


def test_batches_and_gradients():
    assert counted(jax.vmap(jnp.matmul), jnp.zeros((7, 2, 3)), jnp.zeros((7, 3, 4))) == 7 * 2 * 2 * 3 * 4
    # forward, and the gradients of both sides
    assert counted(jax.grad(lambda a, b: jnp.sum((a @ b) ** 2), argnums=(0, 1)), A, B) == 3 * 2 * 2 * 3 * 3


SPEC = ModelSpec(
    vocab_size=64, width=32, num_layers=3, num_heads=4, num_kv_heads=2, head_dim=16, mlp_width=48, rope_theta=1e4,
    rope_scaling=None, norm_eps=1e-6, tied_head=True, qkv_bias=False, qk_norm=False, max_positions=512,
)  # fmt: skip


@pytest.mark.parametrize("scanned", [False, True])
def test_a_model_is_its_weights_times_its_tokens_and_its_scores(scanned):
    model, tokens = Decoder(SPEC, scan_layers=scanned), jnp.zeros((2, 8), jnp.int32)
    weights = {"params": abstract_params(model)[0]}
    layer = 32 * 16 * (2 * 4 + 2 * 2) + 3 * 32 * 48
    scores = 2 * 2 * 8 * 8 * 4 * 16
    traced = jax.jit(model.apply).trace(weights, tokens, tokens)
    assert flops.count(traced.jaxpr, Running()) == 3 * 2 * (2 * 8 * layer + scores)
