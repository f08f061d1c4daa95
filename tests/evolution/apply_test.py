import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espl_jax.evolution.apply import apply_principles, clean
from espl_jax.structs import Operation
from tests.evolution.scripted import config, fates, principles, problem

START = principles("Check the units.", "Name the unknowns first.", "Draw a figure for geometry.", "Test small cases.")
SUM = problem("7 + 5", "12")
CONFIG = config()


def edited(*operations: Operation, start=START, **changes):
    genome, judged = apply_principles(start, operations, config(**changes), [SUM])
    return list(genome.principles), fates(judged)


def add(text: str) -> Operation:
    return Operation("add", text=text)


def test_targets_are_positions_in_the_parent_whatever_earlier_edits_did():
    texts, verdicts = edited(
        Operation("remove", (0,)),
        add("Estimate the size of the result."),
        Operation("merge", (1, 3), "Name unknowns, then test small cases."),
        Operation("modify", (2,), "Draw a labelled figure."),
    )
    assert texts == [
        "Name unknowns, then test small cases.",
        "Draw a labelled figure.",
        "Estimate the size of the result.",
    ]
    assert verdicts == ["applied"] * 4


def test_the_original_is_unchanged():
    before = tuple(START.principles)
    edited(Operation("remove", (0,)))
    assert START.principles == before


@pytest.mark.parametrize(
    ("operation", "fate"),
    [
        (Operation("modify", (4,), "Look back."), "there is no principle G4"),
        (Operation("merge", (0, 9), "Look back."), "there is no principle G9"),
        (Operation("remove", (7,)), "there is no principle G7"),
        (add(""), "the text is empty"),
        (add("  ...\n"), "the text is empty"),
        (add("[G4] ..."), "the text is empty"),
        (add("word " * 33), "has 33 words (limit 32)"),
        (add("check THE units"), "repeats G0"),
        (Operation("modify", (1,), "Check the units."), "repeats G0"),
        (Operation("modify", (0,), "Check  the units."), "changes nothing"),
        (Operation("merge", (0, 1), "Test small cases."), "repeats G3"),
        (add("Stop.<|im_end|>"), "holds the chat control mark '<|im_end|>'"),
        (add("Note that 7 + 5 = 12."), f"gives away the answer of problem {SUM.id}"),
        (Operation("add", text="Fine otherwise.", fate="came with a reason"), "came with a reason"),
    ],
)
def test_what_is_not_applied_says_why(operation, fate):
    assert edited(operation) == (list(START.principles), [fate])


def test_a_modification_may_stay_close_to_what_it_replaces():
    assert edited(Operation("modify", (0,), "Check the units!"))[1] == ["applied"]


def test_each_principle_is_edited_once():
    merge, remove = Operation("merge", (0, 1), "Both."), Operation("remove", (0,))
    texts, verdicts = edited(Operation("modify", (0,), "Check units twice."), merge, remove)
    assert texts[0] == "Check units twice." and len(texts) == 4
    assert verdicts == ["applied", "G0 was already edited", "G0 was already edited"]


def test_a_dropped_edit_does_not_block_the_next():
    assert edited(add(""), Operation("modify", (0,), ""), Operation("remove", (0,)))[1][2] == "applied"


def test_an_addition_may_reuse_the_text_of_a_removed_principle_and_not_of_another_addition():
    verdicts = edited(add("Check the units."), add("Check the units"), Operation("remove", (0,)))[1]
    assert verdicts == ["applied", "repeats G4", "applied"]


def test_room_is_counted_after_removals_and_the_latest_additions_go():
    operations = add("Estimate first."), add("Look for symmetry."), Operation("remove", (0,)), add("Work backwards.")
    texts, verdicts = edited(*operations, max_principles=4)
    assert texts == ["Name the unknowns first.", "Draw a figure for geometry.", "Test small cases.", "Estimate first."]
    no_room = "no room: the limit is 4 principles"
    assert verdicts == ["applied", no_room, "applied", no_room]


def test_principles_beyond_a_lowered_limit_are_kept():
    assert len(edited(Operation("modify", (0,), "Check dimensions."), max_principles=2)[0]) == 4


def test_principles_are_one_line_without_a_copied_label():
    assert clean(" [G3]: Check\n  the units ") == "Check the units"
    assert clean("G12. Check") == "Check"
    assert clean("G1 cells matter") == "G1 cells matter"


texts = st.sampled_from(["Check the units.", "Look back.", "", "word " * 40, "Try symmetry.", "a", "b", "c", "<|x|>"])
edits = st.builds(
    Operation,
    st.sampled_from(["add", "modify", "merge", "remove"]),
    st.lists(st.integers(0, 6), min_size=1, max_size=3, unique=True).map(tuple),
    texts,
)


@settings(max_examples=300)
@given(st.lists(edits, max_size=8), st.integers(1, 6))
def test_whatever_is_proposed_every_edit_has_a_fate_and_the_limits_hold(operations, limit):
    CONFIG.max_principles = limit
    genome, judged = apply_principles(START, operations, CONFIG, [SUM])
    assert all(judged_one.fate for judged_one in judged)
    assert [(o.op, o.targets, o.text) for o in judged] == [(o.op, o.targets, o.text) for o in operations]
    assert len(genome.principles) <= max(limit, 4)
    assert all(len(text.split()) <= 32 and text.strip() for text in genome.principles)
    if not any(one.fate == "applied" for one in judged):
        assert genome == START
