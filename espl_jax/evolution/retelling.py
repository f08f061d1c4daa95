"""A conversation with tools as an editor reads it: calls and what they found in a line each, the last reply whole.

  I search for Ada Holm.
  [calls search: Ada Holm]
  [2 results: Ada Holm (Ada Holm was born in Brenning.), Brenning (Brenning is a town on the Sold, ...)]
  The search says: ... Answer: Sold
"""

import json
import re
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any

from espl_jax.evolution.edits import strip_thinking
from espl_jax.evolution.words import count_words, elide, head
from espl_jax.structs import Message

SHOWN = 5  # results of a search
RESULT_WORDS = 12  # of each
QUERY_WORDS = 30  # of a call, and of what a tool says that is no list of results
MAX_CALL = 4000  # characters that are looked at
_CALL = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)
_RESULT = re.compile(r"^Doc \d+(?: \((.*?)\))?: (.*)$", re.MULTILINE)


def retell(messages: Sequence[Message], max_words: int) -> str:
    """The turns behind the first question in at most `max_words` words, but for a note where words are left out.

    What comes before the last reply is shortened fairly: the longest pieces first. Only a last reply that is longer than
    max_words by itself loses its middle.
    """
    opening = sum(1 for _ in takewhile(lambda message: message.role != "assistant", messages))
    *before, last = [list(_pieces(message)) for message in messages[opening:]] or [[]]
    reply = elide("\n".join(last), max_words)
    earlier = [piece for pieces in before for piece in pieces]
    limit = fair(list(map(count_words, earlier)), max_words - count_words(reply))
    return "\n".join([*(piece for piece in (head(piece, limit) for piece in earlier) if piece), reply]).strip()


def fair(sizes: Sequence[int], total: int) -> int:
    """The most that each may have so that all of them together have at most `total`; never below 0."""
    left = max(total, 0)
    for number, size in enumerate(sorted(sizes)):
        limit = left // (len(sizes) - number)
        if size > limit:
            return limit
        left -= size
    return max(sizes, default=0)


def _pieces(message: Message) -> Iterator[str]:
    """What a turn says, and its calls, in their order."""
    if message.role != "assistant":
        yield _result(message)
        return
    said = strip_thinking(message.content) or message.content
    for number, part in enumerate(_CALL.split(said)):  # by turns: what is said, and what stands in a call
        if text := (_call(part) if number % 2 else part.strip()):
            yield text


def _call(body: str) -> str:
    try:
        value = json.loads(body[:MAX_CALL], strict=False)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return f"[malformed call: {_brief(body[:MAX_CALL], QUERY_WORDS)}]"
    wanted = "; ".join(_texts(value.get("arguments"))) or "nothing"
    return _brief(f"[calls {value['name']}: {wanted}", QUERY_WORDS) + "]"


def _texts(value: Any) -> Iterator[str]:
    """All texts of a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


def _result(message: Message) -> str:
    """What a tool answered, or the user said in between."""
    found = _RESULT.findall(message.content)
    if message.role != "tool" or not found:
        speaker = "tool" if message.role == "tool" else "told"
        return f"[{speaker}: {_brief(message.content, QUERY_WORDS)}]"
    told = [f"{title or 'untitled'} ({_brief(text, RESULT_WORDS)})" for title, text in found[:SHOWN]]
    more = [f"{len(found) - SHOWN} more"] if len(found) > SHOWN else []
    return f"[{len(found)} result{'s' * (len(found) > 1)}: {', '.join(told + more)}]"


def _brief(text: str, words: int) -> str:
    """The beginning of a text on one line."""
    return " ".join(head(text, words).split())
