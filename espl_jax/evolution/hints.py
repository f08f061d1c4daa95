"""A document's part of hints: one line of advice each, for editors that can write a sentence but no search and replace.

  Hints:
  - Search for one thing at a time.

A sentence finds its place by itself and is a search/replace operation like any other: behind the last hint, in a new part at
the document's end where there is none, or, once there are as many as may be, instead of the hint that is most like it.
"""

from espl_jax.evolution.render import NOTHING
from espl_jax.evolution.words import occurrences, similarity
from espl_jax.structs import Genome, Operation

HEADING = "Hints:"
BULLET = "- "


def place(document: str, advice: str, most: int) -> Operation:
    """The operation that puts a line of advice into the document; its search text occurs there once.

    most: hints that there may be. Of equally like hints the oldest goes.
    """
    lines, hint = document.split("\n"), BULLET + advice.lstrip("-•* ")
    begin, end = span(lines)
    if not document.strip():
        return Operation("replace", text=f"{HEADING}\n{hint}")
    if end - begin >= most:
        at = max(range(begin, end), key=lambda number: similarity(lines[number], hint))
        new = [hint]
    elif begin:
        at = end - 1
        new = [lines[at], hint]
    else:
        at = max(number for number, line in enumerate(lines) if line.strip())
        new = [lines[at], "", HEADING, hint]
    start, stop = unmistakable(lines, at)
    text = [*lines[start:at], *new, *lines[at + 1 : stop]]
    return Operation("replace", text="\n".join(text), search="\n".join(lines[start:stop]))


def listed(genome: Genome) -> str:
    """A document's hints, a line each, or a note that there is none."""
    lines = genome.document.split("\n")
    begin, end = span(lines)
    return "\n".join(lines[begin:end]) or NOTHING


def span(lines: list[str]) -> tuple[int, int]:
    """Where the hints begin and end (the first line behind them); (0, 0) without such a part. The last heading counts."""
    headings = [number for number, line in enumerate(lines) if line.strip() == HEADING]
    if not headings:
        return 0, 0
    begin = end = headings[-1] + 1
    while end < len(lines) and lines[end].startswith(BULLET):
        end += 1
    return begin, end


def unmistakable(lines: list[str], at: int) -> tuple[int, int]:
    """First and last (exclusive) of the fewest lines around line `at`, those above it first, that stand there exactly once."""
    document, start, stop = "\n".join(lines), at, at + 1
    while (found := "\n".join(lines[start:stop])) != found.strip("\n") or occurrences(found, document) > 1:
        if (start, stop) == (0, len(lines)):
            break  # all of it, with empty lines around it
        start, stop = (start - 1, stop) if start else (0, stop + 1)
    return start, stop
