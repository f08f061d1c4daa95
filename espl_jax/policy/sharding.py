"""Where every array lies on the mesh: logical names of dimensions, and one table that maps them to mesh axes.

The model names the dimensions of its weights and activations, the sampler those of its cache, the learner those of its batch;
nothing outside this file knows a mesh axis. A dimension is split over as many of its mesh axes, from the first on, as divide
its size (a cache of 3 key/value heads on tensor=2 is replicated, say); an unknown name, or two dimensions of one array on the
same mesh axis, is an error. docs/meshes.md says what the axes are for.
"""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "sequence", "tensor")  # devices next to each other are along the last, which talks most

RULES: dict[str, tuple[str, ...]] = {
    # the learner's activations: packed rows and their tokens; where a device needs all tokens of a row, it has a share of the
    # width, or of the heads; the targets of a row are dealt out to the devices that share the row
    "batch": ("data", "fsdp"),
    "tokens": ("sequence",),
    "width": ("sequence",),
    "attending_heads": ("tensor", "sequence"),
    "dealt": ("data", "fsdp", "sequence"),
    # the sampler's: sequences that decode together, and those on which devices with different parts of a weight work together
    "slots": ("data", "fsdp", "sequence"),
    "together": ("data",),
    "half_embed": ("fsdp",),  # on the way from `embed` to rows and tokens: one mesh axis moves at a time
    # weights: split over fsdp and sequence along the model width and over tensor along the other dimension
    "vocab": ("tensor",),
    "embed": ("fsdp", "sequence"),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "mlp": ("tensor",),
    "norm": (),
    "lora": (),
    "head_dim": (),
}

Names = tuple[str | None, ...]


@dataclasses.dataclass(frozen=True)
class Flow:
    """Dimension names of activations.

    found: rows of the embedding [B, L, D], as they are looked up, and on the way to `hidden`, what layers hand on, [B, L, D].
    heads, kv_heads: queries [B, L, H, E], keys and values [B, L, K, E]. attended: [B, L, H * E], as the output projection reads
    it. units: of the feed-forward, [B, L, F]. gathers: whether a weight's width is gathered for each product (for many tokens).
    """

    found: tuple[Names, ...]
    hidden: Names
    heads: Names
    kv_heads: Names
    attended: Names
    units: Names
    gathers: bool


LEARNING = Flow(
    found=(("together", None, "embed"), ("together", "tokens", "half_embed")),
    hidden=("batch", "tokens", None),
    heads=("batch", "tokens", "heads", None),
    kv_heads=("batch", "tokens", "kv_heads", None),
    attended=("batch", "tokens", "heads"),
    units=("batch", "tokens", "mlp"),
    gathers=True,
)
# config.sampling.weights_layout -> how activations lie while sampling. same: weights stay where they are, and activations of
# a token, which are few, travel; gathered: each device has all that tensor does not split, and slots of its own
SAMPLING = {
    "same": Flow(
        found=(("together", None, "embed"),),
        hidden=("together", None, "embed"),
        heads=("slots", None, "heads", None),
        kv_heads=("slots", None, "kv_heads", None),
        attended=("together", None, "heads"),
        units=("together", None, "mlp"),
        gathers=False,
    ),
    "gathered": Flow(
        found=(("slots", None, None),),
        hidden=("slots", None, None),
        heads=("slots", None, "heads", None),
        kv_heads=("slots", None, "kv_heads", None),
        attended=("slots", None, "heads"),
        units=("slots", None, "mlp"),
        gathers=False,
    ),
}


def make_mesh(data: int, fsdp: int, tensor: int, devices: list | None = None, *, sequence: int = 1) -> Mesh:
    """A mesh over `devices` (default: all) with the axes of AXES; one of the sizes may be -1, "the rest".

    Raises ValueError when the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = {"data": data, "fsdp": fsdp, "tensor": tensor, "sequence": sequence}
    known = int(np.prod([size for size in sizes.values() if size != -1]))
    if list(sizes.values()).count(-1) > 1 or known < 1 or any(size < 1 and size != -1 for size in sizes.values()):
        raise ValueError(f"mesh is {sizes}; use sizes of 1 or more, and -1 at most once")
    sizes = {name: len(devices) // known if size == -1 else size for name, size in sizes.items()}
    shape = tuple(sizes[axis] for axis in AXES)
    if int(np.prod(shape)) != len(devices):
        raise ValueError(f"mesh {sizes} does not fit {len(devices)} devices; their product must be that number")
    return Mesh(arranged(devices, shape), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def arranged(devices: list, shape: tuple[int, ...]) -> np.ndarray:
    """The devices as an array; on TPU, axes follow the wires where they can."""
    if getattr(devices[0], "platform", None) == "tpu":
        with contextlib.suppress(NotImplementedError, ValueError):  # a shape that the wires do not have
            return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    return np.asarray(devices).reshape(shape)


def partition_spec(names: Names, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """The PartitionSpec of an array from the logical names of its dimensions (None: replicated)."""
    if len(names) != len(shape):
        raise ValueError(f"an array of shape {shape} has {len(names)} names {names}; name each dimension")
    entries, used = [], set()
    for name, size in zip(names, shape):
        if name is not None and name not in RULES:
            raise ValueError(f"unknown dimension name {name!r} in {names}; add it to sharding.RULES")
        axes = RULES[name] if name is not None else ()
        if used & set(axes):
            raise ValueError(f"{names} puts two dimensions on the mesh axes {sorted(used & set(axes))}")
        used |= set(axes)
        while size % int(np.prod([mesh.shape[axis] for axis in axes])):
            axes = axes[:-1]
        entries.append(axes or None)
    return PartitionSpec(*entries)


def named_sharding(names: Names, shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
    """The NamedSharding of an array from the logical names of its dimensions."""
    return NamedSharding(mesh, partition_spec(names, shape, mesh))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def put(tree: Any, layout: NamedSharding) -> Any:
    """Host arrays that every process has, on the devices; of several processes, each feeds its own."""
    if layout.is_fully_addressable:
        return jax.device_put(tree, layout)
    with jax.transfer_guard("allow"):  # this one is meant, which the guard does not see
        return jax.tree.map(lambda x: jax.make_array_from_callback(np.shape(x), layout, np.asarray(x).__getitem__), tree)


def tree_shardings(names_tree, shapes_tree, mesh: Mesh):
    """NamedShardings for a tree of logical names beside a tree of arrays or ShapeDtypeStructs of the same structure."""
    return jax.tree.map(
        lambda shape, names: named_sharding(tuple(names), shape.shape, mesh), shapes_tree, names_tree
    )


def constrain(x: jax.Array, names: Names, mesh: Mesh) -> jax.Array:
    """Pins an intermediate value inside jit to the layout that its dimension names have."""
    return jax.lax.with_sharding_constraint(x, named_sharding(names, x.shape, mesh))


# -- sizes that do not divide --------------------------------------------------------------------------------------------


def ways(name: str, mesh: Mesh) -> int:
    """The number of parts that a dimension of this name has, where it divides."""
    return int(np.prod([mesh.shape[axis] for axis in RULES[name]]))


def rounded(size: int, name: str, mesh: Mesh, unit: int = 1) -> int:
    """A size of a dimension of this name, rounded up to what its mesh axes divide; if they do, into multiples of `unit`."""
    whole = ways(name, mesh) * (unit if ways(name, mesh) > 1 else 1)
    return -(-size // whole) * whole


def batch_rows(rows: int, mesh: Mesh) -> int:
    """`rows` rounded up to a multiple of the devices that rows are split over."""
    return rounded(rows, "batch", mesh)


def check_weights(sizes: dict[str, tuple[str, int]], mesh: Mesh) -> None:
    """Refuses weights that the mesh would not split. sizes: {dimension name: (in words, size)}.

    Raises ValueError naming the mesh axes and what divides.
    """
    for name, (words, size) in sizes.items():
        parts, axes = ways(name, mesh), " * ".join(f"mesh.{axis}" for axis in RULES[name])
        if size % parts:
            fitting = [str(n) for n in range(1, mesh.size + 1) if size % n == 0]
            raise ValueError(f"{axes} is {parts}, which does not divide the model's {words}, {size}; use {', '.join(fitting)}")


def share_heads(heads: int, kv_heads: int, parts: int) -> tuple[int, int]:
    """(copies of each key/value head, key/value heads with copies and padding) that `parts` divide, for the least arithmetic.

    A copy takes over a share of the queries of its head: 9 query and 3 key/value heads in 2 parts are 9 heads with a query each
    and a tenth for nothing.
    """
    group = heads // kv_heads
    choices = [(-(-kv_heads * n // parts) * parts * (group // n), n) for n in range(1, group + 1) if group % n == 0]
    _, copies = min(choices)
    return copies, -(-kv_heads * copies // parts) * parts


def spread_heads(attend: Callable, mesh: Mesh) -> Callable:
    """`attend(q [R, T, H, E], k, v [R, T, K, E], tables [R, ...]...) -> [R, T, H, E]`, each device with its rows and heads.

    A device has all tokens of its heads, so that any kernel can be used, and heads are split over tensor and sequence: what had
    a share of the tokens and all heads gets all tokens and a share of the heads (Jacobs et al. 2023, arXiv 2309.14509).
    """
    if mesh.size == 1:
        return attend
    parts, [axis] = ways("attending_heads", mesh), RULES["tokens"]

    def exchanged(q: jax.Array, k: jax.Array, v: jax.Array, *tables: Any) -> jax.Array:
        q, k, v = (jax.lax.all_to_all(x, axis, split_axis=2, concat_axis=1, tiled=True) for x in (q, k, v))
        return jax.lax.all_to_all(attend(q, k, v, *tables), axis, split_axis=1, concat_axis=2, tiled=True)

    def run(q: jax.Array, k: jax.Array, v: jax.Array, *tables: Any) -> jax.Array:
        (R, T, H, E), K = q.shape, k.shape[2]
        copies, padded = share_heads(H, K, parts)
        more, group = padded - K * copies, H // (K * copies)
        q = jnp.pad(q.reshape(R, T, K * copies, group, E), ((0, 0), (0, 0), (0, more), (0, 0), (0, 0)))
        k, v = (jnp.pad(jnp.repeat(x, copies, axis=2), ((0, 0), (0, 0), (0, more), (0, 0))) for x in (k, v))
        given = (q.reshape(R, T, padded * group, E), k, v)
        names = [("batch", "tokens", "heads", None)] * 3 + [("batch",) + (None,) * (x.ndim - 1) for x in tables]
        specs = [partition_spec(dims, x.shape, mesh) for dims, x in zip(names, (*given, *tables))]
        each = exchanged if mesh.shape[axis] > 1 else attend
        split = jax.shard_map(each, mesh=mesh, in_specs=tuple(specs), out_specs=specs[0], check_vma=False)
        return split(*given, *tables)[:, :, :H]

    return run


# -- weights while sampling ----------------------------------------------------------------------------------------------


def gathered(tree: Any) -> Any:
    """The layouts of a tree of weights with what fsdp and sequence split whole (config.sampling.weights_layout)."""

    def layout(x):
        entries = [entry if isinstance(entry, tuple) else (entry,) for entry in x.sharding.spec]
        kept = [tuple(axis for axis in entry if axis and axis not in RULES["embed"]) for entry in entries]
        return NamedSharding(x.sharding.mesh, PartitionSpec(*(axes or None for axes in kept)))

    return jax.tree.map(layout, tree)


def gather(tree: Any) -> Any:
    """Weights laid out so, for as long as they are held."""
    return jax.jit(_itself, out_shardings=gathered(tree))(tree)


def _itself(tree: Any) -> Any:
    return tree
