"""How reflections in the small world are judged: the ideal editor's, and faulty ones by hand."""

import dataclasses
import json

import pytest

from benchmarks.reflection import Verdict, cases, judge, row, settings


@pytest.fixture(scope="module")
def config():
    return settings()


@pytest.fixture(scope="module")
def found(config):
    return cases(config, 40)


def test_the_ideal_editor_is_always_read_and_what_it_states_of_a_plain_sheet_fits(found, config):
    verdicts = [judge(case, case.call.reply, config) for case in found]
    assert len(verdicts) > 50 and all(verdict.readable for verdict in verdicts)
    stated = [fits for verdict in verdicts for _, fits in verdict.stated]
    assert len(stated) > 15 and all(stated)


def test_wrong_unreadable_and_empty_replies_by_hand(found, config):
    case = next(
        case for case in found
        if len(case.problem.data["items"][0].steps) == 1 and case.call.operations and case.call.operations[0].op == "add"
    )  # fmt: skip
    word = case.problem.data["items"][0].steps[0].word

    def verdict(text, finish="stop"):
        return judge(case, dataclasses.replace(case.call.reply, text=text, finish=finish), config)

    wrong = verdict(json.dumps([{"op": "add", "principle": f"{word}: add the two numbers, then add 90"}]))
    assert wrong == Verdict(True, 1, 1, ((len(case.problem.data["items"]), False),))
    assert verdict("I would add the numbers.") == Verdict(False, 0, 0, ())
    assert verdict("[]") == Verdict(True, 0, 0, ())
    assert verdict(case.call.reply.text, finish="length").readable is False


def test_a_line_of_the_table_by_hand():
    verdicts = [Verdict(True, 1, 1, ((3, True),)), Verdict(False, 0, 0, ()), Verdict(True, 2, 1, ((3, False), (1, True)))]
    assert row("x", verdicts) == ("x", "3", "66.7%", "3", "2", "1: 1/1, 3: 1/2")
