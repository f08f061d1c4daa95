"""One dry run: every program of an iteration, compiled, measured and put against what a chip has."""

import dataclasses
import math
from typing import Any

import jax
import numpy as np

from espl_jax.dryrun import flops, hlo, programs
from espl_jax.dryrun.chips import Slice
from espl_jax.dryrun.hlo import Collective, Running
from espl_jax.dryrun.programs import Compiled, DoesNotFit, Lengths, bytes_on_device
from espl_jax.dryrun.roofline import Seconds, decode_steps, reached_share, seconds, spread
from espl_jax.policy import sharding
from espl_jax.policy.cache import Layout
from espl_jax.policy.model import ModelSpec

NUCLEUS_PASSES = 10  # of drawing.nucleus_threshold: 6 to 13
REFLECTION_STAGES = 3  # one after the other: summaries, critiques, consolidation; crossover comes besides
TOKENS_PER_WORD = 1.3


@dataclasses.dataclass(frozen=True)
class Assumptions:
    """Tokens of a system prompt, of a problem, of a completion on average, and of an editor's reply. layers: numbers of layers
    that the sampler is compiled with, from which all of it is inferred; (): all of them."""

    prompt_tokens: int
    problem_tokens: int
    completion_tokens: float
    reply_tokens: int
    layers: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Program:
    """What is known of one program, of one call (decode: of one token in every slot).

    resident: {name: bytes a device} of what lives as long as the run, needed or not. memory: as Compiled has it, and what is
    `known` of its arguments from their shapes; None: it does not fit, for the `refusal` that the compiler gives. flops: over
    all devices. moved: bytes that a device reads and writes in its memory. calls: of an iteration.
    """

    name: str
    resident: dict[str, int]
    memory: dict[str, float] | None
    flops: float
    collectives: tuple[Collective, ...]
    moved: float
    seconds: Seconds | None
    calls: float
    compile_seconds: float
    refusal: str = ""

    @property
    def needed(self) -> float | None:
        """Bytes a device."""
        if self.memory is None:
            return None
        here = self.memory
        away = sum(self.resident.values()) - min(self.memory["known"], self.memory["arguments"])  # some are not read
        return away + here["arguments"] + here["outputs"] - here["shared"] + here["temporaries"]


@dataclasses.dataclass(frozen=True)
class Study:
    """All programs, and what they were made of."""

    where: Slice
    mesh: dict[str, int]
    layout: Layout
    programs: tuple[Program, ...]
    gathered: tuple[Collective, ...]
    iteration: dict[str, float]

    @property
    def fits(self) -> bool:
        memory = self.where.device_memory
        return all(one.needed is not None and (memory is None or one.needed <= memory) for one in self.programs)


def study(config: Any, spec: ModelSpec, where: Slice, given: Assumptions) -> Study:
    """Compiles everything; raises ValueError when the configuration cannot be laid out so."""
    mesh = sharding.make_mesh(**config.mesh, devices=list(where.devices))
    lengths = Lengths(given.prompt_tokens, given.problem_tokens, config.sampling.max_new_tokens)
    room = config.model.max_length - lengths.context
    if lengths.completion > room:
        raise ValueError(
            f"prompt_tokens + problem_tokens = {lengths.context} and sampling.max_new_tokens={lengths.completion} are more "
            f"than model.max_length={config.model.max_length}; raise the last or lower one of the others"
        )
    drawn = spread(len(programs.requests(config, lengths)), given.completion_tokens, lengths.completion)
    sampler = sampling_study(config, spec, where, mesh, lengths, given, drawn)
    learner = learning_study(config, spec, where, mesh, lengths, drawn)
    layout, found, gathered = sampler
    every = (*found, *learner)
    return Study(where, dict(mesh.shape), layout, every, gathered, iteration(every, config, given, layout))


def at_depth(spec: ModelSpec, layers: int) -> ModelSpec:
    """The same model with so many layers."""
    return dataclasses.replace(spec, num_layers=layers)


# -- sampling ------------------------------------------------------------------------------------------------------------


def sampling_study(config, spec, where, mesh, lengths, given, drawn) -> tuple[Layout, list[Program], tuple[Collective, ...]]:
    """(the sampler's shapes, prefill and decode, weights that are gathered whole in a decode step)"""
    policy, state = programs.shape_policy(config, spec, mesh)
    shapes = programs.sampling_shapes(policy, state, config, lengths)
    blocks = shapes.layout.blocks("own")
    own = lengths.context if not config.sampling.share_prefixes else 0
    furthest = decode_steps(drawn, shapes.layout.slots, own)
    share = reached_share(furthest, blocks)
    calls = {"prefill": prefill_calls(config, lengths, shapes.layout), "decode": float(len(furthest))}
    cache, weights = bytes_on_device(shapes.slots.cache), bytes_on_device(shapes.weights)
    resident = residents(policy, state) | {"keys and values": cache}
    context = int(np.searchsorted(np.cumsum(blocks), lengths.context))
    running = {
        "prefill": Running(
            loop=lambda depth: policy.sampler.prefill_parts, branch=lambda count: context if count == len(blocks) else None
        ),
        "decode": Running(loop=lambda depth: NUCLEUS_PASSES if depth else 1.0),
    }
    moved = {"prefill": weights + cache * sum(blocks[: context + 1]) / sum(blocks), "decode": weights + cache * share}
    known = {"prefill": weights + bytes_on_device(shapes.slots), "decode": weights + bytes_on_device(shapes.slots)}
    compiled, refusal = deep(config, spec, mesh, lengths, given.layers)
    made = []
    for name in ("prefill", "decode"):
        parts = [(depth, analysed(one[name], known_of, running[name], mesh.size)) for depth, one, known_of in compiled]
        if not parts:
            made.append(refused(name, resident, calls[name], refusal))
            continue
        whole = inferred(parts, spec.num_layers)
        time = timed(where, whole["flops"], moved[name], whole["collectives"])
        made.append(
            Program(
                name, resident, whole["memory"] | {"known": known[name]}, whole["flops"], whole["collectives"], moved[name],
                time, calls[name], whole["seconds"],
            )
        )  # fmt: skip
    shapes_of_weights = {x.shape for x in jax.tree.leaves(policy.frozen or state.trainable) if len(x.shape) > 1}
    gathered = tuple(hlo.whole_weights(made[1].collectives, shapes_of_weights))
    return shapes.layout, made, gathered


def deep(config, spec, mesh, lengths, layers) -> tuple[list[tuple[int, dict[str, Compiled], int]], str]:
    """([(layers, programs, bytes of their known arguments)], why there are none)"""
    found = []
    for depth in layers or (spec.num_layers,):
        policy, state = programs.shape_policy(config, at_depth(spec, depth), mesh)
        shapes = programs.sampling_shapes(policy, state, config, lengths)
        known = bytes_on_device(shapes.weights) + bytes_on_device(shapes.slots)
        try:
            found.append((depth, programs.sampling_programs(policy, shapes), known))
        except DoesNotFit as error:
            return [], str(error)
    return found, ""


def prefill_calls(config: Any, lengths: Lengths, layout: Layout) -> float:
    """Prefill calls of a step's rollouts: heads, then tails (or every prompt by itself)."""
    M, B, N = config.evolution.num_prompts, config.task.num_problems, config.task.num_samples
    C = config.sampling.prefill_chunk
    R = max(1, config.sampling.prefill_tokens // C)
    if not config.sampling.share_prefixes:
        return math.ceil(M * B * N * math.ceil(lengths.context / C) / R)
    heads = M * math.ceil(lengths.head / C) if layout.heads else 0
    return math.ceil(heads / R) + math.ceil(M * B * math.ceil(lengths.problem / C) / R)


# -- learning ------------------------------------------------------------------------------------------------------------


def learning_study(config, spec, where, mesh, lengths, drawn) -> list[Program]:
    """gradient, of the widest row that may come, and apply."""
    policy, state = programs.shape_policy(config, spec, mesh)
    widest = programs.batches(config, mesh, lengths, [lengths.completion] * len(drawn))
    batch = programs.batch_shapes(max(widest, key=lambda one: one.tokens.shape[1]), mesh)
    T = batch.tokens.shape[1]
    usual = programs.batches(config, mesh, lengths, drawn)
    calls = {"gradient": sum(one.tokens.shape[1] for one in usual) / T, "apply": float(config.rl.num_minibatches)}
    resident, weights = residents(policy, state), bytes_on_device(policy.frozen or state.trainable)
    trained = bytes_on_device(state.trainable)
    known = {"gradient": weights + (trained if policy.frozen is not None else 0), "apply": bytes_on_device(state)}
    if config.rl.kl_coef > 0:  # the same weights once more under an adapter
        known["gradient"] += bytes_on_device(policy.plain_reference)
    try:
        compiled = programs.learning_programs(policy, state, config, batch, several=len(widest) > 1)
    except DoesNotFit as error:
        return [refused(name, resident, calls[name], str(error)) for name in calls]
    running = Running(loop=lambda depth: math.ceil(T / config.rl.head_chunk))
    made = []
    for name, one in compiled.items():
        found = analysed(one, known[name], running, mesh.size)
        passes = 1 + 2 * (config.model.remat != "none") + 2 * config.model.scan_layers if name == "gradient" else 1
        moved = passes * one.memory["arguments"] + 2 * one.memory["temporaries"]
        time = timed(where, found["flops"], moved, found["collectives"])
        made.append(
            Program(
                name, resident, found["memory"], found["flops"], found["collectives"], moved, time, calls[name], one.seconds
            )
        )
    return made


# -- both ----------------------------------------------------------------------------------------------------------------


def residents(policy: Any, state: Any) -> dict[str, int]:
    """{name: bytes a device} of what lives as long as the run."""
    adapter = policy.frozen is not None
    reference = policy.reference["lora"] if adapter else policy.reference
    return {
        "weights": bytes_on_device(policy.frozen if adapter else state.trainable),
        "adapter": bytes_on_device(state.trainable) if adapter else 0,
        "reference": bytes_on_device(reference) if reference is not None else 0,
        "optimizer": bytes_on_device(state.opt_state),
    }


def analysed(one: Compiled, known: int, running: Running, devices: int) -> dict[str, Any]:
    """What is read off a compiled program."""
    return {
        "memory": dict(one.memory) | {"known": known}, "flops": flops.count(one.jaxpr, running), "seconds": one.seconds,
        "collectives": tuple(hlo.collectives(one.text, devices, running)),
    }  # fmt: skip


def inferred(parts: list[tuple[int, dict[str, Any]]], layers: int) -> dict[str, Any]:
    """A program of so many layers from one of all, or from two of fewer: what one layer more adds, it adds each time."""
    if len(parts) == 1:
        return parts[0][1]
    (a, less), (b, more) = parts
    steps = (layers - a) / (b - a)

    def line(x, y):
        return max(0.0, x + (y - x) * steps)

    times = [{dataclasses.replace(one, times=0.0): one.times for one in part["collectives"]} for part in (less, more)]
    sent = [
        dataclasses.replace(one, times=line(times[0].get(one, 0.0), times[1].get(one, 0.0)))
        for one in dict.fromkeys([*times[0], *times[1]])
    ]
    return {
        "memory": {name: line(less["memory"][name], more["memory"][name]) for name in less["memory"]},
        "flops": line(less["flops"], more["flops"]), "seconds": less["seconds"] + more["seconds"],
        "collectives": tuple(sorted((one for one in sent if one.times), key=lambda one: -one.sent)),
    }  # fmt: skip


def timed(where: Slice, operations: float, moved: float, sent: tuple[Collective, ...]) -> Seconds | None:
    """Seconds of a call, where the chip is known."""
    if where.chip is None:
        return None
    return seconds(where.chip, where.chips, operations, moved * len(where.devices) / where.chips, sent)


def refused(name: str, resident: dict[str, int], calls: float, refusal: str) -> Program:
    """A program that does not fit."""
    return Program(name, resident, None, 0.0, (), 0.0, None, calls, 0.0, refusal)


def iteration(every: tuple[Program, ...], config: Any, given: Assumptions, layout: Layout) -> dict[str, float]:
    """Seconds of each phase of an iteration; {} where something is not known. Evaluations are not counted."""
    known = {one.name: one for one in every if one.seconds is not None}
    if len(known) < len(every):
        return {}
    bound = {name: one.seconds.bound for name, one in known.items()}
    phases = {name: one.calls * bound[name] for name, one in known.items()}
    if config.method != "rl":
        evolution, stages = config.evolution, REFLECTION_STAGES + config.evolution.crossover_probability
        asked = config.task.num_problems / 2 * config.task.num_samples  # half of the problems are mixed
        shown = min(given.completion_tokens, evolution.max_trajectory_words * TOKENS_PER_WORD) + given.prompt_tokens
        rounds = stages - 1 + math.ceil(asked / layout.slots)
        phases["reflect"] = (
            rounds * given.reply_tokens * bound["decode"] + asked * shown / config.sampling.prefill_tokens * bound["prefill"]
        )
    return phases
