"""One RL update: rollouts and advantages in, a new PolicyState and what happened out.

Two jitted programs: `gradient` of the only micro-batch, or `accumulate`, which adds one of several, and `apply`, which takes
the optimizer step; they donate what they replace. The host only packs rows, so the gradient of many micro-batches is that of
one batch up to rounding. Nothing here waits for the device: an update gives back arrays that are still being computed, and a
function that waits for their metrics.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging
from jax.sharding import Mesh

from espl_jax.policy import batch as batching
from espl_jax.policy import sharding
from espl_jax.policy.attention import make_layout
from espl_jax.policy.batch import Batch, Row
from espl_jax.policy.compilation import compiler_options
from espl_jax.policy.loss import TokenStats, batch_loss, clip_fraction
from espl_jax.policy.state import Policy, PolicyState
from espl_jax.structs import Rollouts

# (state, rollouts, advantages [P, Q, G], kept groups [P, Q], host randomness) -> (state, what waits for the metrics)
Learned = Callable[[], dict[str, float]]
Updater = Callable[[PolicyState, Rollouts, np.ndarray, np.ndarray, np.random.Generator], tuple[PolicyState, Learned]]
# What happened to the targets of a minibatch: for each of its micro-batches which are real, and their TokenStats
Collected = list[tuple[np.ndarray, TokenStats]]
# (state, trajectories, host randomness) -> (state, norm of the gradient and Collected of each minibatch)
Learner = Callable[[PolicyState, list[Row], np.random.Generator], tuple[PolicyState, list[jax.Array], list[Collected]]]


@dataclasses.dataclass(frozen=True)
class Programs:
    """The jitted programs of an update; fixed = (trainable, frozen, reference).

    gradient(*fixed, batch) -> (grads, TokenStats); accumulate(grads, *fixed, batch) -> the same; apply(state, grads) ->
    (state, norm of the gradient); zeros(trainable) -> grads.
    """

    gradient: Callable
    accumulate: Callable
    apply: Callable
    zeros: Callable


def make_programs(policy: Policy, state: PolicyState, config: Any) -> Programs:
    """For states laid out like `state` (arrays, or ShapeDtypeStructs with shardings)."""
    rl, mesh = config.rl, policy.mesh

    def gradient(trainable, frozen, reference, batch):
        def loss(trainable):
            variables = {"params": trainable} if frozen is None else {"params": frozen, "lora": trainable}
            return batch_loss(policy.model, variables, reference, batch, rl)

        return jax.grad(loss, has_aux=True)(trainable)

    def accumulate(grads, trainable, frozen, reference, batch):
        new, stats = gradient(trainable, frozen, reference, batch)
        return jax.tree.map(jnp.add, grads, new), stats

    def apply(state, grads):
        updates, opt_state = policy.optimizer.update(grads, state.opt_state, state.trainable)
        trainable = optax.apply_updates(state.trainable, updates)
        return PolicyState(trainable, opt_state, state.updates + 1), optax.global_norm(grads)

    layout, everywhere = jax.tree.map(lambda x: x.sharding, state), sharding.replicated(mesh)
    options = compiler_options("gradient", mesh.devices.flat[0].platform)
    how = {"out_shardings": (layout.trainable, everywhere), "compiler_options": options}
    return Programs(
        gradient=jax.jit(gradient, **how),
        accumulate=jax.jit(accumulate, donate_argnums=0, **how),
        apply=jax.jit(apply, donate_argnums=0, out_shardings=(layout, everywhere)),
        zeros=jax.jit(lambda tree: jax.tree.map(jnp.zeros_like, tree), out_shardings=layout.trainable),
    )


def make_packer(policy: Policy, config: Any) -> Callable[[list[Row]], list[Batch]]:
    """The function that packs a minibatch's trajectories into micro-batches, on the host."""
    rl, mesh = config.rl, policy.mesh
    devices = sharding.batch_rows(1, mesh)
    budget = -(-rl.micro_batch_tokens // devices)
    layout_of = make_layout(config.model.attention, config.model.dtype, mesh)

    def pack(rows):
        weights = batching.token_weights(rows, rl.aggregation, config.sampling.max_new_tokens)
        parts = mesh.shape["sequence"]
        return batching.micro_batches(rows, weights, devices, budget, rl.ratio, layout_of, parts, rl.row_widths)

    return pack


def put_batch(host: Batch, mesh: Mesh) -> Batch:
    """A micro-batch on the mesh, each device its rows."""

    def put(array):
        names = ("batch",) + (None,) * (array.ndim - 1)
        return sharding.put(array, sharding.named_sharding(names, array.shape, mesh))

    return jax.tree.map(put, host)


def make_learner(policy: Policy, state: PolicyState, config: Any) -> Learner:
    """The optimizer steps over some trajectories for states laid out like `state`, which they take the place of."""
    rl, pack = config.rl, make_packer(policy, config)
    reference = policy.plain_reference if rl.kl_coef > 0 else None
    programs = make_programs(policy, state, config)

    def minibatch(state, rows):
        batches = pack(rows)
        fixed, collected = (state.trainable, policy.frozen, reference), []
        grads = programs.zeros(state.trainable) if len(batches) > 1 else None
        for host in batches:
            batch = put_batch(host, policy.mesh)
            grads, stats = programs.gradient(*fixed, batch) if grads is None else programs.accumulate(grads, *fixed, batch)
            collected.append((host.weight > 0, stats))
        state, norm = programs.apply(state, grads)
        return state, norm, collected

    def learn(state, rows, rng):
        norms, collected = [], []
        for share in batching.minibatches(rows, rl.num_minibatches, rng):
            state, norm, stats = minibatch(state, share)
            norms.append(norm)
            collected.append(stats)
        return state, norms, collected

    return learn


def make_updater(policy: Policy, state: PolicyState, config: Any) -> Updater:
    """Builds the update of this run for states laid out like `state`; each shape compiles once, at its first call."""
    learn = make_learner(policy, state, config)

    def update(state, rollouts, advantages_PQG, keep_PQ, rng):
        rows = batching.rows_with_signal(rollouts, advantages_PQG, keep_PQ, config.sampling.temperature)
        state, norms, collected = learn(state, rows, rng)

        def learned():
            metrics = update_metrics(jax.device_get(norms), jax.device_get(collected), rows, config.rl)
            warn_of_gap(metrics, config.rl.gap_warning)
            return metrics

        return state, learned

    return update


def warn_of_gap(metrics: dict, threshold: float) -> None:
    """Says so when sampler and trainer do not agree on what the policy is."""
    if metrics.get("policy/logprob_gap", 0.0) > threshold:
        logging.warning(
            "sampler and trainer differ by %.2g nats a token on average (largest %.2g), more than rl.gap_warning=%.2g; "
            "with bfloat16 try model.dtype=float32 to see whether rounding is the cause",
            metrics["policy/logprob_gap"], metrics["policy/logprob_gap_max"], threshold,
        )


def update_metrics(norms: list, collected: list[list[tuple[np.ndarray, TokenStats]]], rows: list, rl: Any) -> dict:
    """Means over the tokens that carried loss; names as in metrics.jsonl. Empty but for counts when no group had signal.

    policy/logprob_gap: mean |trainer - sampler| in nats over the first minibatch, before any update of the step.
    """
    metrics = {"train/trajectories_used": float(len(rows)), "policy/updates": float(len(norms))}
    if not rows:
        return metrics

    def gather(name, parts):
        return np.concatenate([getattr(stats, name)[mask] for mask, stats in parts])

    everything = [part for share in collected for part in share]
    log_ratio = gather("log_ratio", everything)
    gap = np.abs(gather("gap", collected[0]))
    ratio = np.exp(log_ratio)
    metrics.update({
        "policy/loss": np.mean([sum(stats.loss.sum() for _, stats in share) for share in collected]),
        "policy/grad_norm": np.mean(norms),
        "policy/ratio": ratio.mean(),
        "policy/ratio_p99": np.quantile(ratio, 0.99),
        "policy/logprob_gap": gap.mean(),
        "policy/logprob_gap_max": gap.max(),
        "policy/entropy": gather("entropy", everything).mean(),
        "policy/kl": gather("kl", everything).mean(),
        "policy/clip_fraction": clip_fraction(log_ratio, rl),
        "tokens/trained": len(log_ratio),
    })
    return {name: float(value) for name, value in metrics.items()}
