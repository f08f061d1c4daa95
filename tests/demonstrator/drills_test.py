"""Drills: what they are answered with is what a critique thinks, and it is right."""

import random
import re

from espl_jax.demonstrator.drills import applications, drills, lookups, pairs
from espl_jax.demonstrator.finding import Example, find, fits
from espl_jax.tasks.smallworld.reading import read_rule, statements
from espl_jax.tasks.smallworld.rules import RULES
from espl_jax.tasks.smallworld.words import owner

WORDS = ("zipak", "tegej")
SHOWN = re.compile(r"(\d+) (?:zipak|tegej) (\d+) is (\d+)")


def drawn(seed):
    return list(drills(WORDS, 9, 200, random.Random(seed)))


def test_the_reply_is_the_search_and_a_principle_that_fits_every_example():
    for asked, reply in drawn(0):
        examples = [Example(*map(int, shown)) for shown in SHOWN.findall(asked.content)]
        word = asked.content.split()[2]
        tried = [read_rule(text) for text in asked.content.partition("Tried: ")[2].split("; ") if text]
        thought, rule = find(word, examples, tried)
        assert reply.content.startswith(thought)
        if rule is None:
            assert reply.content == thought and thought.endswith("\nNothing fits.")
            assert not any(fits(one, examples) for one in RULES)
        else:
            [said] = statements(reply.content.splitlines()[-1], WORDS)
            assert said.word == word and said.rule == rule and fits(rule, examples)


def test_each_number_of_examples_and_every_base_are_practised():
    texts = [(asked.content, reply.content) for asked, reply in drawn(1)]
    assert {len(SHOWN.findall(asked)) for asked, _ in texts} == {1, 2, 3, 4}
    endings = [reply.splitlines()[-2:] for _, reply in texts]
    assert len({trial.partition(":")[0] for trial, last in endings if last != "Nothing fits."}) == 10
    assert 4 <= sum(last == "Nothing fits." for _, last in endings) <= 30
    assert any(int(number) > 9 for asked, _ in texts for a, b, _ in SHOWN.findall(asked) for number in (a, b))


def test_drills_are_the_same_for_the_same_seed():
    assert drawn(2) == drawn(2) != drawn(3)


def test_a_lookup_says_of_each_word_what_its_own_line_means_and_nothing_of_a_word_without_one():
    unsaid = twice = 0
    for asked, reply in lookups(100, random.Random(0)):
        lines = dict(re.findall(r"^\[(G\d+)\] (.*)$", asked.content, re.MULTILINE))
        names = asked.content.rpartition("about ")[2].rstrip("?").split(", ")
        listed, *said = reply.content.splitlines()
        found = ", ".join(f"{place} {line.partition(':')[0]}" for place, line in lines.items())
        assert listed == f"List: {found or 'empty'}."
        assert [line.partition(":")[0] for line in said] == names and {owner(name) for name in names} == {"demonstration"}
        for name, line in zip(names, said):
            about = [(place, text.partition(":")[2]) for place, text in lines.items() if text.startswith(name)]
            unsaid, twice = unsaid + (not about), twice + (len(about) > 1)
            told = re.findall(r"(G\d+) says (.*?)(?=, G\d+ says|\.$)", line)
            assert line.startswith(f"{name}: ") and (told or line == f"{name}: not said.")
            assert [(place, read_rule(text)) for place, text in told] == [(place, read_rule(text)) for place, text in about]
    assert unsaid > 50 and twice > 30


def test_a_search_is_led_astray_more_often_than_by_chance():
    """By how many examples are worked out before each meaning fails."""
    rules = random.Random(0).choices(RULES, k=200)
    plain = [[Example(a, b, rule.value(a, b)) for a, b in pairs(3, 9, 9, random.Random(n))] for n, rule in enumerate(rules)]
    chosen = [applications(rule, 3, 9, 9, random.Random(n)) for n, rule in enumerate(rules)]
    worked = [sum(find("", examples)[0].count("->") for examples in found) for found in (plain, chosen)]
    assert worked[1] > 1.05 * worked[0]
    assert all(fits(rule, examples) for rule, examples in zip(rules, chosen))
