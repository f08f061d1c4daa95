"""metrics.jsonl: equal runs give equal bytes, a crash loses no line, and steps only go up."""

import json
import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from espl_jax.records import metrics, resume
from espl_jax.records.metrics import MetricsWriter, open_metrics

JSONL_ONLY = ConfigDict({"tensorboard": False, "wandb_project": ""})


def write(workdir, steps, last_step=-1, records=JSONL_ONLY):
    with open_metrics(workdir, records, {"seed": 1}, last_step) as writer:
        for step in steps:
            writer.write(step, {"train/reward": step / 3, "time/sample": 1.0})


def test_one_sorted_object_a_step(tmp_path):
    with open_metrics(tmp_path, JSONL_ONLY, {}, -1) as writer:
        writer.write(0, {"validation/pass@1": np.float32(0.1)})
        writer.write(1, {"b": 2, "a": np.int64(1), "c": np.array(0.1), "d": True})
    assert (tmp_path / "metrics.jsonl").read_text() == (
        '{"step": 0, "validation/pass@1": 0.10000000149011612}\n{"step": 1, "a": 1, "b": 2, "c": 0.1, "d": 1}\n'
    )


def test_a_line_is_on_disk_when_write_returns(tmp_path):
    with open_metrics(tmp_path, JSONL_ONLY, {}, -1) as writer:
        writer.write(4, {"a": 1})
        assert metrics.read(tmp_path) == [{"step": 4, "a": 1}]


def test_what_is_not_finite_is_null_and_named(tmp_path):
    with open_metrics(tmp_path, JSONL_ONLY, {}, -1) as writer:
        writer.write(1, {"loss": math.nan, "norm": -math.inf, "reward": 0.5})
    row = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=pytest.fail)
    expected = {"loss": None, "norm": None, "reward": 0.5, "nonfinite": {"loss": "nan", "norm": "-inf"}}
    assert row == {"step": 1, **expected}


@pytest.mark.parametrize("value", ["0.5", None, [1.0], np.ones(2)])
def test_what_is_no_number_is_refused_by_name(value):
    with pytest.raises(TypeError, match="train/reward"):
        MetricsWriter([]).write(1, {"train/reward": value})


@pytest.mark.parametrize("steps", [[1, 1], [2, 1], [0]])
def test_steps_only_go_up(steps):
    writer = MetricsWriter([], last_step=0)
    with pytest.raises(ValueError, match="only go up"):
        for step in steps:
            writer.write(step, {})


def test_cut_back_and_written_again_gives_the_same_bytes(tmp_path):
    write(tmp_path / "whole", range(6))
    write(tmp_path / "killed", range(5))
    resume.rewind(tmp_path / "killed", 2)
    write(tmp_path / "killed", range(3, 6), last_step=2)
    assert (tmp_path / "killed" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    aside = tmp_path / "killed" / "superseded" / "000" / "metrics.jsonl"
    assert [json.loads(line)["step"] for line in aside.read_text().splitlines()] == [3, 4]


def test_writing_on_without_rewinding_is_refused(tmp_path):
    write(tmp_path, range(4))
    with pytest.raises(ValueError, match="rewind"):
        write(tmp_path, [3], last_step=2)
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 4, "tr')
    with pytest.raises(ValueError, match="rewind"):
        write(tmp_path, [4], last_step=3)


@settings(max_examples=60)  # every example waits for the disk
@given(cut=st.integers(0, 400), step=st.integers(-1, 6))
def test_cut_anywhere_it_rewinds_to_whole_lines(tmp_path_factory, cut, step):
    """However many bytes reached the disk, whole lines up to the step stay and the rest is kept aside."""
    workdir = tmp_path_factory.mktemp("cut")
    write(workdir, range(6))
    whole = (workdir / "metrics.jsonl").read_bytes()
    (workdir / "metrics.jsonl").write_bytes(whole[:cut])
    complete = [line for line in whole.split(b"\n")[:-1] if whole.index(line) + len(line) <= cut]
    expected = [line for line in complete if json.loads(line)["step"] <= step]
    aside = resume.rewind(workdir, step)
    assert (workdir / "metrics.jsonl").read_bytes() == b"".join(line + b"\n" for line in expected)
    rest = (aside / "metrics.jsonl").read_bytes() if aside else b""
    assert (b"".join(line + b"\n" for line in expected) + rest).rstrip(b"\n") == whole[:cut].rstrip(b"\n")
    assert resume.rewind(workdir, step) is None
    write(workdir, range(step + 1, 8), last_step=step)


def test_a_damaged_line_in_the_middle_is_an_error_with_its_number(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\nrubbish\n{"step": 3}\n')
    with pytest.raises(ValueError, match="line 2"):
        metrics.read(tmp_path)
    with pytest.raises(ValueError, match="line 2"):
        resume.rewind(tmp_path, 1)


def test_tensorboard_has_the_scalars_and_drops_repeated_steps(tmp_path):
    from tensorboardX.proto import event_pb2

    records = ConfigDict({"tensorboard": True, "wandb_project": ""})
    write(tmp_path, range(3), records=records)
    resume.rewind(tmp_path, 0)
    write(tmp_path, [1], last_step=0, records=records)
    events = []
    for file in sorted((tmp_path / "tensorboard").iterdir()):
        events += [event_pb2.Event.FromString(record) for record in tfrecords(file.read_bytes())]
    scalars = [(event.step, v.tag, v.simple_value) for event in events for v in event.summary.value]
    assert (2, "train/reward", pytest.approx(2 / 3)) in scalars
    starts = [event.step for event in events if event.session_log.status == event_pb2.SessionLog.START]
    assert starts == [1]


def tfrecords(data):
    """The payloads of a TFRecord file: length (8 bytes), checksum (4), payload, checksum (4)."""
    while data:
        length = int.from_bytes(data[:8], "little")
        yield data[12 : 12 + length]
        data = data[16 + length :]


class FakeWandb(SimpleNamespace):
    """Takes down what wandb is told."""

    def __init__(self):
        super().__init__(inits=[], logged=[], finished=0)

    def init(self, **arguments):
        self.inits.append(arguments)
        return self

    def define_metric(self, name, step_metric):
        self.axis = (name, step_metric)

    def log(self, row):
        self.logged.append(row)

    def finish(self):
        self.finished += 1


def test_wandb_goes_on_in_the_same_run(tmp_path, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    records = ConfigDict({"tensorboard": False, "wandb_project": "espl"})
    write(tmp_path, [0, 1], records=records)
    resume.rewind(tmp_path, 0)
    write(tmp_path, [1], last_step=0, records=records)
    first, second = fake.inits
    assert first == second and first["id"] == (tmp_path / "wandb_id").read_text()
    assert (first["project"], first["resume"], first["config"]) == ("espl", "allow", {"seed": 1})
    assert fake.axis == ("*", "step") and fake.finished == 2
    assert [row["step"] for row in fake.logged] == [0, 1, 1]


def test_missing_wandb_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match=r"espl_jax\[wandb\]"):
        open_metrics(tmp_path, ConfigDict({"tensorboard": False, "wandb_project": "espl"}), {}, -1)
