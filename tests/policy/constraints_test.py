"""Replies held to a grammar: the masks, the drawing under them, and the sampler that asks for them."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espl_jax.evolution.edits import parse_edits
from espl_jax.evolution.grammar import edits_schema
from espl_jax.evolution.mutation import ALLOWED
from espl_jax.policy import drawing, sharding
from espl_jax.policy.chat import Tokenizer
from espl_jax.policy.constraints import CLOSING, JsonMatcher, _grammar, draw_allowed, matcher_maker, vocabulary
from espl_jax.policy.hf_config import read_spec
from espl_jax.policy.model import Decoder
from espl_jax.policy.sampler import Sampler
from espl_jax.structs import Request
from experiments import base
from tests.evolution.scripted import config
from tests.tiny import random_params

OPS = ALLOWED["principles"]


@pytest.fixture(scope="module")
def tokenizer(tiny_qwen3) -> Tokenizer:
    return Tokenizer(tiny_qwen3, {})


def bits(words: np.ndarray, size: int) -> np.ndarray:
    return np.unpackbits(words.view(np.uint8), bitorder="little")[:size].astype(bool)


def written(matcher, tokenizer: Tokenizer, budget: int, choose) -> str:
    """What comes of drawing `choose(allowed ids)` until the end, or until the budget is spent."""
    tokens = []
    for left in range(budget, 0, -1):
        token = int(choose(np.flatnonzero(bits(matcher.allowed(left), tokenizer.vocab_size))))
        matcher.advance(token)
        tokens.append(token)
        if token in tokenizer.stop_ids:
            return tokenizer.decode(tokens)
    raise AssertionError(f"not whole after {budget} tokens: {tokenizer.decode(tokens)[-80:]!r}")


@given(st.randoms(use_true_random=False), st.integers(2 * CLOSING, 600), st.integers(0, 3), st.booleans())
@settings(max_examples=25)
def test_whatever_is_drawn_in_the_mask_is_a_list_of_edits_and_ends_in_time(tokenizer, random, budget, principles, evidence):
    schema = edits_schema(OPS, config(), principles, evidence)
    matcher = matcher_maker(tokenizer, schema)()
    text = written(matcher, tokenizer, budget, lambda ids: ids[random.randrange(len(ids))])
    operations, error = parse_edits(text, OPS, "stop")
    assert error == "" and len(operations) == len({json.dumps(item) for item in json.loads(text)}) <= config().max_edits
    for operation in operations:
        assert operation.fate == "" and 3 <= len(operation.text.split()) <= config().max_principle_words
        assert all(target < principles for target in operation.targets)


def test_a_reply_that_would_never_end_is_brought_to_its_end(tokenizer):
    """A model that always draws a letter would fill its budget: in its last tokens it may only close."""
    letter = int(tokenizer.encode("e")[0])
    matcher = matcher_maker(tokenizer, edits_schema(OPS, config(max_principle_words=500), 0, True))()
    text = written(matcher, tokenizer, 300, lambda ids: letter if letter in ids else ids[-1])
    assert json.loads(text)[0]["principle"].startswith("e" * 18) and parse_edits(text, OPS, "stop")[1] == ""


def test_after_the_json_only_an_end_may_come(tokenizer):
    matcher = JsonMatcher(vocabulary(tokenizer), _grammar(edits_schema(OPS, config(), 0, False)))
    for token in tokenizer.encode("[]").tolist():
        matcher.advance(token)
    assert set(np.flatnonzero(bits(matcher.allowed(500), tokenizer.vocab_size))) == set(tokenizer.stop_ids)
    matcher = JsonMatcher(vocabulary(tokenizer), _grammar(edits_schema(OPS, config(), 0, False)))
    with pytest.raises(RuntimeError, match="drawn against its mask"):
        matcher.advance(int(tokenizer.encode("x")[0]))


def test_free_text_has_no_matcher_and_a_strange_schema_is_an_error(tokenizer):
    assert matcher_maker(tokenizer, "") is None
    with pytest.raises(ValueError, match="cannot be held to"):
        matcher_maker(tokenizer, '{"type": "nothing"}')


def test_drawing_under_a_mask_is_drawing_from_what_is_left():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 45)).astype(np.float32)
    allowed = rng.random((3, 64)) < 0.4
    allowed[1] = True
    words = np.packbits(allowed, axis=1, bitorder="little").view(np.uint32)
    temperature, top_p = np.float32([0.7, 1.0, 0.0]), np.float32([1.0, 0.8, 1.0])
    uniforms = np.float32([0.3, 0.9, 0.5])
    one = jax.device_get(jax.jit(draw_allowed)(logits, words, uniforms, temperature, top_p))
    token = int(one.tokens[0])
    left = np.where(allowed[0, :45], np.exp(logits[0] / 0.7), 0)
    assert allowed[0, token] and one.behavior[0] == pytest.approx(np.log(left[token] / left.sum()), abs=1e-5)
    assert np.cumsum(left)[token - 1] / left.sum() <= 0.3 <= np.cumsum(left)[token] / left.sum()
    whole = np.exp(logits[0] / 0.7)
    assert one.tempered[0] == pytest.approx(np.log(whole[token] / whole.sum()), abs=1e-5)
    assert one.untempered[0] == pytest.approx(logits[0, token] - np.log(np.exp(logits[0]).sum()), abs=1e-5)
    free = jax.device_get(jax.jit(drawing.draw)(logits, uniforms, temperature, top_p))
    for name in ("tokens", "behavior", "tempered", "untempered"):  # row 1: everything is allowed
        np.testing.assert_allclose(getattr(one, name)[1], getattr(free, name)[1], atol=1e-5)
    assert one.tokens[2] == np.flatnonzero(allowed[2, :45])[np.argmax(logits[2][allowed[2, :45]])] and one.behavior[2] == 0


def test_a_call_holds_those_who_ask_for_it_and_leaves_the_others_alone(tiny_qwen3, tokenizer):
    spec = read_spec(tiny_qwen3)
    decoding = base.sampling()
    decoding.update({"batch_size": 8, "prefill_tokens": 32, "prefill_chunk": 16})
    ours = Sampler(Decoder(spec), sharding.make_mesh(1, 1, 1, jax.devices()[:1]), tokenizer.stop_ids, 0, decoding, 512)
    variables = {"params": jax.tree.map(jnp.asarray, random_params(spec, 0))}
    prompt, maker = tokenizer.encode("Write edits."), matcher_maker(tokenizer, edits_schema(OPS, config(), 2, False))
    free = [Request(i, prompt, (4, 1, 0, 0, i), 12, 1.0, 0.9) for i in range(3)]
    held = [Request(i, prompt, (4, 1, 0, 0, i), 2 * CLOSING, 1.0, 0.9, matcher=maker) for i in range(10, 13)]
    together = ours(variables, [*held, *free])
    unheld = ours(variables, [*(dataclasses.replace(request, matcher=None) for request in held), *free])
    for completion in together[:3]:
        text = tokenizer.decode(completion.tokens)
        assert completion.finish == "stop" and parse_edits(text, OPS, "stop")[1] == "", text
        assert (completion.behavior >= completion.tempered - 1e-5).all()
    assert len({tuple(completion.tokens) for completion in together[:3]}) > 1
    for mine, other in zip(together[3:], unheld[3:]):
        np.testing.assert_array_equal(mine.tokens, other.tokens)
        np.testing.assert_allclose(mine.behavior, other.behavior, atol=1e-5)
