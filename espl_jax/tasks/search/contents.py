"""A passage as one text, as Search-R1's corpus (wiki-18) and its server have it: the title in quotes, then the text."""

from espl_jax.tasks.search.passages import Passage


def join_contents(passage: Passage) -> str:
    """The title in quotes, a line break, the text."""
    return f'"{passage.title}"\n{passage.text}'


def split_contents(contents: str) -> tuple[str, str]:
    """(title, text); no title when there is one line only."""
    title, line_break, text = contents.partition("\n")
    if not line_break:
        return "", contents
    quoted = len(title) > 1 and title[0] == title[-1] == '"'
    return (title[1:-1] if quoted else title), text


def clean(text: str) -> str:
    """The text with "?" for halves of surrogate pairs, which JSON can say and UTF-8 cannot."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
