"""Attention over packed trees of tokens: shared heads and contexts stand once, and whoever follows them sees them.

The tokens of a tree lie in depth-first order, so that a token sees exactly those before it whose subtree has not ended: one
number a token, `ends`, says it all, whatever the shape of the tree. The plain implementation here walks over blocks of queries
and, for each, over the blocks of keys that anything in it can see, with a running softmax (Milakov and Gimelshein 2018; Dao et
al. 2022): scores exist for one pair of blocks at a time, in the forward as in the backward pass, nothing is scattered, and
neither the tree's shape nor the number of pairs is part of the program. Letters of this file: U a block's queries, W the keys
that it meets at one time, N query heads of a key/value head; the rest is in espl_jax/structs.py.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from espl_jax.policy.packing import BLOCK

Array = jax.Array
QUERIES = BLOCK  # of a block
KEYS = BLOCK  # of a block; a smaller one skips more, a larger one multiplies faster
HIDDEN = -1e30  # the score of a key that is not seen


@flax.struct.dataclass
class Tree:
    """Attention of packed trees, by plain JAX; called as in attention.py with q [R, T, H, E], k and v [R, T, K, E].

    ends: int32 [R, T], behind the last token of the subtree of a token's segment; 0: padding, seen by nobody.
    lists: int32 [R, T / QUERIES, T / KEYS], for each block of queries the blocks of keys that it meets, then anything.
    counts: int32 [R, T / QUERIES], how many it meets. split: runs a function of (q, k, v, ...) on each device's rows and heads
    (sharding.spread_heads).
    """

    ends: Array
    lists: Array
    counts: Array
    split: Callable = flax.struct.field(pytree_node=False)

    def __call__(self, q: Array, k: Array, v: Array, cache: Any) -> tuple[Array, None]:
        return self.split(tree_attention)(q, k, v, self.ends, self.lists, self.counts), None


def make_tree(ends: np.ndarray, split: Callable) -> Tree:
    """The Tree of `ends` [R, T]; T is a multiple of QUERIES."""
    tables = [block_lists(row) for row in ends]
    return Tree(ends, np.stack([lists for lists, _ in tables]), np.stack([counts for _, counts in tables]), split)


def block_lists(ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tree's lists and counts of one row."""
    T = len(ends)
    latest = ends.reshape(-1, KEYS).max(axis=1)  # a block is met by all queries from its own first up to here
    first_query = np.arange(0, T, QUERIES)[:, None]
    first_key = np.arange(0, T, KEYS)[None, :]
    met = (first_key < first_query + QUERIES) & (first_query < latest)
    lists = np.argsort(~met, axis=1, kind="stable").astype(np.int32)
    return lists, met.sum(axis=1, dtype=np.int32)


def tree_attention(q: Array, k: Array, v: Array, ends: Array, lists: Array, counts: Array) -> Array:
    """Row after row, [R, T, H, E]; a device has few of them."""
    rows = [attend_row(*row) for row in zip(q, k, v, ends, lists, counts)]
    return jnp.stack(rows)


@jax.custom_vjp
def attend_row(q_THE: Array, k_TKE: Array, v_TKE: Array, ends_T: Array, lists: Array, counts: Array) -> Array:
    """What each token of one row sees, [T, H, E]."""
    return forward(q_THE, k_TKE, v_TKE, ends_T, lists, counts)[0]


def forward(q_THE, k_TKE, v_TKE, ends_T, lists, counts):
    """(attended [T, H, E], what `backward` needs)"""
    T, H, E = q_THE.shape
    K = k_TKE.shape[1]
    q, k, v = query_blocks(q_THE, K), k_TKE.transpose(1, 0, 2), v_TKE.transpose(1, 0, 2)

    def block(_, given):
        q_KUE, first, keys, count = given

        def meet(i, carry):
            most, total, sum_KUE = carry
            start = keys[i] * KEYS
            scores = masked_scores(q_KUE, taken(k, start), first, start, ends_T)
            higher = jnp.maximum(most, jnp.max(scores, axis=-1))
            shrink, weights = jnp.exp(most - higher), jnp.exp(scores - higher[..., None])
            values = product("KUW,KWE->KUE", weights.astype(v.dtype), taken(v, start))
            return higher, total * shrink + jnp.sum(weights, axis=-1), sum_KUE * shrink[..., None] + values

        nothing = jnp.full(q_KUE.shape[:2], HIDDEN / 2), jnp.zeros(q_KUE.shape[:2]), jnp.zeros(q_KUE.shape)
        most, total, sum_KUE = jax.lax.fori_loop(0, count, meet, nothing)
        total = jnp.maximum(total, 1e-30)  # padding sees nobody
        return None, (sum_KUE / total[..., None], most + jnp.log(total))

    _, (out, normaliser) = jax.lax.scan(block, None, (q, jnp.arange(0, T, QUERIES), lists, counts))
    out_THE = checkpoint_name(from_blocks(out, H).astype(q_THE.dtype), "attended")
    normaliser = checkpoint_name(normaliser, "attended")
    return out_THE, (q_THE, k_TKE, v_TKE, ends_T, lists, counts, out_THE, normaliser)


def backward(kept, d_out_THE):
    """Gradients of q, k and v; the weights are computed again from their normalisers."""
    q_THE, k_TKE, v_TKE, ends_T, lists, counts, out_THE, normaliser = kept
    T, H, E = q_THE.shape
    K = k_TKE.shape[1]
    q, k, v = query_blocks(q_THE, K), k_TKE.transpose(1, 0, 2), v_TKE.transpose(1, 0, 2)
    d_out = query_blocks(d_out_THE, K)
    inner = query_blocks(jnp.sum(d_out_THE.astype(jnp.float32) * out_THE, axis=-1, keepdims=True), K)[..., 0]

    def block(sums, given):
        q_KUE, d_KUE, normaliser_KU, inner_KU, first, keys, count = given

        def meet(i, carry):
            dq_KUE, dk_KET, dv_KET = carry
            start = keys[i] * KEYS
            keys_KWE = taken(k, start)
            weights = jnp.exp(masked_scores(q_KUE, keys_KWE, first, start, ends_T) - normaliser_KU[..., None])
            d_weights = product("KUE,KWE->KUW", d_KUE, taken(v, start))
            d_scores = (weights * (d_weights - inner_KU[..., None]) / math.sqrt(E)).astype(q.dtype)
            dq_KUE = dq_KUE + product("KUW,KWE->KUE", d_scores, keys_KWE)
            dk_KET = added(dk_KET, product("KUE,KUW->KEW", q_KUE, d_scores), start)
            dv_KET = added(dv_KET, product("KUE,KUW->KEW", d_KUE, weights.astype(d_KUE.dtype)), start)
            return dq_KUE, dk_KET, dv_KET

        dq_KUE, *sums = jax.lax.fori_loop(0, count, meet, (jnp.zeros(q_KUE.shape), *sums))
        return tuple(sums), dq_KUE

    given = q, d_out, normaliser, inner, jnp.arange(0, T, QUERIES), lists, counts
    empty = jnp.zeros((K, E, T))
    (dk, dv), dq = jax.lax.scan(block, (empty, empty), given)
    dk, dv = (d_KET.transpose(2, 0, 1).astype(k_TKE.dtype) for d_KET in (dk, dv))
    return from_blocks(dq, H).astype(q_THE.dtype), dk, dv, None, None, None


attend_row.defvjp(forward, backward)


def product(letters: str, a: Array, b: Array) -> Array:
    """einsum, summed up in float32."""
    return jnp.einsum(letters, a, b, preferred_element_type=jnp.float32)


def query_blocks(x_THE: Array, K: int) -> Array:
    """[blocks, K, N * QUERIES, E]: for each key/value head the queries that read it lie together."""
    T, H, E = x_THE.shape
    return x_THE.reshape(T // QUERIES, QUERIES, K, H // K, E).transpose(0, 2, 3, 1, 4).reshape(-1, K, H // K * QUERIES, E)


def from_blocks(x: Array, H: int) -> Array:
    """The inverse of query_blocks: [T, H, E]."""
    blocks, K, _, E = x.shape
    return x.reshape(blocks, K, H // K, QUERIES, E).transpose(0, 3, 1, 2, 4).reshape(blocks * QUERIES, H, E)


def taken(x_KTE: Array, start: Array) -> Array:
    """A block of keys, [K, W, E]."""
    return jax.lax.dynamic_slice_in_dim(x_KTE, start, KEYS, axis=1)


def added(sum_KET: Array, x_KEW: Array, start: Array) -> Array:
    """The sum with a block's part added where it belongs."""
    here = jax.lax.dynamic_slice_in_dim(sum_KET, start, KEYS, axis=2)
    return jax.lax.dynamic_update_slice_in_dim(sum_KET, here + x_KEW, start, axis=2)


def masked_scores(q_KUE: Array, keys_KWE: Array, first: Array, start: Array, ends_T: Array) -> Array:
    """Scaled scores [K, U, W] in float32, HIDDEN where a query does not see a key."""
    K, U, E = q_KUE.shape
    keys = start + jnp.arange(KEYS)
    until = jax.lax.dynamic_slice_in_dim(ends_T, start, KEYS)
    queries = (first + jnp.arange(QUERIES))[:, None]
    seen = (keys <= queries) & (queries < until)
    scores = product("KUE,KWE->KUW", q_KUE, keys_KWE).reshape(K, U // QUERIES, QUERIES, KEYS) / math.sqrt(E)
    return jnp.where(seen, scores, HIDDEN).reshape(K, U, KEYS)
