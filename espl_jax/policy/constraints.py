"""Completions held to a grammar: which tokens may come next, found on the host by llguidance, obeyed on the device.

The mask of a token depends on the tokens before it, so that a call with such requests asks the host for every one: only
editors' calls have them. The device draws from what is left of the distribution; the log-probabilities stay those of
structs.Completion: behavior of what was drawn from, the others of the policy itself.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from espl_jax.policy import drawing
from espl_jax.policy.chat import Tokenizer
from espl_jax.structs import Matcher

Array = jax.Array
BITS = 32  # tokens of a mask's word
CLOSING = 96  # tokens before the end from which on a reply is brought to its end
FEW = 64  # where fewer tokens may come the reply is between two strings, not inside one


def matcher_maker(tokenizer: Tokenizer, schema: str) -> Callable[[], Matcher] | None:
    """What makes a Request's matcher; None for the empty schema. Raises ImportError without the package llguidance, ValueError
    for a schema that it does not understand."""
    return functools.partial(JsonMatcher, vocabulary(tokenizer), _grammar(schema)) if schema else None


@functools.lru_cache(maxsize=64)
def _grammar(schema: str) -> str:
    guidance = load_library()
    grammar = guidance.LLMatcher.grammar_from_json_schema(schema)
    if error := guidance.LLMatcher.validate_grammar(grammar):
        raise ValueError(f"the schema {schema[:80]!r}... cannot be held to: {error}")
    return grammar


def load_library() -> Any:
    """The module llguidance. Raises ImportError, with the remedy, when it is not installed."""
    try:
        import llguidance
    except ImportError as error:
        raise ImportError(
            "evolution.grammar is 'json', but the package llguidance is missing: pip install 'espl_jax[grammar]', "
            "or set --config.evolution.grammar=none"
        ) from error
    return llguidance


class Vocabulary:
    """A tokenizer as llguidance knows it, and the tokens that bring a reply to its end.

    closing_string: begin with a quotation mark and close what they can. closing: only close. word: begin another word.
    """

    def __init__(self, tokenizer: Tokenizer):
        self.size, self.stops = tokenizer.vocab_size, list(tokenizer.stop_ids)
        self.tokens = load_library().LLTokenizer(tokenizer.description(), n_vocab=self.size, eos_token=self.stops)
        texts = [b"" if i in self.stops else self.tokens.decode_bytes([i]) for i in range(self.size)]
        closes = [text != b"" and set(text) <= set(b'"]}') for text in texts]
        self.closing_string = _bits([close and text.startswith(b'"') for close, text in zip(closes, texts)])
        self.closing = _bits([close and not text.startswith(b'"') for close, text in zip(closes, texts)])
        self.word = _bits([text[:1] == b" " and text[1:].isalpha() and text.isascii() for text in texts])
        self.end = _bits([i in self.stops for i in range(self.size)])


@functools.lru_cache(maxsize=4)
def vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    """The tokenizer's vocabulary, made once."""
    return Vocabulary(tokenizer)


def _bits(flags: list[bool]) -> np.ndarray:
    """uint32 words, flag i in bit i % 32 of word i // 32."""
    padded = np.pad(np.asarray(flags, bool), (0, -len(flags) % BITS))
    return np.packbits(padded, bitorder="little").view("<u4").astype(np.uint32)


class JsonMatcher:
    """A structs.Matcher for one reply in JSON."""

    def __init__(self, known: Vocabulary, grammar: str):
        self._known = known
        self._matcher = load_library().LLMatcher(known.tokens, grammar)

    def allowed(self, left: int) -> np.ndarray:
        """uint32 [ceil(vocabulary / 32)]; only the ends of a turn once the JSON is whole.

        Where CLOSING tokens or fewer are left, those that bring the reply to its end, if there are such: a reply with room for
        so many is never cut off, for no operation needs as many bytes beyond its first words.
        """
        if self._matcher.is_stopped():
            return self._known.end
        mask_W = np.zeros(len(self._known.end), np.int32)
        self._matcher.unsafe_compute_mask_ptr(mask_W.ctypes.data, mask_W.nbytes)
        mask_W = mask_W.view(np.uint32)
        return mask_W if left > CLOSING else self._hurried(mask_W)

    def _hurried(self, mask_W: np.ndarray) -> np.ndarray:
        known = self._known
        inside = int(np.bitwise_count(mask_W).sum()) > FEW
        for wanted_W in (known.closing_string, known.word) if inside else (known.closing_string, known.closing):
            if (mask_W & wanted_W).any():
                return mask_W & wanted_W
        return mask_W

    def advance(self, token: int) -> None:
        """Notes a token that was drawn. Raises RuntimeError for one that was not allowed: a fault of ours."""
        if not self._matcher.is_stopped() and not self._matcher.consume_token(token):
            raise RuntimeError(f"token {token} was drawn against its mask: {self._matcher.get_error()}")


class Guide:
    """The matchers of a sampler's call, as its slots come and go. vocab_size: the model's."""

    def __init__(self, vocab_size: int):
        self._words = -(-vocab_size // BITS)
        self._seen: dict[int, tuple[Any, Matcher, int]] = {}  # slot -> its entry, its matcher, tokens the matcher knows of

    def allowed(self, active: Mapping[int, Any], slots: int) -> np.ndarray | None:
        """uint32 [slots, words], ones where anything may come; None where no slot is held to a grammar.

        active: slot -> schedule.Active. Matchers are told of what was drawn since the last time.
        """
        held = {slot: entry for slot, entry in active.items() if entry.request.matcher is not None}
        if not held:
            return None
        masks_BW = np.full((slots, self._words), 0xFFFFFFFF, np.uint32)
        for slot, entry in held.items():
            mask = self._matcher(slot, entry).allowed(entry.limit - entry.count)
            masks_BW[slot] = 0
            masks_BW[slot, : len(mask)] = mask
        return masks_BW

    def _matcher(self, slot: int, entry: Any) -> Matcher:
        known, matcher, told = self._seen.get(slot, (None, None, 0))
        if known is not entry:
            matcher, told = entry.request.matcher(), 0
        for token in entry.drawn()["tokens"][told:].tolist() if entry.count else ():
            matcher.advance(token)
        self._seen[slot] = entry, matcher, entry.count
        return matcher


def draw_allowed(logits_BV: Array, allowed_BW: Array, uniforms_B: Array, temperature_B: Array, top_p_B: Array) -> drawing.Draw:
    """One token a row among those allowed; at least one must be. As drawing.draw where all are."""
    B, V = logits_BV.shape
    logits_BV = logits_BV.astype(jnp.float32)
    bits_BV = ((allowed_BW[:, :, None] >> jnp.arange(BITS, dtype=jnp.uint32)) & 1).astype(bool).reshape(B, -1)[:, :V]
    bits_BV = jnp.pad(bits_BV, ((0, 0), (0, V - bits_BV.shape[1])))
    one = drawing.draw(jnp.where(bits_BV, logits_BV, -jnp.inf), uniforms_B, temperature_B, top_p_B)
    scale_B1 = jnp.where(temperature_B == 0, 1.0, temperature_B)[:, None]
    of_B1 = one.tokens[:, None]
    tempered_B1, untempered_B1 = (
        jnp.take_along_axis(jax.nn.log_softmax(logits_BV / scale, axis=-1), of_B1, axis=-1) for scale in (scale_B1, 1.0)
    )
    return one.replace(tempered=tempered_B1[:, 0], untempered=untempered_B1[:, 0])
