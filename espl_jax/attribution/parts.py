"""A prompt without each of its parts: principles; of a document its hints and paragraphs."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from espl_jax.evolution import hints
from espl_jax.structs import Genome


@dataclass(frozen=True)
class Part:
    """What is left out, by name and text, and what remains."""

    name: str
    text: str
    without: Genome


def without_each(genome: Genome, protected: Sequence[str]) -> list[Part]:
    """One entry for each part; parts of a document that hold a protected text (Task.protected) stay."""
    if genome.kind == "principles":
        texts = genome.principles
        return [Part(f"G{i}", text, Genome("principles", texts[:i] + texts[i + 1 :])) for i, text in enumerate(texts)]
    found = [_part(genome.document, *block) for block in _blocks(genome.document)]
    kept = [text for text in protected if text in genome.document]
    return [part for part in found if all(text in part.without.document for text in kept)]


def _blocks(document: str) -> list[tuple[str, int, int]]:
    """(name, first line, line behind the last) of each hint and of each paragraph outside the hints, from top to bottom."""
    lines = document.split("\n")
    begin, end = hints.span(lines)
    blocks, start = [], None
    for number, line in enumerate([*lines, ""]):
        inside = bool(begin) and begin - 1 <= number < end
        if inside or not line.strip():
            if start is not None:
                blocks.append((start, number))
            start = None
        elif start is None:
            start = number
    named = [(f"paragraph {n}", *block) for n, block in enumerate(blocks, start=1)]
    if end - begin == 1:  # its heading goes with the only one
        named.append(("hint 1", begin - 1, end))
    else:
        named += [(f"hint {n}", number, number + 1) for n, number in enumerate(range(begin, end), start=1)]
    return sorted(named, key=lambda block: block[1])


def _part(document: str, name: str, first: int, behind: int) -> Part:
    lines = document.split("\n")
    rest = re.sub(r"\n{3,}", "\n\n", "\n".join(lines[:first] + lines[behind:])).strip()
    return Part(name, "\n".join(lines[first:behind]), Genome("document", document=rest))
