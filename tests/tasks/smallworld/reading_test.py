"""Reading principles: against sentences labelled by hand, and against every wording of the family."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espl_jax.structs import Genome
from espl_jax.tasks.smallworld.reading import read_rule, rules_known, statements, told
from espl_jax.tasks.smallworld.rules import BASES, RULES, STYLES, Rule

LABELLED = (Path(__file__).parent / "labelled.tsv").read_text(encoding="utf-8").splitlines()[1:]
WORDS = ("kafux", "bemoz", "zorek")


def rule_named(name: str) -> Rule | None:
    """"sum+3", "larger-1" -> the rule; "-" -> None."""
    if name == "-":
        return None
    base = next(base for base in sorted(BASES, key=len, reverse=True) if name.startswith(base))
    return Rule(base, int(name[len(base) :] or 0))


@pytest.mark.parametrize("line", LABELLED)
def test_a_sentence_says_what_a_person_reads_in_it(line):
    word, name, text = line.split("\t")
    said = [one.rule for one in statements(text, WORDS) if one.word == word and one.rule is not None]
    wanted = rule_named(name)
    assert (said == []) if wanted is None else (len(said) == 1 and said[0].equals(wanted)), said


def test_the_sample_covers_the_family_and_what_is_outside_it():
    names = [line.split("\t")[1] for line in LABELLED]
    assert set(BASES) <= {rule_named(name).base for name in names if name != "-"}
    assert names.count("-") >= 15 and len(names) >= 60


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_every_wording_of_the_family_is_read_as_what_it_says(rule):
    for style in range(STYLES):
        assert read_rule(rule.wording(style)).equals(rule)


@given(st.text())
def test_no_text_raises(text):
    list(statements(text, WORDS))
    read_rule(text)


def test_a_word_is_known_when_all_that_is_said_of_it_is_right():
    meanings = {"kafux": Rule("sum", 3), "bemoz": Rule("larger"), "zorek": Rule("smaller"), "ridov": Rule("sum")}
    genome = Genome(
        "principles",
        (
            "kafux: 3 more than the sum.",
            "kafux: add both numbers together and then 3 more",
            "bemoz: take the larger number.",
            "bemoz: take the smaller number.",
            "Check zorek twice.",
        ),
    )
    shares = rules_known(genome, meanings)
    assert shares == {"evolution/rules_known": 0.25, "evolution/rules_wrong": 0.25, "evolution/rules_unsaid": 0.5}
    assert [rule.name for rule in told(genome, tuple(meanings))["bemoz"]] == ["larger", "smaller"]


def test_a_document_is_read_line_by_line():
    document = "Work in steps.\nkafux: take the larger number\nbemoz: add the two numbers"
    assert told(Genome("document", document=document), WORDS) == {"kafux": [Rule("larger")], "bemoz": [Rule("sum")]}
