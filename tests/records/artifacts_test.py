"""Files for readers: JSON that every parser takes, step folders that are whole or absent."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from espl_jax.records import artifacts, json_files, resume
from espl_jax.structs import Completion, Grade, Problem, Rollouts
from experiments import base

values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
    max_leaves=20,
)


@given(value=values)
def test_json_reads_back_and_a_row_is_a_line(value):
    text = json_files.encode(json_files.lines([{"v": value}])).decode()
    assert json.loads(text) == {"v": value}
    assert len(text.splitlines()) == 1


def test_half_a_character_survives():
    text = json_files.encode(json_files.dumps({"text": "a\ud83d é"}))
    assert json.loads(text) == {"text": "a\ud83d é"} and "é".encode() in text


def test_numpy_numbers_and_nan():
    value = {"a": np.float32(0.5), "b": np.int64(3), "c": (math.nan, -math.inf), "d": np.bool_(True)}
    assert json.loads(json_files.dumps(value), parse_constant=pytest.fail) == {
        "a": 0.5,
        "b": 3,
        "c": [None, None],
        "d": 1,
    }


def test_what_json_does_not_know_is_an_error():
    with pytest.raises(TypeError):
        json_files.dumps({"a": np.ones(2)})


def test_config_json_is_what_comes_back_from_the_file(tmp_path):
    config = artifacts.config_json(base.get_config())
    artifacts.write_json(tmp_path / "new" / "config.json", config)
    assert json.loads((tmp_path / "new" / "config.json").read_text()) == config
    assert config["rl"]["lora_targets"][0] == "q" and config["evolution"]["trueskill_sigma"] == 25 / 3


def test_replacing_a_file_leaves_the_old_one_if_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "population.json"
    artifacts.write_json(path, {"version": 1})
    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="power cut"):
        artifacts.write_json(path, {"version": 2})
    assert json.loads(path.read_text()) == {"version": 1}


def fail(*arguments):
    raise OSError("power cut")


FILES = {
    "prompts.json": {"prompts": [{"id": 0, "text": "G0 [bold]"}]},
    "rollouts.jsonl": [{"a": 1}, {"a": 2}],
    "none.jsonl": [],
}


def test_a_step_is_a_folder_of_files(tmp_path):
    folder = artifacts.write_step(tmp_path, 12, FILES)
    assert folder == tmp_path / "steps" / "000012"
    assert sorted(path.name for path in folder.iterdir()) == ["none.jsonl", "prompts.json", "rollouts.jsonl"]
    assert json.loads((folder / "prompts.json").read_text()) == FILES["prompts.json"]
    assert artifacts.read_rows(folder / "rollouts.jsonl") == FILES["rollouts.jsonl"]


@pytest.mark.parametrize("moment", ["os.rename", "espl_jax.records.json_files.write_synced"])
def test_a_step_that_fails_is_absent_and_can_be_written_again(tmp_path, monkeypatch, moment):
    with monkeypatch.context() as patch:
        patch.setattr(moment, fail)
        with pytest.raises(OSError, match="power cut"):
            artifacts.write_step(tmp_path, 1, FILES)
    assert not artifacts.step_folder(tmp_path, 1).exists()
    artifacts.write_step(tmp_path, 1, {"prompts.json": {}})
    assert [path.name for path in artifacts.step_folder(tmp_path, 1).iterdir()] == ["prompts.json"]


def test_a_step_is_never_overwritten(tmp_path):
    artifacts.write_step(tmp_path, 1, FILES)
    with pytest.raises(FileExistsError, match="rewind"):
        artifacts.write_step(tmp_path, 1, {"prompts.json": {}})
    assert len(artifacts.read_rows(artifacts.step_folder(tmp_path, 1) / "rollouts.jsonl")) == 2


def test_a_file_of_no_known_kind_is_refused(tmp_path):
    with pytest.raises(ValueError, match="notes.txt"):
        artifacts.write_step(tmp_path, 1, {"notes.txt": {}})
    assert not artifacts.step_folder(tmp_path, 1).exists()


def test_rewinding_moves_later_steps_aside_and_clears_left_overs(tmp_path):
    for step in (1, 2, 3):
        artifacts.write_step(tmp_path, step, {"x.json": {"step": step}})
    (tmp_path / "steps" / ".000004.tmp").mkdir()
    assert resume.rewind(tmp_path, 1) == tmp_path / "superseded" / "000"
    assert [path.name for path in (tmp_path / "steps").iterdir()] == ["000001"]
    for step in (2, 3):
        artifacts.write_step(tmp_path, step, {"x.json": {}})
    resume.rewind(tmp_path, 2)
    kept = sorted(path.parts[-3:] for path in (tmp_path / "superseded").rglob("00000?"))
    assert kept == [("000", "steps", "000002"), ("000", "steps", "000003"), ("001", "steps", "000003")]
    assert json.loads((tmp_path / "superseded/000/steps/000002/x.json").read_text()) == {"step": 2}


def test_rewinding_a_new_folder_does_nothing(tmp_path):
    assert resume.rewind(tmp_path / "new", -1) is None
    assert list(tmp_path.iterdir()) == []


def make_rollouts():
    """2 prompts x 1 problem x 2 samples; the last completion is cut off, the first has two tokens."""
    problem = Problem("ab", "1+1?", "2")
    half = np.log(np.array([0.5, 0.125], np.float32))
    completions = tuple(
        Completion(i, np.array([7, 8]), half, half, half / 2, ("stop", "length")[i == 3]) for i in range(4)
    )
    return Rollouts(
        prompt_ids=(5, 9),
        problems=(problem,),
        context_tokens=((np.arange(3),), (np.arange(4),)),
        completions=completions,
        texts=("a", "b", "c", "d"),
        grades=tuple(Grade(score, str(score), note) for score, note in ((1.0, ""), (0.0, ""), (0.0, "no"), (1.0, ""))),
        rewards_PQG=np.array([[[1, 0]], [[0, 1]]], np.float32),
    )


def test_rollout_rows_name_every_trajectory():
    rows = artifacts.rollout_rows(make_rollouts(), np.array([[[0.5, -0.5]], [[-0.25, 0.25]]], np.float32))
    assert [(row["prompt"], row["sample"], row["text"], row["reward"]) for row in rows] == [
        (5, 0, "a", 1.0),
        (5, 1, "b", 0.0),
        (9, 0, "c", 0.0),
        (9, 1, "d", 1.0),
    ]
    last = dict(rows[3])
    assert last.pop("behavior_logprob") == pytest.approx(math.log(0.25), rel=1e-6)
    assert last.pop("logprob") == pytest.approx(math.log(0.5), rel=1e-6)
    assert last == {
        "prompt": 9, "problem": "ab", "sample": 1, "question": "1+1?", "answer": "2", "text": "d", "reward": 1.0,
        "extracted": "1.0", "note": "", "finish": "length", "advantage": 0.25, "tokens": 2, "context_tokens": 4,
    }  # fmt: skip
    assert json.loads(json_files.lines(rows).splitlines()[2])["note"] == "no"


def test_advantages_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="do not fit"):
        artifacts.rollout_rows(make_rollouts(), np.zeros((2, 2, 1)))
