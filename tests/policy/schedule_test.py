"""Seats, shared rows and prefill: whatever comes and goes, every slot sees exactly its own prompt."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from espl_jax.policy.cache import Layout
from espl_jax.policy.schedule import HEADS, LOOK_AHEAD, OWN, TAILS, Schedule, continued, cut
from espl_jax.structs import Request

CHUNK = 4
HEAD = [np.arange(100 * h, 100 * h + 34 + h, dtype=np.int32) for h in range(3)]


def request(i, tokens):
    return Request(i, np.asarray(tokens, np.int32), (1, 0, 0, 0, i), 3, 1.0, 1.0)


def layout(slots=3, heads=2, head_members=2, tails=2, tail_members=2):
    return Layout(slots, 128, 128, 128, CHUNK, heads, head_members, tails, tail_members)


@st.composite
def calls(draw):
    """Requests whose prompts share heads, or everything, or nothing; a layout that is sometimes too small for them."""
    contexts = [
        np.concatenate([HEAD[h][:] if h < 3 else [], 900 + np.arange(size) + 7 * i]).astype(np.int32)
        for i, (h, size) in enumerate(draw(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9)), min_size=1, max_size=6)))
    ]
    order = draw(st.lists(st.integers(0, len(contexts) - 1), min_size=1, max_size=14))
    sizes = [draw(st.integers(*bounds)) for bounds in ((1, 4), (0, 2), (1, 3), (0, 3), (1, 3))]
    return [request(i, contexts[c]) for i, c in enumerate(order)], layout(*sizes)


@given(calls(), st.randoms(use_true_random=False), st.integers(1, 3), st.booleans())
@settings(max_examples=300)
def test_every_slot_sees_its_own_prompt_whatever_comes_and_goes(call, random, count, share):
    requests, shapes = call
    pieces = cut(requests, share)
    schedule = Schedule(pieces, range(len(requests)), shapes, CHUNK)
    memory = {}  # (level, row) -> what was written there, by position in the row
    served, decoding = [], {}
    while schedule.queue or schedule.seats:
        schedule.admit()
        assert schedule.queue == type(schedule.queue)() or len(schedule.seats) == shapes.slots, "nobody waits for a row"
        for chunk in (chunks := schedule.prefill(count)):
            assert chunk.level == chunks[0].level and chunk.start % CHUNK == 0 and len(chunk.tokens) <= CHUNK
            above = sum(row.length for row in (chunk.head, chunk.tail) if row)
            assert chunk.position == above + chunk.start
            assert not any(row and row.waiting for row in (chunk.head, chunk.tail)), "what it builds on comes first"
            held = memory.setdefault((chunk.level, chunk.row), {})
            held.update({chunk.start + i: token for i, token in enumerate(chunk.tokens.tolist())})
        schedule.prefilled(chunks)
        for slot, seat in schedule.seats.items():
            if seat.ready and slot not in decoding:
                decoding[slot] = seat
        tables = {level: schedule.members(level) for level in (HEADS, TAILS)}
        for slot, seat in decoding.items():
            seen = []
            for level, row in ((HEADS, seat.head), (TAILS, seat.tail)):
                slots, place, length = tables[level]
                if row is None:
                    assert place[slot] == -1
                    continue
                assert slots.reshape(-1)[place[slot]] == slot and place[slot] // slots.shape[1] == row.number
                seen += [memory[level, row.number][i] for i in range(length[row.number])]
            assert len(seen) == seat.before
            seen += [memory[OWN, slot][i] for i in range(seat.own_length)]
            assert seen == requests[seat.index].tokens[:-1].tolist()
        for slot in [slot for slot in decoding if random.random() < 0.4]:
            served.append(decoding.pop(slot).index)
            schedule.release(slot)
    assert sorted(served) == list(range(len(requests)))
    assert not schedule.members(HEADS)[2].any() and not schedule.members(TAILS)[2].any(), "every row is free again"


@given(calls(), st.randoms(use_true_random=False), st.integers(1, 3))
@settings(max_examples=150)
def test_a_request_that_goes_on_from_another_sees_its_own_prompt(call, random, count):
    """Some requests come back once with more tokens, before those that were never seated; their slots read what they asked."""
    requests, shapes = call
    schedule = Schedule(cut(requests, True), range(len(requests)), shapes, CHUNK, growing=True)
    first, memory, decoding, served = len(requests), {}, {}, []
    while schedule.queue or schedule.seats:
        schedule.admit()
        chunks = schedule.prefill(count)
        for chunk in chunks:
            held = memory.setdefault((chunk.level, chunk.row), {})
            held.update({chunk.start + i: token for i, token in enumerate(chunk.tokens.tolist())})
        schedule.prefilled(chunks)
        decoding.update({slot: seat for slot, seat in schedule.seats.items() if seat.ready})
        for slot, seat in decoding.items():
            rows = [(level, row) for level, row in ((HEADS, seat.head), (TAILS, seat.tail)) if row is not None]
            seen = [memory[level, row.number][i] for level, row in rows for i in range(row.length)]
            seen += [memory[OWN, slot][i] for i in range(seat.own_length)]
            assert seen == requests[seat.index].tokens[:-1].tolist()
        for slot in [slot for slot in decoding if random.random() < 0.4]:
            index = decoding.pop(slot).index
            served.append(index)
            schedule.release(slot)
            if index < first and random.random() < 0.5:
                more = np.arange(random.randint(1, 9), dtype=np.int32) + 3000
                requests.append(request(len(requests), np.concatenate([requests[index].tokens, more])))
                schedule.add(continued(schedule.pieces[index], requests[-1].tokens))
                assert schedule.queue[0] == len(requests) - 1
    assert sorted(served) == list(range(len(requests)))


def test_samples_of_a_group_share_a_tail_and_problems_of_a_prompt_their_head():
    problems = [np.concatenate([HEAD[0], [7 + q, 8, 9]]) for q in range(2)]
    requests = [request(4 * q + g, problems[q]) for q in range(2) for g in range(2)]
    pieces = cut(requests, True)
    assert [piece.head for piece in pieces] == [0] * 4 and len({piece.tail for piece in pieces}) == 2
    schedule = Schedule(pieces, range(4), layout(slots=4, head_members=4), CHUNK)
    seats = schedule.admit()
    assert len({id(seat.head) for seat in seats}) == 1 and [seat.own_length for seat in seats] == [0] * 4
    chunks = [[len(chunk.tokens) for chunk in schedule.prefill(100)] for _ in range(3)]
    assert chunks == [[4] * 8 + [2], [2, 2], []], "the last token of a prompt is fed by the first decode step"


def test_a_full_row_is_followed_by_another_and_without_one_a_request_keeps_its_tokens_to_itself():
    requests = [request(i, [5, 6, 7, 8]) for i in range(5)]
    schedule = Schedule(cut(requests, True), range(5), layout(slots=5, tails=2, tail_members=2), CHUNK)
    seats = schedule.admit()
    assert [seat.tail.number if seat.tail else None for seat in seats] == [0, 0, 1, 1, None]
    assert [seat.own_length for seat in seats] == [0, 0, 0, 0, 3]


def test_one_that_finds_a_row_goes_before_one_that_does_not_but_not_for_ever():
    """While one group has the only row, each request of the other would have to keep its prompt to itself."""
    requests = [request(i, [5 + i % 2, 6, 7, 8]) for i in range(2 * LOOK_AHEAD)]
    few = layout(slots=2, heads=0, tails=1, tail_members=2)
    schedule = Schedule(cut(requests, True), range(len(requests)), few, CHUNK)
    assert [seat.index for seat in schedule.admit()] == [0, 2] and schedule.queue[0] == 1
    overtaken = 0
    while schedule.queue[0] == 1:
        schedule.release(min(schedule.seats))
        [seat] = schedule.admit()
        overtaken += seat.index != 1
        assert (seat.tail is None) == (seat.index == 1)
    assert 1 < overtaken < LOOK_AHEAD


def test_without_sharing_all_is_a_slot_s_own():
    requests = [request(i, np.concatenate([HEAD[0], [1, 2]])) for i in range(2)]
    seats = Schedule(cut(requests, False), range(2), layout(heads=0, tails=0), CHUNK).admit()
    assert [(seat.head, seat.tail, seat.before, seat.own_length) for seat in seats] == [(None, None, 0, 35)] * 2
