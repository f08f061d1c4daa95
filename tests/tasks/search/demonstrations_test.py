"""Demonstrations of search: real retrieval, right answers, and countries that no run is asked about, whatever its seed."""

import pytest

from espl_jax.demonstrations import DEMONSTRATIONS
from espl_jax.structs import Message, Problem
from espl_jax.tasks.search import questions
from espl_jax.tasks.search.calls import read_calls
from espl_jax.tasks.search.corpus import places
from espl_jax.tasks.search.demonstrations import problems, reply
from espl_jax.tasks.search.reward import matches, read_answer
from experiments import search_sft


@pytest.fixture(scope="module")
def config():
    config = search_sft.get_config()
    config.task.two_hop = 0.25
    return config


@pytest.fixture(scope="module")
def shown(config):
    return DEMONSTRATIONS["search"](config, 0)


def asked(problem):
    """All that a question is about: the passages that it needs."""
    return {hop["passage_id"] for hop in problem.data["hops"]}


def test_no_run_of_any_seed_is_asked_about_what_is_demonstrated(config):
    """By passage, and so by country and city, not only by question; by country for many seeds."""
    kept = questions.demonstrated_countries(places()[0])
    for seed in range(100):
        assert not kept & frozenset().union(*questions.deal(list(places()[0]), seed).values())
    known = [problem for seed in (0, 7) for problem in problems(config.task, seed)]
    passages, texts = set().union(*map(asked, known)), {problem.id for problem in known}
    config = config.copy_and_resolve_references()
    config.task.num_test = config.task.num_validation = 100
    for seed in range(2):
        splits = questions.embedded(config.task, seed)
        for problem in (*splits.train, *splits.validation, *splits.test):
            assert not passages & asked(problem) and problem.id not in texts
    assert len(passages) > 100


def test_two_searches_are_shown_as_often_as_the_task_asks_for_them(config):
    known = problems(config.task, 0)
    long = sum(len(problem.data["hops"]) == 2 for problem in known)
    assert len(known) > 300 and long / len(known) == pytest.approx(config.task.two_hop, abs=0.01)


def test_each_is_what_the_environment_makes_of_well_formed_calls_and_a_true_answer(config, shown):
    known = {problem.question: problem for problem in problems(config.task, 0)}
    assert len(shown) > 0.9 * len(known), "the search finds what it should"
    for messages in shown:
        system, question, *rest = messages
        hops = known[question.content].data["hops"]
        assert system.role == "system" and "<tool_call>" in system.content
        assert [turn.role for turn in rest] == ["assistant", "tool"] * len(hops) + ["assistant"]
        for hop, said, found in zip(hops, rest[::2], rest[1::2]):
            [call] = read_calls(said.content)
            assert call.queries == (hop["query"],) and not call.error
            assert found.content.startswith("Doc 1 (") and hop["fact"] in found.content
            assert len(found.content.splitlines()) <= config.tools.topk
        assert matches(read_answer(rest[-1].content), known[question.content].data["golden_answers"])


def test_a_search_that_finds_something_else_is_not_shown():
    problem = Problem("x", "q", "a", {"hops": [{"query": "x", "fact": "x is y", "passage_id": "p", "title": "t"}]})
    messages = (Message("user", "q"), Message("assistant", "s"), Message("tool", "Doc 1: nothing"))
    assert reply(problem, messages) is None


def test_another_task_has_none(config):
    config = config.copy_and_resolve_references()
    config.task.train = "nq_hotpotqa"
    with pytest.raises(ValueError, match="task.train 'nq_hotpotqa'"):
        problems(config.task, 0)
