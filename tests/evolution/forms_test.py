import pytest

from espl_jax.evolution.edits import CUT_OFF
from espl_jax.evolution.forms import FORMS, edit_chat, parse_sentence
from espl_jax.structs import Operation
from tests.evolution.scripted import config


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Advice: Add the tens first.", "Add the tens first."),
        ('Advice: **"Add the tens first."**\nAnd more chatter', "Add the tens first."),
        ("Advice:\n\n [G2] Add the tens first.", "Add the tens first."),
    ],
)
def test_the_first_line_is_the_principle(text, expected):
    assert parse_sentence(text, ("add", "modify"), "stop", ()) == ((Operation("add", text=expected),), "")


def test_with_targets_the_line_is_their_merger():
    operations, error = parse_sentence("Advice: Do both steps.", ("modify", "merge"), "stop", (2, 3))
    assert (operations, error) == ((Operation("merge", (2, 3), "Do both steps."),), "")


def test_cut_off_and_empty_advice_are_reasons():
    assert parse_sentence("Advice: Add the", (), "length", ()) == ((), CUT_OFF)
    for text in ("Advice: \n", "Advice: G2", "Advice: **[G0]** (G1)\n"):
        operations, error = parse_sentence(text, ("add",), "stop", ())
        assert operations == () and "fewer than 3 words" in error


@pytest.mark.parametrize("form", sorted(FORMS))
def test_every_edit_stage_has_a_template_in_every_form(form):
    values = dict.fromkeys(
        (
            "task", "question", "answer", "principles", "document", "attempts", "max_edits", "max_words", "max_growth", "won",
            "others",
        ),
        "DATA",
    )  # fmt: skip
    for name in ("critique", "consolidation", "crossover", "document_critique", "document_crossover"):
        chat = edit_chat("id", name, config(edit_form=form), **values)
        assert "DATA" in chat.messages[0].content and "{{" not in chat.messages[0].content
