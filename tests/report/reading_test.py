"""A run's files as one value: whole runs, runs that are going on, damaged ones."""

import json
import shutil

import numpy as np
import pytest

from espl_jax.records import artifacts, summary
from espl_jax.report import choosing, reading
from espl_jax.report.reading import RunError
from espl_jax.structs import Completion, Grade, Message, Problem, Rating, Rollouts
from tests.report import synthetic


def read(workdir):
    return reading.read(workdir, choosing.chooser(workdir))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A small synthetic run; copy it before changing it."""
    workdir = tmp_path_factory.mktemp("synthetic") / "run"
    synthetic.write(workdir, steps=4)
    return workdir


@pytest.fixture()
def workdir(made, tmp_path):
    return shutil.copytree(made, tmp_path / "run")


def test_everything_that_was_written_is_read(made):
    record = read(made)
    assert [step.step for step in record.steps] == [0, 1, 2, 3, 4] and record.last_step == 4 and record.finished
    rows = [json.loads(line) for line in (made / "steps/000003/rollouts.jsonl").read_bytes().splitlines()]
    step = record.steps[3]
    assert [(one.prompt, one.problem, one.reward) for one in step.outcomes] == [
        (row["prompt"], row["problem"], row["reward"]) for row in rows
    ]
    shown = [json.loads(line) for line in (made / "steps/000003/prompts.jsonl").read_bytes().splitlines()]
    assert step.ratings == {row["id"]: Rating(**row["rating"]) for row in shown}
    assert [attempt.child for attempt in record.attempts] == [1, 2, 3, 4]
    [first] = [call for call in record.attempts[0].calls if call.operations]
    assert [operation["fate"][:7] for operation in first.operations] == ["applied", "repeats"]
    assert first.turns[-1][0] == "reply" and not record.unreadable


SPOKEN = tuple((Message("user", "1 + 1?"), Message("assistant", str(g))) for g in range(2))


@pytest.mark.parametrize("conversations", [None, SPOKEN])
def test_what_a_run_writes_is_read(made, tmp_path, conversations):
    """A step's files as records/summary.py makes them, of rollouts of one prompt, one problem and two samples."""
    completions = tuple(Completion(g, *(np.ones(3),) * 4, "stop") for g in range(2))
    rollouts = Rollouts(
        (0,), (Problem("p", "1 + 1?", "2"),), ((np.ones(4, np.int32),),), completions, ("0", "1"), (Grade(0.0), Grade(1.0)),
        np.array([[[0.0, 1.0]]], np.float32), conversations,
    )  # fmt: skip
    population = reading.read(made, choosing.chooser(made)).population
    row = json.loads((made / "steps/000002/reflections.jsonl").read_bytes())
    files = summary.step_files(population.prompts[:1], rollouts, np.zeros((1, 1, 2)), []) | {"reflections.jsonl": [row]}
    run = shutil.copytree(made, tmp_path / "run")
    artifacts.write_step(run, 5, files | summary.evaluation_files({"validation": rollouts}))
    step = read(run).steps[-1]
    assert step.step == 5 and [one.reward for one in step.outcomes] == [0.0, 1.0]
    assert [transcript.turns for transcript in step.transcripts] == [
        (("user", "1 + 1?"), ("assistant", "1")), (("user", "1 + 1?"), ("assistant", "0")),
    ]  # fmt: skip
    assert len(step.evaluations["validation"]) == 2 and list(step.ratings) == [0]


def test_a_conversation_is_read_turn_by_turn(made):
    rows = [json.loads(line) for line in (made / "steps/000002/rollouts.jsonl").read_bytes().splitlines()]
    row = next(row for row in rows if "messages" in row)
    assert [role for role, _ in reading.turns(row)] == ["user", "assistant", "tool", "assistant"]
    assert reading.turns({"question": "1 + 1?", "text": "2"}) == (("user", "1 + 1?"), ("assistant", "2"))


def test_a_run_that_is_going_on(workdir):
    config = json.loads((workdir / "config.json").read_text())
    (workdir / "config.json").write_text(json.dumps(config | {"num_steps": 9}))
    with open(workdir / "metrics.jsonl", "a") as file:
        file.write('{"step": 5, "train/re')  # torn
    (workdir / "steps" / ".000005.tmp").mkdir()
    record = read(workdir)
    assert record.last_step == 4 and not record.finished and not reading.finished(workdir)


def test_a_run_that_has_spent_its_budget_is_finished(workdir):
    """Evaluation is free: 60 of 100 tokens, then 110."""
    path = workdir / "config.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"num_steps": 1000, "budget_tokens": 100}), encoding="utf-8")
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_bytes().splitlines()]
    for tokens, finished in ((60, False), (110, True)):
        counted = {"ledger/rollout/generated_tokens": tokens / 2, "ledger/reflection/prompt_tokens": tokens / 2}
        last = {name: value for name, value in rows[-1].items() if not name.startswith("ledger/")} | counted
        kept = [{name: value for name, value in row.items() if not name.startswith("ledger/")} for row in rows[:-1]]
        lines = [*kept, last | {"ledger/evaluation/generated_tokens": 1000}]
        (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines), encoding="utf-8")
        assert reading.finished(workdir) == read(workdir).finished == finished


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda d: shutil.rmtree(d), "where no run has left its config.json"),
        (lambda d: (d / "config.json").write_text("{"), r"config.json cannot be read .*put it back"),
        (lambda d: (d / "config.json").write_text("[]"), "config.json holds no JSON object"),
        (lambda d: (d / "metrics.jsonl").unlink(), "has recorded no step yet"),
        (lambda d: (d / "metrics.jsonl").write_text(""), "has recorded no step yet"),
        (lambda d: (d / "metrics.jsonl").write_text("{}\n{}\n"), "metrics.jsonl is damaged: line 1"),
        (lambda d: (d / "population.json").unlink(), "population.json is missing"),
        (lambda d: (d / "population.json").write_text('{"version": 1, "prompts": 3}'), "population.json is damaged"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(workdir, damage, said):
    damage(workdir)
    with pytest.raises(RunError, match=said) as raised:
        read(workdir)
    assert "\n" not in str(raised.value)


def test_a_damaged_step_is_left_out_and_named(workdir):
    with open(workdir / "steps/000002/rollouts.jsonl", "a") as file:
        file.write("{torn")
    (workdir / "steps/000003/reflections.jsonl").write_text('{"operator": "mutation"}\n')
    record = read(workdir)
    assert [step.step for step in record.steps] == [0, 1, 4]
    assert "000002 cannot be read (ValueError: line" in record.unreadable[0] and "000003" in record.unreadable[1]


def test_the_best_and_the_worst_of_the_widest_problems_are_chosen():
    def row(prompt, problem, sample, reward):
        return {"prompt": prompt, "problem": problem, "sample": sample, "reward": reward}

    rows = [
        row(1, "flat", 0, 0.5), row(1, "flat", 1, 0.5), row(1, "wide", 0, 0.0), row(1, "wide", 1, 0.2), row(2, "wide", 0, 1.0),
        row(3, "wide", 0, 0.3), row(3, "wide", 1, 0.4), row(2, "narrow", 0, 0.1), row(2, "narrow", 1, 0.2),
    ]  # fmt: skip
    chosen = [(label, r["problem"], r["prompt"], r["sample"]) for label, r in choosing.contrasts(rows)]
    assert chosen == [
        ("best", "wide", 2, 0), ("worst", "wide", 1, 0), ("best of prompt 3", "wide", 3, 1),
        ("best", "narrow", 2, 1), ("worst", "narrow", 2, 0),
    ]  # fmt: skip
    assert [label for label, _ in choosing.contrasts(rows[:1])] == ["best"]
    assert [label for label, _ in choosing.contrasts(rows[:2])] == ["best", "another"]


def test_spread_steps_hold_both_ends():
    assert choosing.spread(range(1, 201), 50)[0] == 1 and choosing.spread(range(1, 201), 50)[-1] == 200
    assert len(choosing.spread(range(1, 201), 50)) == 50 and choosing.spread([3, 4], 50) == [3, 4]
