"""Low-rank adapters (Hu et al. 2021): a second tree beside the frozen weights, with the same paths."""

import collections
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

TARGETS = ("q", "k", "v", "o", "gate", "up", "down")


def abstract(params: Any, names: Any, rank: int, targets: tuple[str, ...]) -> tuple[Any, Any]:
    """Shapes and logical dimension names of the adapter {"a": [in, rank], "b": [rank, out]} of each target projection."""
    shapes, axes = {}, {}
    flat_names = traverse_util.flatten_dict(names, is_leaf=lambda _, value: isinstance(value, tuple))
    for path, weight in traverse_util.flatten_dict(params).items():
        if path[-1] == "kernel" and path[-2] in targets:
            into, out = flat_names[path]
            shapes[path[:-1] + ("a",)] = jax.ShapeDtypeStruct((weight.shape[0], rank), jnp.float32)
            shapes[path[:-1] + ("b",)] = jax.ShapeDtypeStruct((rank, weight.shape[1]), jnp.float32)
            axes[path[:-1] + ("a",)] = (into, "lora")
            axes[path[:-1] + ("b",)] = ("lora", out)
    return traverse_util.unflatten_dict(shapes), traverse_util.unflatten_dict(axes)


def init(shapes: Any, key: jax.Array) -> Any:
    """a uniform in +-1/sqrt(in) (as PEFT), b zero: a fresh adapter changes nothing."""
    flat = sorted(traverse_util.flatten_dict(shapes).items())
    made = {path: jnp.zeros(leaf.shape, jnp.float32) for path, leaf in flat}
    alike = collections.defaultdict(list)  # drawn together: one draw a layer takes a minute to compile
    for path, leaf in flat:
        if path[-1] == "a":
            alike[leaf.shape].append(path)
    for i, (shape, paths) in enumerate(alike.items()):
        bound = shape[0] ** -0.5
        drawn = jax.random.uniform(jax.random.fold_in(key, i), (len(paths), *shape), jnp.float32, -bound, bound)
        made.update(zip(paths, drawn))
    return traverse_util.unflatten_dict(made)


def switched_off(adapter: Any) -> Any:
    """The adapter with every b zero: exactly the frozen weights, through the same program."""
    flat = traverse_util.flatten_dict(adapter)
    off = {path: jnp.zeros_like(leaf) if path[-1] == "b" else leaf for path, leaf in flat.items()}
    return traverse_util.unflatten_dict(off)


def merge(params: Any, adapter: Any, scale: float) -> Any:
    """Weights with the adapter's product added: kernel + scale * a @ b, in the kernel's dtype."""
    flat, low = traverse_util.flatten_dict(params), traverse_util.flatten_dict(adapter)
    for path in [path for path in low if path[-1] == "a"]:
        kernel = flat[path[:-1] + ("kernel",)]
        product = scale * (low[path] @ low[path[:-1] + ("b",)])
        flat[path[:-1] + ("kernel",)] = (kernel.astype(jnp.float32) + product).astype(kernel.dtype)
    return traverse_util.unflatten_dict(flat)
