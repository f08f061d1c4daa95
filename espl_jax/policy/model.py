"""The policy: a dense decoder of the Llama / Qwen family as pure functions over pytrees.

Covers Llama 3.x (Touvron et al. 2023; with the rope scaling of Llama 3.1) and SmolLM2, Qwen2 and Qwen2.5 (bias on q, k, v)
and Qwen3 (norm on q and k), with tied or untied heads and grouped queries. Weights are {"params": ...}; an adapter, if there is
one, is a second collection {"lora": ...} with the same paths (Hu et al. 2021), so that leaving it out, or zeroing it, *is* the
reference policy. Norms, softmax and logits are float32 whatever the compute dtype. Dimension letters: espl_jax/structs.py.
"""

import dataclasses
import functools
import itertools
import math
import operator
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from espl_jax.policy import sharding
from espl_jax.policy.attention import Causal

Array = jax.Array
# (q [B, L, H, E], k and v [B, L, K, E] after rope, the layer's cache) -> (attended [B, L, H, E], the layer's new cache)
# Its kinds are in attention.py; each is a pytree.
Attend = Callable[[Array, Array, Array, Any], tuple[Array, Any]]
FEW_ROWS = 64  # of a product with a kernel that lies [out, in]: see product
Pin = Callable[[Array, str], Array]  # a value laid out as this field of sharding.Flow says


@dataclasses.dataclass(frozen=True)
class Llama3Rope:
    """Rope scaling of Llama 3.1 (Hugging Face rope_type "llama3")."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position: int


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """Everything about the architecture that shapes and numbers depend on."""

    vocab_size: int
    width: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_width: int
    rope_theta: float
    rope_scaling: Llama3Rope | None
    norm_eps: float
    tied_head: bool
    qkv_bias: bool
    qk_norm: bool
    max_positions: int

    def __post_init__(self):
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"config.json has {self.num_heads} query heads and {self.num_kv_heads} key/value heads; "
                "the first must be a multiple of the second"
            )


def rope_frequencies(spec: ModelSpec) -> Array:
    """Angles per position of each pair of a head's dimensions, float32 [E / 2]."""
    exponents = jnp.arange(0, spec.head_dim, 2, dtype=jnp.float32) / spec.head_dim
    frequencies = 1.0 / (spec.rope_theta**exponents)
    if spec.rope_scaling is None:
        return frequencies
    scaling = spec.rope_scaling
    wavelengths = 2 * math.pi / frequencies
    smooth = (scaling.original_max_position / wavelengths - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    smooth = jnp.clip(smooth, 0.0, 1.0)  # 0: a long wave, slowed by the factor; 1: a short one, kept
    return (1 - smooth) * frequencies / scaling.factor + smooth * frequencies


Rope = tuple[Array, Array]  # cosines, and sines with those of the first half negated, float32 [B, L, 1, E]


def rope_table(positions_BL: Array, spec: ModelSpec) -> Rope:
    """The angles of every position, once for all layers: left to itself, XLA on CPU computes them again in each."""
    angles = positions_BL[..., None, None].astype(jnp.float32) * rope_frequencies(spec)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    return jax.lax.optimization_barrier((jnp.concatenate([cos, cos], axis=-1), jnp.concatenate([-sin, sin], axis=-1)))


def apply_rope(x_BLHE: Array, rope: Rope) -> Array:
    """Rotates each pair (i, i + E/2) of a head's dimensions by position (Hugging Face's pairing)."""
    cos, sin = rope
    x = x_BLHE.astype(jnp.float32)
    return (x * cos + jnp.roll(x, x.shape[-1] // 2, axis=-1) * sin).astype(x_BLHE.dtype)


class RMSNorm(nn.Module):
    """Root mean square norm (Zhang and Sennrich 2019), in float32."""

    eps: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        names = nn.with_logical_partitioning(nn.initializers.ones, ("norm",))
        scale = self.param("scale", names, (x.shape[-1],), jnp.float32)
        x32 = x.astype(jnp.float32)
        normed = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + self.eps)
        return normed.astype(x.dtype) * scale.astype(x.dtype)


class Linear(nn.Module):
    """x @ kernel (+ bias) (+ the adapter's low-rank product, when the collection "lora" holds one for this path).

    axes: names of the kernel's dimensions. whole(weight, names): the weight as it is multiplied.
    """

    features: int
    axes: tuple[str, str]
    dtype: Any
    lora_scale: float
    whole: Callable[[Array, tuple], Array]
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        if self.has_variable("fused", "kernel"):
            return product(x, self.get_variable("fused", "kernel"))
        init = nn.with_logical_partitioning(nn.initializers.normal(0.02), self.axes)
        kernel = self.param("kernel", init, (x.shape[-1], self.features), jnp.float32)
        shape, x = x.shape, x.reshape(-1, x.shape[-1])  # plain matrix products: XLA on CPU does others slowly
        y = x @ self.whole(kernel.astype(self.dtype), self.axes)
        if self.has_variable("lora", "a"):
            a = self.whole(self.get_variable("lora", "a").astype(self.dtype), (self.axes[0], "lora"))
            b = self.whole(self.get_variable("lora", "b").astype(self.dtype), ("lora", self.axes[1]))
            y = y + (x @ a * jnp.asarray(self.lora_scale, self.dtype)) @ b
        if self.use_bias:
            init = nn.with_logical_partitioning(nn.initializers.zeros, (self.axes[1],))
            y = y + self.param("bias", init, (self.features,), jnp.float32).astype(self.dtype)
        return y.reshape(*shape[:-1], self.features)


class Attention(nn.Module):
    """Self-attention with grouped queries: projections and rope here; who sees whom is the business of `attend`."""

    spec: ModelSpec
    linear: Callable[..., nn.Module]
    pin: Pin

    @nn.compact
    def __call__(self, x_BLD: Array, rope: Rope, attend: Attend, cache: Any) -> tuple[Array, Any]:
        spec, (B, L, D) = self.spec, x_BLD.shape
        widths = {"q": spec.num_heads * spec.head_dim, "k": spec.num_kv_heads * spec.head_dim}
        widths["v"] = widths["k"]
        linears = {
            name: self.linear(width, ("embed", "heads" if name == "q" else "kv_heads"), use_bias=spec.qkv_bias, name=name)
            for name, width in widths.items()
        }
        q, k, v = together(self, linears, x_BLD)
        q = self.pin(q.reshape(B, L, spec.num_heads, spec.head_dim), "heads")
        k = self.pin(k.reshape(B, L, spec.num_kv_heads, spec.head_dim), "kv_heads")
        v = self.pin(v.reshape(B, L, spec.num_kv_heads, spec.head_dim), "kv_heads")
        if spec.qk_norm:
            q = RMSNorm(spec.norm_eps, name="q_norm")(q)
            k = RMSNorm(spec.norm_eps, name="k_norm")(k)
        q, k = apply_rope(q, rope), apply_rope(k, rope)
        out_BLHE, cache = attend(q, k, v, cache)
        attended = self.pin(out_BLHE.astype(x_BLD.dtype).reshape(B, L, -1), "attended")
        return self.linear(D, ("heads", "embed"), name="o")(attended), cache


def together(module: nn.Module, linears: dict[str, Linear], x: Array) -> list[Array]:
    """Several projections of one input; a single product where the collection "fused" holds their kernels (merged.py)."""
    name = "_".join(linears)
    if not module.has_variable("fused", name):
        return [linear(x) for linear in linears.values()]
    fused = module.get_variable("fused", name)
    y = product(x, fused["kernel"])
    if "bias" in fused:
        y = y + fused["bias"].astype(x.dtype)
    ends = list(itertools.accumulate(linear.features for linear in linears.values()))
    return jnp.split(y, ends[:-1], axis=-1)


def product(x: Array, kernel_OI: Array) -> Array:
    """x [..., in] times a kernel that lies [out, in].

    XLA on CPU copies the right side of a product before it multiplies. Few rows are therefore multiplied from the left, so that
    it is them that are copied and not the kernel; the barriers keep XLA from turning the product around again.
    """
    x_NI, kernel_OI = x.reshape(-1, x.shape[-1]), kernel_OI.astype(x.dtype)
    if len(x_NI) <= FEW_ROWS:
        y_NO = jax.lax.optimization_barrier(kernel_OI @ jax.lax.optimization_barrier(x_NI.T)).T
    else:
        y_NO = x_NI @ kernel_OI.T
    return y_NO.reshape(*x.shape[:-1], y_NO.shape[-1])


class MLP(nn.Module):
    """SwiGLU feed-forward (Shazeer 2020)."""

    spec: ModelSpec
    linear: Callable[..., nn.Module]
    pin: Pin

    @nn.compact
    def __call__(self, x_BLD: Array) -> Array:
        linears = {name: self.linear(self.spec.mlp_width, ("embed", "mlp"), name=name) for name in ("gate", "up")}
        gate, up = together(self, linears, x_BLD)
        return self.linear(x_BLD.shape[-1], ("mlp", "embed"), name="down")(self.pin(nn.silu(gate) * up, "units"))


class Layer(nn.Module):
    """One pre-norm transformer layer."""

    spec: ModelSpec
    linear: Callable[..., nn.Module]
    pin: Pin

    @nn.compact
    def __call__(self, x_BLD: Array, rope: Rope, attend: Attend, cache: Any) -> tuple[Array, Any]:
        attention = Attention(self.spec, self.linear, self.pin, name="attention")
        normed = self.pin(RMSNorm(self.spec.norm_eps, name="attention_norm")(x_BLD), "hidden")
        attended, cache = attention(normed, rope, attend, cache)
        x_BLD = x_BLD + attended
        normed = self.pin(RMSNorm(self.spec.norm_eps, name="mlp_norm")(x_BLD), "hidden")
        return x_BLD + MLP(self.spec, self.linear, self.pin, name="mlp")(normed), cache


# config.model.remat -> what of a layer is kept for the backward pass (the rest is computed again): everything; what leaves
# attention and products with weights; what leaves attention; nothing but the layer's input
REMAT = {
    "none": None,
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable, jax.checkpoint_policies.save_only_these_names("attended")
    ),
    "attention": jax.checkpoint_policies.save_only_these_names("attended"),
    "layer": jax.checkpoint_policies.nothing_saveable,
}


class Decoder(nn.Module):
    """Tokens to hidden states, and hidden states to logits.

    dtype: of activations and products. implementation: of attention without a cache (attention.Causal).
    remat: one of REMAT. scan_layers: without caches, compile one layer and loop over the weights,
    which are stacked for the call: compiles in a fraction of the time and holds a second copy of the layers' weights meanwhile.
    constrain(x, names): pins a value's layout on the mesh. flow: the names of activations. vocab_rows: of embedding and head,
    the vocabulary or more (a padding that the mesh divides; its rows are zeros and no token's). None: the vocabulary.
    """

    spec: ModelSpec
    dtype: Any = jnp.float32
    implementation: str | None = None
    remat: str = "none"
    scan_layers: bool = False
    lora_scale: float = 1.0
    constrain: Callable[[Array, tuple], Array] = lambda x, names: x
    flow: sharding.Flow = sharding.LEARNING
    vocab_rows: int | None = None

    def setup(self):
        init = nn.with_logical_partitioning(nn.initializers.normal(0.02), ("vocab", "embed"))
        rows = self.spec.vocab_size if self.vocab_rows is None else self.vocab_rows
        self.embedding = self.param("embedding", init, (rows, self.spec.width), jnp.float32)
        if not self.spec.tied_head:
            init = nn.with_logical_partitioning(nn.initializers.normal(0.02), ("vocab", "embed"))
            self.head = self.param("head", init, (rows, self.spec.width), jnp.float32)
        self.layers = [Layer(self.spec, self.linear(), self.pin()) for _ in range(self.spec.num_layers)]
        self.final_norm = RMSNorm(self.spec.norm_eps)

    def linear(self) -> Callable[..., nn.Module]:
        whole = functools.partial(whole_width, self.constrain, self.flow)
        return functools.partial(Linear, dtype=self.dtype, lora_scale=self.lora_scale, whole=whole)

    def pin(self) -> Pin:
        return functools.partial(pinned, self.constrain, self.flow)

    def __call__(
        self, tokens_BL: Array, positions_BL: Array, attend: Attend | None = None, caches: tuple | None = None
    ) -> tuple[Array, tuple]:
        """Hidden states [B, L, D] after the last norm, and each layer's cache as `attend` gives it back.

        tokens, positions: int32 [B, L]. attend: who sees whom, a pytree; None: each row by itself, causally, with positions
        0..L-1 (padding at the end is seen by nobody before it). caches: one a layer, or None. Token ids outside the vocabulary
        give the last row, so pad with any valid id.
        """
        attend = Causal(self.implementation) if attend is None else attend
        rope = rope_table(positions_BL, self.spec)
        tokens_BL = self.constrain(tokens_BL, self.flow.found[0][:2])
        x_BLD = jnp.take(self.embedding, tokens_BL, axis=0, mode="clip").astype(self.dtype)
        for names in self.flow.found:
            x_BLD = self.constrain(x_BLD, names)
        if self.is_initializing():
            for layer in self.layers:
                x_BLD, _ = layer(x_BLD, rope, attend, None)
            return self.final_norm(x_BLD), ()
        run = self.scanned if self.scan_layers and caches is None else self.unrolled
        x_BLD, new_caches = run(x_BLD, rope, attend, caches or (None,) * self.spec.num_layers)
        return self.final_norm(x_BLD), new_caches

    def layer(self) -> Callable:
        """(weights of a layer, hidden states, rope, attend, its cache) -> (hidden states, its cache); for all layers."""
        module = Layer(self.spec, self.linear(), self.pin(), parent=None)

        def run(variables, x_BLD, rope, attend, cache):
            return module.apply(variables, self.constrain(x_BLD, self.flow.hidden), rope, attend, cache)

        return run if self.remat == "none" else jax.checkpoint(run, policy=REMAT[self.remat])

    def unrolled(self, x_BLD: Array, rope: Rope, attend: Attend, caches: tuple) -> tuple[Array, tuple]:
        """A layer after the other, each with its own operations in the program; jit, so that they are traced once for all."""
        layer, new_caches = jax.jit(self.layer()), []
        for weights, cache in zip(self.weights_by_layer(), caches, strict=True):
            x_BLD, new_cache = layer(weights, x_BLD, rope, attend, cache)
            new_caches.append(new_cache)
        return x_BLD, tuple(new_caches)

    def scanned(self, x_BLD: Array, rope: Rope, attend: Attend, caches: tuple) -> tuple[Array, tuple]:
        """All layers as one loop over their stacked weights; without caches."""
        layer = self.layer()
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *self.weights_by_layer())
        x_BLD, new_caches = jax.lax.scan(lambda x_BLD, weights: layer(weights, x_BLD, rope, attend, None), x_BLD, stacked)
        return x_BLD, tuple(jax.tree.map(operator.itemgetter(i), new_caches) for i in range(len(caches)))

    def weights_by_layer(self) -> list[Any]:
        """Each layer's variables: {"params"} and, where there is one, the same of "lora" and "fused"."""
        names = [f"layers_{i}" for i in range(self.spec.num_layers)]
        return [{kind: tree[name] for kind, tree in self.variables.items() if name in tree} for name in names]

    def logits(self, hidden: Array) -> Array:
        """float32 logits [B, ..., V] of hidden states [B, ..., D]; V has the padding of vocab_rows, which nobody draws."""
        weight_VD, flow = self.embedding if self.spec.tied_head else self.head, self.flow
        hidden = self.constrain(hidden, (*flow.hidden[: hidden.ndim - 1], flow.hidden[-1]))
        if "fused" in self.variables:  # float32, to be decoded with (merged.py)
            logits = product(hidden, weight_VD)
        else:
            logits = jnp.einsum("...D,VD->...V", hidden, weight_VD.astype(self.dtype), preferred_element_type=jnp.float32)
        return self.constrain(unlikely(logits, self.spec.vocab_size), (*flow.heads[: hidden.ndim - 1], "vocab"))


def pinned(constrain: Callable, flow: sharding.Flow, x: Array, kind: str) -> Array:
    """x, laid out as the flow's names of this kind of activation say."""
    return constrain(x, getattr(flow, kind))


def whole_width(constrain: Callable, flow: sharding.Flow, weight: Array, names: tuple[str, str]) -> Array:
    """A weight with its width gathered, where the flow says so.

    Its gradient is then summed over the devices that have other tokens; left to itself, XLA gathers their tokens instead.
    """
    return constrain(weight, tuple(None if name == "embed" else name for name in names)) if flow.gathers else weight


def unlikely(logits: Array, vocab_size: int) -> Array:
    """Logits [..., V] that no softmax notices for what stands behind the vocabulary; finite, so that 0 times it is 0."""
    if logits.shape[-1] == vocab_size:
        return logits
    return jnp.where(jnp.arange(logits.shape[-1]) < vocab_size, logits, -1e30)


def abstract_params(model: Decoder) -> tuple[Any, Any]:
    """Shapes (ShapeDtypeStruct, float32) and logical dimension names of all weights, without making any.

    One layer is traced; the others are as it is.
    """
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    shallow = model.clone(spec=dataclasses.replace(model.spec, num_layers=1))
    boxed = jax.eval_shape(shallow.init, jax.eval_shape(lambda: jax.random.key(0)), tokens, tokens)["params"]
    layer = boxed.pop("layers_0")
    boxed |= {f"layers_{i}": layer for i in range(model.spec.num_layers)}
    names = jax.tree.map(lambda box: tuple(box.names), boxed, is_leaf=lambda x: isinstance(x, nn.Partitioned))
    return nn.unbox(boxed), names
