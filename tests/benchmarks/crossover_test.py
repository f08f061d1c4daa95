"""How crossovers in the small world are judged: the ideal editor's, and faulty ones by hand."""

import dataclasses
import json

import pytest

from benchmarks.crossover import Verdict, cases, judge, row, settings


@pytest.fixture(scope="module")
def config():
    return settings()


@pytest.fixture(scope="module")
def found(config):
    return cases(config, 60)


def test_the_ideal_editor_brings_in_all_that_is_lacking_and_nothing_else(found, config):
    verdicts = [judge(case, case.call.reply, config) for case in found]
    assert len(verdicts) > 20 and all(verdict.readable for verdict in verdicts)
    assert sum(verdict.lacking for verdict in verdicts) > 10
    assert all(verdict.found == verdict.lacking and verdict.besides == 0 for verdict in verdicts)


def test_another_meaning_no_edit_and_an_unreadable_reply_by_hand(found, config):
    case = next(case for case in found if [edit.op for edit in case.call.operations] == ["add"])
    word = case.call.operations[0].text.partition(":")[0]

    def verdict(text, finish="stop"):
        return judge(case, dataclasses.replace(case.call.reply, text=text, finish=finish), config)

    other = verdict(json.dumps([{"op": "add", "principle": f"{word}: add the two numbers, then add 90", "evidence": "a win"}]))
    assert other == Verdict(True, lacking=1, found=0, besides=1)
    assert verdict("[]") == Verdict(True, lacking=1, found=0, besides=0)
    assert verdict("The other list is better.") == Verdict(False, lacking=1, found=0, besides=0)
    assert verdict(case.call.reply.text, finish="length").readable is False


def test_a_line_of_the_table_by_hand():
    verdicts = [Verdict(True, 1, 1, 0), Verdict(False, 2, 0, 0), Verdict(True, 0, 0, 1)]
    assert row("x", verdicts) == ("x", "3", "66.7%", "3", "1", "1")
