"""What a principle says about the words of a world: free text -> meanings, and how many of them are right.

Reading is by the words that people and models use for these operations, not by the wordings of rules.py, and is judged by what
a rule does: "2 times the first plus the second" is right where "double the first number and add the second" is meant. It was
held against sentences labelled by hand (tests/tasks/smallworld/labelled.tsv). What it cannot read counts as not said.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from espl_jax.structs import Genome
from espl_jax.tasks.smallworld.rules import Rule

_NUMBERS = "zero one two three four five six seven eight nine ten".split()
_SENTENCE = re.compile(r"(?<=[.!?;\n])\s+|\n")
_TWO = r"(?:two|2)"
_BIG, _SMALL = r"(?:(?:larg|bigg|great|high)\w*|max(?:imum)?)", r"(?:(?:small|less|low)\w*|min(?:imum)?)"
_AMOUNT = r"(?:the result |it |that |this |both |another |an extra |extra |a )*(\d+|" + "|".join(_NUMBERS) + r")\b"
# What is added at the end: "then add 3", "plus 3", "3 more", "increase it by 3"; and what is taken off.
_MORE = re.compile(
    rf"(?:\badd(?:ing|ed|s)?\b|\bplus\b|\+|\bincreas\w+\b(?: \w+){{0,2}} by) ?{_AMOUNT}(?! ?(?:times|numbers|digits))"
)
_EXTRA = re.compile(rf"\b(\d+|{'|'.join(_NUMBERS)}) (?:more\b|extra\b|is added\b|added to (?:it|that|the (?:result|sum)))")
_LESS = re.compile(rf"(?:\bminus\b|\bsubtract\b|\btak\w+ (?:away|off)\b|\bless\b|-) ?{_AMOUNT}(?! ?(?:numbers|digits))")
_REFUSED = re.compile(r"\b(?:not|never|no|nobody|whether|unknown|unclear|don't|doesn't|isn't|cannot|can't)\b")
_DOUBLE = rf"(?:doubl\w+|twice|{_TWO} times|{_TWO} ?[*x×])"
_WHICH = rf"\b(first|second|{_BIG}|{_SMALL})\b"
_DOUBLE_WHICH = re.compile(rf"{_DOUBLE}[^.]{{0,18}}?{_WHICH}")
_WHICH_TWICE = re.compile(rf"{_WHICH}[^.]{{0,12}}?(?:times {_TWO}|[*x×] ?{_TWO}|doubled)")


@dataclass(frozen=True)
class Statement:
    """What a text says about a word: a meaning, or None where it can't be read."""

    word: str
    rule: Rule | None
    text: str


def statements(text: str, words: tuple[str, ...]) -> Iterator[Statement]:
    """What a principle says about each of the words, sentence by sentence; other words are not looked for."""
    known = re.compile(r"\b(?:" + "|".join(map(re.escape, words)) + r")\b", re.IGNORECASE)
    for sentence in filter(None, map(str.strip, _SENTENCE.split(text))):
        named = list(dict.fromkeys(found.lower() for found in known.findall(sentence)))
        rest = known.sub(" ", sentence)
        for word in named:
            yield Statement(word, read_rule(rest), sentence)


def read_rule(text: str) -> Rule | None:
    """The rule that a text describes, perhaps one outside the family ("minus 2"); None where it describes none."""
    text = " ".join(re.sub(r"\([^)]*\)", " ", text.lower()).replace("’", "'").split())
    if _REFUSED.search(text):
        return None
    extra, rest = _extra(text)
    base = _base(rest)
    return Rule(base, extra) if base else None


def _extra(text: str) -> tuple[int, str]:
    """What is added at the end, and the text without it."""
    total = 0
    for pattern, sign in ((_MORE, 1), (_EXTRA, 1), (_LESS, -1)):
        for found in pattern.finditer(text):
            number = found.group(1)
            total += sign * (int(number) if number.isdigit() else _NUMBERS.index(number))
        text = pattern.sub(" ", text)
    return total, text


def _base(text: str) -> str | None:
    """The name of the base that a text without extras describes."""
    if re.search(r"\b(?:last|final|units?|ones) digit", text):
        return "last_digit"
    if re.search(r"\bdigits?\b", text):
        return "digit_sum" if re.search(r"\b(?:sum|add|total)", text) else None
    if re.search(rf"{_DOUBLE}|times {_TWO}|[*x×] ?{_TWO}", text):
        return _doubled(text)
    if re.search(r"\b(?:difference|distance|gap|subtract\w*|minus|tak\w+ [^.]*\b(?:away|from)|how far)\b", text):
        either_way = re.search(rf"\b(?:{_BIG}|{_SMALL}|absolute|difference|distance)\b", text)
        return "difference" if either_way or not re.search(r"\b(?:first|second)\b", text) else None
    bigger, lesser = re.search(rf"\b{_BIG}\b", text), re.search(rf"\b{_SMALL}\b", text)
    if bigger and not lesser:
        return "larger"
    if lesser and not bigger:
        return "smaller"
    return "sum" if re.search(r"\b(?:add|sum|plus|total|together)|\+", text) else None


def _doubled(text: str) -> str | None:
    found = _DOUBLE_WHICH.search(text) or _WHICH_TWICE.search(text)
    if not found:
        return None
    if (which := found.group(1)) not in ("first", "second"):
        return "double_larger" if re.fullmatch(_BIG, which) else "double_smaller"
    other = "second" if which == "first" else "first"
    both = re.search(rf"\b(?:{other}|other)\b", text) and re.search(r"\b(?:add|plus|sum|and)\b|\+", text)
    return f"double_{which}" if both else None


def told(genome: Genome, words: tuple[str, ...]) -> dict[str, list[Rule]]:
    """All meanings that a genome gives each word, in their order; words that it says nothing readable of are left out."""
    found: dict[str, list[Rule]] = {}
    for text in genome.principles or (genome.document,):
        for statement in statements(text, words):
            if statement.rule is not None:
                found.setdefault(statement.word, []).append(statement.rule)
    return found


def rules_known(genome: Genome, meanings: Mapping[str, Rule]) -> dict[str, float]:
    """Shares of the words whose meaning a genome states rightly, wrongly and not at all; they add up to 1.

    A word is known when every meaning that is given for it is right: one right and one wrong statement are wrong.
    """
    given = told(genome, tuple(meanings))
    right = sum(all(rule.equals(meanings[word]) for rule in rules) for word, rules in given.items())
    shares = {"known": right, "wrong": len(given) - right, "unsaid": len(meanings) - len(given)}
    return {f"evolution/rules_{name}": count / len(meanings) for name, count in shares.items()}


