"""The registry: what is wrong with a config is said before anything is loaded."""

from pathlib import Path

import pytest

from espl_jax import tasks
from experiments import base


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"name": "maths"}, "task.name is 'maths'; did you mean 'math'"),
        ({"extraction": "box"}, "task.extraction is 'box'; did you mean 'boxed'"),
        ({"num_problems": 0}, "task.num_problems is 0; use 1 or more"),
        ({"num_samples": 0}, "task.num_samples is 0; use 1 or more"),
        ({"num_test": -1}, "task.num_test is -1; use 0 or more"),
        ({"grading_workers": 0}, "task.grading_workers is 0; use 1 or more"),
        ({"grading_timeout": 0.0}, "task.grading_timeout is 0.0; use a number of seconds above 0"),
        ({"name": "toy", "num_train": 3, "num_problems": 4}, "task.num_problems is 4 but there are only 3"),
    ],
)
def test_errors_name_the_field_the_value_and_the_remedy(config, changes, said):
    config.train = "this would fail later"
    config.update(changes)
    with pytest.raises(ValueError, match=said):
        tasks.build(config, 0, base.tools())


def test_the_seed_is_checked(config):
    with pytest.raises(ValueError, match="seed is -1"):
        tasks.build(config, -1, base.tools())


def test_every_name_that_the_config_offers_is_there():
    source = Path(base.__file__).read_text(encoding="utf-8")
    comment = next(line for line in source.splitlines() if "task.name =" in line).split("#")[1]
    assert {part.split("(")[0].strip() for part in comment.split("|")} == set(tasks.TASKS)


def test_every_task_says_what_it_is(config, write):
    config.train = write("a.jsonl", [{"problem": str(n), "answer": "1"} for n in range(5)])
    config.gym_dataset = "chain_sum"
    for name in tasks.TASKS:
        config.name = name
        config.num_train = 2
        described = tasks.build(config, 0, base.tools()).describe
        assert described.endswith(".") and 10 < len(described.split()) < 60
