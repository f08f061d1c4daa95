"""What a model wrote -> edits: a total parser, which returns operations or a reason and never raises.

It reads JSON in the shapes that models really write, and, where `replace` is allowed, search/replace blocks:

  Evidence: why this change, on the lines before the block
  <<<<<<< SEARCH
  text that stands in the document
  =======
  text that takes its place
  >>>>>>> REPLACE
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from espl_jax.evolution.json_text import MAX_CHARS, MAX_DEPTH, json_values
from espl_jax.structs import Operation

CUT_OFF = "cut off by the token limit"
MAX_OPERATIONS = 200
MAX_EVIDENCE = 2000  # characters

_OP_KEYS = ("op", "option", "operation", "operator", "action", "type")
_ID_KEYS = (
    "id", "ids", "target", "targets", "principle_id", "principle_ids", "target_id", "target_ids", "modified_from",
    "merged_from", "merged_ids", "source", "sources", "index", "indices",
)  # fmt: skip
_PRINCIPLE_KEYS = ("principle", "new_principle", "modified_principle", "merged_principle")
_TEXT_KEYS = _PRINCIPLE_KEYS + ("text", "content", "new_text", "rule", "replace", "replacement")
_SEARCH_KEYS = ("search", "find", "old", "old_text")
_EVIDENCE_KEYS = ("evidence", "reason", "rationale", "reasoning", "why", "justification")
_LIST_KEYS = ("operations", "edits", "changes", "plan", "revisions", "revision_plan", "actions", "options")
_OP_NAMES = {
    "add": "add", "insert": "add", "new": "add", "append": "add", "create": "add",
    "modify": "modify", "edit": "modify", "update": "modify", "revise": "modify", "change": "modify",
    "rewrite": "modify", "refine": "modify",
    "merge": "merge", "combine": "merge",
    "remove": "remove", "delete": "remove", "drop": "remove",
    "replace": "replace",
}  # fmt: skip
_OPEN, _MIDDLE, _CLOSE = (re.compile(p) for p in (r"\s*<{5,}\s*SEARCH\b", r"\s*={5,}\s*$", r"\s*>{5,}\s*REPLACE\b"))
_EVIDENCE = re.compile(r"[\s*_#>\d.-]*evidence\b[\s*_]*:[\s*_]*(.*)", re.IGNORECASE)


def parse_edits(text: str, allowed_ops: Sequence[str], finish: str) -> tuple[tuple[Operation, ...], str]:
    """The operations of a reply, and "" or why the reply as a whole is of no use. Never raises, whatever the text.

    finish: the reply's ("length": it was cut off, and nothing of it is used). An empty JSON list means "no edits": no
    operations and no error. An operation that cannot be meant (unknown op, no text, no id ...) is returned with the
    reason as its fate, so that it is not forgotten; fate "" means proposed. Ids are not compared with any genome here.
    """
    if not isinstance(text, str) or len(text) > MAX_CHARS:
        return (), f"not a text of at most {MAX_CHARS} characters"
    if finish == "length":
        return (), CUT_OFF
    text = strip_thinking(text)
    if "replace" in allowed_ops and (blocks := tuple(_blocks(text))):
        return _distinct(blocks), ""
    values, error = json_values(text)
    items = [item for value in values for item in _items(value, 0)]
    operations = tuple(op for item in items[:MAX_OPERATIONS] if (op := _operation(item, allowed_ops)) is not None)
    if len(items) > MAX_OPERATIONS:
        return _distinct(operations), f"only the first {MAX_OPERATIONS} operations were read"
    if operations or any(_means_no_edits(value) for value in values):
        return _distinct(operations), ""
    return (), error or ("no operation in the JSON" if values else "no JSON in the reply")


def strip_thinking(text: str) -> str:
    """What a reply says after its thinking: all behind the last </think>, or what stands before a <think> left open."""
    return text.rpartition("</think>")[2].partition("<think>")[0].strip()


def _distinct(operations: Sequence[Operation]) -> tuple[Operation, ...]:
    """The operations without exact repeats: models write a draft and then the same again."""
    return tuple(dict.fromkeys(operations))


def _means_no_edits(value: Any) -> bool:
    if isinstance(value, dict):
        return any(key in _LIST_KEYS and inner == [] for key, inner in _fields(value).items())
    return value == []


def _fields(item: dict) -> dict[str, Any]:
    """The object's fields under plain names: "New Principle" is new_principle."""
    return {re.sub(r"[\s-]+", "_", str(key).strip().lower()): value for key, value in item.items()}


def _items(value: Any, depth: int) -> Iterator[dict]:
    """The objects that may be operations, out of lists and of wrappings such as {"operations": [...]}."""
    if depth > MAX_DEPTH:
        return
    if isinstance(value, list):
        for inner in value:
            yield from _items(inner, depth + 1)
    elif isinstance(value, dict):
        fields = _fields(value)
        inner = [fields[key] for key in _LIST_KEYS if isinstance(fields.get(key), (list, dict))]
        for wrapped in inner:
            yield from _items(wrapped, depth + 1)
        if not inner:
            yield fields


def _first(fields: dict, keys: Sequence[str]) -> Any:
    """The value of the first of the keys that holds something."""
    return next((fields[key] for key in keys if fields.get(key) is not None), None)


def _operation(fields: dict, allowed: Sequence[str]) -> Operation | None:
    """The operation an object stands for; None when nothing about it looks like one."""
    fields = _unfolded(fields)
    targets = tuple(dict.fromkeys(_ids(_first(fields, _ID_KEYS))))
    name = _first(fields, _OP_KEYS)
    if name is None:
        if not any(key in fields for key in _PRINCIPLE_KEYS + _SEARCH_KEYS):
            return None
        name = _guess(fields, targets)
    op = _OP_NAMES.get(name.strip().lower().split("_")[0], "") if isinstance(name, str) else ""
    if op == "replace" and "replace" not in allowed:
        op = "modify"
    text, search, evidence = (_first(fields, keys) for keys in (_TEXT_KEYS, _SEARCH_KEYS, _EVIDENCE_KEYS))
    targets = targets if op in ("modify", "merge", "remove") else ()
    operation = Operation(op or _shown(name)[:40], targets, _string(text), _string(search), _shown(evidence))
    return replace(operation, fate=_fault(operation, text, allowed))


def _unfolded(fields: dict) -> dict:
    """{"add": "text"} and {"modify": {"id": 1, ...}} in the ordinary form."""
    if len(fields) != 1:
        return fields
    ((key, value),) = fields.items()
    if key in _OP_NAMES and isinstance(value, dict):
        return {"op": key} | _fields(value)
    return {"op": key, "principle": value} if key in _OP_NAMES and isinstance(value, str) else fields


def _guess(fields: dict, targets: tuple[int, ...]) -> str:
    """The op of an object that does not name it."""
    if any(key in fields for key in _SEARCH_KEYS):
        return "replace"
    return ("add", "modify", "merge")[min(len(targets), 2)]


def _fault(operation: Operation, text: Any, allowed: Sequence[str]) -> str:
    if operation.op not in allowed:
        return f"the operation {operation.op!r} is not allowed here"
    if operation.op != "remove" and not isinstance(text, str):
        return "has no text"
    if operation.op in ("modify", "remove") and len(operation.targets) != 1:
        return f"needs one principle's id, has {len(operation.targets)}"
    if operation.op == "merge" and len(operation.targets) < 2:
        return f"needs two or more principles' ids, has {len(operation.targets)}"
    return ""


def _string(value: Any) -> str:
    """The value when it is a text. Halves of surrogate pairs, which no file could hold, are replaced."""
    return value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else ""


def _shown(value: Any) -> str:
    """Any JSON value as a text of limited length."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return _string(text[:MAX_EVIDENCE])


def _ids(value: Any) -> Iterator[int]:
    """Principle ids in any of their spellings: 3, 3.0, "3", "G3", "[g3]", "G1, G2" or a list of these."""
    if isinstance(value, list):
        for inner in value:
            yield from _ids(inner) if not isinstance(inner, list) else ()
    elif isinstance(value, str):
        yield from (int(digits) for digits in re.findall(r"(?<![\d-])\d{1,6}(?!\d)", value, re.ASCII))
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and _is_position(value):
        yield int(value)


def _is_position(value: float) -> bool:
    return 0 <= value < 10**6 and value == int(value)


def _blocks(text: str) -> Iterator[Operation]:
    """The search/replace blocks; one that is not finished is kept with that as its fate."""
    search, replacement, between, evidence, state = [], [], [], "", "outside"
    for line in text.splitlines():
        if state == "outside" and _OPEN.match(line):
            search, replacement, between, evidence, state = [], [], [], _evidence(between), "search"
        elif state == "search" and _MIDDLE.match(line):
            state = "replace"
        elif state == "replace" and _CLOSE.match(line):
            yield Operation("replace", text="\n".join(replacement), search="\n".join(search), evidence=evidence)
            state = "outside"
        else:
            {"outside": between, "search": search, "replace": replacement}[state].append(line)
    if state != "outside":
        fate = "the search/replace block is not finished"
        yield Operation("replace", text="\n".join(replacement), search="\n".join(search), evidence=evidence, fate=fate)


def _evidence(lines: Sequence[str]) -> str:
    """What stands behind the last "Evidence:" of some lines."""
    for number in range(len(lines) - 1, -1, -1):
        if found := _EVIDENCE.match(lines[number]):
            said = (found.group(1), *(line for line in lines[number + 1 :] if not line.lstrip().startswith("```")))
            return _shown(" ".join(" ".join(said).split()))
    return ""
