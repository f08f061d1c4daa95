"""Which request sits in which slot, which shared rows it reads, and what is still to be prefilled. Host side, no device.

A request's prompt has up to three pieces: a head and a tail, which it may share with others (prefixes.plan), and what it keeps
to itself. Its last prompt token is never prefilled: the first decode step feeds it. A shared row has room for a fixed number of
members; when it is full, or when no row is free, another row takes the same tokens, or the request keeps them to itself: nobody
ever waits for a row.
"""

import collections
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from espl_jax.policy import prefixes
from espl_jax.policy.cache import Layout
from espl_jax.structs import Request

HEADS, TAILS, OWN = range(3)
LOOK_AHEAD = 16  # requests of the queue that are looked at, one less each time that its first is overtaken
FIELDS = ("tokens", "behavior", "tempered", "untempered")  # what is kept of each token that is drawn


@dataclass
class Active:
    """A decoding slot: its request, how many tokens may be drawn for it, and what has been drawn."""

    request: Request
    limit: int
    pieces: list[dict[str, np.ndarray]] = field(default_factory=list)
    count: int = 0

    def satisfied(self) -> bool:
        """Whether the caller has enough."""
        return self.request.enough is not None and self.request.enough(self.drawn()["tokens"])

    def add(self, piece: dict[str, np.ndarray]) -> None:
        self.pieces.append(piece)
        self.count += len(piece["tokens"])

    def drawn(self) -> dict[str, np.ndarray]:
        """All that was drawn so far, by field."""
        return {name: np.concatenate([piece[name] for piece in self.pieces]) for name in FIELDS}


@dataclass(frozen=True)
class Pieces:
    """A prompt without its last token, cut up: ids of a shared head and tail (-1: none) and the tokens of all three."""

    head: int
    head_tokens: np.ndarray
    tail: int
    tail_tokens: np.ndarray
    own_tokens: np.ndarray


@dataclass(eq=False)
class Row:
    """A shared row in use: what it holds, the slots that read it, and the row of the level above that it builds on."""

    level: int
    number: int
    content: int
    length: int
    above: "Row | None"
    members: dict[int, int] = field(default_factory=dict)  # slot -> member number
    below: int = 0  # rows that build on it
    waiting: int = 0  # chunks still to be prefilled


@dataclass(frozen=True)
class Chunk:
    """Tokens to be prefilled into a row of a level from `start` on, at absolute `position`."""

    level: int
    row: int
    tokens: np.ndarray
    start: int
    position: int
    head: Row | None
    tail: Row | None
    owner: "Row | Seat"


@dataclass(eq=False)
class Seat:
    """An occupied slot: its request, the rows it reads, the positions before its own, and its own prefilled positions."""

    slot: int
    index: int
    head: Row | None
    tail: Row | None
    before: int
    own_length: int
    waiting: int = 0

    @property
    def ready(self) -> bool:
        """Whether all that it sees has been prefilled."""
        return not (self.waiting or (self.head and self.head.waiting) or (self.tail and self.tail.waiting))


def cut(requests: Sequence[Request], share: bool) -> list[Pieces]:
    """The pieces of every request's prompt."""
    nothing = np.zeros(0, np.int32)
    if not share:
        return [Pieces(-1, nothing, -1, nothing, request.tokens[:-1]) for request in requests]
    forest = prefixes.plan([request.tokens for request in requests])
    times = np.bincount(forest.context_of)
    pieces = []
    for context in forest.context_of.tolist():
        head, tail = forest.contexts[context].head, forest.contexts[context].tail[:-1]
        together = times[context] > 1 and len(tail) > 0
        pieces.append(
            Pieces(
                head, forest.heads[head] if head >= 0 else nothing, context if together else -1,
                tail if together else nothing, nothing if together else tail,
            )
        )  # fmt: skip
    return pieces


def continued(pieces: Pieces, tokens: np.ndarray) -> Pieces:
    """The pieces of a prompt that begins with another one: it shares what that one shares."""
    shared = len(pieces.head_tokens) + len(pieces.tail_tokens)
    return replace(pieces, own_tokens=tokens[shared:-1])


class Schedule:
    """The queue, the seats and the shared rows of one call.

    order: indices of the requests, first come first. growing: further requests may come (add).
    """

    def __init__(self, pieces: Sequence[Pieces], order: Iterable[int], layout: Layout, chunk: int, growing: bool = False):
        self.pieces, self.layout, self.chunk, self.growing = list(pieces), layout, chunk, growing
        self.queue = collections.deque(order)
        self.seats: dict[int, Seat] = {}
        self._free_slots = list(range(layout.slots))[::-1]
        self._free_rows = {HEADS: list(range(layout.heads))[::-1], TAILS: list(range(layout.tails))[::-1]}
        self._room = {HEADS: layout.head_members, TAILS: layout.tail_members}
        self._rows: dict[int, list[Row]] = {HEADS: [], TAILS: []}
        self._overtaken = 0  # times that the first of the queue was
        self._chunks: dict[int, collections.deque[Chunk]] = {level: collections.deque() for level in range(3)}

    def add(self, pieces: Pieces) -> None:
        """One more request, behind the others by index and before them in the queue: what goes on is nearer to its end."""
        self.pieces.append(pieces)
        self.queue.appendleft(len(self.pieces) - 1)

    def admit(self) -> list[Seat]:
        """Seats as many requests as there are free slots, and plans what is to be prefilled for them.

        The first come first, but one that finds rows to share goes before one that would have to keep its prompt to itself.
        """
        seated = []
        while self._free_slots and self.queue:
            ahead = itertools.islice(self.queue, LOOK_AHEAD - self._overtaken)
            place = next((place for place, index in enumerate(ahead) if self._finds_rows(index)), 0)
            self._overtaken = self._overtaken + 1 if place else 0
            index = self.queue[place]
            del self.queue[place]
            seated.append(self._seat(index, self._free_slots.pop()))
        return seated

    def release(self, slot: int) -> None:
        """Frees a slot and the rows that nobody needs any more."""
        seat = self.seats.pop(slot)
        self._free_slots.append(slot)
        for row in (seat.tail, seat.head):
            if row is not None:
                del row.members[slot]
                self._release_row(row)

    def prefill(self, count: int) -> list[Chunk]:
        """The next chunks of one level, `count` at the most, upper levels first."""
        for level in range(3):
            chunks = self._chunks[level]
            if chunks:
                return [chunks.popleft() for _ in range(min(count, len(chunks)))]
        return []

    @staticmethod
    def prefilled(chunks: Iterable[Chunk]) -> None:
        """Notes that chunks have been computed."""
        for chunk in chunks:
            chunk.owner.waiting -= 1

    def members(self, level: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The level's cache.Members: slots [X, M], place [B], length [X]."""
        slots = np.full((len(self._free_rows[level]) + len(self._rows[level]), self._room[level]), self.layout.slots, np.int32)
        place, length = np.full(self.layout.slots, -1, np.int32), np.zeros(len(slots), np.int32)
        for row in self._rows[level]:
            length[row.number] = row.length if row.members else 0
            for slot, member in row.members.items():
                slots[row.number, member] = slot
                place[slot] = row.number * self._room[level] + member
        return slots, place, length

    def _seat(self, index: int, slot: int) -> Seat:
        pieces = self.pieces[index]
        head = self._join(HEADS, pieces.head, pieces.head_tokens, None, slot)
        tail = self._join(TAILS, pieces.tail, pieces.tail_tokens, head, slot) if head or not len(pieces.head_tokens) else None
        alone = [tokens for row, tokens in ((head, pieces.head_tokens), (tail, pieces.tail_tokens)) if row is None]
        own = np.concatenate([*alone, pieces.own_tokens])
        before = sum(row.length for row in (head, tail) if row is not None)
        seat = Seat(slot, index, head, tail, before, len(own))
        self._plan(seat, OWN, slot, own, before, head, tail)
        self.seats[slot] = seat
        return seat

    def _finds_rows(self, index: int) -> bool:
        """Whether the request finds place in a row for each piece that it could share."""
        shared = ((HEADS, self.pieces[index].head), (TAILS, self.pieces[index].tail))
        return all(content < 0 or self._free_rows[level] or self._open_row(level, content) for level, content in shared)

    def _open_row(self, level: int, content: int) -> Row | None:
        """A row with this content and place for another member. A tail has one head, whichever row that lies in."""
        rows = (row for row in self._rows[level] if row.content == content and len(row.members) < self._room[level])
        return next(rows, None)

    def _join(self, level: int, content: int, tokens: np.ndarray, above: Row | None, slot: int) -> Row | None:
        """The row with this content that `slot` becomes a member of; None if there is nothing to share or no row left."""
        if content < 0:
            return None
        row = self._open_row(level, content) or self._new_row(level, content, tokens, above)
        if row is not None:
            row.members[slot] = min(set(range(self._room[level])) - set(row.members.values()))
        return row

    def _new_row(self, level: int, content: int, tokens: np.ndarray, above: Row | None) -> Row | None:
        if not self._free_rows[level]:
            return None
        row = Row(level, self._free_rows[level].pop(), content, len(tokens), above)
        if above is not None:
            above.below += 1
        self._rows[level].append(row)
        self._plan(row, level, row.number, tokens, above.length if above else 0, above, None)
        return row

    def _release_row(self, row: Row) -> None:
        if row.members or row.below:
            return
        self._rows[row.level].remove(row)
        self._free_rows[row.level].append(row.number)
        if row.above is not None:
            row.above.below -= 1
            self._release_row(row.above)

    def _plan(
        self, owner: "Row | Seat", level: int, row: int, tokens: np.ndarray, position: int, head: Row | None, tail: Row | None
    ) -> None:
        for start in range(0, len(tokens), self.chunk):
            piece = tokens[start : start + self.chunk]
            self._chunks[level].append(Chunk(level, row, piece, start, position + start, head, tail, owner))
            owner.waiting += 1
