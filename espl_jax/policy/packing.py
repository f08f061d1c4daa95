"""Trajectories to packed rows: trees of segments in which everything shared stands once, few rows, little room left empty.

A tree has up to three levels: heads, the tails of contexts, completions (prefixes.py). Its segments lie one behind the other in
depth-first order. A head or tail that trajectories of several rows need is in each of these rows.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from espl_jax.policy import prefixes

BLOCK = 128  # a packed row has a multiple of it: what attention works on (tree.QUERIES)


@dataclass(frozen=True)
class Segment:
    """Some tokens that follow each other.

    start: where they lie in the packed row; position: of the first in its sequence; parent: the segment before it (-1: none).
    sample: whose completion this is (-1: part of a context); without the last token, so it may be empty. tokens: a context's.
    """

    start: int
    length: int
    position: int
    parent: int
    sample: int = -1
    tokens: np.ndarray | None = None


@dataclass(frozen=True)
class Tree:
    """The segments of a packed row, parents before children, and how many tokens and targets they have."""

    segments: tuple[Segment, ...]
    size: int
    targets: int

    def fits(self, width: int) -> bool:
        return max(self.size, self.targets) <= width

    def ends(self, T: int) -> np.ndarray:
        """For each of T tokens, where the subtree of its segment ends; 0 behind the tree. int32."""
        reach = [segment.start + segment.length for segment in self.segments]
        for i in reversed(range(len(self.segments))):
            if (parent := self.segments[i].parent) >= 0:
                reach[parent] = max(reach[parent], reach[i])
        ends = np.zeros(T, np.int32)
        for segment, end in zip(self.segments, reach):
            ends[segment.start : segment.start + segment.length] = end
        return ends


EMPTY = Tree((), 0, 0)


def whole_blocks(tokens: int, parts: int = 1) -> int:
    """The next multiple of BLOCK in each of `parts`."""
    return max(1, -(-tokens // (parts * BLOCK))) * parts * BLOCK


def doubled(size: int, smallest: int) -> int:
    """The next of smallest * {1, 2, 4, 8, ...}."""
    while smallest < size:
        smallest *= 2
    return smallest


def widths_up_to(width: int, count: int, parts: int = 1) -> list[int]:
    """The lengths that packed rows of `width` tokens at the most may have: `count` even steps, in whole blocks."""
    return sorted({whole_blocks(-(-width * step // count), parts) for step in range(1, count + 1)})


def pack_evenly(contexts: Sequence[np.ndarray], lengths: Sequence[int], widths: Sequence[int], devices: int) -> list[Tree]:
    """Trees of the narrowest width that does with as few turns of `devices` trees as the widest; the largest tree first.

    widths: rising. Devices that have a row each wait for the longest: full rows and empty ones cost as much as even ones.
    """
    forest = prefixes.plan(contexts)
    trees = packed(forest, lengths, widths[-1])
    rows = -(-len(trees) // devices) * devices
    least = max(forest.size + sum(lengths) - len(lengths), sum(lengths)) / rows  # of the widest row, if all were full
    longest = max(max(len(context) + length - 1, length) for context, length in zip(contexts, lengths, strict=True))
    for width in widths[:-1]:
        if width >= max(least, longest) and len(narrow := packed(forest, lengths, width)) <= rows:
            trees = narrow
            break
    return sorted(trees, key=lambda tree: -tree.size)


def pack(contexts: Sequence[np.ndarray], lengths: Sequence[int], width: int) -> list[Tree]:
    """Trees of at most `width` tokens and targets each that hold all samples; sample i has lengths[i] tokens after contexts[i].

    Each sample must fit by itself. What shares a head stays together where that costs no row, else what shares a context.
    """
    return packed(prefixes.plan(contexts), lengths, width)


def packed(forest: prefixes.Forest, lengths: Sequence[int], width: int) -> list[Tree]:
    """pack, of contexts with this plan."""
    order = sorted(range(len(lengths)), key=lambda i: (forest.context_of[i], i))
    head_of = {i: forest.contexts[forest.context_of[i]].head for i in order}
    groupings = (
        lambda i: (head_of[i], -1 if head_of[i] >= 0 else forest.context_of[i]),
        lambda i: (head_of[i], forest.context_of[i]),
        lambda i: i,
    )
    tries = [list(fill_rows(forest, lengths, order, together, width)) for together in groupings]
    tries.append(fill_gaps(forest, lengths, order, width))
    best = min(tries, key=lambda rows: (len(rows), sum(row.size for row in rows)))
    return [row.tree() for row in best]


def fill_rows(forest: prefixes.Forest, lengths: Sequence[int], order: Sequence[int], together, width: int) -> Iterator["Load"]:
    """Rows in the given order, a new one where the next group does not fit behind; a group that fits in no row is split."""
    load = Load(forest, lengths)
    for _, group in itertools.groupby(order, together):
        group = list(group)
        if not load.takes(group, width) and Load(forest, lengths).takes(group, width):
            yield load
            load = Load(forest, lengths)
        for sample in group:
            if not load.takes([sample], width):
                yield load
                load = Load(forest, lengths)
            load.add(sample)
    if load.samples:
        yield load


def fill_gaps(forest: prefixes.Forest, lengths: Sequence[int], order: Sequence[int], width: int) -> list["Load"]:
    """Rows that the longest samples go into first, each into the first row with room (first fit, decreasing)."""
    loads: list[Load] = []
    own = {i: len(forest.contexts[forest.context_of[i]].tail) + lengths[i] for i in order}
    for sample in sorted(order, key=lambda i: -own[i]):
        load = next((load for load in loads if load.takes([sample], width)), None)
        if load is None:
            loads.append(load := Load(forest, lengths))
        load.add(sample)
    return loads


class Load:
    """What a row holds so far."""

    def __init__(self, forest: prefixes.Forest, lengths: Sequence[int]):
        self.forest, self.lengths = forest, lengths
        self.samples: list[int] = []
        self.contexts: set[int] = set()
        self.heads: set[int] = {-1}
        self.size = self.targets = 0

    def takes(self, samples: Sequence[int], width: int) -> bool:
        """Whether these, too, make no more than `width` tokens and targets."""
        contexts = {int(self.forest.context_of[sample]) for sample in samples} - self.contexts
        heads = {self.forest.contexts[context].head for context in contexts} - self.heads
        size = sum(len(self.forest.contexts[context].tail) for context in contexts)
        size += sum(len(self.forest.heads[head]) for head in heads)
        targets = sum(self.lengths[sample] for sample in samples)
        return max(self.size + size + targets - len(samples), self.targets + targets) <= width

    def add(self, sample: int) -> None:
        number = int(self.forest.context_of[sample])
        context = self.forest.contexts[number]
        if number not in self.contexts:
            self.size += len(context.tail)
        if context.head not in self.heads:
            self.size += len(self.forest.heads[context.head])
        self.contexts.add(number)
        self.heads.add(context.head)
        self.samples.append(sample)
        self.size += self.lengths[sample] - 1
        self.targets += self.lengths[sample]

    def tree(self) -> Tree:
        """The segments in depth-first order, samples sorted by context, and contexts by head."""
        segments: list[Segment] = []
        start, last = 0, {"head": (-1, -1), "context": (-1, -1)}  # number and segment of the latest

        def append(**what):
            nonlocal start
            segments.append(Segment(start=start, **what))
            start += segments[-1].length
            return len(segments) - 1

        for sample in sorted(self.samples, key=lambda i: (self.forest.context_of[i], i)):
            number = int(self.forest.context_of[sample])
            context, position = self.forest.contexts[number], self.forest.head_length(number)
            if context.head >= 0 and context.head != last["head"][0]:
                head = self.forest.heads[context.head]
                last["head"] = (context.head, append(length=len(head), position=0, parent=-1, tokens=head))
            if number != last["context"][0]:
                parent = last["head"][1] if context.head >= 0 else -1
                tail = append(length=len(context.tail), position=position, parent=parent, tokens=context.tail)
                last["context"] = (number, tail)
            append(
                length=self.lengths[sample] - 1, position=position + len(context.tail), parent=last["context"][1], sample=sample
            )
        return Tree(tuple(segments), self.size, self.targets)
