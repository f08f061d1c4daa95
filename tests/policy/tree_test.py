"""Attention over packed trees, plain and by causal rows, against a softmax over everything that a token may see."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from espl_jax.policy import packing, sharding, tree
from espl_jax.policy.attention import Causal, tree_layout
from espl_jax.policy.paths import make_paths

H, K, E, T = 4, 2, 8, 512
rng = np.random.default_rng(0)


def trees():
    """Two rows: shared heads, ragged groups, completions of one token, a context without a head; and nothing but one sample."""
    heads = [rng.integers(0, 99, n) for n in (40, 70)]
    contexts, lengths = [], []
    for i, group in enumerate((3, 1, 2, 4)):
        context = np.concatenate([heads[i % 2], rng.integers(0, 99, 1 + 11 * i)])
        contexts += [context] * group
        lengths += [1 if j == 1 else int(rng.integers(2, 40)) for j in range(group)]
    contexts, lengths = [*contexts, np.array([5, 6])], [*lengths, 1]
    (first,), (second,) = packing.pack(contexts, lengths, T), packing.pack([np.arange(100)], [200], T)
    return [first, second]


def dense(trees):
    """bool [R, T, T]: by walking from each segment up to its root."""
    seen = np.zeros((len(trees), T, T), bool)
    for r, packed in enumerate(trees):
        for segment in packed.segments:
            rows = slice(segment.start, segment.start + segment.length)
            seen[r, rows, rows] = np.tri(segment.length)
            parent = segment.parent
            while parent >= 0:
                above = packed.segments[parent]
                seen[r, rows, above.start : above.start + above.length] = True
                parent = above.parent
    return seen


def plain(seen, q, k, v):
    k, v = (jnp.repeat(x, H // K, axis=2) for x in (k, v))
    scores = jnp.where(seen[:, None], jnp.einsum("rqhe,rkhe->rhqk", q, k) / np.sqrt(E), -1e30)
    return jnp.einsum("rhqk,rkhe->rqhe", jax.nn.softmax(scores), v)


def causal(q, k, v):
    return Causal()(q, k, v, None)[0]


LAYOUTS = {
    "tree": tree_layout(sharding.make_mesh(1, 1, 1, jax.devices()[:1])),
    "paths": functools.partial(make_paths, causal=causal, split=lambda attend: attend),
}


@pytest.mark.parametrize("kind", LAYOUTS)
def test_attention_and_its_gradients(kind):
    packed = trees()
    seen = dense(packed)
    real = seen.any(axis=2)
    attend = jax.tree.map(jnp.asarray, LAYOUTS[kind](packed, T))
    q, k, v = (rng.standard_normal((2, T, n, E)).astype(np.float32) for n in (H, K, K))
    cotangent = rng.standard_normal(q.shape).astype(np.float32) * real[..., None, None]

    def total(attended, q, k, v):
        out = attended(q, k, v)
        return jnp.sum(out * cotangent), out

    def grad(attended):
        return jax.jit(jax.grad(functools.partial(total, attended), argnums=(0, 1, 2), has_aux=True))(q, k, v)

    ours, out = grad(lambda q, k, v: attend(q, k, v, None)[0])
    again, _ = grad(lambda q, k, v: attend(q, k, v, None)[0])
    expected, reference = grad(functools.partial(plain, seen))
    np.testing.assert_allclose(np.asarray(out)[real], np.asarray(reference)[real], atol=1e-5)
    for a, b, c in zip(ours, expected, again):
        np.testing.assert_allclose(a, b, atol=2e-5)
        np.testing.assert_array_equal(a, c)
        assert not np.asarray(a)[~real].any(), "padding has no gradient"


def test_a_token_sees_what_comes_before_it_while_that_has_not_ended():
    for packed in trees():
        ends, places = packed.ends(T), np.arange(T)
        ours = (places[None, :] <= places[:, None]) & (places[:, None] < ends[None, :])
        assert (ours == dense([packed])[0]).all()


def test_block_lists_name_every_block_in_which_something_is_seen():
    (packed, _), T_ = trees(), T
    lists, counts = tree.block_lists(packed.ends(T_))
    blocks = dense([packed])[0].reshape(T_ // tree.QUERIES, tree.QUERIES, T_ // tree.KEYS, tree.KEYS).any(axis=(1, 3))
    for row, count, seen in zip(lists, counts, blocks):
        assert set(np.flatnonzero(seen)) <= set(row[:count].tolist())
