"""The reward of a search conversation: is what follows "Answer:" one of the true answers?

Compared as the literature on open questions does (Rajpurkar et al. 2016, "SQuAD"): without capitals, punctuation, the articles
a, an and the, and extra white space.
"""

import re
from collections.abc import Iterable
from unicodedata import category, normalize

from espl_jax.structs import Problem
from espl_jax.tasks.extraction import answer_line

ARTICLES = re.compile(r"\b(?:a|an|the)\b")
MAX_ANSWER_CHARACTERS = 1000  # no true answer is longer


def read_answer(reply: str) -> str:
    """What follows the last "Answer:", up to the end of its line; "" if there is nothing."""
    return answer_line(reply)[:MAX_ANSWER_CHARACTERS]


def normalized(answer: str) -> str:
    """What is compared of an answer."""
    text = normalize("NFKC", answer).lower()
    text = "".join(character for character in text if category(character)[0] != "P" and character not in "$+<=>^`|~")
    return " ".join(ARTICLES.sub(" ", text).split())


def matches(answer: str, golden: Iterable[str]) -> bool:
    """Whether an answer is one of the true ones; an empty one is not."""
    said = normalized(answer)
    return bool(said) and any(said == normalized(true) for true in golden)


def score(correct: bool, well_formed: bool, penalty: float) -> float:
    """The reward in [0, 1]: 1 for a true answer, less `penalty` where the conversation broke the form."""
    return max(0.0, float(correct) - (0.0 if well_formed else penalty))


def golden_answers(problem: Problem) -> tuple[str, ...]:
    """All true answers of a problem."""
    return tuple(problem.data["golden_answers"]) if "golden_answers" in problem.data else (problem.answer,)
