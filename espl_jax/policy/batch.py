"""Rollouts to fixed-shape micro-batches: which tokens carry loss, with which weight, against which log-probability."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.struct
import jax
import numpy as np

from espl_jax.policy import packing
from espl_jax.structs import Completion, Rollouts

# config.rl.ratio -> which sampler log-probability stands in the denominator, and which equals the trainer's numerator.
RATIOS = {
    "tempered": ("tempered", "tempered"),
    "untempered": ("untempered", "untempered"),
    "behavior": ("behavior", "tempered"),
}


@flax.struct.dataclass
class Row:
    """One trajectory on the host: `context` tokens, then what the policy wrote, and perhaps what tools answered in between."""

    context: np.ndarray
    completion: Completion
    advantage: float
    temperature: float


@flax.struct.dataclass
class Batch:
    """One micro-batch: R packed rows, one a device that rows are split over; T tokens and M targets in each.

    tokens, positions: int32 [R, T], the trees of packing.py. attend: who sees whom in them (attention.py).
    source: int32 [R, M], rising, the token whose hidden state predicts the target; targets: int32 [R, M].
    weight: float32 [R, M], what a token's loss is multiplied by in the sum (0: padding, behind all others); they are shares of
    the whole minibatch, so that gradients of micro-batches add up to the minibatch's. denominator, match: float32 [R, M], the
    sampler's log-probability in the ratio, and the one that the trainer's must equal before an update. advantage, temperature:
    float32 [R, M]. parts: devices that share a packed row and its targets (the mesh axis sequence).
    """

    tokens: np.ndarray | jax.Array
    positions: np.ndarray | jax.Array
    attend: Any
    source: np.ndarray | jax.Array
    targets: np.ndarray | jax.Array
    weight: np.ndarray | jax.Array
    denominator: np.ndarray | jax.Array
    match: np.ndarray | jax.Array
    advantage: np.ndarray | jax.Array
    temperature: np.ndarray | jax.Array
    parts: int = flax.struct.field(pytree_node=False, default=1)


def rows_with_signal(rollouts: Rollouts, advantages_PQG: np.ndarray, keep_PQ: np.ndarray, temperature: float) -> list[Row]:
    """The trajectories of the groups in keep_PQ, in C order of (prompt, problem, sample)."""
    P, Q, G = advantages_PQG.shape
    return [
        Row(
            context=rollouts.context_tokens[p][q],
            completion=rollouts.completions[rollouts.index(p, q, g)],
            advantage=float(advantages_PQG[p, q, g]),
            temperature=temperature,
        )
        for p in range(P)
        for q in range(Q)
        if keep_PQ[p, q]
        for g in range(G)
    ]


def minibatches(rows: Sequence[Row], count: int, rng: np.random.Generator) -> Iterator[list[Row]]:
    """Splits the rows into `count` shares of nearly equal size, shuffled when there is more than one."""
    order = rng.permutation(len(rows)) if count > 1 else np.arange(len(rows))
    for share in np.array_split(order, count):
        if len(share):
            yield [rows[i] for i in share]


def token_weights(rows: Sequence[Row], aggregation: str, max_new_tokens: int) -> list[float]:
    """What each token that the policy drew in row i weighs in the minibatch's loss."""
    lengths = [int(row.completion.drawn.sum()) for row in rows]
    return AGGREGATIONS[aggregation](lengths, max_new_tokens)


AGGREGATIONS = {
    "token": lambda lengths, limit: [1 / sum(lengths)] * len(lengths),
    "sequence": lambda lengths, limit: [1 / (len(lengths) * length) for length in lengths],
    "constant": lambda lengths, limit: [1 / (len(lengths) * limit)] * len(lengths),
}


def micro_batches(
    rows: Sequence[Row], weights: Sequence[float], devices: int, budget: int, ratio: str, layout: Callable[..., Any],
    parts: int = 1, widths: int = 2,
) -> list[Batch]:
    """All rows in as few batches of `devices` packed rows as hold `budget` tokens a row; few different shapes.

    A row has `budget` tokens, or as much less as is enough, in `widths` steps; a trajectory that is longer by itself gets a row
    of twice, four times, ... the budget. layout: makes the `attend` of a batch from its trees. parts: devices that share a row.
    """
    budget = packing.whole_blocks(budget, parts)
    made = []
    for width, share in sorted(by_width([path_length(row) for row in rows], budget).items()):
        samples = [rows[i] for i in share]
        steps = packing.widths_up_to(width, widths, parts)
        contexts, lengths = [row.context for row in samples], [len(row.completion.tokens) for row in samples]
        bins = packing.pack_evenly(contexts, lengths, steps, devices)
        for start in range(0, len(bins), devices):
            trees = bins[start : start + devices]
            T = next(step for step in steps if all(tree.fits(step) for tree in trees))
            trees += [packing.EMPTY] * (devices - len(trees))
            made.append(fill(trees, samples, [weights[i] for i in share], T, ratio, layout).replace(parts=parts))
    return made


def path_length(row: Row) -> int:
    """Tokens computed for a trajectory by itself: its last token predicts nothing."""
    return len(row.context) + len(row.completion.tokens) - 1


def by_width(lengths: Sequence[int], budget: int) -> dict[int, list[int]]:
    """{width of a packed row: the trajectories that need it}."""
    widths: dict[int, list[int]] = {}
    for i, length in enumerate(lengths):
        width = budget
        while width < length:
            width *= 2
        widths.setdefault(width, []).append(i)
    return widths


def fill(
    trees: Sequence[packing.Tree], rows: Sequence[Row], weights: Sequence[float], T: int, ratio: str, layout: Callable[..., Any]
) -> Batch:
    """The Batch of one tree a packed row; M is T, since no tree has more targets than that."""
    denominator, match = RATIOS[ratio]
    R = len(trees)
    ints = {name: np.zeros((R, T), np.int32) for name in ("tokens", "positions", "source", "targets")}
    floats = {name: np.zeros((R, T), np.float32) for name in ("weight", "denominator", "match", "advantage", "temperature")}
    ints["source"][:], floats["temperature"][:] = T - 1, 1.0
    for r, tree in enumerate(trees):
        pieces = [(segment, rows[segment.sample] if segment.sample >= 0 else None) for segment in tree.segments]
        targets = []
        for segment, row in pieces:
            tokens = row.completion.tokens[:-1] if row is not None else segment.tokens
            here = slice(segment.start, segment.start + len(tokens))
            ints["tokens"][r, here] = tokens
            ints["positions"][r, here] = segment.position + np.arange(len(tokens))
            if row is not None:
                before = tree.segments[segment.parent]
                last = before.start + before.length - 1
                source = np.append(last, np.arange(segment.start, segment.start + segment.length))
                targets += [(source[row.completion.drawn], row, weights[segment.sample])]
        place(r, targets, ints, floats, denominator, match)
    return Batch(attend=layout(trees, T), **ints, **floats)


def place(r: int, targets: list, ints: dict, floats: dict, denominator: str, match: str) -> None:
    """Writes the targets of one packed row, in the order of their sources: the tokens that the policy drew."""
    if not targets:
        return

    def joined(values):
        return np.concatenate([np.broadcast_to(value, len(source)) for (source, *_), value in zip(targets, values)])

    source = joined([source for source, _, _ in targets])
    order, M = np.argsort(source, kind="stable"), len(source)

    def drawn(name):
        return joined([getattr(row.completion, name)[row.completion.drawn] for _, row, _ in targets])

    columns = {
        "source": source,
        "targets": drawn("tokens"),
        "weight": joined([weight for *_, weight in targets]),
        "denominator": drawn(denominator),
        "match": drawn(match),
        "advantage": joined([row.advantage for _, row, _ in targets]),
        "temperature": joined([row.temperature for _, row, _ in targets]),
    }
    for name, column in columns.items():
        (ints if name in ints else floats)[name][r, :M] = column[order]
