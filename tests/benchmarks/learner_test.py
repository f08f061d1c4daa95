"""The learner's driver: who is in memory when."""

import contextlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import arena, learner

SECONDS = {"ours": 2.0, "tunix": 5.0}


class Timed:
    """A contestant whose step takes as long as the table says, but for the first of a workload."""

    def __init__(self, name):
        self.name, self.extra = name, 0.0

    def call(self, method, **arguments):
        if method == "prepare_learning":
            self.extra = 100.0
        if method == "learn":
            seconds, self.extra = SECONDS[self.name] + self.extra, 0.0
            return {"seconds": seconds}
        return {"rates": {"flops": 1e12, "bytes": 1e10}}.get(method, method)


@pytest.fixture
def together(monkeypatch):
    """The sets of contestants that were started beside each other."""
    sets = []

    @contextlib.contextmanager
    def contestants(flags, directory, names):
        sets.append(names.split(","))
        yield {name: Timed(name) for name in names.split(",")}

    spec = SimpleNamespace(vocab_size=100)
    monkeypatch.setattr(arena, "contestants", contestants)
    monkeypatch.setattr(arena, "model_of", lambda flags: (Path("model"), spec))
    monkeypatch.setattr(learner, "learning_work", lambda *_: SimpleNamespace(seconds=lambda rates: 1.0))
    return sets


def test_of_several_rounds_the_first_is_not_counted_and_a_single_one_is(together, tmp_path, capsys):
    learner.main(["--workloads=uniform", "--contestants=ours", f"--output={tmp_path / 'learner.json'}", "--repetitions=1"])
    assert "102.00" in capsys.readouterr().out
    learner.main(["--workloads=uniform", "--contestants=ours", f"--output={tmp_path / 'learner.json'}", "--repetitions=3"])
    assert "102.00" not in capsys.readouterr().out


@pytest.mark.parametrize(("flags", "sets"), [([], [["ours", "tunix"]]), (["--apart"], [["ours"], ["tunix"]])])
def test_apart_no_contestant_is_in_memory_beside_another_and_the_table_is_the_same(together, tmp_path, capsys, flags, sets):
    output = tmp_path / "learner.json"
    learner.main(["--workloads=uniform,espl", "--repetitions=2", f"--output={output}", *flags])
    assert together == sets
    table = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith(("uniform", "espl"))]
    assert [row[:3] for row in table] == [
        ["uniform", "ours", "2.00"], ["uniform", "tunix", "5.00"], ["espl", "ours", "2.00"], ["espl", "tunix", "5.00"],
    ]  # fmt: skip
    assert all(row[-1] == ("50%" if row[1] == "ours" else "20%") for row in table)
    assert all("2.50 x as fast" in " ".join(row) for row in table if row[1] == "tunix")
    assert json.loads(output.read_text(encoding="utf-8"))["versions"].keys() == SECONDS.keys()
