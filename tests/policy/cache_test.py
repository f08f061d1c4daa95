"""The sampler's cache against plain softmax attention over each slot's whole sequence, in float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from espl_jax.policy import sharding
from espl_jax.policy.cache import (
    LEVELS,
    DecodeAttend,
    Layout,
    Members,
    Part,
    PrefillAttend,
    attend_block,
    empty_cache,
    merge,
    quantize,
    write,
)
from espl_jax.policy.model import ModelSpec

SPEC = ModelSpec(
    vocab_size=50, width=16, num_layers=1, num_heads=4, num_kv_heads=2, head_dim=8, mlp_width=16, rope_theta=1e4,
    rope_scaling=None, norm_eps=1e-6, tied_head=True, qkv_bias=False, qk_norm=False, max_positions=512,
)  # fmt: skip
LAYOUT = Layout(
    slots=4, length=512, head_length=256, tail_length=256, chunk=16, heads=2, head_members=3, tails=3, tail_members=2
)
MESH = sharding.make_mesh(1, 1, 1, jax.devices()[:1])
K, E, H = 2, 8, 4
OUTSIDE = np.iinfo(np.int32).max
RNG = np.random.default_rng(0)


def random(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def plain(q_HE, keys_SKE, values_SKE):
    """One query over the keys that it sees."""
    keys, values = (np.repeat(x.astype(np.float64), H // K, axis=1) for x in (keys_SKE, values_SKE))
    scores = np.einsum("HE,SHE->HS", q_HE.astype(np.float64), keys) / np.sqrt(E)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.einsum("HS,SHE->HE", weights / weights.sum(axis=-1, keepdims=True), values)


def prefill_attend(level, row, start, *above, nested=False):
    """Two chunks; above: the head's row and length, the tail's row and length."""
    columns = [np.int32(row), np.int32(start), *(np.full(2, x, np.int32) for x in above)]
    return PrefillAttend(np.int32(LEVELS.index(level)), *columns, nested)


@jax.jit
def call(attend, q, k, v, cache):
    return attend(q, k, v, cache)


@dataclasses.dataclass
class Filled:
    """A cache, and what was put into each row of each level: keys and values, [positions, K, E]."""

    cache: dict
    rows: dict
    nested: bool

    def fill(self, level, row, length, head=None, tail=None):
        """Prefills `length` positions of a row, two chunks a call, and checks what every one of its tokens attended to."""
        known = [self.rows[place] for place in (head, tail) if place is not None]
        k, v, q = random(length, K, E), random(length, K, E), random(length, H, E)
        for start in range(0, length, 32):
            pieces = [(at, min(16, length - at)) for at in range(start, min(start + 32, length), 16)]
            rows = [row] * len(pieces) + [OUTSIDE] * (2 - len(pieces))
            padded = np.zeros((3, 2, 16, H, E), np.float32)
            for r, (at, size) in enumerate(pieces):
                padded[0, r, :size], padded[1, r, :size, :K], padded[2, r, :size, :K] = (x[at : at + size] for x in (q, k, v))
            starts = [at for at, _ in pieces] + [0] * (2 - len(pieces))
            above = [(place[1], len(self.rows[place][0])) if place else (0, 0) for place in (head, tail)]
            attend = prefill_attend(level, rows, starts, *above[0], *above[1], nested=self.nested)
            out, self.cache = call(attend, padded[0], padded[1][:, :, :K], padded[2][:, :, :K], self.cache)
            for r, (at, size) in enumerate(pieces):
                for i in range(size):
                    keys = np.concatenate([*(x[0] for x in known), k[: at + i + 1]])
                    values = np.concatenate([*(x[1] for x in known), v[: at + i + 1]])
                    np.testing.assert_allclose(out[r, i], plain(q[at + i], keys, values), atol=1e-5)
        self.rows[level, row] = (k, v)


def filled(layout=LAYOUT, nested=False):
    """Two heads, tails under one of them and under none, and slots of every kind; every other position holds junk."""
    cache = jax.tree.map(lambda x: x + 100.0, empty_cache(SPEC, layout, "float32", MESH)[0])
    state = Filled(cache, {}, nested)
    state.fill("heads", 1, 40)
    state.fill("tails", 0, 21, head=("heads", 1))
    state.fill("tails", 2, 150)
    state.fill("own", 0, 0)
    state.fill("own", 1, 130)
    state.fill("own", 3, 7, head=("heads", 1))
    state.rows["own", 2] = (random(0, K, E), random(0, K, E))
    return state


COARSE = dataclasses.replace(LAYOUT, first=512)  # own rows have one buffer, longer than those of the shared rows


@pytest.mark.parametrize("nested", [False, True], ids=["one switch", "nested"])
@pytest.mark.parametrize("layout", [LAYOUT, COARSE], ids=["fine", "coarse"])
def test_prefill_and_decode_attend_to_all_that_a_slot_sees_and_to_nothing_else(layout, nested):
    """Slot 0: head, tail, own. 1: its own alone, in two blocks. 2: a tail without a head. 3: a head, and its own prompt."""
    state = filled(layout, nested)
    own_lengths = np.int32([0, 130, 0, 7])
    heads = Members(np.int32([[9, 9, 9], [0, 3, 9]]), np.int32([3, -1, -1, 4]), np.int32([0, 40]))
    tails = Members(np.int32([[0, 9], [9, 9], [9, 2]]), np.int32([0, -1, 5, -1]), np.int32([21, 0, 150]))
    sees = {0: [("heads", 1), ("tails", 0)], 1: [], 2: [("tails", 2)], 3: [("heads", 1)]}
    cache = state.cache
    for step in range(3):
        attend = DecodeAttend(own_lengths + step, heads, tails, np.ones(4, bool), lambda x, names: x, nested)
        q, k, v = random(4, 1, H, E), random(4, 1, K, E), random(4, 1, K, E)
        out, cache = jax.jit(attend.__call__)(q, k, v, cache)
        for slot in range(4):
            own = state.rows["own", slot]
            state.rows["own", slot] = tuple(np.concatenate([old, new[slot]]) for old, new in zip(own, (k, v)))
            keys, values = (np.concatenate([state.rows[at][i] for at in [*sees[slot], ("own", slot)]]) for i in (0, 1))
            np.testing.assert_allclose(out[slot, 0], plain(q[slot, 0], keys, values), atol=1e-5)


def test_idle_slots_write_nothing():
    cache = empty_cache(SPEC, LAYOUT, "float32", MESH)[0]
    place = np.full(4, -1, np.int32)
    nobody = [Members(np.full((X, M), 9, np.int32), place, np.zeros(X, np.int32)) for X, M in ((2, 3), (3, 2))]
    attend = DecodeAttend(np.int32([3, 3, 3, 3]), *nobody, np.array([1, 0, 0, 1], bool), lambda x, names: x)
    _, after = jax.jit(attend.__call__)(random(4, 1, H, E), random(4, 1, K, E), random(4, 1, K, E), cache)
    written = [np.flatnonzero(np.asarray(array).any(axis=(1, 2, 3))).tolist() for array in after["own"][0]]
    assert written == [[0, 3], [0, 3]]


def test_windows_go_to_their_block_and_out_of_range_rows_nowhere():
    blocks = empty_cache(SPEC, LAYOUT, "float32", MESH)[0]["own"]
    assert [block[0].shape for block in blocks] == [(4, 2, 8, 128), (4, 2, 8, 64), (4, 2, 8, 64), (4, 2, 8, 256)]
    assert dataclasses.replace(LAYOUT, length=1024).blocks("own") == (128, 64, 64, 256, 512)
    assert dataclasses.replace(LAYOUT, length=1024, chunk=128).blocks("own") == (128, 128, 256, 512)
    assert dataclasses.replace(LAYOUT, length=2048).blocks("own") == (128, 64, 64, 256, 512, 512, 512)
    long = dataclasses.replace(LAYOUT, length=8192, head_length=4096, tail_length=4096)
    assert long.blocks("own") == (128, 64, 64, 256, 512, 1024, 2048, 2048, 2048)
    assert long.blocks("heads") == (128, 64, 64, 256, 512, 1024, 2048)  # block by block like those of the slots
    assert dataclasses.replace(LAYOUT, length=1024, chunk=512).blocks("own") == (512, 512)
    assert dataclasses.replace(LAYOUT, length=2048, first=512).blocks("own") == (512, 512, 512, 512)
    assert dataclasses.replace(LAYOUT, first=512).blocks("heads") == (256,)
    assert dataclasses.replace(LAYOUT, length=1024).blocks("heads") == (128, 64, 64)
    k, v = random(3, 16, K, E), random(3, 16, K, E)
    after = write(blocks, k, v, jnp.int32([2, OUTSIDE, 0]), jnp.int32([128 + 32, 0, 112]))
    keys, values = (np.concatenate([np.asarray(block[i]) for block in after], axis=3 - i) for i in (0, 1))
    np.testing.assert_array_equal(keys[2, :, :, 160:176].transpose(2, 0, 1), k[0])
    np.testing.assert_array_equal(values[0, :, 112:128].swapaxes(0, 1), v[2])
    assert (keys != 0).sum() == (values != 0).sum() == 2 * 16 * K * E


@pytest.mark.parametrize("axis", [-1, -2])
def test_int8_rounds_to_a_127th_of_the_largest(axis):
    x = random(5, 6, 7) * np.float32(10.0) ** RNG.integers(-5, 5, (5, 6, 7)).astype(np.float32)
    kept = quantize(jnp.asarray(x), axis)
    error = np.abs(np.asarray(kept["rounded"]) * np.asarray(kept["scale"]) - x)
    assert (error <= np.abs(x).max(axis=axis, keepdims=True) / 127 * 0.5001).all() and kept["rounded"].dtype == jnp.int8
    assert not np.asarray(quantize(jnp.zeros((2, 3)), -1)["rounded"]).any()


def test_parts_merge_to_the_whole_and_a_part_that_saw_nothing_adds_nothing():
    q, keys, values = random(1, K, 2, E), random(1, K, E, 12), random(1, K, 12, E)
    whole = attend_block(q, (keys, values), jnp.int32([[12]]))
    cut = [(keys[..., i : i + 4], values[:, :, i : i + 4]) for i in (0, 4, 8)]
    parts = [attend_block(q, block, jnp.int32([[4]])) for block in cut]
    nothing = attend_block(q, (keys * 50, values), jnp.int32([[0]]))
    merged = merge([nothing, *parts])
    np.testing.assert_allclose(merged.out / merged.total[..., None], whole.out / whole.total[..., None], atol=1e-6)
    assert isinstance(merge([whole]), Part) and merge([whole]) is whole


def test_a_layout_s_bytes_are_those_of_its_arrays():
    cache = empty_cache(SPEC, LAYOUT, "float32", MESH)
    assert sum(array.nbytes for array in jax.tree.leaves(cache)) == LAYOUT.bytes(SPEC, 4) == (4 * 512 + 5 * 256) * 2 * 2 * 8 * 4
