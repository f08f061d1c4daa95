"""Drills: the parts of a critique that have to be practised, finding and looking up a meaning, in chats of their own.

A critique is five times as long for the same reasoning, so most of the practice is here; what a drill is answered with is, to
the letter, what a critique thinks.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

from espl_jax.demonstrator.finding import Example, find
from espl_jax.demonstrator.ideal import index, lines_about, opening
from espl_jax.demonstrator.scenes import statement
from espl_jax.structs import Genome, Message
from espl_jax.tasks.smallworld.rules import RULES, STYLES, Rule
from espl_jax.tasks.smallworld.words import words as invented

MOST = 4  # examples
TRIED = 3  # meanings that were tried in vain, at most
NONE = 0.1  # share of drills that nothing fits: one result is another
DEEP = 0.25  # share of drills with numbers as the inner results of a deeper expression have them
LISTED = 4, 8  # words of a list to look them up in, at least and at most
UNSAID = 0.25  # of them: share that the list leaves out
AGAIN = 0.2  # of those that it has: share that has a second line
HARD = 0.5  # share of drills whose numbers are chosen, of so many draws, for meanings that fail late
DRAWS = 6


def drills(words: Sequence[str], largest: int, count: int, rng: random.Random) -> Iterator[tuple[Message, ...]]:
    """So many drills about a world's words. largest: of the numbers of its expressions."""
    for _ in range(count):
        word, rule = rng.choice(words), rng.choice(RULES)
        examples = applications(rule, rng.randint(1, MOST), largest, 2 * largest if rng.random() < DEEP else largest, rng)
        if rng.random() < NONE:
            examples[-1] = replace(examples[-1], result=rng.randint(0, 6 * largest))
        tried = rng.sample(RULES, rng.choice((0, 0, *range(TRIED + 1))))
        shown = ", ".join(f"{one.a} {word} {one.b} is {one.result}" for one in examples)
        asked = f"What may {word} mean? {shown}."
        if tried:
            asked += f" Tried: {'; '.join(one.wording() for one in tried)}."
        thought, found = find(word, examples, tried)
        stated = [statement(word, found, len(examples))] if found else []
        yield Message("user", asked), Message("assistant", "\n".join([thought, *stated]))


def applications(rule: Rule, count: int, largest: int, top: int, rng: random.Random) -> list[Example]:
    """What a rule makes of different pairs of numbers; often of pairs for which the search goes furthest astray.

    Where most meanings fail at the first example already, nobody learns to hold them against the last.
    """
    draws = [
        [Example(a, b, rule.value(a, b)) for a, b in pairs(count, largest, top, rng)]
        for _ in range(DRAWS if rng.random() < HARD else 1)
    ]
    return max(draws, key=lambda examples: find("", examples)[0].count("->"))


def pairs(count: int, largest: int, top: int, rng: random.Random) -> list[tuple[int, int]]:
    """Different pairs of numbers, the second of them up to `top`, on either side."""
    found: dict[tuple[int, int], None] = {}
    while len(found) < count:
        pair = rng.randint(1, largest), rng.randint(1, top)
        found.setdefault(pair if rng.random() < 0.5 else pair[::-1])
    return list(found)


def lookups(count: int, rng: random.Random) -> Iterator[tuple[Message, ...]]:
    """So many lists of principles, to say what each means: the same words, read off the line that is about them."""
    for _ in range(count):
        stream = invented("demonstration", rng)
        names = tuple(next(stream) for _ in range(rng.randint(*LISTED)))
        told = [name for name in names if rng.random() >= UNSAID]
        told += [name for name in told if rng.random() < AGAIN]
        lines = [statement(name, rng.choice(RULES), rng.randint(1, MOST), rng.randrange(STYLES)) for name in told]
        genome = Genome("principles", tuple(rng.sample(lines, len(lines))))
        shown = "\n".join(f"[G{number}] {line}" for number, line in enumerate(genome.principles))
        about = lines_about(genome, names)
        found = [index(genome, about), *(opening(name, about.get(name, ())) for name in names)]
        asked = f"The principles:\n{shown or '(none)'}\n\nWhat do they say about {', '.join(names)}?"
        yield Message("user", asked), Message("assistant", "\n".join(found))
