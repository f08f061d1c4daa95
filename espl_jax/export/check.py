"""Reads an export back and compares it with our own policy: rendered chats token for token, and logits.

Our policy is the run's: base weights with the adapter applied beside them, in float32. The export is what its files say. Both
go through our decoder in float32, so that they differ by the merge and by the rounding to the files' dtype.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from espl_jax import finished
from espl_jax.evolution.render import layout_messages
from espl_jax.policy import adapter_files, sharding, weights
from espl_jax.policy.model import Decoder, abstract_params
from espl_jax.structs import Chat, Genome, Message

# The largest difference of a token's log-probability (natural) that is let pass, by the dtype of the files: rounding alone.
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.5, "float16": 0.1}
EXACT = {  # how our policy is loaded for this: in float32, without what only training needs
    "model.dtype": "float32", "model.weight_dtype": "float32", "model.attention": "xla", "model.remat": "none",
    "sampling.merge_weights": False, "evolution.editor": "current", "rl.kl_coef": 0.0,
}  # fmt: skip
SAID = "The numbers add up to 42."
CHATS: tuple[tuple[Message, ...], ...] = (
    (Message("user", "What is 12 + 30?"),),
    (Message("user", "  Name a prime.\n\nOne that is \"large\" & odd: {{ 7 }} {% x %} é\n"),),
    (Message("user", "Hello"), Message("assistant", "Hello! How can I help?"), Message("user", "Add 4 and 5.")),
    (Message("system", "Answer in one word."), Message("user", "Which colour has the sky?")),
)


class CheckError(ValueError):
    """What was written is not what our policy is; nothing is left of it."""


@dataclass(frozen=True)
class Findings:
    """chats: how many were rendered alike. difference: the largest between log-probabilities of the export and of our policy,
    over `tokens` positions and all tokens; tolerance: what was let pass. learned: the same between our policy and the model it
    began with; None where all weights were trained."""

    chats: int
    tokens: int
    difference: float
    tolerance: float
    learned: float | None


def compare(source: Any, new: Path) -> Findings:
    """source: write.Source. Raises CheckError, in one sentence, when the export differs from our policy."""
    rendered = same_chats(source, new)
    rows = [np.concatenate([tokens, source.tokenizer.encode(SAID)]) for tokens in rendered]
    with jax.default_matmul_precision("highest"):
        policy, trainable = finished.load(source.run, **EXACT)
        ours = log_probabilities(policy.model, policy.variables(trainable), rows)
        base = None if policy.frozen is None else log_probabilities(policy.model, {"params": policy.frozen}, rows)
        model, mesh = policy.model, policy.mesh
        del policy, trainable  # one model at a time
        theirs = log_probabilities(model, {"params": reloaded(source, new, model, mesh)}, rows)
    difference, tolerance = largest(ours, theirs), TOLERANCE["float32" if source.form == "adapter" else source.dtype]
    if not difference <= tolerance:
        raise CheckError(
            f"the export's log-probabilities differ from our policy's by up to {difference:.2g}, more than {tolerance:g}; it "
            "is not kept: use --dtype=float32, or --form=adapter"
        )
    return Findings(len(rendered), sum(map(len, rows)), difference, tolerance, None if base is None else largest(ours, base))


def same_chats(source: Any, new: Path) -> list[np.ndarray]:
    """Our tokens of every chat that the model's template takes. Raises CheckError when the exported tokenizer has others."""
    from transformers import AutoTokenizer

    exported = AutoTokenizer.from_pretrained(new, trust_remote_code=False, local_files_only=True)
    config, rendered = source.run.config, []
    for chat in CHATS:
        try:
            tokens = source.tokenizer.render(Chat("check", opened(chat, source.prompt.genome, config.evolution.layout)))
        except ValueError:
            if chat[0].role == "system" or len(chat) > 1:  # a model without system turns, or for one question only
                continue
            raise
        turns = [{"role": message.role, "content": message.content} for message in chat]
        found = exported.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
        if list(found) != tokens.tolist():
            raise CheckError(
                f"the export renders {json.dumps(chat[-1].content)} as {exported.decode(found)!r}, and we as "
                f"{source.tokenizer.decode(tokens)!r}; this model's template cannot take a default prompt, use --prompt=none"
            )
        rendered.append(tokens)
    return rendered


def opened(chat: Sequence[Message], genome: Genome, layout: str) -> tuple[Message, ...]:
    """The conversation under a prompt, as a run puts it there; one that has a system turn of its own keeps that."""
    if chat[0].role == "system":
        return tuple(chat)
    return (*layout_messages(chat[0].content, genome, layout), *chat[1:])


def reloaded(source: Any, new: Path, model: Decoder, mesh: Any) -> Any:
    """The export's weights, in float32."""
    shapes, names = abstract_params(model)
    shardings = sharding.tree_shardings(names, shapes, mesh)
    if source.form == "adapter":
        return weights.load(source.directory, shapes, shardings, jnp.float32, adapter_files.read(new))
    return weights.load(new, shapes, shardings, jnp.float32)


def log_probabilities(model: Decoder, variables: Any, rows: Sequence[np.ndarray]) -> list[np.ndarray]:
    """float32 [T, V] of each row of tokens, one row a call, all of one length."""
    longest, vocab = max(map(len, rows)), model.spec.vocab_size

    @jax.jit
    def apply(variables, tokens_BL):
        positions_BL = jnp.broadcast_to(jnp.arange(tokens_BL.shape[1]), tokens_BL.shape)
        hidden, _ = model.apply(variables, tokens_BL, positions_BL)
        return jax.nn.log_softmax(model.apply(variables, hidden, method="logits")[..., :vocab])

    padded = [np.pad(row, (0, longest - len(row)))[None] for row in rows]
    return [np.asarray(apply(variables, tokens))[0, : len(row)] for tokens, row in zip(padded, rows, strict=True)]


def largest(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> float:
    """The largest absolute difference."""
    return max(float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True))
