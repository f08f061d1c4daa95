"""Which words of a text an index knows it by: the same for passages and for queries."""

import mmap
import re
import unicodedata
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path

import numpy as np

TERM = re.compile(r"\w+")
MARKS = re.compile(r"[\u0300-\u036f]")
# Function words of English: they are in nearly every passage, cost the most and tell the least.
STOP_WORDS = frozenset(
    "a an and are as at be been but by did do does for from had has have how if in into is it its no not of on or such that "
    "the their then there these they this to was were what when where which who whom whose why will with".split()
)


def terms(text: str) -> list[str]:
    """The words of a text in their order, without capitals and accents ("Zürich's" is zurich, s), stop words included."""
    if text.isascii():
        return TERM.findall(text.lower())
    return TERM.findall(MARKS.sub("", fold(fold(text))))  # once leaves the capital that "𝕬" decomposes into


def fold(text: str) -> str:
    """The text without capitals, its signs decomposed into letters and marks."""
    return unicodedata.normalize("NFKD", text.casefold())


class WordList(Sequence[bytes]):
    """Sorted words in a file, one after the other, found by bisection and never loaded: a word's place is its number."""

    def __init__(self, path: Path, offsets: np.ndarray):
        """offsets: int64 [V + 1], where each word begins in the file."""
        with open(path, "rb") as file:
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._offsets = np.asarray(offsets)  # a view: single elements of a memmap are slow

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, number: int) -> bytes:
        return self._bytes[self._offsets[number] : self._offsets[number + 1]]

    def number(self, word: str) -> int | None:
        """The number of a word; None for one that is not in the list."""
        wanted = word.encode("utf-8", "replace")
        number = bisect_left(self, wanted)
        return number if number < len(self) and self[number] == wanted else None

    def close(self) -> None:
        """Unmaps the file."""
        self._bytes.close()
