"""Comparisons from the plan to the page, over runs that are stood in for by a small program."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from espl_jax import compare
from espl_jax import config as configs
from espl_jax.comparison import running
from tests.comparison.plan_test import make
from tests.report.browser import Browser
from tests.report.browser import found as found_browser

ROOT = Path(__file__).parents[1]
PROGRAM = (sys.executable, str(ROOT / "tests" / "comparison" / "fake_run.py"))
METHODS = ("rl", "espl", "evolution+rl")


def start(workdir, processes=2, methods=METHODS, **changes):
    """compare, with the stand-in; its file is written whatever this returns."""
    return compare.compare(make(workdir, methods, ("0", "1"), "tokens:1000", **changes), processes, PROGRAM)


def starts(workdir):
    return sorted(str(path.parent.relative_to(workdir)) for path in workdir.glob("*/**/starts") for _ in path.open())


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("compared") / "sums"
    assert start(workdir)
    return workdir


@pytest.fixture(scope="module")
def found(compared):
    return json.loads((compared / "comparison.json").read_text(encoding="utf-8"))


def test_the_figures_are_those_that_the_runs_imply(found):
    """rl: 10 steps of 100; espl: 4 of 300; evolution: 2 of 250, then rl: 5 of 100. Problems b of seed 1 have 0.02 more."""
    methods = {method["name"]: method for method in found["methods"]}
    expected = {"rl": (0.1 + 0.5, 10, 1000), "espl": (0.1 + 0.8, 4, 1200), "evolution+rl": (0.1 + 0.25, 7, 1000)}
    for name, (reward, steps, spent) in expected.items():
        method = methods[name]
        assert method["by_seed"] == {"0": pytest.approx(reward), "1": pytest.approx(reward + 0.01)}
        assert method["final"]["validation"]["mean"] == pytest.approx(reward + 0.005)
        assert method["start"] == pytest.approx(0.105)
        assert (method["steps"], method["spent"]["budget_tokens"]) == (steps, spent)
        assert method["share"] == pytest.approx(spent / 1000) and method["children"] == steps
        assert method["ledger"]["rollout"]["generated_tokens"] == 40 * steps


def test_pairs_are_tested_on_the_same_problems(found):
    pairs = {(pair["first"], pair["second"]): pair for pair in found["pairs"]}
    assert set(pairs) == {("rl", "espl"), ("rl", "evolution+rl"), ("espl", "evolution+rl")}
    behind = pairs["rl", "espl"]["paired"]
    assert behind["difference"]["mean"] == pytest.approx(-0.3) and behind["ahead"] == 0
    assert behind["problems"] == 4 and behind["p_problems"] == 2 / 16 and behind["p_seeds"] == 0.5
    assert pairs["rl", "espl"]["p_adjusted"] == pytest.approx(3 * 2 / 16)


def test_curves_go_by_steps_and_by_cost(found):
    curve = found["curves"]["budget_tokens"]["espl"]
    assert curve["x"] == [0, 300, 600, 1200]
    assert curve["low"] == pytest.approx([0.1, 0.3, 0.5, 0.9])
    both = found["curves"]["budget_tokens"]["evolution+rl"]
    assert both["x"] == [0, 250, 500, 600, 700, 800, 900, 1000]  # the second part's step 0 repeats the first's last
    assert found["curves"]["step"]["evolution+rl"]["x"] == [0, 1, 2, 3, 4, 5, 6, 7]


def test_what_prompts_know_is_a_curve_of_its_own(found, compared):
    known = found["known"]["evolution/rules_known"]
    assert known["espl"]["x"] == [0, 1, 2, 3, 4] and known["espl"]["mean"] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    assert set(known) == {"rl", "espl", "evolution+rl"}
    assert 'id="chart-curve-rules-known"' in (compared / "report.html").read_text(encoding="utf-8")


def test_prompts_stand_beside_the_truth_and_ratings_beside_accuracy(compared):
    """Ranks 1, 3, 2 of three against 1, 2, 3: rho = 1 - 6 * 2 / (3 * 8) = 0.5."""
    page, table = ((compared / name).read_text(encoding="utf-8") for name in ("report.html", "table.md"))
    shown = "Principles that help with this kind of task:<br>[G0] best of espl"
    assert f"| espl, seed 1 | {shown} | - one \\| two<br>- three |" in table
    origin = "prompt 1, step 1, mutation of 0: add, by the critique of problem a"
    assert f"| espl, seed 1 | best of espl | {origin} |" in table
    assert origin in page
    assert "| espl, seed 0 | 3 | +0.50 | 0.500 | 0.500 | 0.750 |" in table and "| rl, seed 0 | 3 |" not in table
    assert '<section id="prompts">' in page and "- one | two<br>- three" in page
    assert '<section id="ratings">' in page and 'id="chart-ratings"' in page


def test_the_second_part_began_with_the_prompt_of_the_first(compared):
    assert (compared / "evolution+rl" / "seed0" / "prompt.txt").read_text(encoding="utf-8") == "best of evolution\n"


def test_the_page_and_the_table_show_them(compared):
    page, table = ((compared / name).read_text(encoding="utf-8") for name in ("report.html", "table.md"))
    for name in ("results", "curves", "spent", "runs"):
        assert f'<section id="{name}">' in page
    assert 'id="chart-curve-step"' in page and 'id="chart-curve-budget-flops"' in page
    assert 'href="evolution+rl/seed0/2-rl/report.html"' in page
    first = table[table.index("| method | seeds") :].splitlines()[2]
    assert first.startswith("| espl | 2 | 0.905 [0.9") and "0.900, 0.910" in first and "| 120% |" in first


@pytest.mark.skipif(found_browser() is None, reason="no chromium on this machine; the other tests read the page without one")
def test_in_a_browser_the_curves_are_drawn_and_fit_a_phone(compared):
    with Browser(390, 844, dark=True, phone=True) as browser:
        browser.open(compared / "report.html")
        names = browser.value("Object.keys(payload.charts)")
        assert len(names) == 6
        for name in names:
            traces = 2 if name == "ratings" else 6  # two seeds; lines and bands
            browser.value(f"document.getElementById('chart-{name}').scrollIntoView({{behavior: 'instant'}})")
            browser.wait_for(f"document.querySelectorAll('#chart-{name} .scatterlayer .trace').length === {traces}")
        assert browser.value("document.documentElement.scrollWidth") == 390
        assert browser.errors == []


def test_what_has_ended_is_not_run_again(compared):
    assert start(compared)
    parts = [f"evolution+rl/seed{seed}/{part}" for seed in (0, 1) for part in ("1-evolution", "2-rl")]
    assert starts(compared) == sorted([*(f"{name}/seed{seed}" for name in ("rl", "espl") for seed in (0, 1)), *parts])


def test_a_run_that_fails_is_named_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FAKE_FAIL", "espl")
    assert not start(tmp_path, processes=1, methods=("rl", "espl"))
    found = json.loads((tmp_path / "comparison.json").read_text(encoding="utf-8"))
    assert set(found["failed"]) == {"espl, seed 0", "espl, seed 1"} and "error: no such luck" in found["failed"]["espl, seed 1"]
    assert [method["name"] for method in found["methods"]] == ["rl"]
    assert "error: no such luck" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "espl, seed 0: failed: exit code 1" in capsys.readouterr().out
    assert not start(tmp_path, processes=0, methods=("rl", "espl"))  # remembers
    monkeypatch.delenv("FAKE_FAIL")
    assert start(tmp_path, processes=1, methods=("rl", "espl"))
    assert starts(tmp_path) == ["espl/seed0"] * 2 + ["espl/seed1"] * 2 + ["rl/seed0", "rl/seed1"]


def test_two_comparisons_do_not_work_in_one_directory(tmp_path):
    with running.locked(tmp_path), pytest.raises(configs.ConfigError, match="another comparison"):
        start(tmp_path)


def test_a_run_that_was_left_behind_keeps_the_lock(tmp_path):
    """As when the comparison itself is killed: its file is closed, the run's copy of it is not."""
    with running.locked(tmp_path) as lock:
        left = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(lock.fileno(),))
    with pytest.raises(configs.ConfigError, match="left behind"):
        start(tmp_path)
    left.communicate(b"\n")
    with running.locked(tmp_path):
        pass


def test_nothing_at_all_is_a_page_too(tmp_path):
    assert start(tmp_path, processes=0)
    assert "no run has ended" in (tmp_path / "report.html").read_text(encoding="utf-8")
