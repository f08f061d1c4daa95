"""A tiny task for tests and first runs: reply with the word that is asked for. No files, no processes."""

import re

from ml_collections import ConfigDict

from espl_jax.structs import Grade, Problem, Task, text_id
from espl_jax.tasks.grading import Inline
from espl_jax.tasks.splits import distinct, draw, separate

TEXT = (
    "apple bread chair cloud dance eagle field flame fruit glass grape green heart honey horse house island "
    "juice knife lemon light magic mango metal money month mouse music night ocean olive onion paper peach "
    "pearl phone piano plant plate queen radio river robot salad sheep shirt silver sleep smile snake spoon "
    "stone storm sugar table tiger tower train water whale wheat window yellow zebra"
)
WORDS = tuple(TEXT.split())


def build(config: ConfigDict, seed: int, tools: ConfigDict) -> Task:
    """The toy task: its words are split by the seed; task.num_test 0 means no test set. task.extraction is not used."""
    problems = [word_problem(word) for word in WORDS]
    test = draw("task.num_test", problems, config.num_test, seed, "test")
    splits = separate(
        distinct(problems, known=test),
        None,
        test,
        num_train=config.num_train,
        num_validation=config.num_validation,
        num_test=0,
        seed=seed,
    )
    suffix = config.question_suffix
    return Task(
        name="toy",
        train=splits.train,
        validation=splits.validation,
        test=splits.test,
        question=lambda problem: problem.question + suffix,
        grader=Inline(grade),
        describe="Each question asks for one word. A reply is correct when that word occurs in it, in any capitals.",
    )


def word_problem(word: str) -> Problem:
    question = f'Please reply with the word "{word}".'
    return Problem(text_id(question), question, word)


def grade(problem: Problem, reply: str) -> Grade:
    """1 if the asked word is among the reply's words, else 0."""
    found = problem.answer in re.findall("[a-z]+", reply.lower())
    return Grade(1.0, problem.answer) if found else Grade(0.0, note="word not found")
