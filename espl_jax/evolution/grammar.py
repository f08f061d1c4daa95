"""Replies held to a form while they are sampled, for editors too weak to write it: the JSON schema of a list of edits.

Only the form is held: which edits, and what they say, is the model's. The schema knows the limits that the guards would
otherwise reject for (words of a principle, ids that there are, edits of a reply), and that a principle is words: letters of any
script, hyphens and apostrophes, with commas, semicolons and colons between. policy/constraints.py turns it into masks.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from espl_jax.structs import Chat

LEAST_WORDS = 3  # of a principle
WORD = r"\p{L}[\p{L}'-]{0,17}"  # no digits: weak models fill a text with them, and principles are to be free of numbers
MARK = "[,;:]?"  # behind a word
EVIDENCE_WORDS = 24
SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}  # a key of llguidance's


def held(chats: Sequence[Chat], allowed_ops: Sequence[str], config, principles: int, evidence: bool = False) -> list[Chat]:
    """The chats, each with the schema that config.grammar holds its reply to.

    principles: how many can be referred to, as "G0" and so on. evidence: whether an edit says why, as the template asks.
    """
    schema = GRAMMARS[config.grammar](allowed_ops, config, principles, evidence)
    return [replace(chat, schema=schema) for chat in chats]


def edits_schema(allowed_ops: Sequence[str], config, principles: int, evidence: bool) -> str:
    """The JSON schema of a list of at most config.max_edits operations; an empty list means no edit, as in free text."""
    forms = [_form(op, config, principles, evidence) for op in allowed_ops if principles >= NEEDED[op]]
    schema = {"type": "array", "items": {"anyOf": forms}, "maxItems": config.max_edits, "x-guidance": SPACING}
    return json.dumps(schema)


NEEDED = {"add": 0, "modify": 1, "remove": 1, "merge": 2}  # principles that there must be for an operation
GRAMMARS = {"none": lambda allowed_ops, config, principles, evidence: "", "json": edits_schema}


def _form(op: str, config, principles: int, evidence: bool) -> dict[str, Any]:
    """One operation, its fields in the order of the templates."""
    ids = {"enum": [f"G{number}" for number in range(principles)]}
    fields: dict[str, Any] = {"op": {"const": op}}
    if op in ("modify", "remove"):
        fields["id"] = ids
    if op == "merge":
        fields["ids"] = {"type": "array", "items": ids, "minItems": 2, "maxItems": 2}
    if op != "remove":
        fields["principle"] = _sentence(LEAST_WORDS, config.max_principle_words)
    if evidence:
        fields["evidence"] = _sentence(1, EVIDENCE_WORDS)
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


def _sentence(least: int, most: int) -> dict[str, Any]:
    """A text of so many words on one line, one blank between two, perhaps with a full stop."""
    most = max(least, most)
    return {"type": "string", "pattern": f"^{WORD}({MARK} {WORD}){{{least - 1},{most - 1}}}[.]?$"}
