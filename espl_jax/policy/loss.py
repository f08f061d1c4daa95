"""Policy-gradient losses over the tokens that the policy wrote, without ever holding [batch, length, vocabulary].

Importance sampling (E-SPL section 3), PPO's clipped ratio (Schulman et al. 2017) and CISPO (MiniMax-M1, arXiv 2506.13585);
KL by the k3 estimator (Schulman, "Approximating KL divergence", 2020).
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from espl_jax.policy.batch import Batch
from espl_jax.policy.model import Decoder, unlikely

Array = jax.Array


@flax.struct.dataclass
class TokenStats:
    """Per target, float32 [R, M]: log of the ratio, entropy of the policy (nats), KL estimate, trainer minus sampler."""

    log_ratio: Array
    entropy: Array
    kl: Array
    gap: Array
    loss: Array


def importance_sampling(log_ratio: Array, advantage: Array, rl: Any) -> Array:
    """-ratio * A, unclipped."""
    return -jnp.exp(log_ratio) * advantage


def ppo(log_ratio: Array, advantage: Array, rl: Any) -> Array:
    """-min(ratio * A, clip(ratio, 1 - clip_low, 1 + clip_high) * A)."""
    ratio = jnp.exp(log_ratio)
    return -jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - rl.clip_low, 1 + rl.clip_high) * advantage)


def cispo(log_ratio: Array, advantage: Array, rl: Any) -> Array:
    """-stop_gradient(clip(ratio, 0, cispo_max)) * A * log p; log p enters through log_ratio, whose gradient is the same."""
    weight = jax.lax.stop_gradient(jnp.clip(jnp.exp(log_ratio), 0.0, rl.cispo_max))
    return -weight * advantage * log_ratio


def log_likelihood(log_ratio: Array, advantage: Array, rl: Any) -> Array:
    """-A * log p, up to a constant: supervised training (A = 1, nothing in the denominator), and REINFORCE (Williams 1992)."""
    return -advantage * log_ratio


# (log_ratio [R, M], advantage [R, M], config.rl) -> loss of each token [R, M]
LOSSES: dict[str, Callable[[Array, Array, Any], Array]] = {
    "importance_sampling": importance_sampling,
    "ppo": ppo,
    "cispo": cispo,
    "log_likelihood": log_likelihood,
}


# config.rl -> the range outside which a loss clips the ratio
CLIP_RANGES: dict[str, Callable[[Any], tuple[float, float]]] = {
    "importance_sampling": lambda rl: (0.0, np.inf),
    "ppo": lambda rl: (1 - rl.clip_low, 1 + rl.clip_high),
    "cispo": lambda rl: (0.0, rl.cispo_max),
    "log_likelihood": lambda rl: (0.0, np.inf),
}


def clip_fraction(log_ratio: np.ndarray, rl: Any) -> float:
    """Share of tokens whose ratio lies outside the loss's clipping range (host arrays)."""
    low, high = CLIP_RANGES[rl.loss](rl)
    ratio = np.exp(log_ratio)
    return float(np.mean((ratio < low) | (ratio > high)))


def batch_loss(
    model: Decoder, variables: Any, reference: Any | None, batch: Batch, rl: Any
) -> tuple[Array, TokenStats]:
    """The weighted sum of token losses of one micro-batch, and what happened at each target.

    variables: the policy's. reference: variables of the reference policy, or None when rl.kl_coef is 0.
    """

    def written(variables):
        hidden_RTD, _ = model.apply(variables, batch.tokens, batch.positions, batch.attend)
        if batch.parts > 1:
            hidden_RTD = model.constrain(hidden_RTD, ("batch", None, "width"))
        return deal(model, at_sources(hidden_RTD, batch.source), batch.parts)

    columns = {name: deal(model, getattr(batch, name), batch.parts) for name in COLUMNS}
    if rl.ratio == "untempered":
        columns["temperature"] = jnp.ones_like(columns["temperature"])
    columns["theirs"] = jnp.zeros_like(columns["weight"])
    if reference is not None:
        head = jax.lax.stop_gradient(head_weight(model, reference))
        columns["theirs"] = jax.lax.stop_gradient(logprobs(head, written(reference), columns, rl, model.spec.vocab_size))
    head = head_weight(model, variables)
    how = Head(rl, frozen="lora" in variables, vocab_size=model.spec.vocab_size)
    loss, stats = head_loss(how, head, written(variables), columns)
    return loss, jax.lax.stop_gradient(jax.tree.map(lambda x: collect(x, batch.parts), stats))


def deal(model: Decoder, x_RM: Array, parts: int) -> Array:
    """[R, M, ...] as [R * parts, M / parts, ...]: each device that shares a packed row has every parts-th of its targets."""
    if parts == 1:
        return x_RM
    R, M, *rest = x_RM.shape
    x_RpM = x_RM.reshape(R, M // parts, parts, *rest).swapaxes(1, 2)
    x_RpM = model.constrain(x_RpM, ("batch", "tokens", *(None,) * (x_RpM.ndim - 2)))
    x_RM = x_RpM.reshape(R * parts, M // parts, *rest)
    return model.constrain(x_RM, ("dealt", *(None,) * (x_RM.ndim - 1)))


def collect(x_RM: Array, parts: int) -> Array:
    """The inverse of `deal` for [R * parts, M / parts]."""
    if parts == 1:
        return x_RM
    return x_RM.reshape(-1, parts, x_RM.shape[1]).swapaxes(1, 2).reshape(-1, parts * x_RM.shape[1])


# what the head needs of each target
COLUMNS = ("targets", "weight", "denominator", "match", "advantage", "temperature")


def head_weight(model: Decoder, variables: Any) -> Array:
    """The head's weight [V, D] in the compute dtype, its width whole: once, not for every chunk of targets."""
    weight_VD = variables["params"]["embedding" if model.spec.tied_head else "head"].astype(model.dtype)
    return model.constrain(weight_VD, ("vocab", None))


@jax.custom_vjp
def at_sources(hidden_RTD: Array, source_RM: Array) -> Array:
    """Hidden states [R, M, D] at rising sources; the samples of a context share one. Its gradient adds up in a fixed order."""
    return jnp.take_along_axis(hidden_RTD, source_RM[..., None], axis=1)


def _at_sources_backward(kept, d_RMD):
    source_RM, T = kept
    M, step = source_RM.shape[1], 1
    while step < M:  # each becomes the sum of itself and all behind it that have its source
        same = source_RM[:, step:] == source_RM[:, :-step]
        d_RMD = d_RMD + jnp.pad(jnp.where(same[..., None], d_RMD[:, step:], 0), ((0, 0), (0, step), (0, 0)))
        step *= 2
    first_RT = jax.vmap(lambda row: jnp.searchsorted(row, jnp.arange(T)))(source_RM)
    first_RT = jnp.minimum(first_RT, M - 1)
    found = jnp.take_along_axis(source_RM, first_RT, axis=1) == jnp.arange(T)
    return jnp.where(found[..., None], jnp.take_along_axis(d_RMD, first_RT[..., None], axis=1), 0), None


at_sources.defvjp(lambda hidden, source: (at_sources(hidden, source), (source, hidden.shape[1])), _at_sources_backward)


def head_chunk(rl: Any, M: int) -> tuple[int, int]:
    """Targets of a chunk, and M as a multiple of it."""
    size = min(rl.head_chunk, M)
    return size, -(-M // size) * size


def over_chunks(rl: Any, hidden_RMD: Array, columns: dict[str, Array], start: Any, step: Callable) -> Any:
    """step(hidden [R, c, D], columns [R, c], offset, carry) -> carry, for every chunk in which there is a target."""
    size, padded = head_chunk(rl, hidden_RMD.shape[1])
    more = padded - hidden_RMD.shape[1]
    hidden_RMD = jnp.pad(hidden_RMD, ((0, 0), (0, more), (0, 0)))
    columns = {name: jnp.pad(x, ((0, 0), (0, more))) for name, x in columns.items()}
    used = jnp.max(jnp.sum(columns["weight"] > 0, axis=1))

    def body(i, carry):
        part = {name: jax.lax.dynamic_slice_in_dim(x, i * size, size, axis=1) for name, x in columns.items()}
        return step(jax.lax.dynamic_slice_in_dim(hidden_RMD, i * size, size, axis=1), part, i * size, carry)

    return jax.lax.fori_loop(0, -(-used // size), body, start)


def chunk_logits(head_VD: Array, hidden_RcD: Array, columns: dict[str, Array], vocab_size: int) -> tuple[Array, ...]:
    """(tempered logits less their maximum [R, c, V], their exponentials, sums of these [R, c], the targets' log-probability)

    A temperature of 0 is trained as 1.
    """
    inverse = 1 / jnp.where(columns["temperature"] > 0, columns["temperature"], 1.0)
    logits = jnp.einsum("RcD,VD->RcV", hidden_RcD, head_VD, preferred_element_type=jnp.float32) * inverse[..., None]
    logits = unlikely(logits, vocab_size)
    logits = logits - jnp.max(logits, axis=-1, keepdims=True)
    raised = jnp.exp(logits)
    total = jnp.sum(raised, axis=-1)
    chosen = jnp.take_along_axis(logits, columns["targets"][..., None], axis=-1)[..., 0]
    return logits, raised, total, chosen - jnp.log(total)


def logprobs(head_VD: Array, hidden_RMD: Array, columns: dict[str, Array], rl: Any, vocab_size: int) -> Array:
    """Log-probability of each target, float32 [R, M]; 0 in chunks of padding."""
    R, M = hidden_RMD.shape[:2]

    def step(hidden, part, offset, found):
        return jax.lax.dynamic_update_slice(found, chunk_logits(head_VD, hidden, part, vocab_size)[-1], (0, offset))

    return over_chunks(rl, hidden_RMD, columns, jnp.zeros((R, head_chunk(rl, M)[1])), step)[:, :M]


def token_loss(logp: Array, columns: dict[str, Array], rl: Any) -> tuple[Array, dict[str, Array]]:
    """The weighted sum over targets, and their terms."""
    real = columns["weight"] > 0
    log_ratio = jnp.where(real, logp - columns["denominator"], 0.0)
    loss, kl = LOSSES[rl.loss](log_ratio, columns["advantage"], rl), jnp.zeros_like(logp)
    if rl.kl_coef > 0:
        ahead = jnp.where(real, columns["theirs"] - logp, 0.0)
        kl = jnp.exp(ahead) - ahead - 1.0
        loss = loss + rl.kl_coef * kl
    loss = loss * columns["weight"]
    gap = jnp.where(real, logp - columns["match"], 0.0)
    return jnp.sum(loss), {"log_ratio": log_ratio, "kl": kl, "gap": gap, "loss": loss}


@dataclasses.dataclass(frozen=True)
class Head:
    """What the head's loss is told besides numbers: config.rl; whether the head is not trained and has no gradient; tokens."""

    rl: Any
    frozen: bool
    vocab_size: int


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def head_loss(how: Head, head_VD: Array, hidden_RMD: Array, columns: dict[str, Array]) -> tuple[Array, TokenStats]:
    """The loss and its terms; logits exist for rl.head_chunk targets of a packed row at a time.

    Differentiated, it makes the gradient on the way, chunk by chunk, so that no logits are computed twice.
    """
    return _head_loss(how, head_VD, hidden_RMD, columns, differentiate=False)[0]


def _head_loss(how, head_VD, hidden_RMD, columns, differentiate=True):
    (R, M, D), V, rl, frozen = hidden_RMD.shape, head_VD.shape[0], how.rl, how.frozen
    grid = jnp.zeros((R, head_chunk(rl, M)[1]))
    stats = TokenStats(log_ratio=grid, entropy=grid, kl=grid, gap=grid, loss=grid)
    d_hidden = jnp.zeros((*grid.shape, D), hidden_RMD.dtype) if differentiate else None
    d_head_RVD = jnp.zeros((R, V, D)) if differentiate and not frozen else None

    def step(hidden, part, offset, carry):
        stats, d_hidden, d_head_RVD = carry
        logits, raised, total, logp = chunk_logits(head_VD, hidden, part, how.vocab_size)
        entropy = jnp.log(total) - jnp.sum(raised * logits, axis=-1) / total
        slope, terms = jax.grad(token_loss, has_aux=True)(logp, part, rl)
        new = TokenStats(entropy=entropy, **terms)
        stats = jax.tree.map(lambda x, y: jax.lax.dynamic_update_slice(x, y, (0, offset)), stats, new)
        if differentiate:
            slope = (slope / jnp.where(part["temperature"] > 0, part["temperature"], 1.0))[..., None]
            here = jnp.arange(V) == part["targets"][..., None]
            d_logits = (jnp.where(here, slope, 0.0) - raised * (slope / total[..., None])).astype(head_VD.dtype)
            d_chunk = jnp.einsum("RcV,VD->RcD", d_logits, head_VD, preferred_element_type=jnp.float32)
            d_hidden = jax.lax.dynamic_update_slice(d_hidden, d_chunk.astype(d_hidden.dtype), (0, offset, 0))
        if d_head_RVD is not None:
            d_head_RVD += jnp.einsum("RcV,RcD->RVD", d_logits, hidden, preferred_element_type=jnp.float32)
        return stats, d_hidden, d_head_RVD

    stats, d_hidden, d_head_RVD = over_chunks(rl, hidden_RMD, columns, (stats, d_hidden, d_head_RVD), step)
    stats = jax.tree.map(lambda x: x[:, :M], stats)
    d_hidden = d_hidden[:, :M] if differentiate else None
    d_head = d_head_RVD.sum(axis=0).astype(head_VD.dtype) if d_head_RVD is not None else None
    return (jnp.sum(stats.loss), stats), (d_head, d_hidden)


def _head_loss_backward(how, kept, cotangents):
    slope, _ = cotangents
    d_head, d_hidden = kept
    scaled = jax.tree.map(lambda d: (d * slope).astype(d.dtype), (d_head, d_hidden))
    return *scaled, None


head_loss.defvjp(_head_loss, _head_loss_backward)
