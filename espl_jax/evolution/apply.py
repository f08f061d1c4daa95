"""Edits of a list of principles -> the new list, and what became of each edit; documents.py has those of a document.

Nothing raises for what an editor proposed: an edit that is not applied carries the reason as its fate.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from espl_jax.evolution.guards import control_marks, leaks
from espl_jax.evolution.words import count_words, has_words, similarity
from espl_jax.structs import Genome, Operation, Problem

APPLIED = "applied"
_LABEL = re.compile(r"^\s*(?:\[G\d+\]|G\d+[:.)])\s*[:.-]?\s*", re.IGNORECASE)

# A principle, or None once it was removed or merged into another; its position is its id.
Slots = list[str | None]


def apply_principles(
    genome: Genome, operations: Sequence[Operation], config, problems: Sequence[Problem]
) -> tuple[Genome, tuple[Operation, ...]]:
    """The genome after the edits, its principles renumbered, and the operations in their order, each with its fate.

    Targets are positions in `genome`, whatever earlier edits did. Edits of existing principles go first, in the order
    proposed, then the additions; each principle is edited once at the most. A merged principle stands where the first
    of its targets stood, an added one at the end. Operations that come with a fate are left alone. config:
    config.evolution (max_principle_words, max_principles, duplicate_similarity); problems: no text may give one away.
    """
    slots, operations = edit_slots(genome.principles, operations, config, problems)
    births = births_of_slots(operations, len(genome.principles))
    slots, operations = trim(slots, births, operations, config.max_principles)
    return Genome("principles", tuple(text for text in slots if text is not None)), operations


def edit_slots(
    texts: Sequence[str], operations: Sequence[Operation], config, problems: Sequence[Problem]
) -> tuple[Slots, tuple[Operation, ...]]:
    """As `apply_principles`, without renumbering and without a limit on the number of principles.

    Slots 0 .. len(texts) - 1 keep their numbers; the n-th applied addition is in slot len(texts) + n.
    """
    slots, judged = list(texts), list(operations)
    touched: set[int] = set()
    for index in sorted(range(len(judged)), key=lambda index: judged[index].op == "add"):
        operation = judged[index]
        if operation.fate:
            continue
        text = clean(operation.text)
        fate = _objection(operation, text, slots, len(texts), touched, config, problems)
        if not fate:
            _edit(slots, operation, text)
            touched.update(operation.targets if operation.op != "add" else ())
        judged[index] = replace(operation, fate=fate or APPLIED)
    return slots, tuple(judged)


def births_of_slots(operations: Sequence[Operation], first: int) -> dict[int, int]:
    """Slot -> index of the applied addition that made it; `first` is the slot of the first one."""
    added = [i for i, operation in enumerate(operations) if operation.op == "add" and operation.fate == APPLIED]
    return dict(enumerate(added, start=first))


def trim(
    slots: Slots, births: Mapping[int, int], operations: Sequence[Operation], max_principles: int
) -> tuple[Slots, tuple[Operation, ...]]:
    """Takes back the latest additions until at most `max_principles` are left; nothing older is ever removed.

    births: slot -> index of the operation that added it; it is given the reason as its fate.
    """
    slots, operations = list(slots), list(operations)
    for slot in sorted(births, reverse=True):
        if slots[slot] is not None and sum(text is not None for text in slots) > max_principles:
            slots[slot] = None
            fate = f"no room: the limit is {max_principles} principles"
            operations[births[slot]] = replace(operations[births[slot]], fate=fate)
    return slots, tuple(operations)


def already_edited(target: int) -> str:
    """The fate of an operation that came second to a principle."""
    return f"G{target} was already edited"


def clean(text: str) -> str:
    """A principle as one line, without the id that an editor may have copied."""
    return _LABEL.sub("", " ".join(text.split()))


def _edit(slots: Slots, operation: Operation, text: str) -> None:
    if operation.op == "add":
        slots.append(text)
        return
    for target in operation.targets:
        slots[target] = None
    if operation.op != "remove":
        slots[min(operation.targets)] = text


def _objection(operation, text, slots, count, touched, config, problems) -> str:
    """Why an operation is not applied, or ""."""
    for target in operation.targets if operation.op != "add" else ():
        if target >= count:
            return f"there is no principle G{target}"
        if target in touched:
            return already_edited(target)
    if operation.op == "remove":
        return ""
    return _text_objection(text, config, problems) or _repeats(operation, text, slots, config)


def _text_objection(text: str, config, problems: Sequence[Problem]) -> str:
    if not has_words(text):
        return "the text is empty"
    if (words := count_words(text)) > config.max_principle_words:
        return f"has {words} words (limit {config.max_principle_words})"
    return control_marks(text) or leaks(text, problems)


def _repeats(operation: Operation, text: str, slots: Slots, config) -> str:
    """Whether another principle says the same already; the operation's own targets are not others."""
    own = operation.targets if operation.op != "add" else ()
    if operation.op == "modify" and text == slots[own[0]]:
        return "changes nothing"
    for slot, other in enumerate(slots):
        if other is not None and slot not in own and similarity(text, other) >= config.duplicate_similarity:
            return f"repeats G{slot}"
    return ""
