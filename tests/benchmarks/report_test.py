"""Tables and JSON."""

import json

import pytest

from benchmarks import report
from benchmarks.report import Measurement

OURS = Measurement("uniform-8/1", "ours", (2.0, 1.0, 4.0), 1000, 0.5)
TUNIX = Measurement("uniform-8/1", "tunix", (5.0, 3.0), 1000, 0.5)
ELSEWHERE = Measurement("espl/1", "tunix", (5.0,), 1000, 0.0)


def test_medians_and_ratios():
    everything = [OURS, TUNIX, ELSEWHERE]
    assert OURS.median == 2.0 and TUNIX.median == 4.0
    assert OURS.tokens_per_second == 500
    assert report.speedup(TUNIX, everything) == 2.0
    assert report.speedup(OURS, everything) is None and report.speedup(ELSEWHERE, everything) is None


def test_rows():
    ours, tunix, elsewhere = report.rows([OURS, TUNIX, ELSEWHERE])
    assert ours == ("uniform-8/1", "ours", "2.00", "1.00", "4.00", "3", "500", "", "25%")
    assert tunix == ("uniform-8/1", "tunix", "4.00", "3.00", "5.00", "2", "250", "2.00 x as fast", "12%")
    assert elsewhere[-2:] == ("", "")


def test_table_is_aligned():
    assert report.table(("name", "of", "n"), [("a", "long", "10")]).splitlines() == [
        "name  of     n",
        "----  ----  --",
        "a     long  10",
    ]


def test_json(tmp_path):
    path = tmp_path / "new" / "sampler.json"
    report.write_json(path, report.as_json([OURS, TUNIX], {"rates": {"flops": 1.0}}))
    found = json.loads(path.read_text(encoding="utf-8"))
    assert {"commit", "machine", "rates", "measurements"} <= found.keys()
    assert found["machine"]["cpu"]
    assert found["measurements"][1]["ours_speedup"] == 2.0
    assert found["measurements"][0]["fraction_of_bound"] == 0.25
    assert found["measurements"][0]["seconds"] == [2.0, 1.0, 4.0]


def test_a_measurement_needs_a_repetition():
    with pytest.raises(ValueError, match="no repetition"):
        Measurement("espl/1", "ours", (), 1, 0.0)
