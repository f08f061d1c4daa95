"""Worlds: which word means what, and sheets of expressions to work out.

An expression is "7 kafux 4", or deeper, "2 bemoz (7 kafux 4)". A sheet has several that differ in their numbers alone ("What is
7 kafux 4, 2 kafux 9?"), so that one that is graded shows several examples of one operation.
"""

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from espl_jax.structs import Problem, text_id
from espl_jax.tasks.smallworld.rules import RULES, Rule
from espl_jax.tasks.smallworld.words import unlike, words

MAX_OPERATIONS = len(RULES) - 4  # of a world: no two words mean the same, and some meanings are left to swap with
MAX_DEPTH = 3
PATIENCE = 200  # draws in a row without a new expression after which there are none left
PHRASINGS = ("What is {}?", "Work out {}.", "Find {}.", "Please compute {}.", "Give the result of {}.")
SHARES = {"train": 6, "validation": 2, "test": 2}  # tenths of all expressions


@dataclass(frozen=True)
class World:
    """What each word means. name: where it came from, for messages."""

    name: str
    meanings: dict[str, Rule]

    @property
    def words(self) -> tuple[str, ...]:
        return tuple(self.meanings)


@dataclass(frozen=True)
class Step:
    """One operation of an expression. before: its number stands before what was worked out so far, not behind it."""

    word: str
    number: int
    before: bool = False


@dataclass(frozen=True)
class Expression:
    """Operations from the inside out: `first`, then each step's word with what came before and the step's number."""

    first: int
    steps: tuple[Step, ...]

    def __str__(self) -> str:
        text = str(self.first)
        for depth, step in enumerate(self.steps):
            inner = f"({text})" if depth else text
            text = f"{step.number} {step.word} {inner}" if step.before else f"{inner} {step.word} {step.number}"
        return text

    def worked(self, meaning: Callable[[str], Rule]) -> list[tuple[Step, int, int, int]]:
        """(step, left number, right number, result) of each operation."""
        done, value = [], self.first
        for step in self.steps:
            a, b = (step.number, value) if step.before else (value, step.number)
            value = meaning(step.word).value(a, b)
            done.append((step, a, b, value))
        return done

    def value(self, meaning: Callable[[str], Rule]) -> int:
        """The result, where `meaning` gives each word's rule."""
        return self.worked(meaning)[-1][-1]


def draw_world(name: str, user: str, operations: int, seed: str) -> World:
    """A world of so many operations, no two of one meaning and none spelt like another. user: whose words it has (words.py)."""
    rng = random.Random(f"smallworld/world/{seed}")
    names = unlike(words(user, rng), operations)
    return World(name, dict(zip(names, rng.sample(RULES, operations))))


def swapped(world: World, seed: str, share: float = 1.0) -> World:
    """The same words; a share of them (rounded up) means something else, and no two words the same."""
    rng = random.Random(f"smallworld/swap/{seed}")
    chosen = set(rng.sample(world.words, -int(-share * len(world.words) // 1)))
    kept = {rule for word, rule in world.meanings.items() if word not in chosen}
    meanings = dict(world.meanings)
    while any(meanings[word] == world.meanings[word] for word in chosen):
        free = [rule for rule in RULES if rule not in kept]
        meanings |= dict(zip(sorted(chosen), rng.sample(free, len(chosen))))
    return World(f"{world.name}, other meanings", meanings)


def split_of(expression: Expression, seed: int) -> str:
    """The split that an expression belongs to, whatever sheet it stands on."""
    digit = int(hashlib.sha256(f"smallworld/{seed}/{expression}".encode()).hexdigest(), 16) % sum(SHARES.values())
    for split, share in SHARES.items():
        if digit < share:
            return split
        digit -= share
    raise AssertionError("shares cover all digits")


def sheets(
    world: World, depths: Sequence[int], items: int, largest: int, allowed: Callable[[Expression], bool], rng: random.Random
) -> Iterator[Problem]:
    """Problems without end until no new one is found, each with a question of its own.

    depths: one is drawn for each sheet. items: expressions of a sheet, all different and all `allowed`. largest: numbers are 1
    to this.
    """
    seen, barren = set(), 0
    while barren < PATIENCE:
        expressions = draw_sheet(world, rng.choice(depths), items, largest, allowed, rng)
        problem = to_problem(world, expressions, rng.choice(PHRASINGS)) if expressions else None
        barren = barren + 1 if problem is None or problem.id in seen else 0
        if not barren:
            seen.add(problem.id)
            yield problem


def draw_sheet(
    world: World, depth: int, items: int, largest: int, allowed: Callable[[Expression], bool], rng: random.Random
) -> tuple[Expression, ...]:
    """Different expressions of one shape, with a word for each operation; () where too few words or expressions there are."""
    if depth > len(world.words):
        return ()
    shape = [(word, place > 0 and rng.random() < 0.5) for place, word in enumerate(rng.sample(world.words, depth))]
    found: dict[str, Expression] = {}
    for _ in range(PATIENCE):
        steps = tuple(Step(word, rng.randint(1, largest), before) for word, before in shape)
        expression = Expression(rng.randint(1, largest), steps)
        if allowed(expression):
            found.setdefault(str(expression), expression)
        if len(found) == items:
            return tuple(found.values())
    return ()


def to_problem(world: World, expressions: Sequence[Expression], phrasing: str) -> Problem:
    """The sheet as a Problem; its answer is "14, 14": the results in their order."""
    question = phrasing.format(", ".join(map(str, expressions)))
    answers = [expression.value(world.meanings.__getitem__) for expression in expressions]
    return Problem(text_id(question), question, ", ".join(map(str, answers)), {"answers": answers, "items": tuple(expressions)})
