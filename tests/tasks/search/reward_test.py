"""Answers as the reward reads and compares them; expected values by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espl_jax.structs import Problem, text_id
from espl_jax.tasks.search.reward import golden_answers, matches, normalized, read_answer, score


@pytest.mark.parametrize(
    "reply, answer",
    [
        ("I found it.\nAnswer: Lima", "Lima"),
        ("Answer: Quito\nNo.\nAnswer: Lima.", "Lima"),
        ("**Answer:** The Hague\nIt is in the Netherlands.", "The Hague"),
        ("Answer:\nLima", "Lima"),
        ("answer : 1,000", "1,000"),
        ("Answer:", ""),
        ("Lima", ""),
        ("", ""),
        ("Answer: " + "x" * 5000, "x" * 1000),
    ],
)
def test_the_last_answer_line_is_read(reply, answer):
    assert read_answer(reply) == answer


@pytest.mark.parametrize(
    "answer, text",
    [
        ("The  Beatles", "beatles"),
        ("a An THE", ""),
        ("Theodore and an ant", "theodore and ant"),
        ("O'Neill, Jr.", "oneill jr"),
        ("U.S.", "us"),
        ("well-known", "wellknown"),
        ("$1,000 (approx.)", "1000 approx"),
        ("\u201cCaf\u00e9\u201d", "caf\u00e9"),
        (".pe", "pe"),
        ("\uff34\uff35", "tu"),
        (" \n", ""),
    ],
)
def test_normalized(answer, text):
    assert normalized(answer) == text


@pytest.mark.parametrize(
    "answer, golden, equal",
    [
        ("the Netherlands", ["Netherlands"], True),
        ("Dec. 14, 1972 UTC", ["14 December 1972 UTC", "December 1972", "dec 14 1972 utc"], True),
        ("Lima, Peru", ["Lima"], False),
        ("", ["", "the"], False),
        ("The", ["a"], False),
        ("anything", [], False),
    ],
)
def test_any_of_the_true_answers_will_do(answer, golden, equal):
    assert matches(answer, golden) is equal


@given(st.text(), st.sampled_from(["{}", " {}!", "the {}", "{}\n", "'{}'"]))
def test_what_is_around_an_answer_does_not_matter(answer, form):
    assert matches(form.format(answer), [answer]) == bool(normalized(answer))


@pytest.mark.parametrize(
    "correct, well_formed, penalty, reward",
    [(True, True, 0.1, 1), (True, False, 0.1, 0.9), (True, False, 1, 0), (False, True, 0.1, 0), (False, False, 0.1, 0)],
)
def test_the_penalty_never_makes_a_reward_negative(correct, well_formed, penalty, reward):
    assert score(correct, well_formed, penalty) == reward


def test_problems_of_other_columns_have_one_true_answer():
    assert golden_answers(Problem(text_id("q"), "q", "x")) == ("x",)
    assert golden_answers(Problem(text_id("q"), "q", "x", {"golden_answers": ["x", "y"]})) == ("x", "y")
