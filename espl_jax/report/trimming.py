"""Makes texts fit a page: the longest are cut first, all to the same length, and what was cut is counted."""

from collections.abc import Sequence
from dataclasses import dataclass

from espl_jax.report.reading import shortened


@dataclass(frozen=True)
class Trimmed:
    """texts: in the same order, each cut in its middle where it was longer than `limit` bytes. cut: how many were."""

    texts: tuple[str, ...]
    limit: int
    cut: int


def size(text: str) -> int:
    """Bytes that the text takes in the page's JSON, about."""
    return len(text.encode("utf-8", "surrogatepass")) + text.count("\n") + text.count('"') + 5 * text.count("<")


def trim(texts: Sequence[str], budget: int) -> Trimmed:
    """The texts within `budget` bytes in all: the highest limit to each for which they fit (notes of cuts not counted)."""
    sizes = [size(text) for text in texts]
    limit = limit_within(sizes, budget)
    kept = [text if length <= limit else shortened(text, limit * len(text) // length) for text, length in zip(texts, sizes)]
    return Trimmed(tuple(kept), limit, sum(length > limit for length in sizes))


def limit_within(sizes: Sequence[int], budget: int) -> int:
    """The highest L with sum(min(size, L)) <= budget; the largest size when all fit."""
    left, remaining = budget, sorted(sizes)
    for index, length in enumerate(remaining):
        share = left // (len(remaining) - index)
        if length > share:
            return share
        left -= length
    return remaining[-1] if remaining else 0
