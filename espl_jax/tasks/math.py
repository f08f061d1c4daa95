r"""Mathematics with one exact answer, graded by what the answer means: \frac{1}{2} is 0.5.

Also the grader of jsonl.py. math_verify (https://github.com/huggingface/Math-Verify) parses and compares; it runs in
grading workers only, without time limits of its own, because a signal cannot interrupt one long operation on integers.
"""

import re
from collections.abc import Callable
from functools import partial

from ml_collections import ConfigDict

from espl_jax.structs import Grade, Problem, Task
from espl_jax.tasks.extraction import EXTRACTION, unwrapped
from espl_jax.tasks.grading import GradingPool
from espl_jax.tasks.sources import load_splits

ANSWER_CHARACTERS = 1000  # no true answer is longer, and parsing one would only take time
PROSE_CHARACTERS = 4000  # of a sentence or a whole reply, the end is searched for an answer

INTEGER = re.compile(r"[-+]?[0-9]+")
TEXT_COMMAND = re.compile(r"\\(?:text|textbf|textit|mathrm|mbox)\s*\{([^{}]*)\}")
FUNCTION = re.compile(r"sin|cos|tan|sec|csc|cot|log|ln|exp|sqrt|pi|inf(?:ty|inity)?")
DELIMITER = re.compile(r"\$|\\\(|\\\[|\\boxed")


def build(config: ConfigDict, seed: int, tools: ConfigDict) -> Task:
    """Competition mathematics from named sources or local files (sources.py)."""
    about = "Competition mathematics: every problem has one exact answer, a number or an expression."
    return mathematical_task("math", config, seed, about)


def mathematical_task(name: str, config: ConfigDict, seed: int, about: str) -> Task:
    """A task of problems with one true answer each, compared by `same`."""
    splits = load_splits(config, seed)
    factory = partial(make_verifier, config.extraction)
    suffix = config.question_suffix
    rule = EXTRACTION[config.extraction].wording
    return Task(
        name=name,
        train=splits.train,
        validation=splits.validation,
        test=splits.test,
        question=lambda problem: problem.question + suffix,
        grader=GradingPool(factory, config.grading_workers, config.grading_timeout),
        describe=f"{about} A reply is correct when {rule} equals the true answer, in whatever form it is written.",
    )


def make_verifier(extraction: str) -> Callable[[Problem, str], Grade]:
    """The verifier of a grading worker: 1 if what the rule named `extraction` reads equals the true answer, else 0."""
    import math_verify  # noqa: F401  here, so that a worker imports it before its first answer's time runs

    rule = EXTRACTION[extraction]

    def verify(problem: Problem, reply: str) -> Grade:
        answer = rule.read(reply)
        if not answer:
            return Grade(0.0, note="no answer found")
        if not rule.prose and len(answer) > ANSWER_CHARACTERS:
            return Grade(0.0, answer, note=f"answer is longer than {ANSWER_CHARACTERS} characters")
        return Grade(float(same(problem.answer, answer, rule.prose)), answer)

    return verify


def same(truth: str, answer: str, prose: bool = False) -> bool:
    """Whether an answer means the same as the true one. prose: the answer may be a sentence that contains it.

    Equal text is equal. Words are compared as text only, without regard to capitals: as products of letters, anagrams
    would be equal. Integers are compared as such. All else is math_verify's to compare; numbers agree to 6 decimals.
    """
    plain_truth, plain_answer = plain(truth), plain(answer)
    if plain_truth == plain_answer:
        return True
    if are_words(plain_truth):
        return plain_truth.casefold() == plain_answer.casefold()
    if INTEGER.fullmatch(plain_truth) and INTEGER.fullmatch(plain_answer):
        return int(plain_truth) == int(plain_answer)
    return means_same(truth, answer, prose)


def plain(text: str) -> str:
    r"""The text without \text{...}, dollar signs and a final period around it, and with single spaces."""
    return " ".join(unwrapped(TEXT_COMMAND.sub(r"\1", text)).split())


def are_words(text: str) -> bool:
    """Whether a true answer is a word or phrase rather than mathematics: letters in a row, no digit, no operator."""
    without_functions = FUNCTION.sub("", text)
    return bool(re.search(r"[^\W\d_]{2,}", without_functions)) and not re.search(r"[0-9\\=^+*/<>]", text)


def means_same(truth: str, answer: str, prose: bool) -> bool:
    """math_verify's comparison, independent of what was compared before (its numeric tests draw random points)."""
    from math_verify import parse, verify
    from sympy.core import random

    random.seed(0)
    gold = parse(in_dollars(truth), parsing_timeout=None)
    return any(
        verify(gold, parse(reading, parsing_timeout=None), timeout_seconds=None) for reading in readings(answer, prose)
    )


def readings(answer: str, prose: bool) -> list[str]:
    """What math_verify is given to parse: an expression in dollars; of prose also the text, for it to find one in."""
    if not prose:
        return [in_dollars(answer)]
    found = [answer[-PROSE_CHARACTERS:]]
    expression = len(answer) <= ANSWER_CHARACTERS and not DELIMITER.search(answer)
    return found + [in_dollars(answer)] * expression


def in_dollars(expression: str) -> str:
    """The expression as inline LaTeX, which math_verify recognises without other hints."""
    expression = unwrapped(expression)
    return expression if DELIMITER.search(expression) else f"${expression}$"
