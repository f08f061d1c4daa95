"""Consolidation: all edits that a step's critiques proposed become one revision plan.

The critiques did not see each other. Their edits enter the list first (a second wording of a principle stands beside
the first as its rival), then one editor call merges and rewrites (Zhang, Chen, Stadie, arXiv 2602.14697v3).
What the plan does not mention stays, except rivals. Without a usable plan the edits stand as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from espl_jax.evolution.apply import APPLIED, Slots, already_edited, births_of_slots, edit_slots, trim
from espl_jax.evolution.forms import edit_chat
from espl_jax.evolution.grammar import held
from espl_jax.evolution.reflection import ask, edit_call, is_applied
from espl_jax.structs import Call, Editor, Genome, Operation, Problem

ALLOWED = ("modify", "merge")


@dataclass(frozen=True)
class Draft:
    """The list between the critiques and the plan.

    slots: the parent's principles (some reworded), additions, then rivals. operations: the critiques', with fates.
    rivals: slot -> index of the operation that proposed it. first_new: the slot of the first addition.
    """

    slots: Slots
    operations: tuple[Operation, ...]
    rivals: dict[int, int]
    first_new: int


def consolidate(
    genome: Genome, operations: Sequence[Operation], problems: Sequence[Problem], describe: str, editor: Editor, config
) -> tuple[Genome, tuple[Operation, ...], list[Call]]:
    """The revised genome, the critiques' operations with their fates, and the consolidation's call.

    The editor is asked when two or more edits survived, or when more principles than config.max_principles would
    stand. Of principles beyond that limit the latest additions are taken back.
    """
    draft = _draft(genome, operations, config, problems)
    survivors = sum(map(is_applied, draft.operations)) + len(draft.rivals)
    calls, all_rivals = [], draft.rivals
    if survivors > 1 or survivors and len(draft.slots) > config.max_principles:
        draft, call = _carry_out_plan(draft, problems, describe, editor, config)
        calls.append(call)
    slots = [None if slot in draft.rivals else text for slot, text in enumerate(draft.slots)]
    births = births_of_slots(draft.operations, draft.first_new) | all_rivals
    slots, judged = trim(slots, births, draft.operations, config.max_principles)
    return Genome("principles", tuple(text for text in slots if text is not None)), judged, calls


def _draft(genome: Genome, operations: Sequence[Operation], config, problems: Sequence[Problem]) -> Draft:
    slots, judged = edit_slots(genome.principles, operations, config, problems)
    rivals = {}
    for index, operation in enumerate(judged):
        if operation.op == "modify" and operation.targets and operation.fate == already_edited(operation.targets[0]):
            after, (verdict,) = edit_slots(slots, [replace(operation, op="add", fate="")], config, problems)
            if is_applied(verdict):
                rivals[len(slots)] = index
                slots = after
    return Draft(slots, judged, rivals, len(genome.principles))


def _carry_out_plan(
    draft: Draft, problems: Sequence[Problem], describe: str, editor: Editor, config
) -> tuple[Draft, Call]:
    """The draft after the plan, with the rivals left that the plan does not mention; and the call."""
    values = {"task": describe, "principles": _marked(draft), "max_words": str(config.max_principle_words)}
    [chat] = held([edit_chat("mutation/consolidation", "consolidation", config, **values)], ALLOWED, config, len(draft.slots))
    new = tuple(range(draft.first_new, len(draft.slots)))
    call = edit_call("consolidation", chat, ask(editor, [chat])[0], ALLOWED, config, targets=new)
    slots, planned = edit_slots(draft.slots, call.operations, config, problems)
    used = {target for operation in planned if is_applied(operation) for target in operation.targets}
    judged = list(draft.operations)
    for slot in used & set(draft.rivals):
        judged[draft.rivals[slot]] = replace(judged[draft.rivals[slot]], fate=APPLIED)
    left = {slot: index for slot, index in draft.rivals.items() if slot not in used}
    return replace(draft, slots=slots, operations=tuple(judged), rivals=left), replace(call, operations=planned)


def _marked(draft: Draft) -> str:
    """The draft's lines under their ids, each edited one with a mark that says how."""
    reworded = {op.targets[0] for op in draft.operations if is_applied(op) and op.op == "modify"}
    marks = dict.fromkeys(reworded, "(reworded) ")
    marks |= dict.fromkeys(range(draft.first_new, len(draft.slots)), "(new) ")
    marks |= {slot: f"(G{draft.operations[i].targets[0]} in a different wording) " for slot, i in draft.rivals.items()}
    lines = (f"[G{slot}] {marks.get(slot, '')}{text}" for slot, text in enumerate(draft.slots))
    return "\n".join(lines)
