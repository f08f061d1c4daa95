"""The embedded corpus, the questions about it, and rows in Search-R1's columns."""

import json
from collections import Counter

import pytest

from espl_jax import tasks
from espl_jax.tasks.search import questions
from espl_jax.tasks.search.corpus import embedded_index, embedded_passages, places
from espl_jax.tasks.search.index import Index
from espl_jax.tasks.search.reward import matches
from experiments import base

TEXTS = {passage.id: passage.text for passage in embedded_passages()}
SMALL = {"name": "search", "train": "embedded", "num_train": 30, "num_validation": 10, "num_test": 20}


@pytest.fixture(scope="module")
def embedded() -> Index:
    return Index(embedded_index())


@pytest.fixture
def search_config(config):
    config.update(SMALL)
    return config


@pytest.fixture(scope="module")
def everything():
    """All questions of all splits."""
    dealt = questions.deal(list(places()[0]), 0)
    found = {}
    for name, codes in dealt.items():
        found[name] = (*questions.one_hop(codes, 0), *questions.two_hop_questions(codes, 0))
    return found


def test_passages_are_short_distinct_and_plain():
    passages = list(embedded_passages())
    assert len(passages) == len(TEXTS) == 149 + 1431
    assert all(8 <= len(passage.text.split()) <= 60 and passage.text.isprintable() for passage in passages)
    assert TEXTS["country/PE"] == (
        "Peru is a country in South America. The capital of Peru is Lima. The currency is the Sol. "
        "The main language is Spanish. The calling code is 51. The internet domain is .pe."
    )
    assert TEXTS["city/Dubai"].startswith("Dubai is a city in the United Arab Emirates. About 3.")


def test_no_city_has_the_name_of_another_place():
    countries, cities = places()
    names = Counter(city.name for city in cities)
    names.update(name for country in countries.values() for name in (country.name, country.capital))
    assert {name for name, times in names.items() if times > 1} == set()


def test_every_fact_and_answer_stands_in_its_passage(everything):
    for problem in (problem for split in everything.values() for problem in split):
        hops = problem.data["hops"]
        assert all(hop["fact"] in TEXTS[hop["passage_id"]] for hop in hops)
        assert problem.answer in hops[-1]["fact"] and problem.data["golden_answers"] == [problem.answer]
        assert matches(problem.answer, [problem.answer])
        assert len(problem.question.split()) <= 20


def test_an_ideal_searcher_finds_every_passage_among_the_first_three(everything, embedded):
    """Each query is made of words of the question, and of the country that the passage before names."""
    missed = asked = 0
    for problem in (problem for split in everything.values() for problem in split[::4]):
        known = problem.question
        for hop in problem.data["hops"]:
            words = hop["query"].split()
            assert sum(word in known for word in words) >= len(words) - 3
            [found] = embedded.search([hop["query"]], 3)
            missed += hop["passage_id"] not in [passage.id for passage in found]
            asked += 1
            known += " " + hop["fact"]
    assert asked > 3000 and missed / asked < 0.01


def test_most_questions_of_two_hops_cannot_be_answered_by_searching_for_the_question(everything, embedded):
    two = [problem for problem in everything["test"] if len(problem.data["hops"]) == 2]
    at_once = sum(two[n].data["hops"][1]["passage_id"] in ids for n, ids in enumerate(found_ids(embedded, two)))
    assert at_once / len(two) < 0.25


def parts(splits):
    return splits.train, splits.validation, splits.test


def found_ids(index, problems):
    return [[passage.id for passage in found] for found in index.search([problem.question for problem in problems], 3)]


def test_splits_share_no_fact_in_whatever_words(search_config):
    """A fact that training asks for, directly or through a city, is asked for in no other split."""
    for seed in range(3):
        splits = questions.load(search_config, seed)
        facts = [{(hop["passage_id"], hop["fact"]) for one in part for hop in one.data["hops"]} for part in parts(splits)]
        assert not (facts[0] & facts[1] or facts[0] & facts[2] or facts[1] & facts[2])


def test_what_is_demonstrated_is_in_no_split_of_any_seed():
    codes = list(places()[0])
    kept = questions.demonstrated_countries(codes)
    for seed in range(5):
        dealt = questions.deal(codes, seed)
        assert frozenset().union(*dealt.values()) == set(codes) - kept
        assert sum(map(len, dealt.values())) + len(kept) == len(codes) and min(map(len, dealt.values())) > 10


def test_all_of_a_split_shares_no_question_with_another(everything):
    ids = [{problem.id for problem in split} for split in everything.values()]
    assert sum(map(len, ids)) == len(set().union(*ids)) == sum(map(len, everything.values()))


def test_the_seed_and_the_share_decide(search_config):
    splits = questions.load(search_config, 0)
    hops = [[len(problem.data["hops"]) for problem in part] for part in parts(splits)]
    assert [(part.count(1), part.count(2)) for part in hops] == [(15, 15), (5, 5), (10, 10)]
    assert splits == questions.load(search_config, 0) != questions.load(search_config, 1)
    for share, hops in ((0.0, {1}), (1.0, {2})):
        search_config.two_hop = share
        assert {len(problem.data["hops"]) for problem in questions.load(search_config, 0).train} == hops
    search_config.num_train = search_config.num_test = 0
    splits = questions.load(search_config, 0)
    assert len(splits.train) > 4000 and splits.test == ()


def test_impossible_splits_of_the_embedded_corpus(search_config):
    search_config.num_test = 5000
    with pytest.raises(ValueError, match="task.num_test is 2500 but only"):
        questions.load(search_config, 0)
    search_config.test = "nq_hotpotqa"
    with pytest.raises(ValueError, match="task.test is 'nq_hotpotqa', but task.train is 'embedded'"):
        questions.load(search_config, 0)


# -- Search-R1's columns -----------------------------------------------------------------------------------------------


def rows(count: int) -> list[dict]:
    return [{"id": str(n), "question": f"book {n}", "golden_answers": [f"Author {n}", f"A. {n}"]} for n in range(count)]


def test_rows_in_search_r1s_columns_are_split_by_the_seed(search_config, write):
    path = write("nq.jsonl", rows(300))
    search_config.update({"train": path, "num_train": 196, "num_validation": 16, "num_test": 64})
    splits, other = questions.load(search_config, 0), questions.load(search_config, 1)
    assert [len(part) for part in parts(splits)] == [196, 16, 64]
    assert len({problem.id for part in parts(splits) for problem in part}) == 276
    assert splits == questions.load(search_config, 0) and splits.test != other.test
    number = splits.test[0].question.rsplit(" ", 1)[1]
    assert splits.test[0].answer == f"Author {number}"
    assert splits.test[0].data == {"golden_answers": [f"Author {number}", f"A. {number}"]}


def test_a_test_file_is_used_as_it_is(search_config, write):
    search_config.update({"train": write("a.jsonl", rows(20)), "test": write("b.jsonl", rows(5))})
    search_config.num_train = search_config.num_test = 0
    splits = questions.load(search_config, 0)
    assert [len(part) for part in parts(splits)] == [5, 10, 5]


@pytest.mark.parametrize("answers, said", [([], "usual form"), (3, "usual form"), (None, "usual form"), ([""], "usual form")])
def test_rows_without_a_true_answer_are_named(search_config, write, answers, said):
    search_config.train = write("a.jsonl", [{"question": "who", "golden_answers": answers}])
    with pytest.raises(ValueError, match=f"a.jsonl:1.*{said}"):
        questions.load(search_config, 0)


def test_one_answer_may_stand_without_a_list(search_config, write):
    search_config.update({"train": write("a.jsonl", [{"question": f"q{n}", "golden_answers": "x"} for n in range(60)])})
    assert questions.load(search_config, 0).train[0].data == {"golden_answers": ["x"]}


# -- the task ----------------------------------------------------------------------------------------------------------


def test_the_task_is_built_from_config_and_searches_its_corpus(search_config):
    tools = base.tools()
    search_config.question_suffix = "\nUse the tool."
    task = tasks.build(search_config, 0, tools)
    problem = task.train[0]
    [asked] = task.environment.reset(problem)
    assert asked.content == task.question(problem) == problem.question + "\nUse the tool."
    [found] = task.environment.retriever.search([problem.data["hops"][0]["query"]], tools.topk)
    assert problem.data["hops"][0]["passage_id"] in [passage.id for passage in found] and len(found) <= tools.topk
    json.dumps(dict(problem.data))  # problems go into records
    task.close()
    assert task.environment.max_calls == tools.max_calls
