"""Edits of a document -> the new document, and what became of each edit.

An edit is a search/replace operation, or, from an editor that writes sentences, an addition, which hints.py finds a place for.
Nothing raises for what an editor proposed: an edit that is not applied carries the reason as its fate.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from espl_jax.evolution import hints
from espl_jax.evolution.apply import APPLIED
from espl_jax.evolution.guards import Watched, control_marks, leaks
from espl_jax.evolution.words import count_words, has_words, occurrences, similarity
from espl_jax.structs import Genome, Operation, Problem


def apply_document(
    genome: Genome, operations: Sequence[Operation], config, problems: Sequence[Problem]
) -> tuple[Genome, tuple[Operation, ...]]:
    """The document after the edits in the order proposed, and the operations, each with its fate; additions as replacements.

    The search text must occur exactly once in the document as the edits before left it; an empty search text is for an empty
    document alone. config: config.evolution (max_document_words, beyond which a document may only shrink; max_document_growth;
    max_hints and max_principle_words of a hint; duplicate_similarity). problems: no edit may give one away; of a Watched, also
    what its library protects: a part that the document has must stay as often as it was, on lines of its own.
    """
    document, judged = genome.document, []
    for operation in operations:
        if not operation.fate:
            operation, fate = _placed(document, operation, config)
            after, fate = ("", fate) if fate else _replaced(document, operation)
            fate = fate or _objection(genome.document, document, after, config, problems)
            document = document if fate else after
            operation = replace(operation, fate=fate or APPLIED)
        judged.append(operation)
    return Genome("document", document=document), tuple(judged)


def _placed(document: str, operation: Operation, config) -> tuple[Operation, str]:
    """The operation as a replacement, and why it cannot be one, or ""."""
    if operation.op != "add":
        return operation, ""
    if not has_words(operation.text):
        return operation, "the text is empty"
    if (words := count_words(operation.text)) > config.max_principle_words:
        return operation, f"has {words} words (limit {config.max_principle_words})"
    advice = " ".join(operation.text.split())
    return replace(hints.place(document, advice, config.max_hints), evidence=operation.evidence), ""


def _replaced(document: str, operation: Operation) -> tuple[str, str]:
    """The document after the operation, and why there is none, or ""."""
    search, text = operation.search.strip("\n"), operation.text.strip("\n")
    if not search.strip():
        return ("", "the search text is empty") if document.strip() else (text, "")
    if (found := occurrences(search, document)) != 1:
        return "", f"the search text occurs {found} times"
    return document.replace(search, text), ""


def _objection(parent: str, before: str, after: str, config, problems: Sequence[Problem]) -> str:
    """Why a document may not become another, or "". parent: before all edits of this child."""
    if before == after:
        return "changes nothing"
    if part := next((part for part in _protected(problems) if _touched(part, before, after)), ""):
        return f"changes the protected part {part[:40]!r}"
    words = count_words(after)
    if words > config.max_document_words and words > count_words(before):
        return f"the document would have {words} words (limit {config.max_document_words})"
    if (growth := words - count_words(parent)) > config.max_document_growth:
        return f"the document would grow by {growth} words (limit {config.max_document_growth})"
    if _repeats(before, after, config.duplicate_similarity):
        return "repeats what the document says"
    new = "\n".join(_new_lines(parent, after))  # of all edits: what none of them gives away alone, several may
    return control_marks(new) or leaks(new, problems)


def _protected(problems: Sequence[Problem]) -> tuple[str, ...]:
    return problems.library.protected if isinstance(problems, Watched) else ()


def _touched(part: str, before: str, after: str) -> bool:
    """Whether a part that was there is there more or less often, or shares a line with something else now."""
    return part in before and _standing(part, before) != _standing(part, after)


def _standing(part: str, document: str) -> tuple[int, int]:
    """How often a part occurs, and how often on lines of its own."""
    return document.count(part), f"\n{document}\n".count(f"\n{part}\n")


def _new_lines(before: str, after: str) -> list[str]:
    """The lines that a document has and another had not, or not as often."""
    return list((Counter(after.split("\n")) - Counter(before.split("\n"))).elements())


def _repeats(before: str, after: str, limit: float) -> bool:
    """Whether there are new lines, and each says what another line says as well."""
    new = [line for line in _new_lines(before, after) if has_words(line) and line != hints.HEADING]
    lines = Counter(after.split("\n"))
    others = (_unmarked(other for other in lines - Counter([line]) if has_words(other)) for line in new)
    return bool(new) and all(
        any(similarity(line, other) >= limit for other in rest) for line, rest in zip(_unmarked(new), others, strict=True)
    )


def _unmarked(lines: Iterable[str]) -> list[str]:
    """Lines without the marks of a list."""
    return [line.lstrip("-•* ") for line in lines]
