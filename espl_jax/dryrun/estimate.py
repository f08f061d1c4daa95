"""Memory by formula, for what is not compiled: which mesh to try, and what would make a run fit.

policy/memory.py has the terms of one device; here they are divided over a mesh as it says there.
"""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jax.sharding import Mesh

from espl_jax.dryrun.chips import CHIPS, GIB, SLICES, Slice
from espl_jax.dryrun.programs import Lengths, requests
from espl_jax.policy import memory, sharding
from espl_jax.policy.cache import Layout
from espl_jax.policy.layout import layout_of
from espl_jax.policy.model import ModelSpec
from espl_jax.policy.packing import whole_blocks
from espl_jax.policy.schedule import cut

LARGER = frozenset({"--topology"})
PLAIN = "none"  # the platform of a device that nothing is compiled for
Needs = dict[str, float]  # {"sampling", "learning"} -> bytes a device


@dataclass(frozen=True)
class Place:
    """A device to count with."""

    id: int
    platform: str = PLAIN


@dataclass(frozen=True)
class Remedy:
    """Changes (text), and what each phase is estimated to need with them."""

    text: str
    needs: Needs


def sampler_layout(config: Any, mesh: Mesh, lengths: Lengths) -> Layout:
    """The shapes of the rollouts' call."""
    asked = requests(config, lengths)
    pieces = cut(asked, config.sampling.share_prefixes)
    return layout_of(asked, [lengths.completion] * len(asked), pieces, config.sampling, config.model.max_length, mesh)


def widest_row(config: Any, mesh: Mesh, lengths: Lengths) -> int:
    """T of the longest trajectory's packed row (batch.by_width)."""
    T = whole_blocks(-(-config.rl.micro_batch_tokens // sharding.batch_rows(1, mesh)), mesh.shape["sequence"])
    while T < lengths.context + lengths.completion - 1:
        T *= 2
    return T


def estimate(config: Any, spec: ModelSpec, devices: int, lengths: Lengths) -> Needs:
    """Bytes a device. Raises ValueError when the mesh does not fit the devices."""
    mesh = sharding.make_mesh(**config.mesh, devices=[Place(number) for number in range(devices)])
    tensor, rows, sequence = mesh.shape["tensor"], sharding.ways("slots", mesh), mesh.shape["sequence"]
    parts = sharding.ways("embed", mesh) * tensor
    heads = tensor if spec.num_kv_heads % tensor == 0 else 1
    layout, T = sampler_layout(config, mesh, lengths), widest_row(config, mesh, lengths)
    run = sum(memory.run_terms(spec, config).values()) / parts
    if config.sampling.weights_layout == "gathered":
        run += memory.run_terms(spec, config)["weights"] / tensor
    cache = memory.cache_bytes(spec, config, layout) / (rows * heads)
    decode, prefill = memory.decode_bytes(spec, config, layout), memory.prefill_bytes(spec, config, layout)
    terms = memory.gradient_terms(spec, config, T, several=True, platform="tpu")
    like_weights = sum(terms[name] for name in ("gradient", "stacked", "weights in model.dtype")) / parts
    kept = terms["kept for backward"] / sequence / (1 if config.model.remat == "layer" else tensor)
    return {
        "sampling": run + cache + max(decode / (rows * tensor), prefill / tensor),
        "learning": run + like_weights + kept + terms["head or layer"] / (sequence * tensor),
    }


def changed(config: Any, **fields: Any) -> Any:
    """A copy of the configuration with some dotted fields (__ for the dot) set."""
    copy = config.copy_and_resolve_references()
    copy.update_from_flattened_dict({name.replace("__", "."): value for name, value in fields.items()})
    return copy


def meshes(config: Any, spec: ModelSpec, devices: int, lengths: Lengths) -> list[Any]:
    """The configuration with each mesh that splits the key/value heads evenly; what needs least memory first."""
    sizes = [2**i for i in range(devices.bit_length())]
    found = []
    for fsdp, sequence, tensor in itertools.product(sizes, sizes, sizes):
        split = fsdp * sequence * tensor
        if devices % split or spec.num_kv_heads % tensor or spec.width % (fsdp * sequence):
            continue
        sides = {"data": devices // split, "fsdp": fsdp, "sequence": sequence, "tensor": tensor}
        one = changed(config, **{f"mesh__{name}": size for name, size in sides.items()})
        found.append((max(estimate(one, spec, devices, lengths).values()), fsdp, sequence, one))
    return [entry[-1] for entry in sorted(found, key=lambda entry: entry[:-1])]


def single_changes(config: Any, spec: ModelSpec, where: Slice, lengths: Lengths) -> Iterator[tuple[str, Any, int]]:
    """(text, configuration, devices) of each change on the same slice that may help."""
    devices, size = len(where.devices), config.sampling.batch_size
    while size > 8:
        size //= 2
        yield f"sampling.batch_size={size}", changed(config, sampling__batch_size=size), devices
    if config.sampling.cache_dtype != "int8":
        yield "sampling.cache_dtype=int8", changed(config, sampling__cache_dtype="int8"), devices
    if config.model.remat != "layer":
        yield "model.remat=layer", changed(config, model__remat="layer"), devices
    tokens = config.rl.micro_batch_tokens
    while tokens > 1024:
        tokens //= 2
        yield f"rl.micro_batch_tokens={tokens}", changed(config, rl__micro_batch_tokens=tokens), devices
    for one in meshes(config, spec, devices, lengths)[:2]:
        yield mesh_text(one), one, devices


def larger_slices(config: Any, spec: ModelSpec, where: Slice, lengths: Lengths) -> Iterator[tuple[str, Any, int]]:
    """The same of more chips, each with the mesh that needs least."""
    kind, _, shape = where.name.partition(":")
    larger = SLICES.get(kind, ())
    for slice_ in larger[larger.index(shape) + 1 :] if shape in larger else ():
        more = CHIPS[kind].devices
        for side in slice_.split("x"):
            more *= int(side)
        best = meshes(config, spec, more, lengths)[0]
        yield f"--topology={kind}:{slice_} {mesh_text(best)}", best, more


def mesh_text(config: Any) -> str:
    """The mesh as flags without their beginning."""
    return " ".join(f"mesh.{name}={size}" for name, size in config.mesh.items() if size != 1)


def needs_text(needs: Needs) -> str:
    """In words."""
    return f"sampling {needs['sampling'] / GIB:,.2f}, learning {needs['learning'] / GIB:,.2f} GiB"


def remedies(config: Any, spec: ModelSpec, where: Slice, lengths: Lengths, measured: Needs) -> list[Remedy]:
    """What would make it fit: single changes, or else pairs; the formula's figures, scaled to what was measured."""
    before = estimate(config, spec, len(where.devices), lengths)
    scale = {phase: measured.get(phase, before[phase]) / before[phase] for phase in before}

    def scaled(one, devices):
        return {phase: value * scale[phase] for phase, value in estimate(one, spec, devices, lengths).items()}

    def fitting(options):
        found = [Remedy(text, scaled(one, devices)) for text, one, devices in options]
        return [one for one in found if max(one.needs.values()) <= where.device_memory]

    singles, larger = list(single_changes(config, spec, where, lengths)), larger_slices(config, spec, where, lengths)
    found = fitting(singles)
    if not found:
        found = fitting(
            (f"{a} {b}", one, devices)
            for a, first, devices in singles
            for b, one, _ in single_changes(first, spec, where, lengths)
            if a.partition("=")[0] != b.partition("=")[0]
        )
    return first_of_each(found + fitting(larger))


def first_of_each(found: list[Remedy]) -> list[Remedy]:
    """The mildest remedy of each kind: they come with the mildest first."""
    kinds: dict[frozenset[str], Remedy] = {}
    for one in found:
        fields = frozenset(re.findall(r"(mesh|\S+)\S*=", one.text))
        kinds.setdefault(LARGER if LARGER <= fields else fields, one)
    return list(kinds.values())
