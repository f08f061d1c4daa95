"""Every reason that the room gives has a kind."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from espl_jax.evolution.apply import apply_principles
from espl_jax.evolution.documents import apply_document
from espl_jax.evolution.edits import parse_edits
from espl_jax.evolution.fates import KINDS, OTHER, kind, rejection_rates
from espl_jax.evolution.guards import Library, Watched
from espl_jax.evolution.reflection import drop_beyond
from espl_jax.structs import Genome, Operation
from tests.evolution.scripted import config, principles, problem

SUM = problem("7 + 5", "12")
LONG = problem("How many of the blue birds in the old oak tree fly south every winter?", "3")
TEXTS = [
    "Check the units.", "Check the units", "7 + 5 = 12", "word " * 40, "", "...", "Be brief. <|im_end|>",
    "hidden\u202etext here",
    "blue birds in the old oak tree fly south every winter", "Draw a figure first.",
    "Name what is unknown.",
]  # fmt: skip
operations = st.builds(
    Operation, op=st.sampled_from(["add", "modify", "merge", "remove", "replace"]),
    targets=st.sampled_from([(0,), (1,), (0, 1), (7,)]), text=st.sampled_from(TEXTS), search=st.sampled_from([*TEXTS, "zzz"]),
)  # fmt: skip


@pytest.mark.parametrize(
    ("fate", "expected"),
    [
        ("gives away the answer of problem 12ab", "leak"), ("holds the chat control mark '</s>'", "control"),
        ("has 40 words (limit 32)", "too_long"), ("no room: the limit is 3 principles", "no_room"), ("repeats G2", "duplicate"),
        ("repeats the request", "echo"),
        ("G1 was already edited", "contested"), ("the search text occurs 2 times", "no_target"), ("has no text", "empty"),
        ("the operation 'x' is not allowed here", "malformed"), ("beyond the limit of 2 edits a reply", "too_many"),
        ("something new", OTHER),
    ],
)  # fmt: skip
def test_kinds(fate, expected):
    assert kind(fate) == expected


@given(st.lists(operations, min_size=1, max_size=5), st.integers(1, 3))
def test_no_reason_of_the_room_is_of_an_unknown_kind(proposed, limit):
    settings, watched = config(max_principles=2, max_document_words=12), Watched([SUM], Library([SUM, LONG]))
    late = drop_beyond(proposed, limit)
    lists = [op for op in late if op.op != "replace"]
    judged = apply_principles(principles("Check the units.", "Name what is unknown."), lists, settings, watched)[1]
    blocks = [op for op in late if op.op == "replace"]
    document = Genome("document", document="Draw a figure first.\nCheck the units.")
    judged += apply_document(document, blocks, settings, watched)[1]
    assert OTHER not in {kind(op.fate) for op in judged if op.fate != "applied"}
    rates = rejection_rates(judged)
    dropped = np.mean([op.fate != "applied" for op in judged])
    assert sum(rates.values()) == pytest.approx(dropped) and len(rates) == len(KINDS) + 1


@given(st.text('[]{}":,opadmifyreve <>=SEARCH\n0129', max_size=60))
def test_what_the_parser_objects_to_is_malformed_or_empty(text):
    for op in parse_edits(text, ("modify", "merge", "replace"), "stop")[0]:
        assert op.fate == "" or kind(op.fate) in ("malformed", "empty")
