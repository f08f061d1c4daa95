"""Worlds, sheets, splits and grades of the small world."""

import pytest

from espl_jax import tasks
from espl_jax.evolution.guards import Library, Watched, leaks
from espl_jax.tasks.grading import grade_all
from espl_jax.tasks.smallworld.rules import RULES, Rule, digit_sum
from espl_jax.tasks.smallworld.words import owner, unlike
from espl_jax.tasks.smallworld.world import Expression, Step, draw_world, swapped
from experiments import base


@pytest.fixture
def small(config):
    config.update({"name": "smallworld", "num_train": 30, "num_validation": 10, "num_test": 10})
    config.world.depth = 2
    return config


def build(config, seed=0):
    return tasks.build(config, seed, base.tools())


@pytest.mark.parametrize(
    "rule, a, b, result, work",
    [
        (Rule("sum", 3), 7, 4, 14, "7+4=11, 11+3=14"),
        (Rule("difference", 1), 2, 9, 8, "the larger is 9, 9-2=7, 7+1=8"),
        (Rule("larger", 2), 5, 5, 7, "the larger is 5, 5+2=7"),
        (Rule("smaller"), 8, 3, 3, "the smaller is 3"),
        (Rule("double_first"), 7, 4, 18, "7+7=14, 14+4=18"),
        (Rule("double_second"), 7, 4, 15, "4+4=8, 8+7=15"),
        (Rule("double_larger"), 7, 9, 18, "the larger is 9, 9+9=18"),
        (Rule("double_smaller"), 7, 9, 14, "the smaller is 7, 7+7=14"),
        (Rule("last_digit"), 8, 9, 7, "8+9=17, the last digit is 7"),
        (Rule("digit_sum"), 8, 9, 8, "8+9=17, 1+7=8"),
        (Rule("digit_sum"), 2, 3, 5, "2+3=5, one digit"),
    ],
)
def test_rules_by_hand(rule, a, b, result, work):
    assert rule.value(a, b) == result and rule.work(a, b) == work


def test_the_family_has_over_twenty_rules_no_two_alike():
    assert len(RULES) >= 20
    assert not any(one.equals(other) for i, one in enumerate(RULES) for other in RULES[:i])
    assert digit_sum(199) == 19


def test_an_expression_is_written_and_worked_from_the_inside_out():
    meaning = {"kafux": Rule("sum"), "bemoz": Rule("double_first"), "zorek": Rule("smaller")}.__getitem__
    expression = Expression(7, (Step("kafux", 4), Step("bemoz", 2, before=True), Step("zorek", 20)))
    assert str(expression) == "(2 bemoz (7 kafux 4)) zorek 20"
    assert [done[1:] for done in expression.worked(meaning)] == [(7, 4, 11), (2, 11, 15), (15, 20, 15)]
    assert expression.value(meaning) == 15


def test_no_two_words_of_a_world_begin_with_the_same_letter_or_where_these_run_out_with_the_same_two():
    for seed in range(20):
        few, many = (draw_world("a world", "run", operations, str(seed)).words for operations in (13, 20))
        assert len({word[0] for word in few}) == 13 and many[:13] == few
        assert len({word[:2] for word in many}) == 20
    assert unlike(iter(["kafux", "kobez", "bemoz"]), 2) == ["kafux", "bemoz"]


def test_no_expression_is_in_two_splits(small):
    task = build(small)
    sets = {"train": task.train, "validation": task.validation, "test": task.test, **task.further}
    shown = {name: {str(item) for problem in problems for item in problem.data["items"]} for name, problems in sets.items()}
    assert {name: len(problems) for name, problems in sets.items()} == {
        "train": 30, "validation": 10, "test": 10, "transfer": 10, "swap": 10,
    }  # fmt: skip
    for name in ("validation", "test", "transfer", "swap"):
        assert not shown["train"] & shown[name]
    assert not shown["validation"] & shown["test"]


def test_answers_are_those_of_each_set_s_own_rulebook(small):
    task = build(small)
    for name, genome in task.rulebooks.items():
        problems = {"validation": task.validation, "test": task.test, **task.further}[name]
        known = task.measure(genome)["evolution/rules_known"]
        assert known == {"validation": 1.0, "test": 1.0, "transfer": 0.0, "swap": 0.0}[name]
        assert problems
    assert task.measure(task.rulebooks["swap"])["evolution/rules_wrong"] == 1.0


def test_the_same_seed_gives_the_same_world_and_another_one_another(small):
    first, again, other = build(small), build(small), build(small, 1)
    assert first.train == again.train and first.rulebooks == again.rulebooks
    assert not set(first.rulebooks["test"].principles) & set(other.rulebooks["test"].principles)


def test_the_reward_is_the_share_of_right_results(small):
    task = build(small)
    problem = task.train[0]
    a, b, c = problem.data["answers"]
    replies = {
        f"Answer: {a}, {b}, {c}": 1.0,
        f"work\nAnswer: {a} and {b} and {c}.": 1.0,
        f"Answer: {a}, {b}, {c + 1}": 2 / 3,
        f"Answer: {a}": 1 / 3,
        f"Answer: {a}, {b}, {c}, {c}": 0.0,
        f"Answer: x, {b}, -{c}": 1 / 3,
        f"{a}, {b}, {c}": 0.0,
        "": 0.0,
    }
    scores = [grade.score for grade in grade_all(task.grader, [(problem, reply) for reply in replies])]
    assert scores == pytest.approx(list(replies.values()))


def test_the_guards_let_every_true_principle_pass(small):
    """A rule such as "add 3" must not count as an answer that leaks."""
    for seed in range(5):
        task = build(small, seed)
        for start in range(0, 30, 5):
            watched = Watched(task.train[start : start + 5], Library(task.train))
            assert [leaks(text, watched) for text in task.rulebooks["test"].principles] == [""] * 6


def test_words_of_runs_are_never_words_of_demonstrations():
    for seed in range(300):
        assert {owner(word) for word in draw_world("w", "run", 20, str(seed)).words} == {"run"}
        assert {owner(word) for word in draw_world("w", "demonstration", 20, str(seed)).words} == {"demonstration"}


def test_swapping_changes_so_many_meanings_and_no_word():
    world = draw_world("w", "run", 6, "0")
    for share, changed in ((1.0, 6), (0.5, 3), (0.4, 3), (0.0, 0)):
        other = swapped(world, "s", share)
        assert other.words == world.words and len(set(other.meanings.values())) == 6
        assert sum(other.meanings[word] != world.meanings[word] for word in world.words) == changed


def test_meanings_that_change_in_the_course_of_a_run(small):
    small.world.update({"drift": 0.5, "drift_step": 4})
    task = build(small)
    assert task.at(3) is task and task.at(4) is task.at(9) and task.at(4) is not task
    assert task.at(4).measure(task.rulebooks["test"])["evolution/rules_known"] == 0.5
    assert task.ever_trained == (*task.train, *task.at(4).train)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"world.operations": 1}, "task.world.operations is 1"),
        ({"world.depth": 4}, "task.world.depth is 4"),
        ({"world.min_depth": 3}, "task.world.min_depth is 3, more than task.world.depth=2"),
        ({"world.depth": 3, "world.operations": 2}, "task.world.depth is 3, more than task.world.operations=2"),
        ({"world.drift": 0.5}, "set both"),
        ({"world.drift": 1.5, "world.drift_step": 2}, "0 to 1"),
        ({"num_train": 0}, "task.num_train is 0"),
        ({"validation": "aime_2025"}, "task.validation is 'aime_2025'"),
        ({"num_train": 400, "world.operations": 2, "world.depth": 1, "world.largest": 3}, "raise task.world.operations"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(small, changes, words):
    small.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=words):
        build(small)
