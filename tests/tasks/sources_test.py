"""Rows in the hub's own columns, from local files, a stand-in for the hub, and `datasets` if it is there."""

import json
import sys
from types import SimpleNamespace

import pytest

from espl_jax.tasks import sources
from espl_jax.tasks.sources import SOURCES, Source, answer_text, load, load_splits, without_wrapper

HEAD = (
    "Solve the following math problem step by step. The last line of your response should be of the form "
    "Answer: $Answer (without quotes) where $Answer is the answer to the problem.\n\n"
)
TAIL = '\n\nRemember to put your answer on its own line after "Answer:".'


def dapo_row(problem: str, answer: str, index: int) -> dict:
    """A row of BytedTsinghua-SIA/DAPO-Math-17k."""
    return {
        "data_source": "math_dapo",
        "prompt": [{"content": HEAD + problem + TAIL, "role": "user"}],
        "ability": "MATH",
        "reward_model": {"ground_truth": answer, "style": "rule-lighteval/MATH_v2"},
        "extra_info": {"index": str(index)},
    }


AIME = [{"id": 0, "problem": "One?", "solution": "s", "answer": "33", "url": "u"}]
AMC = [{"id": 4, "problem": "Two?", "answer": 142.0, "url": "u"}]
BEYOND = [{"problem": "Three?", "answer": 7}]
HMMT = [{"problem_idx": 1, "problem": "Four?", "answer": "\\frac{9 \\sqrt{23}}{23}", "problem_type": ["Geometry"]}]
DAPO = [dapo_row("Five\n\nlines?", "34", n) for n in range(3)] + [dapo_row("Six?", "-1", 3)]
ASKED = [{"question": "Seven?", "answer": "x"}]


def pairs(problems) -> list[tuple[str, str]]:
    return [(problem.question, problem.answer) for problem in problems]


@pytest.mark.parametrize(
    "rows, expected",
    [
        (AIME, [("One?", "33")]),
        (AMC, [("Two?", "142")]),
        (BEYOND, [("Three?", "7")]),
        (HMMT, [("Four?", "\\frac{9 \\sqrt{23}}{23}")]),
        (DAPO, [("Five\n\nlines?", "34"), ("Six?", "-1")]),
        (ASKED, [("Seven?", "x")]),
    ],
)
def test_local_files_in_every_form(write, rows, expected):
    assert pairs(load("task.train", write("rows.jsonl", rows), 0)) == expected


def test_files_are_joined_in_order_and_repeats_dropped(write):
    value = write("a.jsonl", AIME + BEYOND) + "+" + write("b.jsonl", AMC + AIME)
    assert [question for question, _ in pairs(load("task.train", value, 0))] == ["One?", "Three?", "Two?"]


def test_a_plus_in_a_file_name_is_no_joint(write):
    assert len(load("task.train", write("a+b.jsonl", AIME), 0)) == 1


def test_blank_lines_and_foreign_line_separators_are_fine(write):
    rows = ["", json.dumps({"problem": "a\u2028b", "answer": "1"}, ensure_ascii=False), " "]
    assert pairs(load("task.train", write("a.jsonl", rows), 0)) == [("a\u2028b", "1")]


@pytest.mark.parametrize(
    "rows, said",
    [
        ([AIME[0], "{broken"], r"rows.jsonl:2 is no JSON .*; write one object a line"),
        (["[1]"], "rows.jsonl:1 is no JSON object"),
        (["null"], "rows.jsonl:1 is no JSON object"),
        ([{"problem": "x"}], r"rows.jsonl:1 has the columns \['problem'\]; it needs problem and answer or"),
        ([{"problem": 3, "answer": "x"}], "rows.jsonl:1 has the question 3; it must be text"),
        ([AIME[0], {"problem": "x", "answer": None}], "rows.jsonl:2 has no answer"),
        ([{"problem": "x", "answer": " "}], "rows.jsonl:1 has no answer"),
        ([{"prompt": "text", "reward_model": {}}], "rows.jsonl:1: prompt and reward_model are not in their usual form"),
        ([], "rows.jsonl holds no problems"),
    ],
)
def test_bad_files_are_named_with_the_line(write, rows, said):
    with pytest.raises(ValueError, match=said):
        load("task.train", write("rows.jsonl", rows), 0)


@pytest.mark.parametrize(
    "value, said",
    [
        ("aime_2052", "task.test is 'aime_2052' .*did you mean 'aime_2025'"),
        ("nowhere.jsonl", "task.test is 'nowhere.jsonl' but there is no file nowhere.jsonl"),
        ("data.csv", "'data.csv' is no known source"),
        ("amc+", "task.test is 'amc\\+' and '' is no known source"),
    ],
)
def test_values_are_checked_before_anything_is_read(config, write, value, said):
    config.train = write("bad.jsonl", ["not read"])
    config.test = value
    with pytest.raises(ValueError, match=said):
        load_splits(config, 0)


def test_empty_train_is_an_error(config):
    config.train = ""
    with pytest.raises(ValueError, match="task.train is ''"):
        load_splits(config, 0)


def test_shared_problems_leave_train(config, write):
    config.train = write("train.jsonl", AIME + AMC + BEYOND)
    config.validation = write("validation.jsonl", AMC)
    config.test = write("test.jsonl", AIME + HMMT)
    config.num_validation = 0
    splits = load_splits(config, 0)
    assert [[problem.question for problem in getattr(splits, name)] for name in ("train", "validation", "test")] == [
        ["Three?"],
        ["Two?"],
        ["One?", "Four?"],
    ]


def test_the_wrapper_goes_only_as_a_whole():
    assert without_wrapper(HEAD + "x" + TAIL) == "x"
    assert without_wrapper(HEAD + "x" + TAIL + "\n") == "x"
    for text in ("x", HEAD + "x", "x" + TAIL):
        assert without_wrapper(text) == text


@pytest.mark.parametrize(
    "value, text",
    [(142.0, "142"), (0.5, "0.5"), (7, "7"), (" x ", "x"), (None, ""), (True, ""), (["3"], ""), (float("nan"), "nan")],
)
def test_answer_text(value, text):
    assert answer_text(value) == text


class StandIn:
    """What read_hub uses of a datasets.Dataset."""

    def __init__(self, rows):
        self.rows = rows
        self.column_names = list(rows[0])

    def select_columns(self, names):
        return StandIn([{name: row[name] for name in names} for row in self.rows])

    def iter(self, size):
        for start in range(0, len(self.rows), size):
            yield {name: [row[name] for row in self.rows[start : start + size]] for name in self.column_names}


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for the package `datasets` that serves what is put into it, and remembers what was asked."""
    served, asked = {}, []

    def load_dataset(name, split):
        asked.append((name, split))
        if name not in served:
            raise ConnectionError("no network")
        return StandIn(served[name])

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    return SimpleNamespace(served=served, asked=asked)


def test_named_sources_ask_for_their_split(hub):
    hub.served |= {source.hub: BEYOND for source in SOURCES.values()}
    hub.served["BytedTsinghua-SIA/DAPO-Math-17k"] = DAPO
    hub.served["PeterJinGo/nq_hotpotqa_train"] = [{"question": "who", "golden_answers": ["A", "B"]}]
    for name in set(SOURCES) - {"dapo100"}:
        assert load("task.train", name, 0)
    assert ("ByteDance-Seed/BeyondAIME", "test") in hub.asked
    assert {split for name, split in hub.asked if name != "ByteDance-Seed/BeyondAIME"} == {"train"}


def test_dapo100_is_a_hundred_distinct_problems_by_seed(hub, monkeypatch):
    monkeypatch.setattr(sources, "ROWS_AT_ONCE", 70)
    hub.served["BytedTsinghua-SIA/DAPO-Math-17k"] = [dapo_row(f"{n % 200}?", str(n % 200), n) for n in range(500)]
    one, again, other = (pairs(load("task.train", "dapo100", seed)) for seed in (1, 1, 2))
    assert one == again != other
    assert len(set(one)) == 100
    assert all(question == f"{answer}?" for question, answer in one)


def test_joined_names(hub):
    hub.served |= {"MathArena/hmmt_feb_2023": HMMT, "MathArena/hmmt_feb_2024": AIME}
    assert len(load("task.train", "hmmt_feb_2023+hmmt_feb_2024", 0)) == 2


def test_offline_is_one_sentence(hub):
    with pytest.raises(ValueError, match=r"task.test is 'amc' but AI-MO/aimo-validation-amc .*no network.*\.jsonl"):
        load("task.test", "amc", 0)


def test_changed_columns_are_named(hub):
    hub.served["AI-MO/aimo-validation-amc"] = ASKED
    with pytest.raises(ValueError, match=r"AI-MO/aimo-validation-amc lacks the columns \['problem'\]; it has"):
        load("task.train", "amc", 0)


def test_without_the_packages_the_remedy_is_named(monkeypatch, tmp_path):
    for name in ("datasets", "pyarrow"):
        monkeypatch.setitem(sys.modules, name, None)
    path = tmp_path / "a.parquet"
    path.touch()
    for value in ("amc", str(path)):
        with pytest.raises(ValueError, match=r"pip install 'espl_jax\[data\]'"):
            load("task.train", value, 0)


@pytest.mark.parametrize("rows", [AIME, AMC, BEYOND, HMMT, DAPO])
def test_parquet_and_hub_with_the_real_packages(rows, tmp_path, monkeypatch):
    """A folder of parquet files is what a data set on the hub is; load_dataset reads it alike."""
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pytest.importorskip("datasets")
    path = tmp_path / "data" / "train-00000-of-00001.parquet"
    path.parent.mkdir()
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    form = sources.DAPO if rows is DAPO else sources.PROBLEM
    monkeypatch.setitem(SOURCES, "local", Source(str(tmp_path), form))
    found = load("task.train", str(path), 0)
    assert found == load("task.train", "local", 0)
    assert len(found) == len({json.dumps(row.get("prompt", row.get("problem"))) for row in rows})


def test_a_parquet_file_that_is_none(tmp_path):
    pytest.importorskip("pyarrow")
    path = tmp_path / "a.parquet"
    path.write_text("no parquet")
    with pytest.raises(ValueError, match="is no readable parquet file"):
        load("task.train", str(path), 0)
