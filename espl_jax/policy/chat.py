"""Chats to tokens and back, through the model's own tokenizer and chat template; text never becomes a control token.

Text from a model, a data set or a prompt is data. Before a template sees it, each spelling of a control token in it is
replaced by a private character that the chat does not use; after rendering, all spellings left are the template's own.
The rendered string is cut there, and what lies between is encoded (with the text put back) by a copy of the tokenizer
that knows no control tokens. For text that spells none, that is exactly what transformers' apply_chat_template gives.
"""

import inspect
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from espl_jax.policy.hf_config import read_json
from espl_jax.structs import Chat, Message

# Tokens that end a turn or a text in the families we load; those that a tokenizer knows are stops, beside its own.
END_TOKENS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>")
# Llama 3.2's template writes today's date; a run must not change overnight, so it gets the one that Llama 3.1's has.
FIXED_DATE = "{%- macro strftime_now(format) -%}26 Jul 2024{%- endmacro -%}"
PRIVATE_CHARACTERS = (range(0xE000, 0xF900), range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE))


class Tokenizer:
    """The tokenizer and chat template of a Hugging Face directory.

    stop_ids: sorted ids that end a reply. pad_id: fills rows. vocab_size: one more than the highest id it can give; the
    model's must not be smaller. Raises ValueError in one sentence when the directory's tokenizer cannot be used safely.
    """

    def __init__(self, directory: Path, template_arguments: Mapping[str, Any]):
        """template_arguments: passed on to the chat template, e.g. {"enable_thinking": False}."""
        self._directory = Path(directory)
        self._tokenizer = _load(self._directory)
        self._backend = self._tokenizer.backend_tokenizer
        added = self._backend.get_added_tokens_decoder()
        self._control_ids = {token.content: i for i, token in added.items()}
        special = [token.content for token in added.values() if token.special]
        self._any_control, self._any_special = _pattern(self._control_ids), _pattern(special)
        self._plain = _without_control_tokens(self._backend)
        self._spelled = {
            i: [part for character in name for part in self._plain.encode(character, add_special_tokens=False).ids]
            for name, i in self._control_ids.items()
        }
        self._template = _template(self._tokenizer, self._directory)
        self._arguments = _checked_arguments(self._tokenizer, template_arguments)
        self._turns: dict[tuple, list[str]] = {}
        self._frames: dict[tuple[str, ...], str | None] = {}
        self.stop_ids = _stop_ids(self._tokenizer, self._directory, self._control_ids)
        pad_id = self._tokenizer.pad_token_id
        self.pad_id = self.stop_ids[0] if pad_id is None else pad_id
        self.vocab_size = 1 + max(self._tokenizer.get_vocab().values())
        self._check_equal_to_transformers()

    def render(self, chat: Chat) -> np.ndarray:
        """int32 tokens of the conversation up to where the assistant's reply begins, then those of `reply_prefix`.

        In system and user turns every control token's spelling stays text. In an assistant turn the marks that the
        tokenizer does not call special (Qwen3's <think>) are seen by the template and keep their tokens, as the model
        wrote them; the special ones stay text there too. Raises ValueError when the template refuses the conversation
        (no system turns, say), leaves a turn out, or makes control tokens out of text.
        """
        messages = [Message(message.role, whole(message.content)) for message in chat.messages]
        masks = _masks(self._any_control, [message.content for message in messages])
        masked = [Message(message.role, self._mask(message, masks)) for message in messages]
        text = self._apply(masked)
        self._check_rendering(text, masked)
        return np.asarray(self._encode_rendered(text, masks) + self._encode(chat.reply_prefix), np.int32)

    def reply(self, text: str) -> np.ndarray:
        """int32 tokens of a reply as the policy would draw it, the token that ends it included: for training on given replies.

        As in `render`, marks that the tokenizer does not call special keep their tokens; the special ones stay text.
        """
        masks = _masks(self._any_special, [text := whole(text)])
        hidden = self._any_special.sub(lambda match: masks[match[0]], text)
        return np.asarray([*self._encode_rendered(hidden, masks), self._end_id()], np.int32)

    def _end_id(self) -> int:
        """The token with which the template closes a reply; the tokenizer's own end token where it closes it with none."""
        behind = self._encode_rendered(self._frame(("user",)) or "", {})
        return behind[0] if behind and behind[0] in self.stop_ids else self._tokenizer.eos_token_id

    def between(self, turns: Sequence[Message]) -> np.ndarray:
        """int32 tokens that lie between a reply and the next one of a conversation: what the template closes a reply with (but
        for its end token, since the reply ended with one), the turns, and the opening of the next reply.

        No content is seen by the template: it takes the place of a stand-in, and every control token's spelling in it stays
        text. Tools speak in user turns where the template refuses their role or leaves out what they say, and all turns in one
        where it wants user and assistant by turns. Raises ValueError when it refuses that too.
        """
        for said in (tuple(turns), _by_user(turns), _in_one(turns)):
            if (frame := self._frame(tuple(message.role for message in said))) is not None:
                break
        else:
            raise ValueError(f"the chat template of {self._directory} refuses to go on after a reply; use another model")
        contents = [whole(message.content) for message in said]
        masks = _masks(self._any_control, contents)
        hidden = [self._any_control.sub(lambda match: masks[match[0]], content) for content in contents]
        text = frame.translate({ord(private): content for private, content in zip(_unused(set()), hidden)})
        if self._any_control.findall(text) != self._any_control.findall(frame):
            raise ValueError(f"the chat template of {self._directory} makes control tokens out of text; use another model")
        tokens = self._encode_rendered(text, masks)
        return np.asarray(tokens[1:] if tokens[0] in self.stop_ids else tokens, np.int32)

    def _frame(self, roles: tuple[str, ...]) -> str | None:
        """The template's text behind a reply that turns of these roles follow, a private character for each one's content."""
        if roles not in self._frames:
            *privates, reply = itertools.islice(_unused(set()), len(roles) + 1)
            turns = [Message(role, private) for role, private in zip(roles, privates)]
            try:
                rendered = self._apply([Message("user", "x"), Message("assistant", reply), *turns])
            except ValueError:
                rendered = ""
            _, found, behind = rendered.rpartition(reply)
            shown = [character for character in behind if character in privates]
            self._frames[roles] = behind if found and shown == privates else None
        return self._frames[roles]

    @property
    def template(self) -> str:
        """The chat template as it is rendered here."""
        return self._template

    def description(self) -> str:
        """The tokenizer as tokenizer.json describes it, without padding and truncation."""
        return json.dumps(json.loads(self._backend.to_str()) | {"truncation": None, "padding": None})

    def encode(self, text: str) -> np.ndarray:
        """int32 tokens of a text as data: never a control token, and none added at its ends."""
        return np.asarray(self._encode(text), np.int32)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, without the stop and padding tokens at its end.

        Control tokens before that are spelled out, so that nothing the model wrote vanishes (or joins "4" and "2").
        """
        ids = [int(token) for token in tokens]
        while ids and (ids[-1] in self.stop_ids or ids[-1] == self.pad_id):
            ids.pop()
        return self._backend.decode(ids, skip_special_tokens=False)

    def _mask(self, message: Message, masks: Mapping[str, str]) -> str:
        pattern = self._any_special if message.role == "assistant" else self._any_control
        return pattern.sub(lambda match: masks[match[0]], message.content)

    def _apply(self, messages: Sequence[Message]) -> str:
        """The chat template's string for messages, with the opening of the assistant's turn."""
        from jinja2 import TemplateError

        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            return self._tokenizer.apply_chat_template(
                turns, chat_template=self._template, tokenize=False, add_generation_prompt=True, **self._arguments
            )
        except (TemplateError, TypeError) as error:
            roles = ", ".join(message.role for message in messages)
            raise ValueError(
                f"the chat template of {self._directory} refuses a conversation of the turns {roles} ({error}); "
                "if it knows no system turn, use evolution.layout=user"
            ) from None

    def _check_rendering(self, text: str, masked: Sequence[Message]) -> None:
        """That the template left out no system or user text, and made no special token out of text."""
        for message in masked:
            if message.role != "assistant" and message.content.strip() not in text:
                raise ValueError(
                    f"the chat template of {self._directory} leaves out or changes the text of a {message.role} turn; "
                    "if it knows no system turn, use evolution.layout=user"
                )
        stand_ins = tuple((message.role, "x" if message.content.strip() else "") for message in masked)
        if stand_ins not in self._turns:
            rendered = self._apply([Message(role, content) for role, content in stand_ins])
            self._turns[stand_ins] = self._any_special.findall(rendered)
        if self._any_special.findall(text) != self._turns[stand_ins]:
            raise ValueError(
                f"the chat template of {self._directory} puts other control tokens around this text than around "
                "another; it cannot be used safely"
            )

    def _encode_rendered(self, text: str, masks: Mapping[str, str]) -> list[int]:
        unmask = {ord(private): name for name, private in masks.items()}
        tokens, end = [], 0
        for match in self._any_control.finditer(text):
            tokens += self._encode(text[end : match.start()].translate(unmask))
            tokens.append(self._control_ids[match[0]])
            end = match.end()
        return tokens + self._encode(text[end:].translate(unmask))

    def _encode(self, text: str) -> list[int]:
        ids = self._plain.encode(whole(text), add_special_tokens=False).ids
        # A vocabulary may list a control token among its words; should one come up, it is spelled out.
        return [part for i in ids for part in self._spelled.get(i, (i,))]

    def _check_equal_to_transformers(self) -> None:
        """That this way of encoding is the tokenizer's own on a harmless chat."""
        probe = [Message("user", " Add 12 and 3.5:\n\n  it's  \u00e9asy? \n")]
        text = self._apply(probe)
        expected = self._backend.encode(text, add_special_tokens=False).ids
        if self._encode_rendered(text, {}) != expected:
            raise ValueError(
                f"the tokenizer of {self._directory} treats the text around its control tokens specially; "
                "text cannot be kept apart from control tokens with it, so use another model"
            )


def _load(directory: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # its readers raise types of their own
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{directory} has no tokenizer that transformers loads: {reason}") from None
    if not tokenizer.is_fast:
        raise ValueError(f"{directory} has no tokenizer.json; use a model that has one")
    return tokenizer


def whole(text: str) -> str:
    """The text with half surrogate pairs, which no encoding has, as question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _by_user(turns: Sequence[Message]) -> tuple[Message, ...]:
    """The turns as a user's."""
    return tuple(Message("user", message.content) for message in turns)


def _in_one(turns: Sequence[Message]) -> tuple[Message, ...]:
    """One user turn with all that they say."""
    return (Message("user", "\n\n".join(message.content for message in turns)),)


def _template(tokenizer: Any, directory: Path) -> str:
    if not tokenizer.chat_template:
        raise ValueError(f"{directory} has no chat template; use a model that was trained to chat")
    template = tokenizer.get_chat_template()
    return FIXED_DATE + template if "strftime_now" in template else template


def _checked_arguments(tokenizer: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    own = set(inspect.signature(tokenizer.apply_chat_template).parameters) - {"tools", "documents", "kwargs"}
    taken = sorted(own & set(arguments))
    if taken:
        raise ValueError(f"model.chat_template_arguments sets {taken[0]!r}, which is not for the template; remove it")
    return dict(arguments)


def _pattern(names: Sequence[str]) -> re.Pattern:
    """Matches any of the names, the longest first; nothing when there are none."""
    longest_first = sorted(names, key=lambda name: (-len(name), name))
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def _without_control_tokens(backend: Any) -> Any:
    from tokenizers import Tokenizer as Backend

    content = json.loads(backend.to_str())
    content |= {"added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
    return Backend.from_str(json.dumps(content))


def _masks(pattern: re.Pattern, texts: Sequence[str]) -> dict[str, str]:
    """A private character, in none of the texts, for each spelling of a control token in them."""
    found = sorted({name for text in texts for name in pattern.findall(text)})
    if not found:
        return {}
    return dict(zip(found, _unused(set().union(*texts)), strict=False))


def _unused(taken: set[str]) -> Iterator[str]:
    for code in (code for codes in PRIVATE_CHARACTERS for code in codes):
        if chr(code) not in taken:
            yield chr(code)
    raise ValueError("a chat uses every private character of Unicode; such text is refused")


def _stop_ids(tokenizer: Any, directory: Path, control_ids: Mapping[str, int]) -> tuple[int, ...]:
    """Sorted ids of every end token: of the tokenizer, of the configuration files, and of END_TOKENS."""
    ids = {control_ids[name] for name in END_TOKENS if name in control_ids}
    for file in ("config.json", "generation_config.json"):
        path = directory / file
        listed = read_json(path).get("eos_token_id") if path.exists() else None
        ids |= set(listed if isinstance(listed, list) else [listed])
    ids = (ids | {tokenizer.eos_token_id}) - {None}
    if not ids:
        raise ValueError(f"{directory} names no end token (eos_token_id); replies of this model would never stop")
    return tuple(sorted(ids))
