"""What mutation and crossover share: asking the editor, the birth of a child, and the records of both."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from espl_jax.evolution.apply import APPLIED, apply_principles
from espl_jax.evolution.documents import apply_document
from espl_jax.evolution.fates import rejection_rates
from espl_jax.evolution.forms import FORMS
from espl_jax.evolution.population import twin
from espl_jax.evolution.words import share_run
from espl_jax.structs import (
    Call,
    Chat,
    Editor,
    Genome,
    Operation,
    Population,
    Prompt,
    Rating,
    Reflection,
    Reply,
    Rollouts,
)

APPLY = {"principles": apply_principles, "document": apply_document}
UNBORN = -1  # id of a child that the population has not added yet
ECHO = 7  # so many words in a row of what the editor was asked to do are a copy of it


def best_prompt(rollouts: Rollouts) -> int:
    """The id of the prompt with the highest mean reward, argmax V[i]; of equals the first."""
    return rollouts.prompt_ids[int(np.argmax(rollouts.values_P))]


def ask(editor: Editor, chats: Sequence[Chat]) -> list[Reply]:
    """One reply a chat, in order; no call without chats. What the editor raises passes through.

    Raises ValueError when the replies are not those of the chats.
    """
    replies = editor(chats) if chats else []
    if [reply.id for reply in replies] != [chat.id for chat in chats]:
        raise ValueError(
            f"the editor was asked {[chat.id for chat in chats]} and answered {[reply.id for reply in replies]}; "
            "it must give one reply a chat, in their order"
        )
    return replies


def edit_call(
    stage: str,
    chat: Chat,
    reply: Reply,
    allowed_ops: Sequence[str],
    config,
    problem_id: str = "",
    targets: tuple[int, ...] = (),
) -> Call:
    """The call with the operations its reply proposes, or with the error that makes the reply useless.

    targets: the principles that a reply in the form of one sentence merges.
    """
    operations, error = FORMS[config.edit_form].parse(reply.text, allowed_ops, reply.finish, targets)
    return Call(stage, chat, reply, problem_id, drop_echoes(operations, chat), error)


def drop_echoes(operations: Sequence[Operation], chat: Chat) -> tuple[Operation, ...]:
    """The operations; those whose text is copied from the request's last paragraph are dropped with that as their fate.

    Weak editors answer with the question: "Write one sentence of new advice" is advice to nobody but them.
    """
    request = chat.messages[-1].content.rstrip().rpartition("\n\n")[2]
    echoes = [not op.fate and share_run(op.text, request, ECHO) for op in operations]
    return tuple(replace(op, fate="repeats the request") if echo else op for op, echo in zip(operations, echoes))


def drop_beyond(operations: Sequence[Operation], limit: int) -> tuple[Operation, ...]:
    """The operations; proposed ones beyond the first `limit` are dropped with that as their fate."""
    proposed = [index for index, operation in enumerate(operations) if not operation.fate]
    late = set(proposed[limit:])
    fate = f"beyond the limit of {limit} edits a reply"
    return tuple(replace(op, fate=fate) if index in late else op for index, op in enumerate(operations))


def is_applied(operation: Operation) -> bool:
    """Whether the operation was applied."""
    return operation.fate == APPLIED


def birth(
    operator: str,
    population: Population,
    parents: tuple[int, ...],
    genome: Genome,
    rating: Rating,
    step: int,
    calls: Sequence[Call],
) -> Reflection:
    """The reflection with its child, or the reason there is none: it would say what a living prompt says already."""
    calls = tuple(calls)
    if not any(is_applied(operation) for call in calls for operation in call.operations):
        return Reflection(operator, parents, calls, reason=_why_no_edits(calls))
    same = twin(population, genome)
    if same is not None or genome == population[parents[0]].genome:
        other = parents[0] if same is None else same.id
        return Reflection(operator, parents, calls, reason=f"the child is identical to prompt {other}")
    return Reflection(operator, parents, calls, child=Prompt(UNBORN, genome, rating, parents, operator, step))


def _why_no_edits(calls: Sequence[Call]) -> str:
    last = [call for call in calls if call.stage == calls[-1].stage]
    if all(call.error for call in last):
        return f"no usable reply in the {last[0].stage} stage (first: {last[0].error})"
    dropped = [operation.fate for call in calls for operation in call.operations]
    return f"no edit was applied (first: {dropped[0]})" if dropped else "the editor proposed no edit"


def reflection_metrics(reflections: Iterable[Reflection]) -> dict[str, float]:
    """Counts over some reflections: calls, replies and operations by what became of them, tokens, children; and fates.py's."""
    reflections = list(reflections)
    calls = [call for reflection in reflections for call in reflection.calls]
    operations = [operation for call in calls for operation in call.operations]
    finishes = [call.reply.finish for call in calls]
    counts = {
        "reflections": len(reflections),
        "children": sum(reflection.child is not None for reflection in reflections),
        "calls": len(calls),
        "prompt_tokens": sum(call.reply.prompt_tokens for call in calls),
        "generated_tokens": sum(call.reply.generated_tokens for call in calls),
        "replies_cut_off": finishes.count("length"),
        "replies_unparseable": sum(call.error != "" and call.reply.finish != "length" for call in calls),
        "operations_proposed": len(operations),
        "operations_applied": sum(is_applied(operation) for operation in operations),
    }
    return {f"evolution/{name}": float(count) for name, count in counts.items()} | rejection_rates(operations)


def reflection_to_json(reflection: Reflection) -> dict[str, Any]:
    """Everything about a reflection as JSON values: chats, replies, operations with their fates, child or reason."""
    return asdict(reflection)
