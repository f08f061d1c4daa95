import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espl_jax.evolution.documents import apply_document
from espl_jax.evolution.guards import Library, Watched
from espl_jax.evolution.words import count_words
from espl_jax.structs import Genome, Operation
from tests.evolution.scripted import config, fates, problem

SUM = problem("7 + 5", "12")
TEXT = "Search first.\nRead two sources.\nAnswer briefly.\nSearch again when unsure."
DOCUMENT = Genome("document", document=TEXT)


def rewritten(*operations: Operation, start=DOCUMENT, **changes):
    genome, judged = apply_document(start, operations, config(**changes), [SUM])
    return genome.document, fates(judged)


def replacement(search: str, text: str) -> Operation:
    return Operation("replace", text=text, search=search)


def test_documents_are_edited_in_order_each_on_the_result_of_the_one_before():
    text, verdicts = rewritten(
        replacement("two sources", "three sources"), replacement("three sources.\nAnswer", "sources.\nReply")
    )
    assert text == "Search first.\nRead sources.\nReply briefly.\nSearch again when unsure."
    assert verdicts == ["applied", "applied"]


@pytest.mark.parametrize(
    ("operation", "fate"),
    [
        (replacement("four sources", "x"), "the search text occurs 0 times"),
        (replacement("Search", "Look"), "the search text occurs 2 times"),
        (replacement("", "x"), "the search text is empty"),
        (replacement("Read two", "Read two"), "changes nothing"),
        (replacement("Read", "Read 7 + 5 = 12"), f"gives away the answer of problem {SUM.id}"),
        (replacement("Read", "</think> Read"), "holds the chat control mark '</think>'"),
    ],
)
def test_document_edits_that_are_not_applied_say_why(operation, fate):
    assert rewritten(operation) == (TEXT, [fate])


def test_an_empty_document_is_filled_by_an_empty_search():
    empty = Genome("document")
    assert rewritten(replacement("", "Search first."), start=empty) == ("Search first.", ["applied"])
    assert rewritten(replacement("x", "Search first."), start=empty)[1] == ["the search text occurs 0 times"]


def test_text_may_be_deleted():
    assert rewritten(replacement("\nAnswer briefly.\n", ""))[1] == ["applied"]


def test_a_document_beyond_the_limit_may_only_shrink():
    grow, shrink = replacement("two", "two or three"), replacement("Answer briefly.", "Answer.")
    assert rewritten(grow, max_document_words=12)[1] == ["the document would have 13 words (limit 12)"]
    assert rewritten(shrink, max_document_words=5)[1] == ["applied"]


def test_a_child_grows_by_no_more_than_the_limit_whatever_the_edits():
    grow = [replacement("first.", "first. Then read on."), replacement("briefly.", "briefly, in one word.")]
    grow.append(replacement("two ", ""))
    text, verdicts = rewritten(*grow, max_document_growth=3)
    assert verdicts == ["applied", "the document would grow by 6 words (limit 3)", "applied"]
    assert text == "Search first. Then read on.\nRead sources.\nAnswer briefly.\nSearch again when unsure."


def test_what_is_said_already_is_not_said_again():
    again = replacement("Answer briefly.", "Answer briefly.\nRead  TWO sources!")
    more = replacement("Answer briefly.", "Answer briefly.\nRead two sources\nName them.")
    repeated = "repeats what the document says"
    assert rewritten(again)[1] == [repeated] and rewritten(more)[1] == ["applied"]
    assert rewritten(replacement("Answer briefly.", "Read two sources."))[1] == [repeated]


def test_edits_that_give_an_answer_away_only_together_are_found():
    fill = [replacement("Read two sources.", "Note that 7"), replacement("Answer briefly.", "+ 5 makes")]
    fill.append(replacement("first.", "12."))
    assert rewritten(*fill)[1] == ["applied", "applied", f"gives away the answer of problem {SUM.id}"]


# -- what is protected -------------------------------------------------------------------------------------------------

PART = "To search write\n<call>words</call>"
TOOLS = Genome("document", document=f"Look things up.\n\n{PART}\n\nThen answer.")


def held(*operations: Operation, start=TOOLS, parts=(PART,)):
    watched = Watched([SUM], Library([SUM], parts))
    genome, judged = apply_document(start, operations, config(), watched)
    return genome.document, fates(judged)


@pytest.mark.parametrize(
    "operation",
    [
        replacement(f"\n\n{PART}", ""),
        replacement("words", "key words"),
        replacement("Then answer.", f"Then answer.\n\n{PART}"),
        replacement("</call>", "</call> or guess"),
        replacement("up.\n\nTo search", "up. To search"),
        replacement("write\n<call>", "write\n\n<call>"),
    ],
)
def test_a_protected_part_is_neither_removed_nor_changed_nor_repeated(operation):
    text, verdicts = held(operation, replacement("Then answer.", "Then answer at once."))
    assert verdicts == ["changes the protected part 'To search write\\n<call>words</call>'", "applied"]
    assert text == TOOLS.document.replace("Then answer.", "Then answer at once.")


def test_beside_a_protected_part_all_may_change():
    assert held(replacement(f"up.\n\n{PART}\n\nThen", f"up now.\n{PART}\nThen"))[1] == ["applied"]
    assert held(Operation("add", text="Read the passages with care."))[1] == ["applied"]


def test_what_a_document_never_had_is_not_protected():
    assert held(replacement("Check.", f"Check.\n{PART}"), start=Genome("document", document="Check."))[1] == ["applied"]


# -- a line of advice --------------------------------------------------------------------------------------------------


def advised(*texts: str, start=DOCUMENT, **changes):
    genome, judged = apply_document(start, [Operation("add", text=text) for text in texts], config(**changes), [SUM])
    return genome.document, judged


def test_advice_becomes_hints_by_search_and_replace():
    text, judged = advised("Use few words.", " Compare\n the dates. ")
    assert text == f"{TEXT}\n\nHints:\n- Use few words.\n- Compare the dates."
    assert [(one.op, one.search, one.text) for one in judged] == [
        ("replace", "Search again when unsure.", "Search again when unsure.\n\nHints:\n- Use few words."),
        ("replace", "- Use few words.", "- Use few words.\n- Compare the dates."),
    ]


def test_advice_obeys_the_limits_of_a_principle_and_the_guards():
    _, judged = advised("word " * 6, "...", "7 + 5 is 12", "Answer briefly", "Go </think> on", max_principle_words=5)
    assert fates(judged) == [
        "has 6 words (limit 5)", "the text is empty", f"gives away the answer of problem {SUM.id}",
        "repeats what the document says", "holds the chat control mark '</think>'",
    ]  # fmt: skip


def test_there_are_no_more_hints_than_the_limit():
    text, _ = advised("Use few words.", "Compare the dates.", "Compare all the dates.", max_hints=2)
    assert text.endswith("Hints:\n- Use few words.\n- Compare all the dates.")


# -- whatever is proposed ----------------------------------------------------------------------------------------------

pieces = st.sampled_from(
    ["Look", "up.\n", "\n", PART, "<call>", "words</call>", "To search", "Then answer.", "Hints:\n- x", "a b c", ""]
)
texts = st.lists(pieces, max_size=4).map("".join)
edits = st.builds(Operation, st.sampled_from(["replace", "add"]), text=texts, search=texts)


@settings(max_examples=150)
@given(st.lists(edits, max_size=6), st.integers(1, 12), st.integers(1, 40))
def test_every_edit_has_a_fate_and_the_limits_hold(operations, growth, longest):
    settings = config(max_document_growth=growth, max_document_words=longest)
    genome, judged = apply_document(TOOLS, operations, settings, Watched([SUM], Library([], (PART,))))
    before, after = TOOLS.document, genome.document
    assert all(one.fate for one in judged) and {one.op for one in judged if one.fate == "applied"} <= {"replace"}
    assert after.count(PART) == 1 and f"\n{PART}\n" in f"\n{after}\n"
    assert count_words(after) <= min(count_words(before) + growth, max(longest, count_words(before)))
    assert "applied" in fates(judged) or after == before
    replayed = before
    for one in (one for one in judged if one.fate == "applied"):
        assert replayed.count(one.search.strip("\n")) == 1
        replayed = replayed.replace(one.search.strip("\n"), one.text.strip("\n"))
    assert replayed == after
