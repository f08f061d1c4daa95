"""Floating-point operations that a model needs at the least for given tokens, by formula, whoever computes them.

2 operations a weight a token, plus attention's products with the keys and the values that a token sees. Norms, softmax and the
drawing are left out. What several sequences have in common at their beginning is counted once, because it need be computed
only once.
"""

from collections.abc import Sequence

from espl_jax.policy.model import ModelSpec


def layer_weights(spec: ModelSpec) -> int:
    """Weights of one layer's matrices."""
    attention = spec.width * spec.head_dim * 2 * (spec.num_heads + spec.num_kv_heads)
    return attention + 3 * spec.width * spec.mlp_width


def body_weights(spec: ModelSpec) -> int:
    """Weights of all layers' matrices."""
    return spec.num_layers * layer_weights(spec)


def head_weights(spec: ModelSpec) -> int:
    """Weights that make logits of a hidden state."""
    return spec.vocab_size * spec.width


def all_weights(spec: ModelSpec) -> int:
    """Weights of all matrices; a tied head is the embedding."""
    return body_weights(spec) + head_weights(spec) * (1 if spec.tied_head else 2)


def attention_flops(spec: ModelSpec, start: int, count: float) -> float:
    """Of `count` tokens at positions start, start + 1, ...; a token at position p sees p + 1 keys and values."""
    seen = count * start + count * (count + 1) / 2
    return 4 * spec.num_layers * spec.num_heads * spec.head_dim * seen


def forward_flops(spec: ModelSpec, start: int, count: float) -> float:
    """Of `count` tokens at positions start, start + 1, ... through all layers, without logits."""
    return 2 * body_weights(spec) * count + attention_flops(spec, start, count)


def logits_flops(spec: ModelSpec, count: float) -> float:
    """Of the logits of `count` tokens."""
    return 2 * head_weights(spec) * count


def shared_lengths(sorted_prompts: Sequence[Sequence[int]]) -> list[int]:
    """How many tokens each prompt begins with that the one before it begins with too."""
    return [0] + [
        next((i for i, (a, b) in enumerate(zip(before, after)) if a != b), min(len(before), len(after)))
        for before, after in zip(sorted_prompts, sorted_prompts[1:])
    ]


def prompts_flops(spec: ModelSpec, prompts: Sequence[Sequence[int]]) -> float:
    """Of all prompts, common beginnings once, without logits."""
    ordered = sorted(prompts)
    return sum(
        forward_flops(spec, shared, len(prompt) - shared) for prompt, shared in zip(ordered, shared_lengths(ordered))
    )
