"""Counts what a step asked of the model, for the ledger (ledger.py).

  requests           replies asked for; of update, trajectories that had signal
  trajectories       of rollouts and acceptance tests; a conversation has several replies
  prompt_tokens      what was asked, as often as it was asked; in a conversation also what came between replies
  prefilled_tokens   the same with common beginnings once, as sampling.share_prefixes has it; not known of reflections
  generated_tokens   what was drawn
  flops              by formula (policy/arithmetic.py): prompts with common beginnings once, but each reflection by itself; an
                     update is three forward passes, two under an adapter (no gradient of frozen weights), and one more for a
                     KL; recomputing is not counted; a server's are not ours to count: 0
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from espl_jax.policy import prefixes
from espl_jax.policy.arithmetic import forward_flops, logits_flops, prompts_flops
from espl_jax.policy.model import ModelSpec
from espl_jax.structs import Completion, Reflection, Rollouts


def of_rollouts(purpose: str, spec: ModelSpec, several: Sequence[Rollouts]) -> dict[str, float]:
    """Metrics of trajectories that one call of the sampler drew; none of none."""
    if not several:
        return {}
    completions = [completion for rollouts in several for completion in rollouts.completions]
    contexts = [context for rollouts in several for context in _contexts(rollouts)]
    drawn = sum(int(completion.drawn.sum()) for completion in completions)
    between = sum(len(completion.tokens) for completion in completions) - drawn
    return _named(
        purpose,
        requests=sum(map(replies, completions)),
        trajectories=len(completions),
        prompt_tokens=sum(map(len, contexts)) + between,
        prefilled_tokens=prefixes.plan(contexts).size + between,
        generated_tokens=drawn,
        flops=trajectories_flops(spec, contexts, completions),
    )


def of_reflections(spec: ModelSpec | None, reflections: Iterable[Reflection]) -> dict[str, float]:
    """Metrics of what an editor was asked. spec: None where the editor is not ours."""
    asked = [call.reply for reflection in reflections for call in reflection.calls]
    flops = 0.0 if spec is None else sum(_reply_flops(spec, reply.prompt_tokens, reply.generated_tokens) for reply in asked)
    return _named(
        "reflection",
        requests=len(asked),
        prompt_tokens=sum(reply.prompt_tokens for reply in asked),
        generated_tokens=sum(reply.generated_tokens for reply in asked),
        flops=flops,
    )


def of_update(spec: ModelSpec, rollouts: Rollouts, keep_PQ: np.ndarray, rl: Any) -> dict[str, float]:
    """Metrics of a gradient over the groups that are kept. rl: config.rl."""
    kept = np.repeat(keep_PQ.reshape(-1), rollouts.rewards_PQG.shape[2])
    completions = [completion for completion, keep in zip(rollouts.completions, kept, strict=True) if keep]
    contexts = [context for context, keep in zip(_contexts(rollouts), kept, strict=True) if keep]
    passes = (2 if rl.lora_rank else 3) + (1 if rl.kl_coef > 0 else 0)
    flops = passes * trajectories_flops(spec, contexts, completions) if completions else 0.0
    return _named("update", requests=len(completions), flops=flops)


def trajectories_flops(spec: ModelSpec, contexts: Sequence[np.ndarray], completions: Sequence[Completion]) -> float:
    """Of completions (contexts: one each), with what contexts have in common once. The last token is fed to nobody."""
    behind = sum(
        forward_flops(spec, len(context), len(completion.tokens) - 1) + logits_flops(spec, int(completion.drawn.sum()))
        for context, completion in zip(contexts, completions, strict=True)
    )
    distinct = {context.tobytes(): context for context in contexts}
    return float(prompts_flops(spec, [context.tolist() for context in distinct.values()]) + behind)


def _reply_flops(spec: ModelSpec, prompt: int, generated: int) -> float:
    return forward_flops(spec, 0, prompt + max(generated - 1, 0)) + logits_flops(spec, generated)


def replies(completion: Completion) -> int:
    """How many replies a trajectory has: stretches that the policy drew."""
    own = completion.drawn
    return int(own[:1].sum() + (own[1:] & ~own[:-1]).sum())


def _contexts(rollouts: Rollouts) -> list[np.ndarray]:
    """What each trajectory was conditioned on, in the order of the trajectories."""
    G = rollouts.rewards_PQG.shape[2]
    return [context for row in rollouts.context_tokens for context in row for _ in range(G)]


def _named(purpose: str, **counts: float) -> dict[str, float]:
    return {f"ledger/{purpose}/{name}": float(value) for name, value in counts.items()}
