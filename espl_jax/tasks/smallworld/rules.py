"""The family of meanings: ten operations on two whole numbers, some of them with a number added to the result."""

from collections.abc import Callable
from dataclasses import dataclass

STYLES = 3  # ways of saying a rule: what to do, what it is, and the first again in other words


@dataclass(frozen=True)
class Base:
    """An operation before anything is added to its result. wordings: one a style. work: the steps, as "7+4=11"."""

    wordings: tuple[str, str, str]
    value: Callable[[int, int], int]
    work: Callable[[int, int], str]


def digit_sum(number: int) -> int:
    """The sum of a number's decimal digits; number: 0 or more."""
    return sum(map(int, str(number)))


def _plus(a: int, b: int) -> str:
    return f"{a}+{b}={a + b}"


def _digits(a: int, b: int) -> str:
    total = a + b
    return f"{_plus(a, b)}, {'+'.join(str(total))}={digit_sum(total)}" if total > 9 else f"{_plus(a, b)}, one digit"


BASES: dict[str, Base] = {
    "sum": Base(
        ("add the two numbers", "the sum of the two numbers", "add both numbers together"),
        lambda a, b: a + b,
        _plus,
    ),
    "difference": Base(
        (
            "subtract the smaller number from the larger", "the difference of the two numbers",
            "take the smaller number away from the bigger",
        ),
        lambda a, b: abs(a - b),
        lambda a, b: f"the larger is {max(a, b)}, {max(a, b)}-{min(a, b)}={abs(a - b)}",
    ),
    "larger": Base(
        ("take the larger number", "the larger of the two numbers", "keep the bigger number"),
        max,
        lambda a, b: f"the larger is {max(a, b)}",
    ),
    "smaller": Base(
        ("take the smaller number", "the smaller of the two numbers", "keep the lesser number"),
        min,
        lambda a, b: f"the smaller is {min(a, b)}",
    ),
    "double_first": Base(
        (
            "double the first number and add the second", "twice the first number plus the second",
            "add the second number to two times the first",
        ),
        lambda a, b: 2 * a + b,
        lambda a, b: f"{_plus(a, a)}, {_plus(2 * a, b)}",
    ),
    "double_second": Base(
        (
            "double the second number and add the first", "twice the second number plus the first",
            "add the first number to two times the second",
        ),
        lambda a, b: a + 2 * b,
        lambda a, b: f"{_plus(b, b)}, {_plus(2 * b, a)}",
    ),
    "double_larger": Base(
        ("double the larger number", "twice the larger number", "take two times the bigger number"),
        lambda a, b: 2 * max(a, b),
        lambda a, b: f"the larger is {max(a, b)}, {_plus(max(a, b), max(a, b))}",
    ),
    "double_smaller": Base(
        ("double the smaller number", "twice the smaller number", "take two times the lesser number"),
        lambda a, b: 2 * min(a, b),
        lambda a, b: f"the smaller is {min(a, b)}, {_plus(min(a, b), min(a, b))}",
    ),
    "last_digit": Base(
        (
            "add the two numbers and keep the last digit", "the last digit of the sum",
            "keep only the final digit of the two numbers added together",
        ),
        lambda a, b: (a + b) % 10,
        lambda a, b: f"{_plus(a, b)}, the last digit is {(a + b) % 10}",
    ),
    "digit_sum": Base(
        (
            "add the two numbers and sum the digits of the result", "the digit sum of the sum",
            "sum up the digits of the two numbers added together",
        ),
        lambda a, b: digit_sum(a + b),
        _digits,
    ),
}  # fmt: skip
EXTRAS = {"sum": 5, "difference": 3, "larger": 3, "smaller": 3}  # base -> the most that may be added; others: nothing
_ADDED = (", then add {}", " plus {}", " and then {} more")


@dataclass(frozen=True)
class Rule:
    """A meaning: a base, and what is added to its result (in the family 0 or more)."""

    base: str
    extra: int = 0

    @property
    def name(self) -> str:
        """"sum+3"."""
        return f"{self.base}{self.extra:+d}" if self.extra else self.base

    def value(self, a: int, b: int) -> int:
        """The result for two numbers."""
        return BASES[self.base].value(a, b) + self.extra

    def wording(self, style: int = 0) -> str:
        """The rule in words, without the word that it is the meaning of."""
        return BASES[self.base].wordings[style] + (_ADDED[style].format(self.extra) if self.extra else "")

    def work(self, a: int, b: int) -> str:
        """How the result is reached: "7+4=11, 11+3=14"."""
        first = BASES[self.base].value(a, b)
        return BASES[self.base].work(a, b) + (f", {first}+{self.extra}={first + self.extra}" if self.extra else "")

    def equals(self, other: "Rule", largest: int = 20) -> bool:
        """Whether both give the same for all numbers from 0 to `largest`: rules are what they do, not how they are said."""
        numbers = range(largest + 1)
        return all(self.value(a, b) == other.value(a, b) for a in numbers for b in numbers)


RULES: tuple[Rule, ...] = tuple(Rule(base, extra) for base in BASES for extra in range(EXTRAS.get(base, 0) + 1))
