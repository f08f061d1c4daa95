"""What counts as the same answer, and the task as a whole on local files."""

import pytest

from espl_jax import tasks
from espl_jax.structs import Problem
from espl_jax.tasks.grading import grade_all
from espl_jax.tasks.math import are_words, make_verifier, plain, same
from experiments import base

EQUAL = [
    ("0.5", r"\frac{1}{2}"),
    (r"\frac{1}{2}", "0.5"),
    (r"\frac{1}{2}", r"\dfrac12"),
    (r"\frac{1}{2}", "1/2"),
    ("42", "042"),
    ("042", "42"),
    ("-5", "\u22125"),
    ("42", r"42\text{ cm}"),
    ("42", r"42^\circ"),
    ("42", "$42$"),
    ("42", "42."),
    ("5", "x=5"),
    ("1234", "1,234"),
    ("14400", "14{,}400"),
    (r"\sqrt{8}", r"2\sqrt{2}"),
    (r"\frac{9\sqrt{23}}{23}", r"\frac{9}{\sqrt{23}}"),
    (r"\{1,2\}", r"\{2,1\}"),
    ("1, 2", r"\{2, 1\}"),
    ("(1,2)", "(1, 2)"),
    ("[0,1)", "[0, 1)"),
    ("(x+1)^2", "x^2+2x+1"),
    (r"2^{99}", "633825300114114700748351602688"),
    (r"\text{Monday}", "monday"),
    ("Paris", "Paris."),
    ("A", r"\text{A}"),
    (r"2\pi", "6.283185"),
]

DIFFERENT = [
    ("42", "43"),
    ("42", "-42"),
    ("5", "3 or 5"),
    ("5", r"3 \text{ or } 5"),
    (r"\frac{1}{2}", "0.51"),
    ("(1,2)", "(2,1)"),
    ("[0,1)", "(0,1)"),
    (r"\{1,2\}", r"\{1,2,3\}"),
    ("1,2,3", "123"),
    ("silent", "listen"),
    ("Paris", "Spari"),
    ("1234567", "1234568"),
    ("7", ""),
    ("7", r"\frac{"),
    ("7", "}{$$"),
]


@pytest.mark.parametrize("truth, answer", EQUAL)
def test_equal(truth, answer):
    assert same(truth, answer)


@pytest.mark.parametrize("truth, answer", DIFFERENT)
def test_different(truth, answer):
    assert not same(truth, answer)


def test_prose_is_searched_for_the_answer():
    assert same("5", "the answer is 5 apples", prose=True)
    assert same(r"\frac{1}{2}", r"\frac{1}{2}", prose=True)
    assert same("5", "I am sure that the final answer is $5$.", prose=True)
    assert not same("5", "the answer is 6 apples", prose=True)


def test_words_and_plain():
    assert all(are_words(text) for text in ("Paris", "New York", "\u6771\u4eac"))
    assert not any(are_words(text) for text in ("x", "x+y", "sin(x)", r"\alpha", "12 km", r"\pi", "ln x", "A"))
    assert plain(r"$\text{New  York}$.") == "New York"


@pytest.mark.parametrize(
    "extraction, reply, score",
    [
        ("boxed", r"So \boxed{042}.", 1.0),
        ("boxed", "So 42.", 0.0),
        ("boxed", r"\boxed{%s}" % ("4" * 2000), 0.0),
        ("last_number", "So it is 42.", 1.0),
        ("answer_line", "Answer: 42 apples", 1.0),
        ("answer_line", "Answer: 41 apples, not 42 of them\nAnswer: 40", 0.0),
        ("whole", " 42 ", 1.0),
        ("whole", "", 0.0),
    ],
)
def test_verifier(extraction, reply, score):
    grade = make_verifier(extraction)(Problem("id", "q", "42"), reply)
    assert grade.score == score
    assert (grade.note != "") == (grade.extracted == "" or len(grade.extracted) > 1000)


def test_task_on_local_files_with_hostile_replies(config, write):
    rows = [{"problem": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(12)]
    config.train = write("train.jsonl", rows)
    config.test = write("test.jsonl", rows[:3] + [{"problem": "New?", "answer": r"\frac{1}{2}"}])
    config.question_suffix = "\nBox the answer."
    config.grading_timeout = 2.0
    task = tasks.build(config, 1, base.tools())
    assert (len(task.train), len(task.validation), len(task.test)) == (7, 2, 4)
    assert task.question(task.test[3]) == "New?\nBox the answer."
    hostile = [r"\boxed{9^{9^{9^{9}}}}", r"\boxed{100000000!}"]
    replies = [r"\boxed{0}", hostile[0], r"\boxed{2.0}", "x" * 1_000_000, hostile[1], r"\boxed{4} \boxed{5}"]
    pairs = [(task.test[index % 3], reply) for index, reply in enumerate(replies)]
    grades = grade_all(task.grader, [*pairs, (task.test[3], r"\boxed{0.5}")])
    task.close()
    assert [grade.score for grade in grades] == [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]
    late = "timeout after 2 s"
    assert [grade.note for grade in grades] == ["", late, "", "no answer found", late, "", ""]
    assert [grades[index].extracted for index in (2, 5, 6)] == ["2.0", "5", "0.5"]
