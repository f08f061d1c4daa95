"""Learning from given replies: how likely the policy finds them. The learner is update.make_learner's, with log_likelihood."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from espl_jax.policy.batch import Row
from espl_jax.policy.loss import batch_loss
from espl_jax.policy.state import Policy
from espl_jax.policy.update import Collected, make_packer, put_batch

Scorer = Callable[[Any, Sequence[Row]], tuple[float, int]]


def loss_of(collected: Sequence[Collected]) -> tuple[float, int]:
    """Minus the mean log-probability of the targets (nats a token), and how many they are. Waits for the device."""
    parts = [part for share in jax.device_get(list(collected)) for part in share]
    logprobs = np.concatenate([stats.log_ratio[real] for real, stats in parts])
    return float(-logprobs.mean(dtype=np.float64)), len(logprobs)


def make_scorer(policy: Policy, config: Any) -> Scorer:
    """(trainable, trajectories) -> what loss_of gives, without learning from them."""
    pack = make_packer(policy, config)

    @jax.jit
    def stats_of(variables, batch):
        return batch_loss(policy.model, variables, None, batch, config.rl)[1]

    def score(trainable, rows):
        variables = policy.variables(trainable)
        return loss_of([[(host.weight > 0, stats_of(variables, put_batch(host, policy.mesh))) for host in pack(rows)]])

    return score
