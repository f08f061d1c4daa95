"""Prompts without each of their parts, worked out by hand."""

from hypothesis import given, settings
from hypothesis import strategies as st

from espl_jax.attribution.parts import without_each
from espl_jax.structs import Genome

DOCUMENT = "You answer.\nBe brief.\n\nFormat:\nAnswer: x\n\nHints:\n- Count.\n- Check."


def test_each_principle_is_left_out_once():
    found = without_each(Genome("principles", ("a", "b", "c")), ())
    assert [(part.name, part.text, part.without.principles) for part in found] == [
        ("G0", "a", ("b", "c")), ("G1", "b", ("a", "c")), ("G2", "c", ("a", "b")),
    ]  # fmt: skip
    assert without_each(Genome("principles"), ()) == []


def test_paragraphs_and_hints_of_a_document():
    found = {part.name: (part.text, part.without.document) for part in without_each(Genome("document", document=DOCUMENT), ())}
    assert found == {
        "paragraph 1": ("You answer.\nBe brief.", "Format:\nAnswer: x\n\nHints:\n- Count.\n- Check."),
        "paragraph 2": ("Format:\nAnswer: x", "You answer.\nBe brief.\n\nHints:\n- Count.\n- Check."),
        "hint 1": ("- Count.", "You answer.\nBe brief.\n\nFormat:\nAnswer: x\n\nHints:\n- Check."),
        "hint 2": ("- Check.", "You answer.\nBe brief.\n\nFormat:\nAnswer: x\n\nHints:\n- Count."),
    }


def test_what_is_protected_stays_and_a_lonely_hint_takes_its_heading_along():
    document = "Format:\nAnswer: x\n\nHints:\n- Count."
    found = without_each(Genome("document", document=document), ("Answer: x", "not in it"))
    assert [(part.name, part.without.document) for part in found] == [("hint 1", "Format:\nAnswer: x")]


@settings(max_examples=60)
@given(st.lists(st.sampled_from(["alpha", "beta", "", "Hints:", "- gamma", "- delta"]), max_size=12))
def test_the_parts_of_a_document_are_all_its_lines_once(lines):
    document = "\n".join(lines)
    found = without_each(Genome("document", document=document), ())
    told = [line for part in found for line in part.text.split("\n")]
    left = [line for line in lines if line.strip()]
    assert set(told) <= set(left)
    for line in ("alpha", "beta", "- gamma", "- delta"):
        assert told.count(line) == left.count(line)
