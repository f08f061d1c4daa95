from hypothesis import given, settings
from hypothesis import strategies as st

from espl_jax.evolution.hints import listed, place
from espl_jax.structs import Genome

TEXT = "Look it up.\n\nHints:\n- Use few words.\n- Compare the dates.\n\nAnswer at the end."


def put(document: str, advice: str, most: int = 9) -> str:
    """The document with the advice, as search and replace puts it there."""
    operation = place(document, advice, most)
    assert operation.op == "replace" and (document.count(operation.search) == 1 or not operation.search)
    return document.replace(operation.search, operation.text) if operation.search else operation.text


def test_advice_goes_behind_the_last_hint():
    assert put(TEXT, "- Stop early.") == TEXT.replace("dates.", "dates.\n- Stop early.")


def test_a_part_of_hints_is_begun_where_there_is_none():
    assert put("", "Stop early.") == "Hints:\n- Stop early."
    assert put("Look.\nLook.", "Stop early.") == "Look.\nLook.\n\nHints:\n- Stop early."
    assert put("Look.\n\nHints:\n", "Stop early.") == "Look.\n\nHints:\n- Stop early.\n"
    assert put("Hints: none.\nHints:\nGo.", "Stop early.") == "Hints: none.\nHints:\n- Stop early.\nGo."


def test_where_there_is_no_room_the_most_similar_hint_goes():
    assert put(TEXT, "Compare places.", 2) == TEXT.replace("Compare the dates.", "Compare places.")
    assert put(TEXT, "Zzz.", 2) == TEXT.replace("Use few words.", "Zzz.")


def test_hints_are_listed():
    assert listed(Genome("document", document=TEXT)) == "- Use few words.\n- Compare the dates."
    assert listed(Genome("document", document="Look.\nHints:\n")) == "(nothing yet)"
    assert listed(Genome("document", document="Look.\n- Not a hint.")) == "(nothing yet)"


lines = st.lists(st.sampled_from(["Hints:", "- a", "- b", "- a b", "a", "", " ", "Look. Hints:"]), max_size=8)


@settings(max_examples=150)
@given(lines.map("\n".join), st.sampled_from(["c", "- c", "a b c"]), st.integers(1, 4))
def test_one_line_is_added_or_replaced_and_all_others_stay(document, advice, most):
    before, after = document.split("\n"), put(document, advice, most).split("\n")
    hint = "- " + advice.removeprefix("- ")
    assert after.count(hint) == before.count(hint) + 1
    rest = [line for line in after if line.strip() and line not in (hint, "Hints:")]
    kept = [line for line in before if line.strip() and line not in (hint, "Hints:")]
    assert rest == kept or len(rest) == len(kept) - 1
    shown = listed(Genome("document", document="\n".join(after))).split("\n")
    assert hint in shown
