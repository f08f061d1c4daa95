"""The sampler: a queue of requests in, completions with their log-probabilities out.

One fixed set of slots decodes together; a slot whose sequence has ended takes the next request at once (continuous batching, Yu
et al. 2022). What prompts have in common is prefilled once, stored once and attended to once (cache.py, schedule.py), in chunks
between decode calls. The host loop runs two jitted programs, `prefill` and `decode`. What a request draws depends on the run's
seed and its own counter alone, never on the slot, the batch or the order. The same weights and code path serve rollouts,
evaluation and reflection: `variables` is an argument.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from espl_jax.policy import drawing, sharding
from espl_jax.policy.cache import NOBODY, DecodeAttend, Layout, Members, PrefillAttend, empty_cache
from espl_jax.policy.compilation import compiler_options
from espl_jax.policy.constraints import Guide, draw_allowed
from espl_jax.policy.layout import layout_of, parts_of
from espl_jax.policy.merged import merge_weights
from espl_jax.policy.model import Decoder
from espl_jax.policy.schedule import FIELDS, HEADS, TAILS, Active, Chunk, Pieces, Schedule, Seat, continued, cut
from espl_jax.structs import COUNTER_WORDS, Completion, Request

Array = jax.Array
DECODE_STEPS = 32  # tokens between two looks of the host, at the most
ASKED_STEPS = 4  # the same while somebody may have enough


@flax.struct.dataclass
class Slots:
    """The device state of B slots.

    cache: see cache.empty_cache. tokens: the token to feed next; positions: where it stands in the slot's own row; drawn:
    tokens of the trajectory so far; limit: how many it may have; keys: randomness; all [B]. A slot is idle when drawn >= limit.
    """

    cache: tuple
    tokens: Array
    positions: Array
    drawn: Array
    limit: Array
    keys: Array
    temperature: Array
    top_p: Array


@flax.struct.dataclass
class Table:
    """What the host tells a decode call: who shares what, the positions `before` each slot's own, and which slots are `new`
    with what they start from; [B] each, counters [B, COUNTER_WORDS]."""

    heads: Members
    tails: Members
    before: Array
    new: Array
    tokens: Array
    positions: Array
    drawn: Array
    limit: Array
    temperature: Array
    top_p: Array
    counters: Array


@flax.struct.dataclass
class Drawn:
    """What one decode call drew: [B, DECODE_STEPS] each; `live` marks the entries that count."""

    tokens: Array
    behavior: Array
    tempered: Array
    untempered: Array
    live: Array


# Asked for further requests: each with the index of one whose prompt its own begins with. Given whether the device has nothing
# else to do: then it waits until there are some, and none means that none will come.
More = Callable[[bool], Sequence[tuple[int, Request]]]


def tell(indices: Sequence[int], done: dict[int, Completion], on_done: Callable[[int, Completion], None] | None) -> list[int]:
    """Hands finished completions to the caller; none is left to be told of."""
    for index in indices:
        if on_done is not None:
            on_done(index, done[index])
    return []


class Sampler:
    """Draws completions with one model on one mesh.

    model: the Decoder. stop_ids: tokens that end a completion. seed: of the run. max_length: positions a sequence may have.
    decoding: config.sampling, of which it reads batch_size (slots at the most), prefill_tokens (tokens of one prefill call),
    prefill_chunk (tokens of one row in it), share_prefixes, single_slot, weights_layout, merge_weights and cache_dtype.
    """

    def __init__(self, model: Decoder, mesh: Mesh, stop_ids: Sequence[int], seed: int, decoding: Any, max_length: int):
        self.model = model.clone(flow=sharding.SAMPLING[decoding.weights_layout])
        self.mesh, self.max_length, self.decoding = mesh, max_length, decoding
        self.stop_ids = tuple(sorted(stop_ids))
        self.nested = mesh.devices.flat[0].platform == "cpu"  # there compiling, and reading from disk, takes the longest
        self.prefill_rows = max(1, decoding.prefill_tokens // decoding.prefill_chunk)
        self.prefill_parts = parts_of(self.prefill_rows, decoding.prefill_chunk, mesh)
        self.seed = self.put(np.uint32(seed))
        told, options = (None, sharding.replicated(mesh)), compiler_options("sampler", mesh.devices.flat[0].platform)
        self._prefill = jax.jit(self.prefill, donate_argnums=1, compiler_options=options)
        self._decode = jax.jit(self.decode, donate_argnums=1, out_shardings=told, compiler_options=options)
        self._empty = jax.jit(self.empty_slots, static_argnums=0)
        self._merge = jax.jit(lambda variables: merge_weights(variables, model))
        self._merged: list[tuple[Any, Any]] = []  # (variables, what they were merged to), newest last

    # -- host ----------------------------------------------------------------------------------------------------------

    def __call__(
        self, variables: Any, requests: Sequence[Request], on_done: Callable[[int, Completion], None] | None = None,
        more: More | None = None,
    ) -> list[Completion]:
        """Samples every request; completions come back in the order of the requests.

        variables: {"params": ...} with or without {"lora": ...}. on_done(index, completion) is called as soon as a request has
        ended, while the device goes on. more: asked before each decode call for requests that go on from earlier ones; they are
        numbered, and their completions come, behind the others. Raises ValueError, naming the request, when a prompt leaves no
        room for one token within max_length; max_new_tokens beyond the room is cut to it (finish "length").
        """
        if not requests:
            return []
        requests, limits = list(requests), [self.room(request) for request in requests]
        pieces = cut(requests, self.decoding.share_prefixes)
        layout = self.layout(requests, limits, pieces)
        order = sorted(range(len(requests)), key=lambda i: -len(requests[i].tokens) - limits[i])
        schedule = Schedule(pieces, order, layout, self.decoding.prefill_chunk, growing=more is not None)
        weights, slots = self.merged(variables), self._empty(layout)
        active: dict[int, Active] = {}
        done: dict[int, Completion] = {}
        table, quitters, untold, guide = None, [], [], Guide(self.model.spec.vocab_size)
        while True:
            idle = not (schedule.queue or schedule.seats)
            if idle:
                untold = tell(untold, done, on_done)
            for first, request in more(idle) if more is not None else ():
                requests.append(request)
                limits.append(self.room(request))
                schedule.add(continued(schedule.pieces[first], request.tokens))
            if idle and not schedule.queue:
                break
            schedule.admit()
            slots = self.prefill_some(weights, slots, schedule, eager=not active)
            news = [seat for seat in schedule.seats.values() if seat.slot not in active and seat.ready]
            active.update({seat.slot: Active(requests[seat.index], limits[seat.index]) for seat in news})
            if news or quitters:
                table = self.table(schedule, news, quitters, active)
            allowed = self.put(guide.allowed(active, layout.slots))
            slots, drawn = self._decode(weights, slots, table, self.stretch(schedule, active), self.seed, allowed)
            if news or quitters:
                table = table.replace(new=self.put(np.zeros(layout.slots, bool)))
            untold = tell(untold, done, on_done)  # while the device works
            ended, quitters = self.collect(active, jax.device_get(drawn))
            untold = [schedule.seats[slot].index for slot in ended]
            for index, slot in zip(untold, ended):
                done[index] = self.complete(active.pop(slot))
                schedule.release(slot)
        return [done[i] for i in range(len(requests))]

    def room(self, request: Request) -> int:
        """Tokens that may be drawn for a request."""
        room = self.max_length - len(request.tokens)
        if room < 1:
            raise ValueError(
                f"request {request.id!r} has {len(request.tokens)} prompt tokens, which leaves no room within "
                f"model.max_length={self.max_length}; raise it or shorten the prompt"
            )
        return min(request.max_new_tokens, room)

    def layout(self, requests: Sequence[Request], limits: Sequence[int], pieces: Sequence[Pieces]) -> Layout:
        """The shapes of a call (layout.py)."""
        return layout_of(requests, limits, pieces, self.decoding, self.max_length, self.mesh)

    def merged(self, variables: Any) -> Any:
        """The weights as they decode fastest, made once for as long as they are in use (config.sampling.merge_weights)."""
        if not self.decoding.merge_weights:
            return self.laid_out(variables)
        for known, weights in self._merged:
            if all(a is b for a, b in zip(jax.tree.leaves(known), jax.tree.leaves(variables), strict=True)):
                return weights
        gone = [any(leaf.is_deleted() for leaf in jax.tree.leaves(known)) for known, _ in self._merged]
        self._merged = [entry for entry, old in zip(self._merged, gone) if not old][-1:]
        params = variables["params"]
        layers = {name: value for name, value in params.items() if name.startswith("layers_")}
        weights = self._merge(variables | {"params": layers})
        weights = weights | {"params": params | weights["params"]}  # the rest is not copied
        self._merged.append((variables, weights))
        return weights

    def laid_out(self, variables: Any) -> Any:
        """The weights as config.sampling.weights_layout says, for this call."""
        stay = self.decoding.weights_layout == "same" or sharding.ways("embed", self.mesh) == 1
        return variables if stay else sharding.gather(variables)

    def prefill_some(self, weights: Any, slots: Slots, schedule: Schedule, eager: bool) -> Slots:
        """One prefill call, so that nobody who decodes waits long; when nobody decodes, until somebody can."""
        while chunks := schedule.prefill(self.prefill_rows):
            slots = self._prefill(weights, slots, *self.chunk_table(chunks))
            schedule.prefilled(chunks)
            if not eager:
                break
        return slots

    def stretch(self, schedule: Schedule, active: dict[int, Active]) -> tuple[Array, Array]:
        """For how long a decode call goes on: steps, and how many slots may end before that.

        Few steps where somebody must be asked whether it is enough; few endings where others wait for a slot, some where what
        has ended may go on.
        """
        asked = any(entry.request.enough is not None for entry in active.values())
        slots = schedule.layout.slots
        patience = max(1, slots // 32) if schedule.queue else max(1, slots // 8) if schedule.growing else slots
        guided = any(entry.request.matcher is not None for entry in active.values())
        return self.put((np.int32(1 if guided else ASKED_STEPS if asked else DECODE_STEPS), np.int32(patience)))

    def chunk_table(self, chunks: Sequence[Chunk]) -> tuple[Array, Array, PrefillAttend]:
        """Tokens [R, C], positions [R, C] and the attention of one prefill call."""
        R, C = self.prefill_rows, self.decoding.prefill_chunk
        tokens_RC, columns = np.zeros((R, C), np.int32), np.zeros((7, R), np.int32)
        columns[1] = NOBODY
        for r, chunk in enumerate(chunks):
            tokens_RC[r, : len(chunk.tokens)] = chunk.tokens
            head, tail = chunk.head, chunk.tail
            columns[:, r] = (
                chunk.position, chunk.row, chunk.start, head.number if head else 0, head.length if head else 0,
                tail.number if tail else 0, tail.length if tail else 0,
            )  # fmt: skip
        position, *fields = columns
        attend = PrefillAttend(np.int32(chunks[0].level), *fields, self.nested)
        return self.put((tokens_RC, position[:, None] + np.arange(C, dtype=np.int32), attend))

    def table(self, schedule: Schedule, news: Sequence[Seat], quitters: Sequence[int], active: dict[int, Active]) -> Table:
        """What decode calls are told from now on. quitters: slots that the device believes to be busy, but nobody reads."""
        B = schedule.layout.slots
        columns = {name: np.zeros(B, kind) for name, kind in TABLE_FIELDS.items()}
        counters = np.zeros((B, COUNTER_WORDS), np.uint32)
        for seat in schedule.seats.values():
            columns["before"][seat.slot] = seat.before
        columns["new"][list(quitters)] = True  # with a limit of 0: idle
        for seat in news:
            request = active[seat.slot].request
            row = {
                "new": True, "tokens": request.tokens[-1], "positions": seat.own_length, "drawn": request.earlier,
                "limit": request.earlier + active[seat.slot].limit, "temperature": request.temperature, "top_p": request.top_p,
            }  # fmt: skip
            for name, value in row.items():
                columns[name][seat.slot] = value
            counters[seat.slot] = request.counter
        heads, tails = (Members(*schedule.members(level)) for level in (HEADS, TAILS))
        return self.put(Table(heads=heads, tails=tails, counters=counters, **columns))

    def put(self, tree: Any) -> Any:
        """Small host arrays, replicated."""
        return sharding.put(tree, sharding.replicated(self.mesh))

    def collect(self, active: dict[int, Active], drawn: Drawn) -> tuple[list[int], list[int]]:
        """Appends what was drawn to each active slot; which have ended, and which of these the device goes on with."""
        ended, quitters = [], []
        for slot, entry in sorted(active.items()):
            live = drawn.live[slot]
            entry.add({name: getattr(drawn, name)[slot][live] for name in FIELDS})
            over = entry.count == entry.limit or self.stopped(entry)
            if not over and entry.satisfied():
                quitters.append(slot)
            if over or slot in quitters:
                ended.append(slot)
        return ended, quitters

    def stopped(self, entry: Active) -> bool:
        return int(entry.pieces[-1]["tokens"][-1]) in self.stop_ids

    def complete(self, entry: Active) -> Completion:
        """What was drawn, up to where the caller had enough."""
        arrays = entry.drawn()
        if entry.request.enough is not None:
            count = next((n for n in range(1, entry.count) if entry.request.enough(arrays["tokens"][:n])), entry.count)
            arrays = {name: array[:count] for name, array in arrays.items()}
        stopped = int(arrays["tokens"][-1]) in self.stop_ids
        return Completion(id=entry.request.id, finish="stop" if stopped else "length", **arrays)

    # -- device --------------------------------------------------------------------------------------------------------

    def empty_slots(self, layout: Layout) -> Slots:
        """Idle slots, made where they will live."""
        B = layout.slots
        dtype = self.model.dtype if self.decoding.cache_dtype == "model" else self.decoding.cache_dtype
        zeros = jnp.zeros(B, jnp.int32)
        cache, keys = empty_cache(self.model.spec, layout, dtype, self.mesh), jnp.broadcast_to(jax.random.key(0), (B,))
        ones = jnp.ones(B, jnp.float32)
        return Slots(cache, tokens=zeros, positions=zeros, drawn=zeros, limit=zeros, keys=keys, temperature=ones, top_p=ones)

    def prefill(self, weights: Any, slots: Slots, tokens_RC: Array, positions_RC: Array, attend: PrefillAttend) -> Slots:
        """The slots with the keys and values of some chunks in their cache; on one device a few rows at a time, as far as there
        are any: a call is seldom full when slots become free one by one."""
        R, parts = len(tokens_RC), self.prefill_parts
        count = -(-R // parts)
        tokens_RC, positions_RC, rows = jax.tree.map(
            lambda x: jnp.pad(x, [(0, -R % count)] + [(0, 0)] * (x.ndim - 1), constant_values=NOBODY),
            (tokens_RC, positions_RC, attend.rows()),
        )

        def prefill(n, cache):
            part = functools.partial(jax.lax.dynamic_slice_in_dim, start_index=n * count, slice_size=count)
            tokens, positions, some = jax.tree.map(part, (tokens_RC, positions_RC, rows))
            return self.model.apply(weights, tokens, positions, attend.replace(**some), cache)[1]

        if parts == 1:
            return slots.replace(cache=prefill(0, slots.cache))
        used = jnp.sum(attend.row < NOBODY)
        return slots.replace(cache=jax.lax.fori_loop(0, -(-used // count), prefill, slots.cache))

    def decode(
        self, weights: Any, slots: Slots, table: Table, stretch: tuple[Array, Array], seed: Array,
        allowed_BW: Array | None = None,
    ) -> tuple[Slots, Drawn]:
        """Tokens in every busy slot, one a step. stretch: steps, DECODE_STEPS at the most, and endings that end the call.
        allowed: the tokens that each slot may draw, for one step (constraints.Guide); None: any."""
        steps, patience = stretch
        slots = self.admitted(slots, table, jax.random.key(seed))
        B = slots.tokens.shape[0]
        empty = {name: jnp.zeros((B, DECODE_STEPS), jnp.float32) for name in ("behavior", "tempered", "untempered")}
        drawn = Drawn(tokens=jnp.zeros((B, DECODE_STEPS), jnp.int32), live=jnp.zeros((B, DECODE_STEPS), bool), **empty)
        busy = jnp.sum(slots.drawn < slots.limit)

        def going(carry):
            n, slots, _ = carry
            left = jnp.sum(slots.drawn < slots.limit)
            return (n < steps) & (left > 0) & (busy - left < patience)

        def step(carry):
            n, slots, drawn = carry
            slots, one, live_B = self.decode_step(weights, slots, table, allowed_BW)
            column = Drawn(one.tokens, one.behavior, one.tempered, one.untempered, live_B)
            drawn = jax.tree.map(lambda all_BC, one_B: all_BC.at[:, n].set(one_B), drawn, column)
            return n + 1, slots, drawn

        _, slots, drawn = jax.lax.while_loop(going, step, (0, slots, drawn))
        return slots, drawn

    @staticmethod
    def admitted(slots: Slots, table: Table, seed_key: Array) -> Slots:
        """The slots, those that are new as the table says."""
        keys = jnp.where(table.new, drawing.row_keys(seed_key, table.counters), slots.keys)
        columns = {
            name: jnp.where(table.new, getattr(table, name), getattr(slots, name))
            for name in ("tokens", "positions", "drawn", "limit", "temperature", "top_p")
        }
        return slots.replace(keys=keys, **columns)

    def decode_step(
        self, weights: Any, slots: Slots, table: Table, allowed_BW: Array | None
    ) -> tuple[Slots, drawing.Draw, Array]:
        """One token in every busy slot; idle slots compute along and change nothing that is read."""
        live_B = slots.drawn < slots.limit
        attend = DecodeAttend(slots.positions, table.heads, table.tails, live_B, self.model.constrain, self.nested)
        positions_B1 = (table.before + slots.positions)[:, None]
        hidden, cache = self.model.apply(weights, slots.tokens[:, None], positions_B1, attend, slots.cache)
        logits_BV = self.model.apply(weights, hidden[:, 0], method="logits")
        uniforms_B = drawing.uniforms(slots.keys, slots.drawn)
        draw = drawing.draw if allowed_BW is None else functools.partial(draw_allowed, allowed_BW=allowed_BW)
        one = draw(logits_BV, uniforms_B=uniforms_B, temperature_B=slots.temperature, top_p_B=slots.top_p)
        stopped_B = jnp.isin(one.tokens, jnp.asarray(self.stop_ids, jnp.int32))
        drawn_B = jnp.where(live_B, slots.drawn + 1, slots.drawn)
        slots = slots.replace(
            cache=cache,
            tokens=jnp.where(live_B, one.tokens, slots.tokens),
            positions=jnp.where(live_B, slots.positions + 1, slots.positions),
            drawn=drawn_B,
            limit=jnp.where(live_B & stopped_B, drawn_B, slots.limit),
        )
        return slots, one, live_B


# What a decode call is told of every slot besides its counter, and the kind.
TABLE_FIELDS = {
    "before": np.int32, "new": bool, "tokens": np.int32, "positions": np.int32, "drawn": np.int32, "limit": np.int32,
    "temperature": np.float32, "top_p": np.float32,
}  # fmt: skip
