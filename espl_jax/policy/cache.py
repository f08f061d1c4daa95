"""Keys and values while sampling: what is shared is stored once, and attended to once for all who share it.

Three levels of rows: `heads` (a system prompt), `tails` (a problem under it) and `own` (what one slot wrote, and whatever of
its prompt nobody shares). A query attends to each level by itself, for a shared row as one product of all its members' queries,
and the parts are merged by their log-sum-exp, as in flash decoding (Dao et al. 2023) and Hydragen (Juravsky et al.,
arXiv 2402.05099). A level's positions lie in blocks of separate buffers: blocks that no row has reached are skipped, and every
write is in place.

Letters besides those of structs.py: X rows of a level; M members of a shared row; N queries that see the same row; S positions
of a block; R, C rows and tokens of a prefill chunk.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from espl_jax.policy import sharding
from espl_jax.policy.model import ModelSpec

Array = jax.Array
LEVELS = ("heads", "tails", "own")
NOTHING = -1e30  # a score that no softmax notices; infinities would make NaNs of rows that see nothing
NOBODY = 2**31 - 1  # the row of a prefill chunk that is padding
SHORTEST_BLOCK = 128  # positions
COARSE_BLOCK = 512  # of the first buffer where reading a few positions too many costs less than further operations
CACHE_NAMES = {"heads": (None, "kv_heads", None, None), "tails": ("slots", "kv_heads", None, None)}
CACHE_NAMES["own"] = CACHE_NAMES["tails"]


@dataclass(frozen=True)
class Layout:
    """The shapes of a call, all that its programs depend on.

    slots: sequences that decode together. length, head_length, tail_length: positions of a slot's own row and of shared ones.
    chunk: tokens of a prefill chunk. heads, tails: shared rows; head_members, tail_members: slots that can share one of them.
    first: positions of a level's first buffer, unless its rows are shorter or chunks longer.
    """

    slots: int
    length: int
    head_length: int
    tail_length: int
    chunk: int
    heads: int
    head_members: int
    tails: int
    tail_members: int
    first: int = SHORTEST_BLOCK

    def blocks(self, level: str) -> tuple[int, ...]:
        """Positions of each buffer: 128, 64, 64, 256, 512, ... (longer if `first` or chunks are), from 512 on a quarter of a
        slot's length at the most: few buffers for any length, and little is read beyond the longest row."""
        length = {"heads": self.head_length, "tails": self.tail_length, "own": self.length}[level]
        sizes = [min(max(self.first, self.chunk), length)]
        if max(self.first // 2, self.chunk) <= SHORTEST_BLOCK // 2 and length > SHORTEST_BLOCK:
            sizes += [SHORTEST_BLOCK // 2] * 2
        while sum(sizes) < length:
            sizes.append(min(sum(sizes), max(512, self.chunk, self.length // 4)))
        return tuple(sizes)

    @property
    def rows(self) -> dict[str, int]:
        return {"heads": self.heads, "tails": self.tails, "own": self.slots}

    def bytes(self, spec: ModelSpec, itemsize: float) -> float:
        """What the keys and values take, over all devices."""
        positions = sum(rows * sum(self.blocks(level)) for level, rows in self.rows.items())
        return positions * spec.num_layers * 2 * spec.num_kv_heads * spec.head_dim * itemsize


# -- storage: arrays of a dtype, or int8 with a scale a position and head -----------------------------------------------


def quantize(x: Array, axis: int) -> dict[str, Array]:
    """int8, with one float32 scale along the axis."""
    scale = jnp.max(jnp.abs(x.astype(jnp.float32)), axis=axis, keepdims=True) / 127
    rounded = jnp.round(x.astype(jnp.float32) / jnp.maximum(scale, 1e-30))
    return {"rounded": rounded.astype(jnp.int8), "scale": scale}


def loaded(kept: Any, dtype: Any) -> Array:
    """What was stored, for multiplication."""
    if isinstance(kept, dict):
        return (kept["rounded"].astype(jnp.float32) * kept["scale"]).astype(dtype)
    return kept.astype(dtype)


def empty_cache(spec: ModelSpec, layout: Layout, dtype: str, mesh: Any) -> tuple:
    """One dict a layer: level -> blocks of (keys [X, K, E, S], values [X, K, S, E]); made where it will live.

    Keys lie with their positions last, as the scores' product reads them: on CPU that takes half the time.
    """
    K, E = spec.num_kv_heads, spec.head_dim

    def array(level, *tail, kind):
        shape = (layout.rows[level], K, *tail)
        return sharding.constrain(jnp.zeros(shape, kind), CACHE_NAMES[level], mesh)

    def block(level, S):
        if dtype == "int8":
            keys = {"rounded": array(level, E, S, kind=jnp.int8), "scale": array(level, 1, S, kind=jnp.float32)}
            values = {"rounded": array(level, S, E, kind=jnp.int8), "scale": array(level, S, 1, kind=jnp.float32)}
            return keys, values
        return array(level, E, S, kind=dtype), array(level, S, E, kind=dtype)

    return tuple(
        {level: tuple(block(level, S) for S in layout.blocks(level)) for level in LEVELS} for _ in range(spec.num_layers)
    )


def starts_of(blocks: tuple) -> list[int]:
    """The first position of each block, and behind them the end of the last."""
    return [0, *itertools.accumulate(jax.tree.leaves(values)[0].shape[2] for _, values in blocks)]


def write(blocks: tuple, keys: Array, values: Array, rows: Array, starts: Array) -> tuple:
    """The blocks with windows of keys and values, [R, C, K, E], at (row, start); rows out of range are dropped.

    C divides every block and the starts are multiples of it, or C is 1.
    """
    bounds, count = starts_of(blocks), jax.tree.leaves(blocks[0])[0].shape[0]
    if not count:
        return blocks
    kept = isinstance(blocks[0][0], dict)
    keys, values = keys.transpose(0, 2, 3, 1), values.swapaxes(1, 2)
    new = (quantize(keys, -2), quantize(values, -1)) if kept else (keys, values)

    def put(number, axis):
        dims = jax.lax.ScatterDimensionNumbers(
            update_window_dims=(1, 2, 3), inserted_window_dims=(0,), scatter_dims_to_operand_dims=(0, axis)
        )
        inside = (bounds[number] <= starts) & (starts < bounds[number + 1])
        there = jnp.stack([jnp.where(inside, rows, count), starts - bounds[number]], axis=-1)
        mode = jax.lax.GatherScatterMode.FILL_OR_DROP
        return lambda old, new: jax.lax.scatter(old, there, new.astype(old.dtype), dims, unique_indices=True, mode=mode)

    return tuple(
        (jax.tree.map(put(number, 3), block[0], new[0]), jax.tree.map(put(number, 2), block[1], new[1]))
        for number, block in enumerate(blocks)
    )


# -- attention in parts ------------------------------------------------------------------------------------------------


@flax.struct.dataclass
class Part:
    """Attention over some of the keys, not yet normalised: highest score and sum of weights [X, K, N], sum of weighted
    values [X, K, N, E]; all float32."""

    highest: Array
    total: Array
    out: Array


def attend_block(q_XKNE: Array, block: tuple, seen_XN: Array) -> Part:
    """Over the first seen_XN (or [X, 1]) positions of one block; fewer than 1 see nothing."""
    keys, values = (loaded(kept, q_XKNE.dtype) for kept in block)
    scores = jnp.einsum("XKNE,XKES->XKNS", q_XKNE, keys, preferred_element_type=jnp.float32)
    visible = jnp.arange(keys.shape[3]) < seen_XN[:, None, :, None]
    scores = jnp.where(visible, scores / math.sqrt(q_XKNE.shape[-1]), NOTHING)
    highest = jnp.max(scores, axis=-1)
    weights = jnp.exp(scores - highest[..., None])
    out = jnp.einsum("XKNS,XKSE->XKNE", weights.astype(values.dtype), values, preferred_element_type=jnp.float32)
    return Part(highest, jnp.sum(weights, axis=-1), out)


def merge(parts: Sequence[Part]) -> Part:
    """Attention over all the keys that the parts saw."""
    if len(parts) == 1:
        return parts[0]
    highest = jnp.stack([part.highest for part in parts]).max(axis=0)
    shares = [jnp.exp(part.highest - highest) for part in parts]
    total = sum(part.total * share for part, share in zip(parts, shares))
    return Part(highest, total, sum(part.out * share[..., None] for part, share in zip(parts, shares)))


def attend_blocks(
    q_XKNE: Array, starts: Sequence[int], block: Callable[[int], tuple], seen_XN: Array, reached: Array | None = None
) -> Part:
    """Over the first seen_XN positions of a level's rows, of which block(i) holds those from starts[i] on.

    reached: positions that any row has; the blocks behind them are skipped, one conditional within the other. None: none is.
    """

    def part(i):
        return attend_block(q_XKNE, block(i), seen_XN - starts[i])

    def onward(i):
        here = part(i)
        if i + 1 == len(starts):
            return here
        return jax.lax.cond(reached > starts[i + 1], lambda: merge([here, onward(i + 1)]), lambda: here)

    return merge([part(i) for i in range(len(starts))]) if reached is None else onward(0)


def over_reached(
    blocks: tuple, reached: Array, attend: Callable[[Sequence[int], Array | None], Part], nothing: Callable[[], Part] | None,
    nested: bool,
) -> Part:
    """Attention over the blocks up to the `reached` position; nothing() when that is 0, if it may be.

    attend(starts, reached): as attend_blocks has them. nested: conditionals one within the other, so that each block is there
    once; else one with a branch for every number of blocks, whose parts are merged at once.
    """
    *starts, _ = bounds = starts_of(blocks)
    if nested and nothing is None:
        return attend(starts, reached)
    if nested:
        return jax.lax.cond(reached > 0, lambda: attend(starts, reached), nothing)
    branches = [lambda count=count: attend(starts[:count], None) for count in range(1, len(blocks) + 1)]
    index = jnp.searchsorted(jnp.asarray(bounds[1:]), reached)
    if nothing is not None:
        branches, index = [nothing, *branches], jnp.where(reached > 0, index + 1, 0)
    return branches[0]() if len(branches) == 1 else jax.lax.switch(index, branches)


def no_part(shape_XKNE: tuple[int, ...]) -> Part:
    """Having seen nothing."""
    zeros = jnp.zeros(shape_XKNE[:-1], jnp.float32)
    return Part(zeros + NOTHING, zeros, jnp.zeros(shape_XKNE, jnp.float32))


def finished(part: Part, dtype: Any) -> Array:
    """The attended values [X, K, N, E]."""
    return (part.out / part.total[..., None]).astype(dtype)


# -- who sees whom -----------------------------------------------------------------------------------------------------


@flax.struct.dataclass
class Members:
    """Who shares the rows of one level.

    slots: int32 [X, M], slots under each row (any number out of range: nobody). place: int32 [B], where x * M + m is a slot's
    place in it, -1 for a slot without one. length: int32 [X], positions of each row, 0 where nobody needs it.
    """

    slots: Array
    place: Array
    length: Array


@flax.struct.dataclass
class DecodeAttend:
    """One query a slot: to its own row up to `positions` [B], and to the shared rows that it is a member of.

    live: bool [B]; the others write nothing and get nothing of use. constrain: the model's. nested: see over_reached.
    """

    positions: Array
    heads: Members
    tails: Members
    live: Array
    constrain: Any = flax.struct.field(pytree_node=False)
    nested: bool = flax.struct.field(pytree_node=False, default=False)

    def __call__(self, q_B1HE: Array, k: Array, v: Array, cache: dict) -> tuple[Array, dict]:
        B, _, H, E = q_B1HE.shape
        K = k.shape[2]
        q_BKNE = q_B1HE.reshape(B, K, H // K, E)
        own = write(cache["own"], k, v, jnp.where(self.live, jnp.arange(B), B), self.positions)
        seen_B1 = self.positions[:, None] + 1
        reached = jnp.max(jnp.where(self.live, self.positions + 1, 1))

        def itself(starts, reached):
            return attend_blocks(q_BKNE, starts, own.__getitem__, seen_B1, reached)

        parts = [over_reached(own, reached, itself, None, self.nested)]
        for name, members in (("heads", self.heads), ("tails", self.tails)):
            if members.slots.size:
                parts.append(self.shared(q_BKNE, cache[name], members, name))
        return finished(merge(parts), q_B1HE.dtype).reshape(B, 1, H, E), cache | {"own": own}

    def shared(self, q_BKNE: Array, blocks: tuple, members: Members, name: str) -> Part:
        """The part of every slot over one level: one product a shared row, for all of its members."""
        (B, K, N, E), (X, M) = q_BKNE.shape, members.slots.shape
        names = {"heads": (None, "kv_heads", "slots", None), "tails": ("slots", "kv_heads", None, None)}[name]

        def attend(starts, reached):
            q_XMKNE = jnp.take(q_BKNE, members.slots, axis=0, mode="clip")
            q_XKnE = self.constrain(q_XMKNE.swapaxes(1, 2).reshape(X, K, M * N, E), names)
            part = attend_blocks(q_XKnE, starts, blocks.__getitem__, members.length[:, None], reached)
            return jax.tree.map(of_slots, part)

        def of_slots(x):  # [X, K, M * N, ...] -> [B, K, N, ...]
            x = x.reshape(X, K, M, N, *x.shape[3:]).swapaxes(1, 2)
            return jnp.take(x.reshape(X * M, K, N, *x.shape[4:]), members.place, axis=0, mode="clip")

        part = over_reached(blocks, jnp.max(members.length), attend, lambda: no_part((B, K, N, E)), self.nested)
        return part.replace(highest=jnp.where(members.place[:, None, None] < 0, NOTHING, part.highest))


@flax.struct.dataclass
class PrefillAttend:
    """Chunks of C tokens that go into rows of one level, chunk r from position `start` of row `row` on, all int32 [R].

    level: index into LEVELS, a scalar. head, tail: the rows of the upper levels that a chunk's tokens see, with `head_length`
    and `tail_length` positions (0: none). A chunk may follow another of the same row in the same call: keys and values are
    written, layer by layer, before they are read. Rows out of range are padding. nested: see over_reached.
    """

    level: Array
    row: Array
    start: Array
    head: Array
    head_length: Array
    tail: Array
    tail_length: Array
    nested: bool = flax.struct.field(pytree_node=False, default=False)

    def rows(self) -> dict[str, Array]:
        """What is said of each chunk."""
        return {name: getattr(self, name) for name in ("row", "start", "head", "head_length", "tail", "tail_length")}

    def __call__(self, q_RCHE: Array, k: Array, v: Array, cache: dict) -> tuple[Array, dict]:
        R, C, H, E = q_RCHE.shape
        K = k.shape[2]
        N = H // K
        q = q_RCHE.reshape(R, C, K, N, E).swapaxes(1, 2).reshape(R, K, C * N, E)
        cache = {
            name: write(cache[name], k, v, jnp.where(self.level == number, self.row, NOBODY), self.start)
            for number, name in enumerate(LEVELS)
        }
        used = self.row < NOBODY
        seen = jnp.repeat(self.start[:, None] + 1 + jnp.arange(C), N, axis=1)
        reached = jnp.max(jnp.where(used, self.start + C, 1))

        present = [number for number, name in enumerate(LEVELS) if jax.tree.leaves(cache[name])[0].shape[0]]

        def itself(starts, reached):
            return attend_blocks(q, starts, own_rows, seen, reached)

        def own_rows(i):  # of each chunk, in the buffers with this number, of the level that it belongs to; "own" has most
            *others, last = [number for number in present if i < len(cache[LEVELS[number]])]
            taken = {number: rows(cache[LEVELS[number]][i], self.row) for number in (*others, last)}
            here = taken[last]
            for number in others:
                here = jax.tree.map(functools.partial(chosen, self.level == number), taken[number], here)
            return here

        def above(name, row, length):
            def there():
                return attend_blocks(q, starts_of(cache[name])[:-1], rows(cache[name], row).__getitem__, length[:, None])

            return jax.lax.cond(jnp.any(length > 0), there, lambda: no_part(q.shape))

        parts = [over_reached(cache["own"], reached, itself, None, self.nested)]
        if 0 in present:
            parts.append(above("heads", self.head, self.head_length))
        if 1 in present:
            parts.append(above("tails", self.tail, self.tail_length))
        out = finished(merge(parts), q.dtype).reshape(R, K, C, N, E).swapaxes(1, 2)
        return out.reshape(R, C, H, E), cache


def chosen(which: Array, one: Array, other: Array) -> Array:
    """One of two buffers, as long as the other; a level whose rows are shorter than a first buffer has a shorter one."""
    return jnp.where(which, jnp.pad(one, [(0, to - size) for size, to in zip(one.shape, other.shape)]), other)


def rows(blocks: tuple, index_R: Array) -> tuple:
    """Some rows of every block."""
    return jax.tree.map(lambda block: jnp.take(block, index_R, axis=0, mode="clip"), blocks)
