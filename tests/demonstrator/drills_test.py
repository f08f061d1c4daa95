"""Drills: what they are answered with is what a critique thinks, and it is right."""

import random
import re

from espl_jax.demonstrator.drills import drills, lookups
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
    unsaid = 0
    for asked, reply in lookups(100, random.Random(0)):
        lines = dict(re.findall(r"^\[(G\d+)\] (.*)$", asked.content, re.MULTILINE))
        names = asked.content.rpartition("about ")[2].rstrip("?").split(", ")
        listed, *said = reply.content.splitlines()
        found = ", ".join(f"{place} {line.partition(':')[0]}" for place, line in lines.items())
        assert listed == f"List: {found or 'empty'}."
        assert [line.partition(":")[0] for line in said] == names and {owner(name) for name in names} == {"demonstration"}
        for name, line in zip(names, said):
            place = next((place for place, principle in lines.items() if principle.startswith(name)), None)
            unsaid += place is None
            if place is None:
                assert line == f"{name}: not said."
            else:
                assert line.startswith(f"{name}: {place} says ")
                assert read_rule(line.partition(" says ")[2]) == read_rule(lines[place].partition(":")[2])
    assert unsaid > 50
