"""Seconds that a phase takes at the least: arithmetic, memory and links, the slowest of the three.

As if each overlapped the others fully and ran at its peak; what runs is slower. Collectives take the links of one torus axis
and, each, a hop's delay for every device half round it (1e-6 s a hop: "How To Scale Your Model", Austin et al. 2025,
https://jax-ml.github.io/scaling-book).
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from espl_jax.dryrun.chips import Chip
from espl_jax.dryrun.hlo import Collective

HOP_SECONDS = 1e-6


@dataclass(frozen=True)
class Seconds:
    """Of one call of a program."""

    compute: float
    memory: float
    links: float

    @property
    def bound(self) -> float:
        return max(self.compute, self.memory, self.links)

    @property
    def by(self) -> str:
        return max(("compute", "memory", "links"), key=lambda name: getattr(self, name))


def seconds(chip: Chip, chips: int, flops: float, moved: float, sent: Sequence[Collective]) -> Seconds:
    """flops: over all chips. moved: bytes that a chip reads and writes. sent: what a device sends."""
    links = sum(one.sent / chip.ring + one.times * delay(one) for one in sent if one.group > 1)
    return Seconds(flops / chips / chip.flops, moved / chip.bandwidth, links)


def delay(one: Collective) -> float:
    """Seconds until the first byte of a collective has gone half round a ring; a reduction goes round twice."""
    return HOP_SECONDS * (one.group / 2) * (2 if one.kind == "all-reduce" else 1)


def spread(count: int, mean: float, longest: int) -> np.ndarray:
    """`count` lengths, evenly spread around the mean as far as 1 and the longest allow, in a fixed shuffled order."""
    reach = min(mean - 1, longest - mean)
    lengths = mean - reach + 2 * reach * (np.arange(count) + 0.5) / count
    return np.random.default_rng(0).permutation(np.clip(np.round(lengths), 1, longest).astype(int))


def decode_steps(lengths: Sequence[int], slots: int, before: int) -> np.ndarray:
    """The furthest position of any busy slot at every decode step, int [steps]: a slot takes the next sequence when it is free.

    before: positions of a slot's own row that its sequence begins with.
    """
    free, runs = [0] * min(slots, len(lengths)), []
    for length in lengths:
        start = heapq.heappop(free)
        heapq.heappush(free, start + int(length))
        runs.append((start, start + int(length)))
    furthest = np.zeros(max(free), int)
    for start, end in runs:
        furthest[start:end] = np.maximum(furthest[start:end], before + 1 + np.arange(end - start))
    return furthest


def reached_share(furthest: np.ndarray, blocks: Sequence[int]) -> float:
    """Mean share of a row's positions in blocks that have been reached: only those are read."""
    ends = np.cumsum(blocks)
    return float(np.mean(ends[np.minimum(np.searchsorted(ends, furthest), len(ends) - 1)]) / ends[-1])
