"""Tool calls, read off what a model wrote:

    <tool_call>{"name": "search", "arguments": {"query_list": ["capital of Peru", "currency of Peru"]}}</tool_call>

This is the form that Qwen and Hermes models are trained on; it is asked for, and read, whatever the model is. Reading is total:
a call that cannot be made has an error, a sentence that the model gets for the tool's answer.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

TOOL = "search"
OPENING, CLOSING = "<tool_call>", "</tool_call>"
FORM = '{"name": "search", "arguments": {"query_list": ["..."]}}'
MAX_QUERIES = 5
MAX_QUERY_CHARACTERS = 300
MAX_CALL_CHARACTERS = 4000  # of the JSON; nothing longer is parsed
MAX_DEPTH = 8  # of brackets in it


@dataclass(frozen=True)
class Call:
    """One call. queries: what to search for, ready to be sent; error: "" or what is wrong, and then there are no queries."""

    queries: tuple[str, ...] = ()
    error: str = ""


class _CallError(ValueError):
    """What is wrong with a call, in words for the model."""


def read_calls(reply: str) -> list[Call]:
    """The calls of a reply, in their order; an opening tag without a closing one is a call with an error."""
    return [read_call(piece) for piece in reply.split(OPENING)[1:]]


def read_call(piece: str) -> Call:
    """The call that follows an opening tag."""
    try:
        return Call(queries=queries_of(piece))
    except _CallError as error:
        return Call(error=str(error))


def queries_of(piece: str) -> tuple[str, ...]:
    body, closed, _ = piece.partition(CLOSING)
    if not closed:
        raise _CallError(f"The call does not end with {CLOSING}.")
    match parsed(body):
        case {"name": str(name), "arguments": dict(arguments)}:
            pass
        case _:
            raise _CallError(f"A call has the form {FORM}.")
    if name != TOOL:
        raise _CallError(f"There is no tool {shown(name)}; the only tool is {TOOL}.")
    if set(arguments) != {"query_list"} or not isinstance(arguments["query_list"], list):
        raise _CallError(f"The only argument of {TOOL} is query_list, a list of texts.")
    queries = arguments["query_list"]
    if not 1 <= len(queries) <= MAX_QUERIES:
        raise _CallError(f"query_list has {len(queries)} queries; give 1 to {MAX_QUERIES}.")
    return tuple(query_of(query) for query in queries)


def parsed(body: str) -> Any:
    """The JSON between the tags, of bounded size and depth, so that it is parsed in bounded time and stack."""
    if len(body) > MAX_CALL_CHARACTERS:
        raise _CallError(f"The call is longer than {MAX_CALL_CHARACTERS} characters.")
    depth = 0
    for bracket in re.findall(r"[\[\]{}]", body):
        depth += 1 if bracket in "[{" else -1
        if depth > MAX_DEPTH:
            raise _CallError(f"The call is nested too deeply. Its form is {FORM}.")
    try:
        return json.loads(body, parse_int=lambda _: None, strict=False)  # no number is wanted, least of all a long one
    except ValueError:
        raise _CallError(f"The call is no valid JSON. Its form is {FORM}.") from None


def query_of(query: Any) -> str:
    """A query as it is sent: one line of printable text."""
    if not isinstance(query, str):
        raise _CallError("Each query must be a text in quotes.")
    text = one_line(query)
    if not text:
        raise _CallError("A query is empty.")
    if len(text) > MAX_QUERY_CHARACTERS:
        raise _CallError(f"A query has {len(text)} characters; use {MAX_QUERY_CHARACTERS} at the most.")
    return text


def shown(text: str) -> str:
    """A short text in quotes, safe to show."""
    text = one_line(text[:100])
    return f'"{text[:30]}..."' if len(text) > 30 else f'"{text}"'


def one_line(text: str) -> str:
    """The text on one line, without control characters and half surrogate pairs."""
    if not text.isprintable():
        text = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(text.split())
