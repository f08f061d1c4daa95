import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espl_jax.evolution.edits import CUT_OFF, MAX_OPERATIONS, parse_edits, strip_thinking
from espl_jax.structs import Operation
from tests.evolution.scripted import fates

OPS = ("add", "modify", "merge", "remove")


def parsed(text: str, allowed=OPS, finish="stop") -> list[Operation]:
    operations, error = parse_edits(text, allowed, finish)
    assert error == "", error
    return list(operations)


def add(text: str) -> Operation:
    return Operation("add", text=text)


GOLDENS = {  # replies in the manners of real models
    "plain": ('[{"op": "add", "principle": "Check units."}]', [add("Check units.")]),
    "fence and prose": (
        'Here are my edits:\n```json\n[\n  {"op": "add", "principle": "Check units."},\n]\n```\nI hope this helps!',
        [add("Check units.")],
    ),
    "thinking": (
        '<think>Maybe [{"op": "add", "principle": "draft"}]</think>\n[{"op": "add", "principle": "final"}]',
        [add("final")],
    ),
    "thinking opened by the template": ("so {x}\n</think>[]", []),
    "object": (
        '{"operations": [{"operation": "modify", "principle_id": "G2", "new_principle": "B", "evidence": "won 3"}]}',
        [Operation("modify", (2,), "B", evidence="won 3")],
    ),
    "a single object": ('{"type": "remove", "target": "[g3]", "reason": "unused"}',
                        [Operation("remove", (3,), evidence="unused")]),
    "synonyms": (
        '[{"option": "Modify", "modified_from": "G1", "modified_principle": "M"},'
        ' {"action": "merge", "ids": ["G0", 2, "[G4]"], "content": "N"}]',
        [Operation("modify", (1,), "M"), Operation("merge", (0, 2, 4), "N")],
    ),
    "ids in one text": ('{"op": "merge", "ids": "G1, G2 and G2", "text": "T"}', [Operation("merge", (1, 2), "T")]),
    "keys with spaces": ('{"Op": "add", "New Principle": "T"}', [add("T")]),
    "python": ("[{'op': 'add', 'principle': 'Don\\'t round early'}]", [add("Don't round early")]),
    "no op": ('[{"principle": "A"}, {"id": 1, "principle": "B"}, {"ids": [0, 1], "principle": "C"}]',
              [add("A"), Operation("modify", (1,), "B"), Operation("merge", (0, 1), "C")]),
    "op as key": ('[{"add": "A"}, {"modify": {"id": "G1", "principle": "B"}}]',
                  [add("A"), Operation("modify", (1,), "B")]),
    "several lists": ('[{"op": "add", "principle": "A"}]\nand\n[{"op": "add", "principle": "B"}]',
                      [add("A"), add("B")]),
    "draft repeated": ('[{"op": "add", "principle": "A"}]\nFinal:\n[{"op": "add", "principle": "A"}]', [add("A")]),
    "never closed": ('[{"op": "add", "principle": "Add one at a time.', [add("Add one at a time.")]),
    "prefix and chatter": ('[{"op": "add", "principle": "Add slowly.\n\nThe student should', [add("Add slowly.")]),
    "inner quotes": ('[{"op": "add", "principle": "say "hi" first"}]', [add('say "hi" first')]),
    "missing comma": ('[{"op":"add","principle":"A"} {"op":"add","principle":"B"}]', [add("A"), add("B")]),
    "comments": ('[\n// first\n{"op": "add", /* new */ "principle": "A"}]', [add("A")]),
    "latex": (
        r'[{"op": "add", "principle": "Write \frac{a}{b}, \nabla f, \nu, \times, '
        r'\boxed{x}, \(y\) and \\sqrt{2}.\nThen \"stop\""}]',
        [add("Write \\frac{a}{b}, \\nabla f, \\nu, \\times, \\boxed{x}, \\(y\\) and \\sqrt{2}.\nThen \"stop\"")],
    ),
    "latex in a reply that needs repair": (r"[{'op': 'add', 'principle': 'Use \frac{1}{n} and \theta',}]",
                                           [add(r"Use \frac{1}{n} and \theta")]),
    "a stray bracket before": ('The set {n: n > 0 is open. [{"op": "add", "principle": "A b"}]', [add("A b")]),
    "no edits": ("[]", []),
    "no edits, in words": ("The list is fine: []", []),
    "no edits, in an object": ('{"operations": []}', []),
}  # fmt: skip


@pytest.mark.parametrize("name", GOLDENS)
def test_goldens(name):
    text, expected = GOLDENS[name]
    assert parsed(text) == expected


def test_a_cut_off_reply_is_rejected_as_a_whole():
    assert parse_edits('[{"op": "add", "principle": "A"}]', OPS, "length") == ((), CUT_OFF)


@pytest.mark.parametrize(
    "text",
    ["", "[{", "I would not change anything.", "{}", "[{}]", '["add", "Check units"]', "null", "NaN",
     "<think>[]", '{"answer": 3}', "x" * 200_001, '{"text": "no op and nothing that says principle"}'],
)  # fmt: skip
def test_nothing_usable_is_a_reason(text):
    operations, error = parse_edits(text, OPS, "stop")
    assert operations == () and error


@pytest.mark.parametrize("text", [None, 3, b"[]", ["[]"]])
def test_what_is_no_text_is_a_reason(text):
    assert parse_edits(text, OPS, "stop")[1]


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ('{"op": "add", "principle": null}', "no text"),
        ('{"op": "add", "principle": NaN}', "no text"),
        ('{"op": "add", "principle": true}', "no text"),
        ('{"op": "add", "principle": ["a", "b"]}', "no text"),
        ('{"op": "add"}', "no text"),
        ('{"op": "modify", "principle": "A"}', "has 0"),
        ('{"op": "modify", "id": true, "principle": "A"}', "has 0"),
        ('{"op": "modify", "id": 1e999, "principle": "A"}', "has 0"),
        ('{"op": "modify", "id": -2, "principle": "A"}', "has 0"),
        ('{"op": "modify", "id": "G-2", "principle": "A"}', "has 0"),
        ('{"op": "modify", "id": 1.5, "principle": "A"}', "has 0"),
        ('{"op": "modify", "id": 123456789012345678901234567890, "principle": "A"}', "has 0"),
        ('{"op": "modify", "ids": [1, 2], "principle": "A"}', "has 2"),
        ('{"op": "merge", "ids": [1, 1], "principle": "A"}', "has 1"),
        ('{"op": "explode", "principle": "A"}', "'explode' is not allowed"),
        ('{"op": null, "principle": "A", "id": {"a": 1}}', ""),
        ('{"op": 7, "principle": "A"}', "'7' is not allowed"),
        ('[{"op": "', "'' is not allowed"),
    ],
)
def test_an_operation_that_cannot_be_meant_is_kept_with_its_reason(item, reason):
    (operation,) = parsed(item)
    assert reason in operation.fate and bool(reason) == bool(operation.fate)


def test_operations_of_another_stage_are_not_allowed():
    assert fates(parsed('[{"op": "remove", "id": 0}, {"op": "add", "principle": "A"}]', ("add",))) == [
        "the operation 'remove' is not allowed here",
        "",
    ]


def test_replace_means_modify_where_principles_are_edited():
    assert parsed('{"op": "replace", "id": "G0", "principle": "A"}') == [Operation("modify", (0,), "A")]


def test_too_many_operations_are_a_reason():
    reply = json.dumps([{"op": "add", "principle": f"p{n}"} for n in range(MAX_OPERATIONS + 1)])
    operations, error = parse_edits(reply, OPS, "stop")
    assert len(operations) == MAX_OPERATIONS and str(MAX_OPERATIONS) in error


BLOCK = "Edit:\n<<<<<<< SEARCH\nold line\n  indented\n=======\nnew ``` line\n\n>>>>>>> REPLACE\nbye"


def test_search_replace_blocks():
    expected = Operation("replace", text="new ``` line\n", search="old line\n  indented")
    assert parsed(BLOCK, ("replace",)) == [expected]
    assert len(parsed(BLOCK + BLOCK.replace("old", "older"), ("replace",))) == 2
    empty = "<<<<<<< SEARCH\n=======\nfirst\n>>>>>>> REPLACE"
    assert parsed(empty, ("replace",)) == [Operation("replace", text="first")]


@pytest.mark.parametrize("before", ["Evidence: ", "An edit.\n**Evidence:** ", "1. evidence: none\nEvidence:\n"])
def test_a_block_carries_the_evidence_that_stands_before_it(before):
    first = BLOCK.replace("Edit:", f"{before}it won\nboth times.\n```diff")
    evidence = [operation.evidence for operation in parsed(first + "\n" + BLOCK.replace("old", "older"), ("replace",))]
    assert evidence == ["it won both times.", ""]


def test_a_block_without_its_end_is_kept_with_the_reason():
    (operation,) = parsed(BLOCK.split(">>>>>>>")[0], ("replace",))
    assert "not finished" in operation.fate


def test_blocks_are_not_read_where_principles_are_edited():
    assert parse_edits(BLOCK, OPS, "stop") == ((), "no JSON in the reply")


def test_replace_as_json():
    reply = r'{"op": "replace", "search": "a\nb", "replace": "c", "evidence": "why"}'
    assert parsed(reply, ("replace",)) == [Operation("replace", text="c", search="a\nb", evidence="why")]
    assert parsed('[{"find": "a", "replace": ""}]', ("replace",)) == [Operation("replace", search="a")]
    assert parsed("[]", ("replace",)) == []


def test_strip_thinking():
    assert strip_thinking("<think>a</think> b") == "b"
    assert strip_thinking("a</think><think>b</think>c") == "c"
    assert strip_thinking("before <think> never ends") == "before"
    assert strip_thinking("<think> never ends") == ""


WORDS = ["op", "add", "modify", "principle", "id", "G1", "null", "NaN", "1e999", "true", "\\u", "\\ud800", "\\frac"]
MARKS = list("[]{}\"':,\\/\n\t`“”<>=*#\x00\u2028é先")
MARKS += ["```json\n", "<think>", "</think>", "//", "/*", "<<<<<<< SEARCH\n"]


def mangled(text: str, rng: random.Random) -> str:
    """The text after some cuts, repeats, swaps and insertions at random places."""
    for _ in range(rng.randrange(1, 6)):
        a, b = sorted(rng.randrange(len(text) + 1) for _ in range(2))
        junk = rng.choice(MARKS + WORDS) * rng.choice((1, 1, 1, 2, 5))
        text = rng.choice(
            [text[:a] + text[b:], text[:a] + junk + text[a:], text[:b] + text[a:b] + text[b:], text[:b], text[a:]]
        )
    return text[:5000]


def check_total(text: str, allowed=OPS) -> None:
    operations, error = parse_edits(text, allowed, "stop")
    assert isinstance(error, str) and isinstance(operations, tuple)
    for operation in operations:
        assert all(isinstance(part, str) for part in (operation.op, operation.text, operation.search, operation.fate))
        assert all(type(target) is int and target >= 0 for target in operation.targets)
        assert operation.fate or operation.op in allowed
        operation.text.encode(), operation.search.encode(), operation.evidence.encode()
        json.dumps(operation.__dict__)


def test_ten_thousand_mangled_replies_raise_nothing():
    rng = random.Random(0)
    replies = [text for text, _ in GOLDENS.values()] + [BLOCK]
    read = 0
    for number in range(10_000):
        allowed = ("replace",) if number % 5 == 0 else OPS
        text = mangled(rng.choice(replies), rng)
        check_total(text, allowed)
        read += bool(parse_edits(text, OPS, "stop")[0]) if number < 500 else 0
    assert read > 150  # the fuzz is not all rejected at the door


@settings(max_examples=300)
@given(st.lists(st.sampled_from(MARKS + WORDS) | st.text(max_size=5), max_size=40).map("".join))
def test_any_text_is_read_or_refused(text):
    check_total(text)


json_trees = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4),
)


@settings(max_examples=200)
@given(json_trees)
def test_any_json_value_is_read_or_refused(value):
    check_total(json.dumps([{"op": "add", "principle": value, "id": value, "evidence": value}, value]))


@settings(max_examples=200)
@given(st.text(alphabet="ab \"'\\/{}[],:é\t\n$^_<>", max_size=40))
def test_well_formed_json_of_plain_characters_survives_exactly(text):
    """Anything without letters that could be a LaTeX command behind a backslash comes back as it was."""
    (operation,) = parsed(json.dumps([{"op": "add", "principle": text}]))
    assert operation.text == text
