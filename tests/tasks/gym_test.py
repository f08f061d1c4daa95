"""reasoning-gym: splits that share no question, the data set's own score, and errors before anything is drawn."""

import random

import pytest

from espl_jax import tasks
from espl_jax.tasks import gym
from espl_jax.tasks.grading import grade_all
from experiments import base


@pytest.fixture
def gym_config(config):
    config.name = "reasoning_gym"
    config.gym_dataset = "chain_sum"
    config.num_train = 30
    config.num_validation = 5
    config.num_test = 6
    config.extraction = "last_number"
    return config


def texts(problems) -> list[str]:
    return [problem.question for problem in problems]


def test_splits_share_no_question_even_in_a_small_space(gym_config):
    gym_config.gym_parameters = '{"min_terms": 2, "max_terms": 2, "max_digits": 1}'  # 200 questions
    task = tasks.build(gym_config, 0, base.tools())
    assert (len(task.train), len(task.validation), len(task.test)) == (30, 5, 6)
    assert len({*texts(task.train), *texts(task.validation), *texts(task.test)}) == 41


def test_all_of_a_small_space_is_found_and_one_more_is_an_error(gym_config):
    gym_config.gym_parameters = '{"min_terms": 1, "max_terms": 1, "max_digits": 1}'  # the questions 0 to 9
    gym_config.update({"num_train": 6, "num_validation": 2, "num_test": 2})
    task = tasks.build(gym_config, 0, base.tools())
    assert sorted(int(problem.answer) for problem in (*task.train, *task.validation, *task.test)) == list(range(10))
    gym_config.num_train = 7
    with pytest.raises(ValueError, match="only 10 distinct questions .* is 11; lower them"):
        tasks.build(gym_config, 0, base.tools())


def test_splits_depend_on_the_seed_alone_and_test_on_no_other_number(gym_config):
    one, again, other = (tasks.build(gym_config, seed, base.tools()) for seed in (1, 1, 2))
    assert (one.train, one.validation, one.test) == (again.train, again.validation, again.test)
    assert not set(texts(one.train)) & set(texts(other.train))
    gym_config.num_train, gym_config.num_validation = 10, 3
    smaller = tasks.build(gym_config, 1, base.tools())
    assert smaller.test == one.test
    assert smaller.train != one.train


@pytest.mark.parametrize("name", ["list_functions", "bf"])
def test_data_sets_that_use_shared_randomness_or_output_are_settled(gym_config, name, capsys):
    gym_config.gym_dataset = name
    random.seed(5)
    before = random.getstate()
    first = tasks.build(gym_config, 0, base.tools())
    assert random.getstate() == before
    random.seed(6)
    assert tasks.build(gym_config, 0, base.tools()).train == first.train
    assert capsys.readouterr().out == ""


def test_scores_are_the_data_sets_own(gym_config):
    task = tasks.build(gym_config, 0, base.tools())
    problem = task.train[0]
    grades = grade_all(task.grader, [(problem, f"so it is {problem.answer}.00"), (problem, "it is 123456"), (problem, "no")])
    task.close()
    assert [grade.score for grade in grades] == [1.0, 0.0, 0.0]
    assert grades[2].note == "no answer found"
    assert grades[0].extracted == f"{problem.answer}.00"


def test_partial_scores_are_kept_and_evaluated_answers_cannot_act(gym_config, tmp_path):
    """spell_backward gives a part for a part; string_insertion evaluates the answer as Python."""
    read = gym.make_verifier("spell_backward", {}, "whole")
    entry = gym.create("spell_backward", {}, 0, 1)[0]
    problem = gym.to_problem(entry)
    right = problem.answer
    assert read(problem, right).score == 1.0
    assert 0 < read(problem, right[:-1]).score < 1

    gym_config.update({"gym_dataset": "string_insertion", "extraction": "whole", "grading_timeout": 2.0})
    task = tasks.build(gym_config, 0, base.tools())
    target = tmp_path / "made"
    attacks = [f"open({str(target)!r}, 'w')", f"__import__('os').system('touch {target}')", "exit()", "9**9**9**9"]
    pairs = [(task.train[0], attack) for attack in attacks] + [(task.train[1], task.train[1].answer)]
    grades = grade_all(task.grader, pairs)
    task.close()
    assert [grade.score for grade in grades[:4]] == [0.0] * 4
    assert grades[3].note.startswith("timeout")
    assert grades[4].score == 1.0
    assert not target.exists()


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"gym_dataset": "chain_sums"}, "task.gym_dataset is 'chain_sums'; did you mean 'chain_sum'"),
        ({"gym_dataset": ""}, "task.gym_dataset is ''; use one of ab, acre"),
        ({"gym_parameters": '{"max_term": 3}'}, "'max_term', which chain_sum does not know; did you mean 'max_terms'"),
        ({"gym_parameters": "{max_terms: 3}"}, "which is no JSON"),
        ({"gym_parameters": "[]"}, "use a JSON object"),
        ({"gym_parameters": '{"seed": 3}'}, "sets 'seed', which the run decides"),
        ({"gym_parameters": '{"max_terms": 1}'}, "do not suit chain_sum: AssertionError"),
        ({"gym_parameters": '{"max_terms": "x"}'}, "do not suit chain_sum: TypeError"),
        ({"num_train": 0}, "task.num_train is 0"),
        ({"test": "aime_2025"}, "task.test is 'aime_2025' but reasoning_gym draws"),
    ],
)
def test_errors_name_the_field_and_the_remedy(gym_config, changes, said):
    gym_config.update(changes)
    with pytest.raises(ValueError, match=said):
        tasks.build(gym_config, 0, base.tools())
