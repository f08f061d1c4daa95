"""How a sheet is worked out: each operation on a line, with its meaning, and the answer line at the end."""

import random
from collections.abc import Mapping, Sequence

from espl_jax.tasks.smallworld.rules import RULES, Rule
from espl_jax.tasks.smallworld.words import ENDS, owner
from espl_jax.tasks.smallworld.world import Expression

GUESS = "(a guess)"
END = len(ENDS[0])


def guesses(words: Sequence[str], said: Mapping[str, Rule], rng: random.Random) -> dict[str, Rule]:
    """A meaning for each word that nobody has said the meaning of: any of the family, all equally likely.

    What is not known has to be tried, each time anew: where all attempts guessed alike, none could be told from the others.
    """
    return {word: rng.choice(RULES) for word in words if word not in said}


def worked_out(expressions: Sequence[Expression], said: Mapping[str, Rule], guessed: Mapping[str, Rule]) -> str:
    """The reply of a solver who makes no mistake: meanings first, then the work, then the results.

      kafux: add the two numbers, then add 3.
      7 kafux 4: 7+4=11, 11+3=14.
      Answer: 14
    """
    meanings = {**guessed, **said}
    words = list(dict.fromkeys(step.word for step in expressions[0].steps))
    lines = [f"{word}: {meanings[word].wording()}{'' if word in said else ' ' + GUESS}." for word in words]
    for expression in expressions:
        for step, a, b, _ in expression.worked(meanings.__getitem__):
            lines.append(f"{a} {step.word} {b}: {meanings[step.word].work(a, b)}.")
    results = ", ".join(str(expression.value(meanings.__getitem__)) for expression in expressions)
    return "\n".join([*lines, f"Answer: {results}"])


def with_slips(text: str, share: float, rng: random.Random) -> str:
    """The reply of a solver who makes mistakes: each result of the answer line is off by one or two with this chance.

    For attempts that others reflect on; nobody is taught to make them.
    """
    work, _, results = text.rpartition("Answer: ")
    numbers = [int(number) for number in results.split(", ")]
    numbers = [max(0, number + rng.choice((-2, -1, 1, 2))) if rng.random() < share else number for number in numbers]
    return f"{work}Answer: {', '.join(map(str, numbers))}"


def misspelt(text: str, words: Sequence[str], rng: random.Random) -> str:
    """The reply of a solver who takes one of the words for another of the same beginning; no run has that either.

    For attempts that others reflect on: an editor who copies the word from there writes about a word that nobody asks for.
    """
    used = [word for word in words if word in text]
    if not used:
        return text
    word = rng.choice(used)
    others = [word[:-END] + end for end in ENDS if word[-END:] != end and owner(word[:-END] + end) == owner(word)]
    return text.replace(word, rng.choice(others)) if others else text
