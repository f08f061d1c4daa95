"""The toy task."""

from espl_jax import tasks
from espl_jax.tasks.grading import grade_all
from espl_jax.tasks.toy import WORDS
from experiments import base


def test_words_are_split_and_graded(config):
    config.update({"name": "toy", "num_train": 10, "num_validation": 4, "num_test": 6, "question_suffix": " Now."})
    task = tasks.build(config, 0, base.tools())
    assert (len(task.train), len(task.validation), len(task.test)) == (10, 4, 6)
    problem = task.train[0]
    assert task.question(problem) == f'Please reply with the word "{problem.answer}". Now.'
    replies = [problem.answer.upper() + "!", "un" + problem.answer, ""]
    assert [grade.score for grade in grade_all(task.grader, [(problem, reply) for reply in replies])] == [1.0, 0.0, 0.0]
    task.close()


def test_all_words_are_used_when_no_number_is_given(config):
    config.name = "toy"
    task = tasks.build(config, 0, base.tools())
    assert len(task.train) == len(WORDS) - 2 and task.test == ()
    assert len(set(WORDS)) == len(WORDS)
