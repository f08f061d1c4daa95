"""Problems of one's own, from files."""

import pytest

from espl_jax import tasks
from espl_jax.tasks.grading import grade_all
from experiments import base


def test_answers_are_words_or_mathematics(config, write):
    rows = [
        {"problem": "The capital of France?", "answer": "Paris"},
        {"problem": "A half?", "answer": "0.5"},
        {"problem": "Of Italy?", "answer": "Rome"},
    ]
    config.update(
        {"name": "jsonl", "train": write("own.jsonl", rows), "num_validation": 0, "extraction": "answer_line"}
    )
    task = tasks.build(config, 0, base.tools())
    replies = ["It is a city.\nAnswer: **paris**.", "Answer: 1/2", "Answer: more"]
    grades = grade_all(task.grader, list(zip(task.train, replies, strict=True)))
    task.close()
    assert [grade.score for grade in grades] == [1.0, 1.0, 0.0]


def test_named_sources_are_not_for_it(config):
    config.update({"name": "jsonl", "train": "amc"})
    with pytest.raises(ValueError, match="task.train is 'amc', a named source, but task.name 'jsonl' reads files"):
        tasks.build(config, 0, base.tools())
