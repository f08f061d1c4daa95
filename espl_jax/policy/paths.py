"""Attention over packed trees by a fused causal kernel: each path of a tree, from its root to a leaf, becomes a row.

Only queries, keys and values are laid out so (the linear layers still compute what is shared once), and a fused kernel (cuDNN's
flash attention, TPU splash attention) never holds scores of [length, length]. A token that lies on several paths is attended
on all of them and read from one; its key's gradient is the sum over all, added up by a matrix product with zeros and ones, so
always in the same order. Letters of this file: S paths of a packed row, L places of a path, P places that may be shared; the
rest is in espl_jax/structs.py.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from espl_jax.policy import packing

Array = jax.Array


@flax.struct.dataclass
class Paths:
    """Called as in attention.py with q [R, T, H, E], k and v [R, T, K, E].

    tokens: int32 [R, S, L], the token at each place (any one behind a path's end: nothing before it sees that place).
    groups: int32 [R, 2, S], which paths have their first, and their first two, segments in common.
    home: int32 [R, T], the place, of S * L, where what a token sees is read. owner: int32 [R, T], where the sum of the
    gradients of a token's key stands: in the places of all paths, then in P places of S groups by the first segment, then by
    the first two.
    shared: P. causal: (q [B, L, H, E], k, v) -> [B, L, H, E], each row by itself. split: runs a function of (q, k, v, ...) on
    each device's rows and heads (sharding.spread_heads).
    """

    tokens: Array
    groups: Array
    home: Array
    owner: Array
    shared: int = flax.struct.field(pytree_node=False)
    causal: Callable = flax.struct.field(pytree_node=False)
    split: Callable = flax.struct.field(pytree_node=False)

    def __call__(self, q: Array, k: Array, v: Array, cache: Any) -> tuple[Array, None]:
        attend = functools.partial(path_attention, self.shared, self.causal)
        return self.split(attend)(q, k, v, self.tokens, self.groups, self.home, self.owner), None


def path_attention(
    shared: int, causal: Callable, q: Array, k: Array, v: Array, tokens: Array, groups: Array, home: Array, owner: Array
) -> Array:
    """What each token of the packed rows sees, [R, T, H, E]; arguments as the fields of Paths."""

    def rows(x_RSL):
        return x_RSL.reshape(-1, *x_RSL.shape[2:])

    q_RSLHE = jax.vmap(to_paths_once)(q, tokens, home)
    copied = jax.vmap(functools.partial(to_paths, shared))
    k_RSLKE, v_RSLKE = (copied(x, tokens, groups, owner) for x in (k, v))
    out = causal(rows(q_RSLHE), rows(k_RSLKE), rows(v_RSLKE)).reshape(q_RSLHE.shape)
    return jax.vmap(from_paths)(out, tokens, home)


def flat(x_SL: Array) -> Array:
    """[S * L, ...], as home and owner count places."""
    return x_SL.reshape(-1, *x_SL.shape[2:])


def taken(x: Array, places_T: Array) -> Array:
    """[T, ...]; zeros for padding, whose place is behind the end."""
    return x.at[places_T].get(mode="fill", fill_value=0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def to_paths(P: int, x_T: Array, tokens_SL: Array, groups_2S: Array, owner_T: Array) -> Array:
    """[S, L, ...] from [T, ...]: every path its own copy."""
    return x_T[tokens_SL]


def _to_paths_backward(P, kept, d_SL):
    (groups_2S, owner_T), S = kept, d_SL.shape[0]
    parts = [flat(d_SL)]
    for groups_S in groups_2S:
        members = (jnp.arange(S)[:, None] == groups_S[None, :]).astype(d_SL.dtype)
        sums = jnp.einsum(
            "gs,sp...->gp...", members, d_SL[:, :P], precision="highest", preferred_element_type=jnp.float32
        )
        parts.append(flat(sums).astype(d_SL.dtype))
    return taken(jnp.concatenate(parts), owner_T), None, None, None


to_paths.defvjp(lambda P, x, tokens, groups, owner: (x[tokens], (groups, owner)), _to_paths_backward)


@jax.custom_vjp
def to_paths_once(x_T: Array, tokens_SL: Array, home_T: Array) -> Array:
    """As to_paths, where only a token's home has a gradient."""
    return x_T[tokens_SL]


to_paths_once.defvjp(
    lambda x, tokens, home: (x[tokens], home), lambda home, d_SL: (taken(flat(d_SL), home), None, None)
)


@jax.custom_vjp
def from_paths(x_SL: Array, tokens_SL: Array, home_T: Array) -> Array:
    """[T, ...] from [S, L, ...]: each token from its home."""
    return taken(flat(x_SL), home_T)


def _from_paths_backward(kept, d_T):
    tokens_SL, home_T = kept
    here_SL = home_T[tokens_SL] == jnp.arange(tokens_SL.size).reshape(tokens_SL.shape)
    here_SL = here_SL.reshape(here_SL.shape + (1,) * (d_T.ndim - 1))
    return jnp.where(here_SL, d_T[tokens_SL], 0), None, None


from_paths.defvjp(lambda x, tokens, home: (from_paths(x, tokens, home), (tokens, home)), _from_paths_backward)


# -- host ----------------------------------------------------------------------------------------------------------------


def make_paths(trees: Sequence[packing.Tree], T: int, causal: Callable, split: Callable) -> Paths:
    """The Paths of one tree a packed row; S and L are powers of two (L of blocks), P whole blocks."""
    found = [tree_paths(tree) for tree in trees]
    S = packing.doubled(max(len(paths) for paths in found), 1)
    L = packing.doubled(max((end(path[-1]) for paths in found for path in paths), default=1), packing.BLOCK)
    common = [max((end(path[-2]) for path in paths if len(path) > 1), default=1) for paths in found]
    P = min(L, packing.doubled(max(common), packing.BLOCK))
    tables = [path_tables(paths, T, S, L, P) for paths in found]
    return Paths(*(np.stack(table) for table in zip(*tables)), shared=P, causal=causal, split=split)


def end(segment: packing.Segment) -> int:
    """Positions up to the end of a segment."""
    return segment.position + segment.length


def tree_paths(tree: packing.Tree) -> list[list[packing.Segment]]:
    """The segments of each path that is not the beginning of another."""
    paths, inner = [], set()
    for i in reversed(range(len(tree.segments))):
        segment = tree.segments[i]
        if segment.length == 0 or i in inner:
            continue
        path, at = [], i
        while at >= 0:
            inner.add(at)
            path.insert(0, tree.segments[at])
            at = tree.segments[at].parent
        paths.insert(0, path)
    return paths


def path_tables(paths: Sequence, T: int, S: int, L: int, P: int) -> tuple[np.ndarray, ...]:
    """tokens, groups, home and owner of one packed row."""
    tokens, groups = np.zeros((S, L), np.int32), np.tile(np.arange(S, dtype=np.int32), (2, 1))
    home, owner = np.full(T, S * L, np.int32), np.full(T, S * L + 2 * S * P, np.int32)  # of padding: nowhere
    first: dict[tuple, int] = {}  # (depth, start of the segment): the path that has it first
    for s, path in enumerate(paths):
        for depth, segment in enumerate(path):
            places = np.arange(segment.position, end(segment))
            here = np.arange(segment.start, segment.start + segment.length)
            tokens[s, places] = here
            fresh = first.setdefault((depth, segment.start), s) == s
            if fresh:
                home[here] = owner[here] = s * L + places
            if depth < len(path) - 1:
                groups[depth, s] = first[depth, segment.start]
                owner[here] = S * L + (depth * S + first[depth, segment.start]) * P + places
    return tokens, groups, home, owner
