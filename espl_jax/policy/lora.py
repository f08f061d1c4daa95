"""Low-rank adapters (Hu et al. 2021): a second tree beside the frozen weights, with the same paths."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

INIT_STREAM = 0x10A  # of host randomness
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


def init(shapes: Any, seed: int) -> Any:
    """Host arrays: a uniform in +-1/sqrt(in) (as PEFT), b zero: a fresh adapter changes nothing.

    Drawn by numpy: on the device the many small draws would take longer to compile than all other programs of a start.
    """
    made = {}
    for i, (path, leaf) in enumerate(sorted(traverse_util.flatten_dict(shapes).items())):
        if path[-1] == "a":
            bound, rng = leaf.shape[0] ** -0.5, np.random.default_rng((seed, INIT_STREAM, i))
            made[path] = bound * (2 * rng.random(leaf.shape, np.float32) - 1)
        else:
            made[path] = np.zeros(leaf.shape, np.float32)
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
