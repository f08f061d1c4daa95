"""The shapes of a sampler's call: a pure function of its requests, in few sizes.

So there are few programs, and the same ones after a resume.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from espl_jax.policy import sharding
from espl_jax.policy.cache import COARSE_BLOCK, SHORTEST_BLOCK, Layout
from espl_jax.policy.packing import doubled
from espl_jax.policy.schedule import Pieces
from espl_jax.structs import Request

SHORTEST = 256  # positions of a row
SINGLE = 2  # requests that one slot draws, one after the other, where a step of it takes less than half of that of few slots
LONG = 1024  # positions of a row from which on idle slots are dearer than another program
HEAD_ROWS = 4  # shared heads at one time, at the least
HEAD_PLACES = 1.5  # in shared heads for every slot; a head that more slots share takes another row
TAIL_PLACES = 1.5, 3.0  # in shared tails for every slot; the second where stragglers keep long rows that others have left
FOURS = 4  # members of a row that many groups can do with
PREFILL_PARTS = 2  # of a prefill call, so that one that is not full costs less
CPU_PART = 64  # tokens of a part on a CPU, if these are fewer: more at a time are hardly cheaper there


def layout_of(
    requests: Sequence[Request], limits: Sequence[int], pieces: Sequence[Pieces], decoding: Any, max_length: int, mesh: Mesh
) -> Layout:
    """The shapes of a call. limits: tokens that each request may draw. decoding: config.sampling.

    Slots: see slots_for; with decoding.single_slot one for a request that comes alone or in twos. Lengths: 256, 512, 1024, ...,
    beginning at four times that with a quarter of the slots, and as long as a sequence may be at the most. Shared tails: see
    members.
    """
    chunk, filled = decoding.prefill_chunk, functools.partial(sharding.rounded, name="slots", mesh=mesh)
    longest = max(min(len(r.tokens) + limit + r.later, max_length) for r, limit in zip(requests, limits))
    few = decoding.single_slot and len(requests) <= SINGLE
    slots = filled(1 if few else slots_for(len(requests), decoding.batch_size, finely=longest > LONG))
    begin = min(SHORTEST * max(1, decoding.batch_size // slots), doubled(max_length, SHORTEST))
    length = doubled(longest, max(begin, chunk))
    head, tail = (max(len(getattr(piece, name)) for piece in pieces) for name in ("head_tokens", "tail_tokens"))
    tail_length = min(length, doubled(max(1, tail), max(SHORTEST_BLOCK, chunk)))
    systems = {piece.head for piece in pieces} - {-1}
    groups = np.bincount([piece.tail for piece in pieces if piece.tail >= 0] or [0])
    samples = members(int(groups.max()), short=tail_length == SHORTEST_BLOCK, slots=slots)
    grouped, places = groups.max() > 1, TAIL_PLACES[len(requests) > slots and samples > FOURS]
    # Rows for heads also where nobody has one yet: a run that begins without a prompt, and an editor's calls, have one program.
    headed = decoding.share_prefixes and (systems or grouped or slots <= decoding.batch_size // 4)
    heads = doubled(len(systems) or 1, HEAD_ROWS)
    return Layout(
        slots=slots,
        length=length,
        head_length=min(length, doubled(max(1, head), max(SHORTEST, chunk))),
        tail_length=tail_length,
        chunk=chunk,
        heads=heads if headed else 0,
        head_members=min(slots, filled(max(16, math.ceil(HEAD_PLACES * slots / heads)))) if headed else 0,
        tails=filled(math.ceil(places * slots / samples)) if grouped else 0,
        tail_members=samples if grouped else 0,
        first=COARSE_BLOCK if slots == 1 or mesh.devices.flat[0].platform == "gpu" else SHORTEST_BLOCK,
    )


def members(group: int, short: bool, slots: int) -> int:
    """Samples that share a tail, for groups of so many: all, up to 16; four where a group is less, or short and made of fours.

    So rollouts and evaluations of a run often have one program; a short tail that lies twice costs little.
    """
    fours = group <= FOURS or (short and group % FOURS == 0)
    return min(FOURS if fours else group, 16, slots)


def slots_for(requests: int, most: int, finely: bool = False) -> int:
    """Slots for so many requests, in few sizes, so that few are idle at the end.

    When all requests fit: `most`, or a quarter of it, or a quarter of that, but 4 or more. Else as few eighths of `most` as do
    not need another turn: 40 requests take two turns of 32 slots, but also of 20, whose steps are cheaper. finely: eighths also
    where more than a quarter of `most` is needed, since an idle slot is dear.
    """
    if requests > most or (finely and requests > most // 4):
        eighth, turns = max(1, most // 8), math.ceil(requests / most)
        return min(most, math.ceil(requests / turns / eighth) * eighth)
    while most // 4 >= max(4, requests):
        most //= 4
    return most


def parts_of(rows: int, chunk: int, mesh: Mesh) -> int:
    """Parts of a prefill call of so many rows of `chunk` tokens; they are computed one after the other, as far as any is used.

    A mesh has one, since its devices share the rows.
    """
    if mesh.size > 1:
        return 1
    halves = math.ceil(rows / PREFILL_PARTS)
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    return math.ceil(rows / (min(halves, math.ceil(CPU_PART / chunk)) if on_cpu else halves))
