"""The shapes of a call: few, and none larger than what is asked needs."""

from types import SimpleNamespace

import jax
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict

from espl_jax.policy import sharding
from espl_jax.policy.layout import layout_of, members, parts_of, slots_for
from espl_jax.policy.schedule import cut
from espl_jax.structs import Request

MESH = sharding.make_mesh(1, 1, 1, jax.devices()[:1])
DECODING = ConfigDict({"batch_size": 64, "prefill_chunk": 64, "share_prefixes": True, "single_slot": False})


def shapes(prompts, samples, limit, max_length=2048, decoding=DECODING):
    """The layout of so many samples of each prompt."""
    asked = [np.asarray(prompt, np.int32) for prompt in prompts for _ in range(samples)]
    requests = [Request(i, tokens, (0, 0, 0, 0, i), limit, 1.0, 1.0) for i, tokens in enumerate(asked)]
    return layout_of(requests, [limit] * len(requests), cut(requests, True), decoding, max_length, MESH)


def test_a_step_of_espl_has_rows_for_its_heads_and_short_ones_for_all_its_groups():
    heads = [np.arange(400) + 1000 * h for h in range(3)]
    prompts = [np.concatenate([head, 5000 + 200 * q + np.arange(100)]) for head in heads for q in range(10)]
    found = shapes(prompts, samples=5, limit=256)
    assert (found.slots, found.length, found.head_length, found.tail_length) == (56, 1024, 512, 128)  # 3 turns of 150
    assert (found.heads, found.head_members, found.tails, found.tail_members) == (4, 21, 34, 5)  # 1.5 * 56 / 4; 3 * 56 / 5
    assert found.tails >= 30 and found.tails * found.tail_members >= 150


def test_groups_of_three_and_of_eight_have_one_layout_where_problems_are_short():
    problems = [5000 + 200 * q + np.arange(100) for q in range(8)]
    eights, threes = (shapes(problems, samples=samples, limit=16) for samples in (8, 3))
    assert (eights.tail_members, eights.tails) == (4, 24) and eights.heads == 4  # 1.5 * 64 / 4
    assert threes == eights
    assert shapes([*problems, *[problem + 1 for problem in problems]], samples=8, limit=16) == eights, "nor with two turns"
    long = shapes([np.concatenate([problem, problem]) for problem in problems], samples=8, limit=16)
    assert (long.tail_length, long.tail_members) == (256, 8)
    assert [members(group, short=True, slots=64) for group in (2, 5, 12, 17)] == [4, 5, 4, 16]
    assert members(8, short=False, slots=3) == 3


def test_idle_slots_are_few_where_rows_are_long():
    alone = [np.arange(1500) + 2000 * i for i in range(40)]
    assert shapes(alone, samples=1, limit=200).slots == 40
    assert shapes([prompt[:100] for prompt in alone], samples=1, limit=200).slots == 64


def test_heads_have_rows_where_somebody_shares_one_and_wherever_few_slots_decode():
    alone = [np.arange(100) + 2000 * i for i in range(40)]
    assert shapes(alone, samples=1, limit=50).heads == 0
    assert shapes(alone[:4], samples=1, limit=50).heads == 4


def test_slots_are_few_when_requests_are_and_turns_are_even():
    assert [slots_for(count, 96) for count in (1, 6, 7, 24, 25, 96)] == [6, 6, 24, 24, 96, 96]
    assert [slots_for(count, 48) for count in (1, 12, 13)] == [12, 12, 48]
    assert [slots_for(count, 32) for count in (33, 40, 64, 65, 150)] == [20, 20, 32, 24, 32]
    assert [slots_for(5, most) for most in (1, 3, 4, 5)] == [1, 3, 3, 5]  # 4 slots: turns of 3 and 2
    assert [slots_for(count, 64, finely=True) for count in (3, 16, 17, 40, 64, 65)] == [4, 16, 24, 40, 64, 40]


def test_one_or_two_requests_have_one_slot_where_that_is_asked_for():
    prompts = [np.arange(100) + 2000 * i for i in range(3)]
    assert [shapes(prompts[:count], samples=1, limit=50).slots for count in (1, 2, 3)] == [4, 4, 4]
    single = ConfigDict({**DECODING, "single_slot": True})
    alone, two, three = (shapes(prompts[:count], samples=1, limit=50, decoding=single) for count in (1, 2, 3))
    assert [(layout.slots, layout.first) for layout in (alone, three)] == [(1, 512), (4, 128)]
    assert (alone.length, alone.head_members) == (2048, 1), "as long as a sequence may be: one program for all of them"
    assert two == alone


@given(st.integers(1, 500), st.integers(1, 128), st.booleans())
def test_no_turn_is_added_and_no_slot_too_many(requests, most, finely):
    slots = slots_for(requests, most, finely)
    assert 1 <= slots <= most
    assert -(-requests // slots) == -(-requests // most)


def test_a_prefill_call_has_parts_of_64_tokens_on_a_cpu_or_halves_where_these_are_less_and_one_on_a_mesh():
    assert [parts_of(rows, chunk, MESH) for rows, chunk in ((8, 64), (7, 32), (4, 32), (8, 256), (2, 16), (1, 64))] == [
        8, 4, 2, 8, 2, 1,
    ]  # fmt: skip
    elsewhere = SimpleNamespace(size=1, devices=np.array([SimpleNamespace(platform="gpu")]))
    assert [parts_of(rows, 64, elsewhere) for rows in (1, 5, 8)] == [1, 2, 2]
    assert parts_of(8, 64, SimpleNamespace(size=2, devices=None)) == 1
