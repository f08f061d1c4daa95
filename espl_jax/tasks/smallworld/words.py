"""Invented words: "kafux", "bemoz". Half of them are for worlds that runs live in, the other half for demonstrations."""

import hashlib
import random
from collections.abc import Iterator

FIRST, VOWELS, LAST = "bdfgklmnprtvz", "aeiou", "xzvkj"  # English has few words of this form
OWNERS = ("run", "demonstration")


def owner(word: str) -> str:
    """Who may use a word; a property of the word alone, so that no seed makes a world of a run from a demonstrated word."""
    return OWNERS[hashlib.sha256(f"smallworld/{word}".encode()).digest()[0] % 2]


def words(user: str, rng: random.Random) -> Iterator[str]:
    """Words of one owner without end, each once until all have come (there are thousands)."""
    seen = set()
    while True:
        word = "".join(map(rng.choice, (FIRST, VOWELS, FIRST, VOWELS, LAST)))
        if owner(word) == user and word not in seen:
            seen.add(word)
            yield word


def unlike(stream: Iterator[str], count: int) -> list[str]:
    """The first so many of a stream that are not easily taken for each other: no two begin with the same letter.

    Where there are more words than letters, no two of the rest begin with the same two letters.
    """
    found: list[str] = []
    while len(found) < count:
        begin = 1 if len(found) < len(FIRST) else 2
        word = next(stream)
        if all(word[:begin] != other[:begin] for other in found):
            found.append(word)
    return found
