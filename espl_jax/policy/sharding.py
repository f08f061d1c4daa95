"""Where every array lies on the mesh: logical names of dimensions, and one table that maps them to mesh axes.

The model names the dimensions of its weights, the sampler those of its cache, the learner those of its batch; nothing
outside this file knows a mesh axis. A dimension whose size its mesh axes do not divide is replicated (a cache of
3 key/value heads on tensor=2, say); an unknown name, or two dimensions of one array on the same mesh axis, is an error.
"""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "tensor")

RULES: dict[str, tuple[str, ...]] = {
    # activations
    "batch": ("data", "fsdp"),
    "length": (),
    # weights: split over fsdp along the model width and over tensor along the other dimension
    "vocab": ("tensor",),
    "embed": ("fsdp",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "mlp": ("tensor",),
    "norm": (),
    "lora": (),
    "head_dim": (),
}


def make_mesh(data: int, fsdp: int, tensor: int, devices: list | None = None) -> Mesh:
    """A mesh over `devices` (default: all) with the axes of AXES; one of the sizes may be -1, "the rest".

    Raises ValueError when the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = {"data": data, "fsdp": fsdp, "tensor": tensor}
    known = int(np.prod([size for size in sizes.values() if size != -1]))
    if list(sizes.values()).count(-1) > 1 or known < 1 or any(size < 1 and size != -1 for size in sizes.values()):
        raise ValueError(f"mesh is {sizes}; use sizes of 1 or more, and -1 at most once")
    shape = [len(devices) // known if size == -1 else size for size in sizes.values()]
    if int(np.prod(shape)) != len(devices):
        raise ValueError(f"mesh {sizes} does not fit {len(devices)} devices; their product must be that number")
    return Mesh(np.asarray(devices).reshape(shape), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def partition_spec(names: tuple[str | None, ...], shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
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
        fits = size % int(np.prod([mesh.shape[axis] for axis in axes])) == 0
        entries.append(axes if axes and fits else None)
    return PartitionSpec(*entries)


def named_sharding(names: tuple[str | None, ...], shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
    """The NamedSharding of an array from the logical names of its dimensions."""
    return NamedSharding(mesh, partition_spec(names, shape, mesh))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def tree_shardings(names_tree, shapes_tree, mesh: Mesh):
    """NamedShardings for a tree of logical names beside a tree of arrays or ShapeDtypeStructs of the same structure."""
    return jax.tree.map(
        lambda shape, names: named_sharding(tuple(names), shape.shape, mesh), shapes_tree, names_tree
    )


def constrain(x: jax.Array, names: tuple[str | None, ...], mesh: Mesh) -> jax.Array:
    """Pins an intermediate value inside jit to the layout that its dimension names have."""
    return jax.lax.with_sharding_constraint(x, named_sharding(names, x.shape, mesh))


def each_device(function, names, out, mesh: Mesh):
    """`function` of arrays, run by each device on its own part; names: of the dimensions of each argument, out: of the result.

    A dimension that its mesh axes do not divide is whole everywhere, and so are all dimensions of the same name: pass the names
    that divide together (`heads` splits only if `kv_heads` does).
    """
    if mesh.size == 1:
        return function

    def run(*arrays):
        whole = {
            name
            for array, dims in zip(arrays, names)
            for name, size in zip(dims, array.shape)
            if name and partition_spec((name,), (size,), mesh) == PartitionSpec(None)
        }
        whole |= {"heads", "kv_heads"} if whole & {"heads", "kv_heads"} else set()
        kept = [tuple(None if name in whole else name for name in dims) for dims in (*names, out)]
        specs = [PartitionSpec(*(RULES[name] if name else None for name in dims)) for dims in kept]
        return jax.shard_map(
            function, mesh=mesh, in_specs=tuple(specs[:-1]), out_specs=specs[-1], check_vma=False
        )(*arrays)

    return run


def batch_rows(rows: int, mesh: Mesh) -> int:
    """`rows` rounded up to a multiple of the devices that rows are split over."""
    unit = mesh.shape["data"] * mesh.shape["fsdp"]
    return -(-rows // unit) * unit
