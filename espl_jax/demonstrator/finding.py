"""How a meaning is found from graded examples, in steps that a small model can carry out and a reader can check.

Each base of the family is tried in turn: what it gives for each example, worked out as an answer is, and how much is missing to
the true result ("less" or "more" where no meaning adds so much). Where the same is missing everywhere, and the family adds so
much, the rule is found:

  kafux: 7 4 is 14, 2 9 is 14, 5 5 is 13.
  larger: the larger is 7 -> 14 more, no.
  sum: 7+4=11 -> 14 +3, 2+9=11 -> 14 +3, 5+5=10 -> 13 +3, yes, add 3.

Numbers stand beside each other where they are compared: a small model that has to look them up takes the wrong ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from espl_jax.tasks.smallworld.rules import BASES, EXTRAS, Rule


@dataclass(frozen=True)
class Example:
    """One graded application of a word: its two numbers and the true result."""

    a: int
    b: int
    result: int

    def __str__(self) -> str:
        return f"{self.a} {self.b} is {self.result}"


def fits(rule: Rule, examples: Sequence[Example]) -> bool:
    """Whether the rule gives every example's result."""
    return all(rule.value(example.a, example.b) == example.result for example in examples)


def find(word: str, examples: Sequence[Example], suspects: Sequence[Rule] = ()) -> tuple[str, Rule | None]:
    """The reasoning, and the first rule of the family that fits all examples; None where none does.

    suspects: rules to begin with, such as one that an attempt has tried; their bases are looked at first. Where few examples
    leave several rules, the first is the answer: honest, and corrected when more is seen.
    """
    lines = [f"{word}: {', '.join(map(str, examples))}."]
    for base in dict.fromkeys([*(rule.base for rule in suspects), *BASES]):
        line, extra = trial(base, examples)
        lines.append(line)
        if extra is not None:
            return "\n".join(lines), Rule(base, extra)
    return "\n".join([*lines, "Nothing fits."]), None


def trial(base: str, examples: Sequence[Example]) -> tuple[str, int | None]:
    """One base held against the examples, up to the first that speaks against it; and what it needs added, if it fits."""
    name, told, missing = base.replace("_", " "), [], []
    for example in examples:
        value = BASES[base].value(example.a, example.b)
        missing.append(example.result - value)
        told.append(f"{BASES[base].work(example.a, example.b)} -> {example.result} {compared(missing[-1])}")
        if missing[-1] != missing[0] or not 0 <= missing[-1] <= EXTRAS.get(base, 0):
            return f"{name}: {', '.join(told)}, no.", None
    return f"{name}: {', '.join(told)}, yes, add {missing[0] or 'nothing'}.", missing[0]


def compared(missing: int) -> str:
    """What is missing, "+3", where a meaning may add so much; else "less" or "more": nobody need know how much."""
    if missing < 0:
        return "less"
    return f"+{missing}" if missing <= max(EXTRAS.values()) else "more"
