"""The sampler: what a request draws is its own affair, and what it reports is what the trainer computes."""

import copy
import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from espl_jax.policy import lora, sharding
from espl_jax.policy.model import Decoder, ModelSpec, abstract_params
from espl_jax.policy.sampler import NOBODY, Sampler
from espl_jax.structs import Request
from experiments import base
from tests.tiny import random_params

SPEC = ModelSpec(
    vocab_size=300, width=32, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, mlp_width=48, rope_theta=1e4,
    rope_scaling=None, norm_eps=1e-6, tied_head=False, qkv_bias=True, qk_norm=True, max_positions=512,
)  # fmt: skip
MODEL = Decoder(SPEC, lora_scale=0.5)
STOPS = tuple(range(0, 300, 12))
MAX_LENGTH = 90
HEAD = np.arange(7, 47, dtype=np.int32)  # what two of the prompts begin with


def make_params():
    """Random weights whose head is loud enough that distributions are neither flat nor certain."""
    params = random_params(SPEC, 0)
    return params | {"head": 5 * params["head"]}


def make_adapter():
    """An adapter with every matrix random."""
    shapes, _ = lora.abstract(*abstract_params(MODEL), 4, lora.TARGETS)
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: (0.2 * rng.standard_normal(x.shape)).astype(np.float32), shapes)


PARAMS = jax.tree.map(jnp.asarray, make_params())
VARIABLES = {
    "full": {"params": PARAMS},
    "lora": {"params": PARAMS, "lora": jax.tree.map(jnp.asarray, make_adapter())},
}


@functools.cache
def sampler(stop_ids=(), seed=0, max_length=MAX_LENGTH, **changes):
    mesh = sharding.make_mesh(1, 1, 1, jax.devices()[:1])
    decoding = base.sampling()
    decoding.update({"batch_size": 16, "prefill_tokens": 32, "prefill_chunk": 16, "merge_weights": True} | changes)
    return Sampler(MODEL, mesh, stop_ids, seed, decoding, max_length)


def requests(step=1):
    """Of every kind: prompts of several lengths, shared in whole, in part or not; all settings; cut by max_length or not."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, 300, n, dtype=np.int32) for n in (1, 5, 30, 3)]
    prompts[2], prompts[3] = (np.concatenate([HEAD, prompt]) for prompt in (prompts[2][:20], prompts[3]))
    settings = [(1.0, 1.0), (0.6, 0.95), (0.0, 1.0), (1.3, 0.7), (1.0, 0.5)]
    lengths = [40, 35, 33, 50, 7, 1]
    return [
        Request(("r", i), prompts[i % 4], (1, step, 0, i % 4, i), lengths[i % 6], *settings[i % 5]) for i in range(11)
    ]


@functools.cache
def sampled(kind="full"):
    """Completions of all requests at once; every other test compares with these."""
    return sampler()(VARIABLES[kind], requests())


def full_logits(variables, tokens, length=MAX_LENGTH):
    """float32 [L, V] of one sequence, in one forward pass."""
    padded = np.zeros((1, length), np.int32)
    padded[0, : len(tokens)] = tokens
    return np.asarray(all_logits(variables, padded))[0, : len(tokens)]


@jax.jit
def all_logits(variables, tokens_BL):
    hidden, _ = MODEL.apply(variables, tokens_BL, jnp.broadcast_to(jnp.arange(tokens_BL.shape[1]), tokens_BL.shape))
    return MODEL.apply(variables, hidden, method="logits")


def assert_same(ours, expected):
    assert ours.id == expected.id and ours.finish == expected.finish
    assert ours.tokens.tolist() == expected.tokens.tolist(), ours.id
    for name in ("behavior", "tempered", "untempered"):
        np.testing.assert_allclose(getattr(ours, name), getattr(expected, name), atol=1e-5, err_msg=name)


def test_completions_come_in_the_order_of_the_requests_with_room_respected():
    for request, completion in zip(requests(), sampled()):
        room = min(request.max_new_tokens, MAX_LENGTH - len(request.tokens))
        assert (completion.id, completion.finish, len(completion.tokens)) == (request.id, "length", room)
        assert ((0 <= completion.tokens) & (completion.tokens < 300)).all()
    cut = [r for r in requests() if len(r.tokens) + r.max_new_tokens > MAX_LENGTH]
    assert cut, "some request asks for more than there is room for"


@pytest.mark.parametrize(
    "changes",
    [
        dict(batch_size=2),
        dict(share_prefixes=False),
        dict(share_prefixes=False, batch_size=3, prefill_tokens=64, prefill_chunk=64),
        dict(prefill_tokens=8, prefill_chunk=8),
        dict(merge_weights=False, cache_dtype="float32"),
    ],
    ids=str,
)
def test_slots_buckets_order_and_sharing_do_not_matter(changes):
    reverse = list(reversed(requests()))
    for ours, expected in zip(sampler(**changes)(VARIABLES["lora"], reverse), reversed(sampled("lora"))):
        assert_same(ours, expected)


@pytest.mark.parametrize("index", [0, 3])
def test_a_request_alone_draws_what_it_draws_among_others(index):
    (alone,) = sampler(batch_size=8, single_slot=True)(VARIABLES["full"], [requests()[index]])
    assert_same(alone, sampled()[index])


def test_two_requests_in_one_slot_draw_one_after_the_other_what_they_draw_together():
    two = sampler(batch_size=8, single_slot=True)(VARIABLES["full"], requests()[2:4])
    for ours, expected in zip(two, sampled()[2:4], strict=True):
        assert_same(ours, expected)


def test_stop_tokens_end_a_completion_and_belong_to_it():
    """With stop tokens each completion is the one without, up to its first stop; freed slots take the next request."""
    ours = sampler(batch_size=2, stop_ids=STOPS)(VARIABLES["full"], requests())
    for completion, free in zip(ours, sampled()):
        stops = np.flatnonzero(np.isin(free.tokens, STOPS))
        end = stops[0] + 1 if len(stops) else len(free.tokens)
        assert completion.tokens.tolist() == free.tokens[:end].tolist()
        np.testing.assert_allclose(completion.behavior, free.behavior[:end], atol=1e-5)
        assert completion.finish == ("stop" if len(stops) else "length")
    assert {completion.finish for completion in ours} == {"stop", "length"}


def test_greedy_is_the_argmax_of_the_full_forward_at_every_step():
    greedy = [i for i, request in enumerate(requests()) if request.temperature == 0]
    assert max(len(sampled()[i].tokens) for i in greedy) > 32, "more than one call of decode"
    for i in greedy:
        prompt, tokens = requests()[i].tokens, sampled()[i].tokens
        logits = full_logits(VARIABLES["full"], np.concatenate([prompt, tokens]))
        assert tokens.tolist() == logits[len(prompt) - 1 : -1].argmax(axis=-1).tolist()
        assert not sampled()[i].behavior.any()


def log_softmax(x):
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_reported_log_probabilities_are_those_of_the_full_forward(kind):
    """In float64, the nucleus by sorting."""
    gaps = {"behavior": [0.0], "tempered": [0.0], "untempered": [0.0]}
    for request, completion in zip(requests(), sampled(kind)):
        everything = full_logits(VARIABLES[kind], np.concatenate([request.tokens, completion.tokens]))
        logits = everything[len(request.tokens) - 1 : -1].astype(np.float64)
        tempered = log_softmax(logits / (request.temperature or 1.0))
        for t, token in enumerate(completion.tokens):
            gaps["tempered"].append(tempered[t, token] - completion.tempered[t])
            gaps["untempered"].append(log_softmax(logits[t])[token] - completion.untempered[t])
            if request.temperature:
                ranked = np.sort(np.exp(tempered[t]))[::-1]
                mass = np.cumsum(ranked)
                last = min(np.searchsorted(mass, request.top_p), len(mass) - 1)
                if abs(mass[last] - request.top_p) > 1e-5 and abs(mass[last] - ranked[last] - request.top_p) > 1e-5:
                    assert np.exp(tempered[t, token]) > ranked[last] - 1e-6, "drawn from outside the nucleus"
                    gaps["behavior"].append(tempered[t, token] - np.log(mass[last]) - completion.behavior[t])
    assert len(gaps["behavior"]) > 100
    assert {name: np.abs(gap).max() < 1e-4 for name, gap in gaps.items()} == dict.fromkeys(gaps, True)


@pytest.mark.parametrize("head, tail", [(150, 10), (10, 150), (200, 140), (140, 200), (300, 10)])
def test_shared_rows_of_every_length_are_read_as_they_were_written(head, tail):
    """System prompts and problems whose rows have more buffers, or fewer, than the other's."""
    rng = np.random.default_rng(head)
    heads, tails = ([rng.integers(0, 300, n - i, dtype=np.int32) for i in range(2)] for n in (head, tail))
    prompts = [np.concatenate(pair) for pair in itertools.product(heads, tails)]
    asked = [Request(("r", i), prompts[i // 2], (1, 1, 0, i // 2, i), 6, 1.0, 1.0) for i in range(8)]
    for request, completion in zip(asked, sampler(max_length=512)(VARIABLES["full"], asked), strict=True):
        tokens, n = np.concatenate([request.tokens, completion.tokens]), len(request.tokens)
        expected = log_softmax(full_logits(VARIABLES["full"], tokens, 512)[n - 1 : -1])[np.arange(6), completion.tokens]
        np.testing.assert_allclose(completion.untempered, expected, atol=1e-4)


def test_an_adapter_changes_what_is_drawn():
    assert [c.tokens.tolist() for c in sampled("lora")] != [c.tokens.tolist() for c in sampled("full")]


def test_other_steps_and_seeds_draw_other_tokens():
    """But greedy ones draw the same."""
    step = sampler()(VARIABLES["full"], requests(step=2))
    reseeded = copy.copy(sampler())  # the programs are compiled already
    reseeded.seed = sampler(seed=1).seed
    seed = reseeded(VARIABLES["full"], requests())
    for request, here, later, elsewhere in zip(requests(), sampled(), step, seed):
        different = {tuple(completion.tokens) for completion in (here, later, elsewhere)}
        if request.temperature == 0:
            assert len(different) == 1
        elif len(here.tokens) > 6:
            assert len(different) == 3


def watch_prefill(monkeypatch, which):
    """The chunks of tokens that a sampler prefills from now on, as (level, row, tokens) lists."""
    seen, prefill = [], which._prefill

    def watching(weights, slots, tokens_RC, positions_RC, attend):
        rows = zip(np.asarray(attend.row), np.asarray(tokens_RC))
        seen.extend((int(attend.level), int(row), tokens.tolist()) for row, tokens in rows if row != NOBODY)
        return prefill(weights, slots, tokens_RC, positions_RC, attend)

    monkeypatch.setattr(which, "_prefill", watching)
    return seen


def test_samples_of_one_prompt_differ_by_their_counter_alone(monkeypatch):
    """Also what they share is prefilled once: a head of two prompts, and two tails."""
    prompts = [np.concatenate([HEAD, np.arange(100 + 5 * p, 107 + 5 * p)]).astype(np.int32) for p in range(2)]
    group = [Request((p, g), prompts[p], (1, 1, 0, p, g), 10, 1.0, 1.0) for p in range(2) for g in range(3)]
    twin = Request("twin", prompts[0].copy(), group[2].counter, 10, 1.0, 1.0)
    seen = watch_prefill(monkeypatch, sampler())
    ours = sampler()(VARIABLES["full"], [*group, twin])
    assert [level for level, _, _ in seen] == [0, 0, 0, 1, 1]
    assert [tokens[:8] for level, _, tokens in seen if level == 0] == [HEAD[i : i + 8].tolist() for i in (0, 16, 32)]
    assert len({tuple(c.tokens) for c in ours[:3]}) == 3 and len({tuple(c.tokens) for c in ours[3:6]}) == 3
    np.testing.assert_array_equal(ours[6].tokens, ours[2].tokens)


def test_completions_are_told_of_as_soon_as_they_are_there():
    told = []
    ours = sampler(batch_size=2)(VARIABLES["full"], requests(), lambda i, completion: told.append((i, completion)))
    assert [i for i, _ in told] != sorted(i for i, _ in told) and dict(told) == dict(enumerate(ours))


def test_a_request_that_has_enough_ends_with_the_fewest_tokens_that_are():
    """And hands its slot on: what the device draws for it beyond is seen by nobody."""
    asked = [dataclasses.replace(r, enough=lambda tokens: len(tokens) >= 5) if i % 2 else r for i, r in enumerate(requests())]
    for i, (ours, free) in enumerate(zip(sampler(batch_size=3)(VARIABLES["full"], asked), sampled())):
        size = min(5, len(free.tokens)) if i % 2 else len(free.tokens)
        assert ours.tokens.tolist() == free.tokens[:size].tolist()


def test_a_completion_drawn_by_two_requests_is_that_of_one():
    """The second has what the first drew in its prompt and counts on from there; it comes while others are at work."""
    whole, made, told, waiting = sampled(), requests(), {}, []
    sizes = [len(completion.tokens) // 2 for completion in whole]
    begun = [
        dataclasses.replace(r, max_new_tokens=n, later=len(c.tokens) - n) if n else r for r, n, c in zip(made, sizes, whole)
    ]
    numbers = list(range(len(made)))

    def on_done(i, completion):
        told[i] = completion
        if i < len(made) and sizes[i]:
            waiting.append(i)

    def more(idle):
        numbers.extend(waiting)
        found = [(i, rest(i)) for i in waiting]
        waiting.clear()
        return found

    def rest(i):
        tokens, left = np.concatenate([made[i].tokens, told[i].tokens]), len(whole[i].tokens) - sizes[i]
        return dataclasses.replace(made[i], tokens=tokens, earlier=sizes[i], max_new_tokens=left)

    ours = sampler()(VARIABLES["full"], begun, on_done, more)
    assert len(ours) == len(numbers) == len(made) + sum(size > 0 for size in sizes) and dict(enumerate(ours)) == told
    for i, completion in enumerate(whole):
        parts = [part for number, part in zip(numbers, ours) if number == i]
        assert np.concatenate([part.tokens for part in parts]).tolist() == completion.tokens.tolist()
        np.testing.assert_allclose(np.concatenate([part.behavior for part in parts]), completion.behavior, atol=1e-5)


def test_an_int8_cache_gives_nearly_the_same_distribution():
    """Of the first token that is read from it; later ones may differ, as the tokens before them do."""
    ours = sampler(cache_dtype="int8")(VARIABLES["full"], requests())
    gaps = [abs(a.tempered[0] - b.tempered[0]) for a, b in zip(ours, sampled()) if a.tokens[0] == b.tokens[0]]
    assert len(gaps) > 5 and 1e-6 < max(gaps) < 0.2


def test_a_prompt_without_room_is_refused_by_name():
    full = Request("the long one", np.ones(90, np.int32), (1,) * 5, 8, 1.0, 1.0)
    with pytest.raises(ValueError, match="request 'the long one' has 90 prompt tokens.* model.max_length=90; raise it"):
        sampler()(VARIABLES["full"], [*requests(), full])
    assert sampler().room(Request(0, np.ones(MAX_LENGTH - 1, np.int32), (1,) * 5, 8, 1.0, 1.0)) == 1


def test_no_requests_give_no_completions():
    assert sampler()(VARIABLES["full"], []) == []


@pytest.mark.parametrize(
    "change", [dict(tokens=np.zeros(0)), dict(top_p=0.0), dict(temperature=-1.0), dict(max_new_tokens=0)]
)
def test_impossible_requests_cannot_be_made(change):
    fine = dict(id="r", tokens=np.ones(3), counter=(1,) * 5, max_new_tokens=1, temperature=1.0, top_p=1.0)
    with pytest.raises(ValueError, match="Request 'r' has"):
        Request(**(fine | change))
