"""The root documents: what they say about the tool is what the tool understands, and cannot be edited."""

from importlib.resources import files

import pytest

from espl_jax.evolution.documents import apply_document
from espl_jax.evolution.guards import Library, Watched, control_marks
from espl_jax.evolution.words import count_words
from espl_jax.structs import Genome, Operation
from espl_jax.tasks.search.calls import FORM, OPENING, read_calls
from espl_jax.tasks.search.reward import read_answer
from espl_jax.tasks.search.task import root_document, tool_syntax
from tests.evolution.scripted import config

LONGEST = {"root.md": 180, "root_full.md": 450}  # words
DOCUMENTS = {name: files("espl_jax.tasks.search").joinpath(name).read_text(encoding="utf-8").strip() for name in LONGEST}


@pytest.mark.parametrize("name", sorted(DOCUMENTS))
def test_a_root_document_says_what_the_program_understands(name):
    document = DOCUMENTS[name]
    calls = read_calls(document)
    assert len(calls) >= 3 and not any(call.error for call in calls)
    assert calls[0].queries == ("key words",) and FORM.replace("...", "key words") in document
    assert read_answer(document.partition("Hints:")[0]) == "a few words"
    assert count_words(document) <= LONGEST[name] and control_marks(document) == ""


@pytest.mark.parametrize("name", sorted(DOCUMENTS))
def test_the_syntax_of_the_tool_is_the_same_in_all_and_protected(name):
    assert root_document() == DOCUMENTS["root.md"]
    (syntax,) = tool_syntax(root_document())
    assert syntax.count(OPENING) == 1 and DOCUMENTS[name].split("\n\n").count(syntax) == 1
    watched = Watched([], Library([], (syntax,)))
    edits = [Operation("replace", search="end your turn", text="begin"), Operation("add", text="Read the first passage.")]
    genome, judged = apply_document(Genome("document", document=DOCUMENTS[name]), edits, config(), watched)
    assert "protected" in judged[0].fate and judged[1].fate == "applied"
    assert genome.document == DOCUMENTS[name] + "\n- Read the first passage."


def test_a_document_without_a_call_has_no_syntax():
    assert tool_syntax("Look it up.\n\nThen answer.") == ()
