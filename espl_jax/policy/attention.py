"""Who sees whom: attention as values that the model is given, so that learner and sampler share every other line of it.

Each kind is a pytree and is called with q [B, L, H, E], k and v [B, L, K, E] and the layer's cache; it gives the attended
values [B, L, H, E] and the layer's new cache. The learner's kinds are in tree.py and paths.py.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from espl_jax.policy import packing, sharding, tree
from espl_jax.policy.paths import make_paths

Array = jax.Array


@flax.struct.dataclass
class Causal:
    """Each row by itself, every position seeing itself and those before it.

    implementation: of jax.nn.dot_product_attention (None: its own choice). The cache it gives is the row's (k, v).
    """

    implementation: str | None = flax.struct.field(pytree_node=False, default=None)

    def __call__(self, q: Array, k: Array, v: Array, cache: Any) -> tuple[Array, tuple[Array, Array]]:
        return jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation=self.implementation), (k, v)


def splash(q: Array, k: Array, v: Array, block: int = 512, interpret: bool = False) -> Array:
    """TPU splash attention of causal rows; L a multiple of 128."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel, splash_attention_mask

    (B, L, H, E), K = q.shape, k.shape[2]
    size = min(block, L)
    names = ("block_q", "block_kv", "block_kv_compute", "block_q_dkv", "block_kv_dkv", "block_kv_dkv_compute")
    blocks = splash_attention_kernel.BlockSizes(
        **dict.fromkeys(names, size), block_q_dq=size, block_kv_dq=size
    )
    mask = splash_attention_mask.MultiHeadMask([splash_attention_mask.CausalMask((L, L))] * (H // K))
    kernel = splash_attention_kernel.make_splash_mqa_single_device(mask, block_sizes=blocks, interpret=interpret)
    q = (q / math.sqrt(E)).astype(q.dtype).reshape(B, L, K, H // K, E).transpose(0, 2, 3, 1, 4)
    out = jax.vmap(jax.vmap(kernel))(q, k.swapaxes(1, 2), v.swapaxes(1, 2))
    return out.transpose(0, 3, 1, 2, 4).reshape(B, L, H, E)


def cudnn(q: Array, k: Array, v: Array) -> Array:
    """cuDNN's flash attention of causal rows, for 16-bit types on NVIDIA."""
    return jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation="cudnn")


# (packed trees, one a row; T) -> the learner's `attend`
Layout = Callable[[Sequence[packing.Tree], int], Any]


def tree_layout(mesh: Mesh) -> Layout:
    """Plain JAX, on any device."""
    split = functools.partial(sharding.spread_heads, mesh=mesh)
    return lambda trees, T: tree.make_tree(np.stack([one.ends(T) for one in trees]), split)


def fused_layout(kernel: Callable, mesh: Mesh) -> Layout:
    """A kernel for causal rows."""
    return functools.partial(make_paths, causal=kernel, split=functools.partial(sharding.spread_heads, mesh=mesh))


LAYOUTS: dict[str, Callable[[Mesh], Layout]] = {
    "xla": tree_layout,
    "cudnn": functools.partial(fused_layout, cudnn),
    "splash": functools.partial(fused_layout, splash),
}
# What "auto" is: by kind of device, for 16-bit types and for others
AUTOMATIC = {"cpu": ("xla", "xla"), "gpu": ("cudnn", "xla"), "tpu": ("splash", "splash")}


def make_layout(name: str, dtype: str, mesh: Mesh) -> Layout:
    """The learner's layout for config.model.attention and config.model.dtype."""
    if name == "auto":
        name = AUTOMATIC[mesh.devices.flat[0].platform][jnp.dtype(dtype).itemsize > 2]
    return LAYOUTS[name](mesh)
