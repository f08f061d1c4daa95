"""What must not enter a prompt: answers of training problems, their words, and the control marks of chat templates.

A principle that carries a training problem's answer is rewarded for memory, not for insight. The guard looks for the
answer beside the problem's own words and numbers, because an answer such as "2" alone says nothing. Answers are looked for
in the problems that the editor was shown, quotations in the whole training set.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property

from espl_jax.structs import Problem

RUN = 8  # so many of the question's words in a row are a quotation
ALIASES = "golden_answers"  # in Problem.data: all that counts as right, of which `answer` is one
TEMPLATE = 0.05  # words that more than this share of a training set has in common are how it asks, and quote no problem
_TERM = re.compile(r"\d+(?:\.\d+)?|[^\W\d_]+")
_LAYOUT = re.compile(r"\\(?:[dt]?frac|text|mathrm|mathbf|left|right|boxed|cdot|times|displaystyle)(?![a-zA-Z])")
_THOUSANDS = re.compile(r"(?<=\d)(?:,|\{,\}|\\,)(?=\d{3}(?!\d))")
_CONTROL = re.compile(
    r"<[|｜][^<>\n]{0,40}[|｜]>|</?(?:think|s|bos|eos|start_of_turn|end_of_turn)>|\[/?INST\]|<</?SYS>>", re.IGNORECASE
)
_INVISIBLE = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]"
)
_NUMBER_WORDS = {  # "one" and "two" are left out: they are too common as plain words
    "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10",
    "eleven": "11", "twelve": "12", "thirteen": "13", "fourteen": "14", "fifteen": "15", "sixteen": "16",
    "seventeen": "17", "eighteen": "18", "nineteen": "19", "twenty": "20",
}  # fmt: skip
_ROUND = {"90", "180", "360", "100", "1000"}  # long numbers that nonetheless stand in many honest principles
_COMMON_ENGLISH = (
    "a an and any are as at be been both but by can compute determine do does each either every exactly find for from "
    "given has have how if in into is it its let many more most much no not number of on one only or other over "
    "problem question so some such suppose than that the their then there these they this those to two under value was "
    "were what when where which who whose why will with would you your answer"
)
_STOPWORDS = frozenset(_COMMON_ENGLISH.split())


class Library:
    """The words of a training set, in which quotations are looked for, and the parts of a document that no edit may change."""

    def __init__(self, problems: Iterable[Problem], protected: Iterable[str] = ()):
        self._problems = tuple(problems)
        self.protected = tuple(protected)

    @cached_property
    def _lines(self) -> list[str]:
        """Each question's terms between blanks; made when something is first looked for."""
        return [f" {' '.join(_terms(problem.question))} " for problem in self._problems]

    @cached_property
    def _everything(self) -> str:
        return "\n".join(self._lines)

    def quoted(self, terms: list[str]) -> str:
        """The id of a problem of which the terms have RUN or more in a row, or ""."""
        limit = max(1, TEMPLATE * len(self._problems))
        for run in sorted(_runs(terms)):
            words = f" {' '.join(run)} "
            if words in self._everything:  # one fast look first: nearly always there is nothing
                found = [i for i, line in enumerate(self._lines) if words in line]
                if len(found) <= limit:
                    return self._problems[found[0]].id
        return ""


class Watched(tuple[Problem, ...]):
    """The problems that an editor was shown, and the library behind them: what an edit is held against."""

    library: Library

    def __new__(cls, problems: Iterable[Problem], library: Library) -> "Watched":
        watched = super().__new__(cls, problems)
        watched.library = library
        return watched


def control_marks(text: str) -> str:
    """Why the text looks like an attempt at chat control tokens, or hides something from a reader, or "".

    Such text can never become a control token; it is kept out because it only serves to confuse a reader.
    """
    if found := _CONTROL.search(text):
        return f"holds the chat control mark {found.group()!r}"
    found = _INVISIBLE.search(text)
    return f"holds the invisible character U+{ord(found.group()):04X}" if found else ""


def leaks(text: str, problems: Sequence[Problem]) -> str:
    """Which problem the text gives away and how, or "".

    problems: whose answers and words are looked for; of a Watched, also the words of its library.

    A problem is given away when the text (a) quotes RUN or more of its words in a row; or names its answer or one of its
    ALIASES, as whole words or numbers, and (b) at least two and 60% of the question's numbers, or (c) enough of the words and
    numbers that set it apart from the other problems, fewer when the answer is a rare thing to write, or (d) one of these and
    "the answer is"; or when its answer is a name that the question does not say, written as one, not only as a first word.
    """
    terms = _terms(text)
    questions = [_terms(problem.question) for problem in problems]
    common = _common(questions)
    for problem, question in zip(problems, questions, strict=True):
        if _quotes(terms, question, questions):
            return f"quotes the question of problem {problem.id}"
        if any(_names_answer(terms, text, answer, question, common) for answer in answers(problem)):
            return f"gives away the answer of problem {problem.id}"
    quoted = problems.library.quoted(terms) if isinstance(problems, Watched) else ""
    return f"quotes the question of problem {quoted}" if quoted else ""


def answers(problem: Problem) -> list[str]:
    """All that counts as the problem's answer, each once."""
    aliases = problem.data[ALIASES] if ALIASES in problem.data else ()
    return list(dict.fromkeys([problem.answer, *map(str, aliases)]))


def _terms(text: str) -> list[str]:
    """Words without a plural s, and numbers, in lower case and in order; LaTeX layout commands are no words."""
    text = _THOUSANDS.sub("", _LAYOUT.sub(" ", text)).lower()
    return [_canonical(term) for term in _TERM.findall(text)]


def _canonical(term: str) -> str:
    if term[0].isdigit():
        return _plain_number(term)
    term = _NUMBER_WORDS.get(term, term)
    return term[:-1] if len(term) > 3 and term.endswith("s") and not term.endswith("ss") else term


def _plain_number(term: str) -> str:
    whole, _, fraction = term.partition(".")
    fraction = fraction.rstrip("0")
    return (whole.lstrip("0") or "0") + ("." + fraction if fraction else "")


def _common(questions: Sequence[list[str]]) -> set[str]:
    """Words that stand in too many of the questions to tell one from another, such as a task's fixed opening."""
    counts = Counter(term for question in questions for term in set(question))
    return {term for term, count in counts.items() if count > max(1, len(questions) / 4)}


def _quotes(terms: list[str], question: list[str], questions: Sequence[list[str]]) -> bool:
    shared = _runs(terms) & _runs(question)
    limit = max(1, len(questions) / 4)
    return any(sum(run in _runs(other) for other in questions) <= limit for run in shared)


def _runs(terms: list[str]) -> set[tuple[str, ...]]:
    return {tuple(terms[i : i + RUN]) for i in range(len(terms) - RUN + 1)}


def _names_answer(terms: list[str], text: str, answer: str, question: list[str], common: set[str]) -> bool:
    answer_terms = _terms(answer)
    rest = _without(terms, answer_terms)
    if rest is None:
        return False
    if _is_named(text, answer) and not set(answer_terms) & set(question):
        return True
    numbers = Counter(term for term in question if term[0].isdigit())
    shared_numbers = Counter(rest) & numbers
    if shared_numbers.total() >= max(2, 0.6 * numbers.total()):
        return True
    words = {term for term in question if _is_content(term) and term not in common}
    shared = len(words & set(rest)) + _weight(shared_numbers)
    pool = len(words) + _weight(numbers)
    if shared and _stated(text, answer):
        return True
    share, most = (0.25, 3) if _is_rare(answer_terms) else (0.5, 6)
    return shared >= min(max(2, share * pool), most, max(pool, 1))


def _without(terms: list[str], answer: list[str]) -> list[str] | None:
    """The terms less one occurrence of the answer, or None when it does not occur."""
    if not answer:
        return None
    for i in range(len(terms) - len(answer) + 1):
        if terms[i : i + len(answer)] == answer:
            return terms[:i] + terms[i + len(answer) :]
    return None


def _is_content(term: str) -> bool:
    return term[0].isalpha() and (len(term) > 2 or not term.isascii()) and term not in _STOPWORDS


def _weight(numbers: Counter) -> int:
    """How much numbers tell: one each, two for those of three digits or more."""
    return sum(count * (2 if len(term) > 2 and term not in _ROUND else 1) for term, count in numbers.items())


def _is_rare(answer: list[str]) -> bool:
    """Whether an answer is seldom written by chance: a long number, a name, or several terms."""
    if len(answer) > 1:
        return True
    term = answer[0]
    return len(term) > 2 and term not in _ROUND and term not in _STOPWORDS | {"yes", "true", "false", "zero"}


def _is_named(text: str, answer: str) -> bool:
    """Whether the answer is a name (capitals, three letters or more) and stands so in the text, behind its first word."""
    words = answer.split()
    if not all(word[:1].isupper() and len(word) > 2 and word.isalpha() for word in words):
        return False
    return bool(re.search(rf"(?<=\w)[^\w.!?]+{re.escape(' '.join(words))}(?!\w)", text))


def _stated(text: str, answer: str) -> bool:
    literal = re.escape(answer.strip().strip("$"))
    return bool(re.search(rf"answers?\b[^.;]{{0,60}}(?:\bis|\bare|=|:)\W{{0,8}}{literal}(?!\w)", text, re.IGNORECASE))
