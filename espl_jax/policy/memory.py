"""How much memory sampling and learning need at their peak, term by term, in bytes of one device that holds everything.

The functions in `_terms` give {name: bytes}; a phase needs the sum. docs/performance.md has them as a table. Terms of arrays
that live between programs are exact. Those of temporaries are what XLA's buffer assignment holds at its peak: the numbers of
copies were read off `compiled.memory_analysis()` and the residuals of the jaxpr, one dimension at a time, in float32.

On a mesh: weights, gradient, moments, merged and stacked copies are divided by fsdp * sequence * tensor; rows of slots (own,
tails) and draws by data * fsdp * sequence; keys and values by tensor too where that divides the key/value heads; V of logits by
tensor; H, K and F of what is kept for the backward pass by tensor, D not. A device has one packed row, so T is
row_tokens(config, data * fsdp); what is kept for the backward pass is divided by sequence.

Letters besides those of structs.py: R, C rows and tokens of a prefill chunk; c targets whose logits exist at one time.
"""

from typing import Any

import jax.numpy as jnp

from espl_jax.policy import tree
from espl_jax.policy.cache import Layout
from espl_jax.policy.model import ModelSpec
from espl_jax.policy.packing import whole_blocks
from espl_jax.policy.state import needs_reference

FLOAT = 4  # bytes of a float32
Terms = dict[str, float]


# -- numbers of the model ----------------------------------------------------------------------------------------------


def projections(spec: ModelSpec) -> dict[str, tuple[int, int]]:
    """Name -> (in, out) of a layer's products with weights."""
    D, F, q, kv = spec.width, spec.mlp_width, spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
    return {"q": (D, q), "k": (D, kv), "v": (D, kv), "o": (q, D), "gate": (D, F), "up": (D, F), "down": (F, D)}


def biases(spec: ModelSpec) -> int:
    """Numbers in a layer's biases."""
    return sum(projections(spec)[name][1] for name in ("q", "k", "v")) if spec.qkv_bias else 0


def layer_numbers(spec: ModelSpec) -> int:
    """Weights of one layer."""
    norms = 2 * spec.width + (2 * spec.head_dim if spec.qk_norm else 0)
    return sum(into * out for into, out in projections(spec).values()) + biases(spec) + norms


def model_numbers(spec: ModelSpec) -> int:
    """Weights of the model."""
    tables = spec.vocab_size * spec.width * (1 if spec.tied_head else 2)
    return tables + spec.num_layers * layer_numbers(spec) + spec.width


def adapter_numbers(spec: ModelSpec, rl: Any) -> int:
    """Weights of the adapter in one layer."""
    return rl.lora_rank * sum(sum(projections(spec)[name]) for name in rl.lora_targets) if rl.lora_rank else 0


def itemsize(dtype: str) -> int:
    """Bytes of a number."""
    return jnp.dtype(dtype).itemsize


def stored_itemsize(config: Any) -> int:
    """Bytes of a weight as it is held between programs."""
    return itemsize(config.model.weight_dtype) if config.rl.lora_rank else FLOAT


# -- what lives as long as the run -------------------------------------------------------------------------------------


def run_terms(spec: ModelSpec, config: Any) -> Terms:
    """Weights, adapter, Adam's two moments, reference: there while sampling and while learning."""
    numbers, low = model_numbers(spec), spec.num_layers * adapter_numbers(spec, config.rl)
    if config.rl.lora_rank:
        return {
            "weights": numbers * stored_itemsize(config), "adapter": low * FLOAT, "moments": 2 * low * FLOAT,
            "reference": low * FLOAT,
        }  # fmt: skip
    return {
        "weights": numbers * FLOAT, "moments": 2 * numbers * FLOAT,
        "reference": numbers * FLOAT if needs_reference(config) else 0,
    }  # fmt: skip


# -- sampling ----------------------------------------------------------------------------------------------------------


def merged_bytes(spec: ModelSpec, config: Any) -> float:
    """One merged copy: the layers once more."""
    return spec.num_layers * layer_numbers(spec) * stored_itemsize(config) if config.sampling.merge_weights else 0


def cache_bytes(spec: ModelSpec, config: Any, layout: Layout) -> float:
    """Keys and values of all rows; int8 has a float32 scale a position and head."""
    kind = config.sampling.cache_dtype
    if kind != "int8":
        return layout.bytes(spec, itemsize(config.model.dtype if kind == "model" else kind))
    return layout.bytes(spec, 1 + FLOAT / spec.head_dim)


def unpacked_bytes(spec: ModelSpec, config: Any, positions: int) -> float:
    """One layer's keys and values of some positions, as they are multiplied."""
    return 2 * positions * spec.num_kv_heads * spec.head_dim * itemsize(config.model.dtype)


def decode_bytes(spec: ModelSpec, config: Any, layout: Layout) -> float:
    """Temporaries of a decode step: three of [B, V] while a token is drawn, or a layer's scores; they follow each other.

    Logits, their exponentials, and those that are kept; each query has one score a position of its row and the shared ones.
    """
    drawing = 3 * layout.slots * spec.vocab_size * FLOAT
    queries = {"own": layout.slots, "heads": layout.heads * layout.head_members, "tails": layout.tails * layout.tail_members}
    lengths = {level: sum(layout.blocks(level)) for level in queries}
    scores = sum(queries[level] * lengths[level] for level in queries) * spec.num_heads * FLOAT
    positions = sum(layout.rows[level] * lengths[level] for level in queries)
    unpacked = unpacked_bytes(spec, config, positions) if config.sampling.cache_dtype == "int8" else 0
    return max(drawing, scores + unpacked)


def prefill_bytes(spec: ModelSpec, config: Any, layout: Layout) -> float:
    """Temporaries of a prefill call over R * C tokens: attention or feed-forward of a layer, beside two of [R * C, D].

    An upper bound on one device, which computes a part of the rows at a time (layout.parts_of).

    Attention, in the longest level: scores [R, H, C, length], the parts' outputs [R, H, C, E] a block, and the rows read.
    """
    C = config.sampling.prefill_chunk
    R = max(1, config.sampling.prefill_tokens // C)
    size, blocks = itemsize(config.model.dtype), max(map(layout.blocks, layout.rows), key=sum)
    parts = R * spec.num_heads * C * (sum(blocks) + len(blocks) * spec.head_dim) * FLOAT
    rows = unpacked_bytes(spec, config, R * sum(blocks))
    projected = R * C * (spec.num_heads + 2 * spec.num_kv_heads) * spec.head_dim * size
    feed_forward = 3 * R * C * spec.mlp_width * size
    return 2 * R * C * spec.width * size + max(parts + rows + projected, feed_forward)


def sampling_terms(spec: ModelSpec, config: Any, layout: Layout, merged: int) -> Terms:
    """The peak while sampling. merged: copies kept, 2 where policy and reference are sampled from in turn."""
    return run_terms(spec, config) | {
        "merged": merged * merged_bytes(spec, config),
        "keys and values": cache_bytes(spec, config, layout),
        "temporaries": max(decode_bytes(spec, config, layout), prefill_bytes(spec, config, layout)),
    }


# -- learning ----------------------------------------------------------------------------------------------------------


def row_tokens(config: Any, devices: int) -> int:
    """T of a packed row, one a device that rows are split over; a longer trajectory has a row of twice, four times, ... it."""
    return whole_blocks(-(-config.rl.micro_batch_tokens // devices))


def effective_remat(config: Any, platform: str) -> str:
    """The policy that has an effect: XLA for CPU drops the barriers of unrolled layers and shares what was to be recomputed."""
    return config.model.remat if config.model.scan_layers or platform != "cpu" else "none"


def kept_numbers(spec: ModelSpec, config: Any, remat: str, scanned: bool) -> int:
    """Numbers a token and layer that are kept for the backward pass.

    none, scanned: all residuals, the input of each product by itself (9 D; 7 D without gradients of norms). none, unrolled: XLA
    shares those, and keeps both summands of an adapted product instead of their sum. dots: x, products that are read again
    (the last one is not), what leaves attention. attention: x and what leaves attention. layer: x.
    """
    D, F, H = spec.width, spec.mlp_width, spec.num_heads
    q, kv = H * spec.head_dim, spec.num_kv_heads * spec.head_dim
    targets = config.rl.lora_targets if config.rl.lora_rank else ()
    low = config.rl.lora_rank * len(targets)
    normed = (q + kv) * spec.qk_norm
    if remat == "none" and scanned:
        return (7 if targets else 9) * D + 3 * q + 2 * kv + 6 * F + H + 4 + low + normed * (1 if targets else 2)
    if remat == "none":
        summands = sum(F for name in ("gate", "up", "down") if name in targets)
        return (4 if targets else 5) * D + 4 * q + 4 * kv + 4 * F + H + 4 + low + summands + normed
    if remat == "dots":
        adapted = sum(out for name, (_, out) in projections(spec).items() if name in targets and name != "down")
        return 2 * D + 2 * q + 2 * kv + 2 * F + H + low + adapted
    return {"attention": D + q + H, "layer": D}[remat]


def head_bytes(spec: ModelSpec, config: Any, T: int) -> float:
    """Temporaries of the head: logits and their exponentials [c, V], or one of these beside the head's new gradient [V, D].

    Besides four of [T, D]: hidden states at the targets, padded, their gradients, and these at the tokens.
    """
    c = min(config.rl.head_chunk, T)
    chunk = c * spec.vocab_size * FLOAT
    gradient = 0 if config.rl.lora_rank else spec.vocab_size * spec.width * FLOAT
    return max(2 * chunk, chunk + gradient) + 4 * T * spec.width * itemsize(config.model.dtype)


def layer_bytes(spec: ModelSpec, config: Any, T: int, remat: str) -> float:
    """Temporaries of one layer's backward pass: what is recomputed, gradients of gate and up, and a block of tree attention.

    The latter has weights, their gradients and those of scores [H, QUERIES, KEYS] (tree.py; kernels have none).
    """
    kept = kept_numbers(spec, config, remat, config.model.scan_layers)
    again = kept_numbers(spec, config, "none", scanned=False) - kept if remat != "none" else 0
    block = 3 * spec.num_heads * tree.QUERIES * tree.KEYS * FLOAT
    return T * (again + 2 * spec.mlp_width) * itemsize(config.model.dtype) + block


def gradient_terms(spec: ModelSpec, config: Any, T: int, several: bool, platform: str) -> Terms:
    """The peak of the program that makes the gradient. several: micro-batches, whose gradients are added up."""
    remat, scanned, L = effective_remat(config, platform), config.model.scan_layers, spec.num_layers
    low, numbers = adapter_numbers(spec, config.rl), layer_numbers(spec)
    trained = L * low if config.rl.lora_rank else model_numbers(spec)
    stored, size = stored_itemsize(config), itemsize(config.model.dtype)
    stacked = L * (numbers * stored + 2 * low * FLOAT if config.rl.lora_rank else 2 * numbers * FLOAT)
    cast = spec.vocab_size * spec.width + (L if remat == "none" else 1) * numbers
    return run_terms(spec, config) | {
        "gradient": trained * FLOAT * (2 if several else 1),
        "stacked": stacked if scanned else 0,
        "weights in model.dtype": cast * size if size != stored else 0,
        "kept for backward": L * T * kept_numbers(spec, config, remat, scanned) * size,
        "head or layer": max(head_bytes(spec, config, T), layer_bytes(spec, config, T, remat)),
    }


def optimizer_terms(spec: ModelSpec, config: Any) -> Terms:
    """The peak of the optimizer step: the gradient, and one more of the same size for the clipped one or the update."""
    low = spec.num_layers * adapter_numbers(spec, config.rl)
    trained = (low if config.rl.lora_rank else model_numbers(spec)) * FLOAT
    return run_terms(spec, config) | {"gradient": trained, "update": trained}


def learning_terms(spec: ModelSpec, config: Any, T: int, several: bool, platform: str) -> Terms:
    """The peak while learning: that of the gradient or of the optimizer step, whichever is higher."""
    phases = gradient_terms(spec, config, T, several, platform), optimizer_terms(spec, config)
    return max(phases, key=lambda terms: sum(terms.values()))
