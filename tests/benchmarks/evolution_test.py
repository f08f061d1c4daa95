"""The method without a model: the run's own world and operators, an ideal solver and editor, and a table by hand."""

import pytest

from benchmarks.evolution import Course, course, marks, row, settings
from espl_jax import tasks
from espl_jax.config import ConfigError
from espl_jax.tasks.smallworld.task import in_world
from espl_jax.tasks.smallworld.world import draw_world

VARIANTS = (
    "wide=espl,task.num_problems=4,task.num_samples=4,evolution.crossover_probability=1.0",
    "narrow=espl,task.num_problems=1",
    "mute=espl,evolution.mutation_probability=0.0",
    "one=reflection,task.num_samples=6",
)


@pytest.fixture(scope="module")
def chosen():
    return settings(VARIANTS)


def test_the_world_and_its_problems_are_those_of_the_run_with_that_seed(chosen):
    config = chosen["smallworld"]
    run = tasks.build(config.task, 3, config.tools)
    mine = in_world(draw_world("the world", "run", config.task.world.operations, "3"), config.task, 3)
    assert [problem.question for problem in mine.train] == [problem.question for problem in run.train]
    assert mine.rulebooks == run.rulebooks


def test_prompts_come_to_know_rules_by_mutation_alone_and_none_without_it(chosen):
    [*_, last] = course(chosen["wide"], 0, 12).known
    assert last >= 0.6
    assert course(chosen["wide"], 0, 12) == course(chosen["wide"], 0, 12)
    assert set(course(chosen["mute"], 0, 12).known) == {0.0}
    assert course(chosen["one"], 0, 20).known[-1] > 0


def test_crossover_is_asked_where_two_prompts_can_win_and_only_there(chosen):
    assert sum(course(chosen["wide"], seed, 8).asked for seed in range(4)) > 0
    assert course(chosen["narrow"], 0, 8).asked == 0


def test_a_line_of_the_table_by_hand(chosen):
    first = [Course((0.0, 0.2, 0.2, 0.4), 1, 0), Course((0.0, 0.2, 0.2, 0.4), 3, 1)]
    other = [Course((0.2, 0.2, 0.4, 0.6), 0, 0), Course((0.2, 0.2, 0.4, 0.6), 0, 0)]
    assert marks(4) == [1, 2, 4] and marks(1) == [1]
    same, gain = "0.400 [0.400, 0.400]", "0.200 [0.200, 0.200]"
    assert row("a", chosen["smallworld"], first, first) == ["a", "8", "2.00", "0.50", "0.000 [0.000, 0.000]", gain, same, "-"]
    assert row("b", chosen["wide"], other, first) == ["b", "32", "0.00", "0.00", gain, gain, "0.600 [0.600, 0.600]", gain]


def test_a_field_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match="evolution.crossing=1"):
        settings(["x=espl,evolution.crossing=1"])
