"""Why operations are dropped, in kinds that can be counted: the reasons themselves are sentences, for people.

A reason that nothing here knows is of kind "other"; a test holds every reason that the room gives against this table.
"""

import re
from collections import Counter
from collections.abc import Iterable

from espl_jax.evolution.apply import APPLIED
from espl_jax.structs import Operation

OTHER = "other"
# kind -> what its reasons look like; the first that fits counts
KINDS = {
    "leak": r"^(gives away the answer|quotes the question) ",
    "control": r"^holds the (chat control mark|invisible character) ",
    "protected": r"protected",
    "echo": r"^repeats the request$",
    "duplicate": r"^(repeats (G\d+|what the document says)|changes nothing)$",
    "too_long": r"\d+ words \(limit \d+\)$",
    "no_room": r"^no room: ",
    "too_many": r"^beyond the limit of \d+ edits",
    "contested": r"^G\d+ was already edited$",
    "no_target": r"^(there is no principle G|the search text occurs |the search text is empty)",
    "empty": r"^(the text is empty|has no text)$",
    "malformed": r"( is not allowed here|^needs |is not finished)",
}
_PATTERNS = {kind: re.compile(pattern) for kind, pattern in KINDS.items()}


def kind(fate: str) -> str:
    """The kind of a reason: a key of KINDS, or "other"."""
    return next((name for name, pattern in _PATTERNS.items() if pattern.search(fate)), OTHER)


def rejection_rates(operations: Iterable[Operation]) -> dict[str, float]:
    """evolution/rejected_<kind>: the share of the proposed operations that were dropped for it; 0 when none was proposed."""
    operations = list(operations)
    counts = Counter(kind(operation.fate) for operation in operations if operation.fate != APPLIED)
    return {f"evolution/rejected_{name}": counts[name] / max(1, len(operations)) for name in (*KINDS, OTHER)}
