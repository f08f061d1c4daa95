"""Tool calls as models write them, well and badly."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espl_jax.tasks.search.calls import MAX_QUERIES, MAX_QUERY_CHARACTERS, Call, one_line, read_calls

KEYS = st.sampled_from(["name", "arguments", "query_list", "x"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner),
    max_leaves=10,
)
VISIBLE = st.characters(codec="utf-8", exclude_categories=["C", "Z"])
PIECES = st.sampled_from(["<tool_call>", "</tool_call>", '{"name": "search"', '"arguments": {', "[", "}", '"'])


def wrapped(body: str) -> str:
    return f"<tool_call>{body}</tool_call>"


def called(queries) -> str:
    return wrapped(json.dumps({"name": "search", "arguments": {"query_list": queries}}))


def test_calls_are_read_in_their_order_whatever_is_around_them():
    reply = f"I need two facts.\n{called(['capital of Peru', 'Lima'])}\nand {called(['Peru'])} Answer: 3"
    assert read_calls(reply) == [Call(("capital of Peru", "Lima")), Call(("Peru",))]
    assert read_calls("Answer: Lima") == read_calls("") == read_calls("</tool_call> tool_call search") == []


def test_white_space_and_line_breaks_in_a_call_do_not_matter():
    assert read_calls(wrapped('\n{"name": "search",\n "arguments": {"query_list": ["a\n b"]}}\n')) == [Call(("a b",))]


@pytest.mark.parametrize(
    "reply, said",
    [
        ('<tool_call>{"name": "search", "arguments": {"query_list": ["a"]}}', "does not end with </tool_call>"),
        ("<tool_call>", "does not end"),
        (wrapped(""), "no valid JSON"),
        (wrapped("{'name': 'search'}"), "no valid JSON"),
        (wrapped('"search"'), "has the form"),
        (wrapped("[]"), "has the form"),
        (wrapped('{"name": "search"}'), "has the form"),
        (wrapped('{"name": 3, "arguments": {"query_list": ["a"]}}'), "has the form"),
        (wrapped('{"name": "search", "arguments": ["a"]}'), "has the form"),
        (wrapped('{"name": "google", "arguments": {"query_list": ["a"]}}'), 'no tool "google"; the only tool is search'),
        (wrapped('{"name": "search", "arguments": {"query": "a"}}'), "query_list, a list of texts"),
        (wrapped('{"name": "search", "arguments": {"query_list": "a"}}'), "query_list, a list of texts"),
        (wrapped('{"name": "search", "arguments": {"query_list": ["a"], "topk": 9}}'), "query_list, a list of texts"),
        (called([]), f"has 0 queries; give 1 to {MAX_QUERIES}"),
        (called(["a"] * 6), "has 6 queries"),
        (called(["a", 1]), "must be a text in quotes"),
        (called(["a", None]), "must be a text in quotes"),
        (called([["a"]]), "must be a text in quotes"),
        (called(["a", " \n\x00 "]), "A query is empty"),
        (called(["a" * (MAX_QUERY_CHARACTERS + 1)]), f"has 301 characters; use {MAX_QUERY_CHARACTERS}"),
        (called(["a" * 5000]), "longer than 4000 characters"),
        (wrapped("[" * 3000), "nested too deeply"),
        (wrapped('{"a":' * 600 + "1" + "}" * 600), "nested too deeply"),
        (wrapped("1" * 3999), "has the form"),
        (wrapped("-" + "9" * 3000 + "e999"), "has the form"),
        (wrapped("NaN"), "has the form"),
    ],
)
def test_what_is_wrong_with_a_call_is_said_in_one_short_line(reply, said):
    [call] = read_calls(reply)
    assert call.queries == () and said in call.error
    assert call.error.isprintable() and len(call.error) < 150


def test_one_bad_call_does_not_spoil_the_others():
    good, bad, again = read_calls(f"{called(['a'])}<tool_call>{called(['b'])}")
    assert (good, again) == (Call(("a",)), Call(("b",))) and "does not end" in bad.error


def test_control_characters_and_half_pairs_do_not_reach_the_tool():
    text = r'{"name": "search", "arguments": {"query_list": ["a\u0000\u001b[31mb\ud800 \u202ec\u2028d\te"]}}'
    assert read_calls(wrapped(text)) == [Call(("a [31mb c d e",))]


def test_an_unknown_tools_name_is_shown_shortened():
    [call] = read_calls(wrapped(json.dumps({"name": "x\n" * 1000, "arguments": {}})))
    assert call.error.startswith('There is no tool "x x x') and len(call.error) < 100


@given(st.lists(st.text(VISIBLE, min_size=1, max_size=40), min_size=1, max_size=5))
def test_good_queries_come_back_as_they_were_written(queries):
    assert read_calls(called(queries)) == [Call(tuple(queries))]


@given(st.lists(PIECES | st.text()))
def test_reading_is_total(pieces):
    reply = "".join(pieces)
    calls = read_calls(reply)
    assert len(calls) == reply.count("<tool_call>")
    assert all(bool(call.error) != bool(call.queries) for call in calls)


@given(JSON)
def test_every_json_is_a_call_or_an_error(value):
    [call] = read_calls(wrapped(json.dumps(value).replace("<tool_call>", "").replace("</tool_call>", "")))
    assert bool(call.error) != bool(call.queries)
    assert all(query == one_line(query) and 0 < len(query) <= MAX_QUERY_CHARACTERS for query in call.queries)
