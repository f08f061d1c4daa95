"""What a workload needs at the least: floating-point operations and bytes moved, whoever does it.

2 operations a weight a token, plus attention's products with the keys and the values that a token sees. Norms, softmax and the
drawing are left out. What several sequences have in common at their beginning is counted once, because it need be computed
only once. Weights are read once a step in which all unfinished sequences advance together, keys and values likewise.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.workloads import LearnerWorkload, SamplerWorkload
from espl_jax.policy.arithmetic import (  # noqa: F401  others count with them too
    all_weights,
    attention_flops,
    body_weights,
    forward_flops,
    head_weights,
    layer_weights,
    logits_flops,
    prompts_flops,
    shared_lengths,
)
from espl_jax.policy.model import ModelSpec

OPTIMIZER_PASSES = 7  # of Adam: weight, gradient and two moments are read, all but the gradient are written


@dataclass(frozen=True)
class Rates:
    """What a machine was measured to do: operations a second in matrix products, bytes a second read and written."""

    flops: float
    bytes: float


@dataclass(frozen=True)
class Work:
    """Operations and bytes."""

    flops: float
    bytes: float

    def seconds(self, rates: Rates) -> float:
        """The time below which no program can do it: the slower of the two, as if the other were free."""
        return max(self.flops / rates.flops, self.bytes / rates.bytes)


def lora_weights(spec: ModelSpec, rank: int) -> int:
    """Weights of an adapter on all seven projections of every layer."""
    heads, kv_heads = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
    ends = 2 * (spec.width + heads) + 2 * (spec.width + kv_heads) + 3 * (spec.width + spec.mlp_width)
    return spec.num_layers * rank * ends


def positions_read(requests: Sequence, last: int) -> int:
    """Cached positions read by the steps that draw tokens 2 .. last of every request; common beginnings once a step."""
    ordered = sorted(requests, key=lambda request: request.tokens)
    shared = np.asarray(shared_lengths([request.tokens for request in ordered]))
    lengths = np.asarray([request.length for request in ordered])
    sizes = np.asarray([len(request.tokens) for request in ordered])
    total = 0
    for drawn in range(1, last):
        alive = np.flatnonzero(lengths > drawn)
        for before, now in zip([-1, *alive[:-1]], alive):
            common = 0 if before < 0 else shared[before + 1 : now + 1].min()
            total += int(sizes[now] - common) + drawn
    return total


def sampling_work(workload: SamplerWorkload, spec: ModelSpec, item_bytes: int) -> Work:
    """Of drawing all tokens of a workload. item_bytes: of a weight, and of a key or value."""
    prompts = prompts_flops(spec, [request.tokens for request in workload.requests])
    drawn = sum(
        forward_flops(spec, len(request.tokens), request.length - 1) + logits_flops(spec, request.length)
        for request in workload.requests
    )
    steps = max(request.length for request in workload.requests)
    position = 2 * spec.num_layers * spec.num_kv_heads * spec.head_dim
    moved = steps * all_weights(spec) + position * positions_read(workload.requests, steps)
    return Work(prompts + drawn, item_bytes * moved)


def learning_work(workload: LearnerWorkload, spec: ModelSpec, item_bytes: int) -> Work:
    """Of one full fine-tuning step: forward once, backward twice as much, Adam in float32. Recomputing is not counted."""
    G = workload.shape[2]
    contexts = [context for row in workload.contexts for context in row]
    completions = sum(
        forward_flops(spec, len(contexts[i // G]), len(completion) - 1) + logits_flops(spec, len(completion))
        for i, completion in enumerate(workload.completions)
    )
    flops = 3 * (prompts_flops(spec, contexts) + completions)
    return Work(flops, (3 * item_bytes + 4 * OPTIMIZER_PASSES) * all_weights(spec))
