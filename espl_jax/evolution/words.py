"""What counts as a word: for limits on length, for leaving out the middle of a text, and for comparing texts."""

import re

_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
# A character of a script without spaces is a word; of anything else at most 40 characters are.
_WORD = re.compile(rf"[{_CJK}]|[^\s{_CJK}]{{1,40}}")
_TERM = re.compile(rf"[{_CJK}]|\d+|[^\W\d_{_CJK}]+|[+*/=<>^%-]")


def count_words(text: str) -> int:
    """Words of a text; one very long run of characters is not one word."""
    return sum(1 for _ in _WORD.finditer(text))


def elide(text: str, max_words: int) -> str:
    """The text, or its first and last halves of `max_words` words with a note between them that says how many miss."""
    spans = [match.span() for match in _WORD.finditer(text)]
    if len(spans) <= max_words:
        return text
    head, tail = (max_words + 1) // 2, max_words // 2
    start = text[: spans[head - 1][1]] if head > 0 else ""
    end = text[spans[-tail][0] :] if tail > 0 else ""
    return f"{start}\n[... {len(spans) - max(max_words, 0)} words left out ...]\n{end}"


def head(text: str, count: int) -> str:
    """The text, or, if it has more than `count` words, its beginning and a mark: `count` words in all."""
    spans = [match.span() for match in _WORD.finditer(text)]
    if len(spans) <= count:
        return text
    return f"{text[: spans[count - 2][1]]} …" if count > 1 else "…" * count


def occurrences(text: str, document: str) -> int:
    """How often a text that is not empty stands in another one, overlaps included."""
    return len(re.findall(f"(?={re.escape(text)})", document))


def similarity(first: str, second: str) -> float:
    """Jaccard similarity in [0, 1] of the two texts' sets of words, numbers and signs, in lower case."""
    a, b = set(_TERM.findall(first.lower())), set(_TERM.findall(second.lower()))
    return len(a & b) / len(a | b) if a | b else 1.0


def share_run(first: str, second: str, count: int) -> bool:
    """Whether the two texts have `count` words in a row in common, in lower case, punctuation left out."""
    a, b = ([term for term in _TERM.findall(text.lower()) if term.isalnum()] for text in (first, second))
    runs = {tuple(a[i : i + count]) for i in range(len(a) - count + 1)}
    return any(tuple(b[i : i + count]) in runs for i in range(len(b) - count + 1))


def has_words(text: str) -> bool:
    """Whether a text says anything at all: "..." and "<>" do not."""
    return any(character.isalnum() for character in text)
