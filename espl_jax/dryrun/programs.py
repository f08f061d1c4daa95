"""The programs of one iteration, compiled from shapes alone: the project's own sampler and learner, without a weight.

Everything that decides a shape is the code that runs: the sampler's layout, schedule and tables, the packing of rows, the
sharding rules. Only what would put an array on a device is replaced by its shape.
"""

import dataclasses
import functools
import itertools
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from espl_jax.policy import batch as batching
from espl_jax.policy import lora, sharding
from espl_jax.policy.attention import make_layout
from espl_jax.policy.cache import Layout
from espl_jax.policy.model import ModelSpec, abstract_params
from espl_jax.policy.sampler import Active, Sampler, Slots
from espl_jax.policy.schedule import Schedule, cut
from espl_jax.policy.state import Policy, PolicyState, make_model, make_optimizer, needs_reference, optimizer_shardings
from espl_jax.policy.update import make_programs
from espl_jax.structs import COUNTER_WORDS, Completion, Request

STOP_IDS = (0,)  # any token


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Tokens, as they are taken to be: of a system prompt, of a problem, of completions (all alike)."""

    head: int
    problem: int
    completion: int

    @property
    def context(self) -> int:
        return self.head + self.problem


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A program as the compiler made it.

    text: the optimised HLO. jaxpr: what it was made from. memory: bytes a device of its arguments, outputs, temporaries, and of
    what outputs share with arguments. seconds: that tracing, lowering and compiling took.
    """

    text: str
    jaxpr: Any
    memory: dict[str, int]
    seconds: float


class DoesNotFit(Exception):
    """The compiler found that a program needs more memory than there is; its words."""


def bytes_on_device(tree: Any) -> int:
    """What one device holds of a tree of ShapeDtypeStructs with shardings."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * itemsize(x.dtype) for x in leaves)


def itemsize(dtype: Any) -> int:
    """Bytes of a number; a random key has two of four."""
    return 8 if jnp.issubdtype(dtype, jax.dtypes.prng_key) else jnp.dtype(dtype).itemsize


def struct(shape: Any, dtype: Any, where: Any) -> jax.ShapeDtypeStruct:
    """An array that is not there."""
    return jax.ShapeDtypeStruct(shape, dtype, sharding=where)


def structs(tree: Any, shardings: Any, dtype: Any = None) -> Any:
    """A tree of arrays that are not there."""
    return jax.tree.map(lambda x, where: struct(x.shape, dtype or x.dtype, where), tree, shardings)


def compiled(jitted: Callable, *args: Any) -> tuple[Compiled, Any]:
    """(the program for these shapes, the shapes that it gives)"""
    start = time.perf_counter()
    traced = jitted.trace(*args)
    lowered = traced.lower()
    try:
        program = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise DoesNotFit(" ".join(str(error).partition("\n")[0].removeprefix("RESOURCE_EXHAUSTED: ").split())) from None
    seconds = time.perf_counter() - start
    found = program.memory_analysis()
    memory = {
        "arguments": found.argument_size_in_bytes, "outputs": found.output_size_in_bytes,
        "temporaries": found.temp_size_in_bytes, "shared": found.alias_size_in_bytes,
    }  # fmt: skip
    return Compiled(program.as_text(), traced.jaxpr, memory, seconds), structs(lowered.out_info, program.output_shardings)


class ShapeSampler(Sampler):
    """The sampler's host side over shapes: what it puts on the mesh, and what its programs give, has no numbers."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        self._empty, self._merge = (functools.partial(outcome, program) for program in (self._empty, self._merge))

    def laid_out(self, variables: Any) -> Any:
        return variables if self.decoding.weights_layout == "same" else structs(variables, sharding.gathered(variables))

    def put(self, tree: Any) -> Any:
        everywhere = sharding.replicated(self.mesh)
        return jax.tree.map(lambda x: struct(np.shape(x), np.asarray(x).dtype, everywhere), tree)


def outcome(jitted: Callable, *args: Any) -> Any:
    """The shapes that a program gives."""
    return compiled(jitted, *args)[1]


def shape_policy(config: Any, spec: ModelSpec, mesh: Mesh) -> tuple[Policy, PolicyState]:
    """As state.make_policy, of shapes."""
    rl, model = config.rl, make_model(config, spec, mesh)
    shapes, names = abstract_params(model)
    where, everywhere = sharding.tree_shardings(names, shapes, mesh), sharding.replicated(mesh)
    full = structs(shapes, where, jnp.float32)
    if rl.lora_rank:
        frozen = structs(shapes, where, jnp.dtype(config.model.weight_dtype))
        low, low_names = lora.abstract(shapes, names, rl.lora_rank, tuple(rl.lora_targets))
        trainable = structs(low, sharding.tree_shardings(low_names, low, mesh))
        reference = {"params": frozen, "lora": trainable}
    else:
        frozen, trainable, reference = None, full, {"params": full} if needs_reference(config) else None
    sampler = ShapeSampler(model.clone(remat="none"), mesh, STOP_IDS, config.seed, config.sampling, config.model.max_length)
    policy = Policy(
        spec=spec, model=model, mesh=mesh, tokenizer=None, directory=Path(), frozen=frozen, reference=reference,
        optimizer=make_optimizer(rl, config.num_steps), sampler=sampler,
    )  # fmt: skip
    moments = jax.eval_shape(policy.optimizer.init, trainable)
    moments = structs(moments, optimizer_shardings(policy, trainable))
    return policy, PolicyState(trainable, moments, struct((), np.int32, everywhere))


# -- the sizes of an iteration -------------------------------------------------------------------------------------------


def requests(config: Any, lengths: Lengths) -> list[Request]:
    """M x B x N requests that may be as long as they are; prompts share what they would share."""
    sizes = config.evolution.num_prompts, config.task.num_problems, config.task.num_samples
    return [
        Request(
            id=(p, q, g),
            tokens=np.append(np.full(lengths.head, p + 1, np.int32), np.full(lengths.problem, 1000 + q, np.int32)),
            counter=(0,) * COUNTER_WORDS,
            max_new_tokens=lengths.completion,
            temperature=config.sampling.temperature,
            top_p=config.sampling.top_p,
        )
        for p, q, g in itertools.product(*map(range, sizes))
    ]


@dataclasses.dataclass(frozen=True)
class Sampling:
    """The sampler's shapes: of a call, its slots, and what prefill and decode are called with behind the slots."""

    layout: Layout
    weights: Any
    slots: Slots
    prefill: tuple
    decode: tuple


def sampling_shapes(policy: Policy, state: PolicyState, config: Any, lengths: Lengths) -> Sampling:
    """Those of the rollouts of a step whose completions may be as long as config.sampling.max_new_tokens."""
    sampler, asked = policy.sampler, requests(config, lengths)
    limits, pieces = [sampler.room(request) for request in asked], cut(asked, config.sampling.share_prefixes)
    layout = sampler.layout(asked, limits, pieces)
    schedule = Schedule(pieces, range(len(asked)), layout, config.sampling.prefill_chunk)
    seats = schedule.admit()
    active = {seat.slot: Active(asked[seat.index], limits[seat.index]) for seat in seats}
    table = sampler.table(schedule, seats, [], active)
    return Sampling(
        layout=layout,
        weights=sampler.merged(policy.variables(state.trainable)),
        slots=sampler._empty(layout),
        prefill=sampler.chunk_table(schedule.prefill(sampler.prefill_rows)),
        decode=(table, sampler.stretch(schedule, active), sampler.seed),
    )


def batches(config: Any, mesh: Mesh, lengths: Lengths, drawn: Sequence[int]) -> list[batching.Batch]:
    """The micro-batches of a step, on the host. drawn: tokens of each completion."""
    rows = []
    for request, count in zip(requests(config, lengths), drawn, strict=True):
        tokens, numbers = np.zeros(count, np.int32), np.zeros(count, np.float32)
        completion = Completion(request.id, tokens, numbers, numbers, numbers, finish="length")
        rows.append(batching.Row(request.tokens, completion, advantage=1.0, temperature=1.0))
    devices = sharding.batch_rows(1, mesh)
    weights = batching.token_weights(rows, config.rl.aggregation, config.sampling.max_new_tokens)
    layout_of = make_layout(config.model.attention, config.model.dtype, mesh)
    budget, parts = -(-config.rl.micro_batch_tokens // devices), mesh.shape["sequence"]
    return batching.micro_batches(rows, weights, devices, budget, config.rl.ratio, layout_of, parts, config.rl.row_widths)


def batch_shapes(batch: batching.Batch, mesh: Mesh) -> batching.Batch:
    """A micro-batch as it lies on the mesh (update.make_updater)."""

    def put(x):
        return struct(x.shape, x.dtype, sharding.named_sharding(("batch",) + (None,) * (x.ndim - 1), x.shape, mesh))

    return jax.tree.map(put, batch)


# -- the programs --------------------------------------------------------------------------------------------------------


def sampling_programs(policy: Policy, shapes: Sampling) -> dict[str, Compiled]:
    """prefill and decode."""
    sampler = policy.sampler
    prefill, slots = compiled(sampler._prefill, shapes.weights, shapes.slots, *shapes.prefill)
    decode, _ = compiled(sampler._decode, shapes.weights, slots, *shapes.decode)
    return {"prefill": prefill, "decode": decode}


def learning_programs(policy: Policy, state: PolicyState, config: Any, batch: Any, several: bool) -> dict[str, Compiled]:
    """gradient and optimizer step. several: micro-batches, whose gradients are added up."""
    programs = make_programs(policy, state, config)
    reference = policy.plain_reference if config.rl.kl_coef > 0 else None
    fixed = state.trainable, policy.frozen, reference, batch
    if several:
        gradient, (grads, _) = compiled(programs.accumulate, state.trainable, *fixed)
    else:
        gradient, (grads, _) = compiled(programs.gradient, *fixed)
    return {"gradient": gradient, "apply": compiled(programs.apply, state, grads)[0]}
