"""The report as a command and at the end of a run: it never fails a run, and never needs a device."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import pytest
from absl import logging

from espl_jax import report
from espl_jax.evolution.population import root_population
from espl_jax.policy.state import PolicyState
from espl_jax.records.logbook import Logbook
from espl_jax.report import page
from espl_jax.structs import Genome, RunState
from experiments import base
from tests.report import synthetic
from tests.report.browser import Browser, found

ROOT = Path(__file__).parents[2]
LIMIT = 10_000_000  # bytes of the report of a run of 200 steps and 200 prompts


def command(*arguments: str) -> subprocess.CompletedProcess:
    line = [sys.executable, "-m", "espl_jax.report", *arguments]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_the_command_writes_the_page_and_watches_until_the_run_ends(tmp_path):
    synthetic.write(tmp_path, steps=2)
    done = command(f"--workdir={tmp_path}", "--watch=0.1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path / "report.html")) and (tmp_path / "report.html").exists()
    assert not list(tmp_path.glob(".report*")), "written in one move"


def test_a_directory_without_a_run_is_one_sentence(tmp_path):
    done = command(f"--workdir={tmp_path}")
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: --workdir is") and "give a run's directory" in done.stderr


def test_no_device_is_needed():
    """A run may hold the accelerator while its report is written by another process."""
    code = "import sys, espl_jax.report; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0


@pytest.mark.parametrize("wanted", [True, False])
def test_a_run_ends_with_its_report_where_it_is_wanted(tmp_path, wanted):
    config = base.get_config()
    config.records.tensorboard, config.records.report, config.num_steps = False, wanted, 1
    policy = PolicyState({"w": jnp.zeros(3)}, {"m": jnp.zeros(3)}, jnp.int32(0))
    state = RunState(0, policy, root_population(Genome("principles", ("Check.",)), config.evolution), {})
    with Logbook(config, tmp_path) as logbook:
        state = logbook.restore(state)
        for step in range(2):
            state = dataclasses.replace(state, step=step)
            logbook.commit(SimpleNamespace(state=state, metrics={"train/reward": 0.25}, files={}))
        logbook.finish(state)
    assert (tmp_path / report.FILE).exists() == wanted
    if wanted:
        text = (tmp_path / report.FILE).read_text(encoding="utf-8")
        payload = json.loads(text.split('id="payload">')[1].split("</script>")[0])
        assert payload["metrics"]["columns"]["train/reward"] == [0.25, 0.25] and list(payload["prompts"]) == ["0"]


def test_what_goes_wrong_is_a_warning_that_names_the_reason(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(logging, "warning", lambda text, *values: said.append(text % values))
    report.attempt(tmp_path)
    synthetic.write(tmp_path, steps=1)
    monkeypatch.setattr(page, "find_spec", lambda name: None)
    report.attempt(tmp_path)
    assert "where no run has left its config.json" in said[0] and "pip install 'plotly" in said[1] and len(said) == 2
    assert not (tmp_path / report.FILE).exists()


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("large") / "run"
    synthetic.large(workdir)
    return report.write(workdir)


def test_the_report_of_a_large_run_is_small_enough(large):
    assert 1_000_000 < large.stat().st_size < LIMIT


@pytest.mark.skipif(found() is None, reason="no chromium on this machine; the other tests read the page without one")
def test_in_a_browser_the_page_loads_and_the_tree_can_be_clicked(large):
    with Browser() as browser:
        browser.open(large)
        browser.wait_for("document.documentElement.dataset.ready === 'yes'")
        browser.wait_for("document.querySelectorAll('#chart-held-out .scatterlayer .trace').length > 0")
        best = browser.value("payload.best")
        assert browser.value("document.querySelector('#prompt h3').textContent").startswith(f"Prompt {best}")
        browser.click("#node-7")
        browser.wait_for("document.querySelector('#prompt h3').textContent.startsWith('Prompt 7')")
        principles = browser.value("payload.prompts[7].lines.map(place => payload.texts[place])")
        shown = browser.value("[...document.querySelectorAll('#prompt .principles .text')].map(e => e.textContent)")
        assert shown == principles and len(shown) > 0
        assert browser.value("document.querySelector('#node-7').classList.contains('chosen')")
        browser.wait_for("document.querySelectorAll('#prompt .chart .scatterlayer .trace').length > 0")
        browser.click("#prompt .call summary")
        browser.wait_for("document.querySelectorAll('#prompt .call .turn').length > 1")
        browser.value("document.querySelector('#where').selectedIndex = 3; document.querySelector('#later').click()")
        assert browser.value("document.querySelectorAll('#conversations article').length") >= 4
        assert browser.value("window.hacked") is None, "a text of the run was executed"
        assert browser.value("document.documentElement.scrollWidth") <= 1280
        assert browser.errors == []


@pytest.mark.skipif(found() is None, reason="no chromium on this machine; the other tests read the page without one")
def test_on_a_dark_phone_nothing_is_wider_than_the_screen(tmp_path):
    synthetic.write(tmp_path, steps=6)
    with Browser(390, 844, dark=True, phone=True) as browser:
        browser.open(report.write(tmp_path), "#prompt-5")
        browser.wait_for("document.documentElement.dataset.ready === 'yes'")
        assert browser.value("document.querySelector('#prompt h3').textContent").startswith("Prompt 5")
        charts = browser.value("Object.keys(payload.charts)")
        for name in charts:
            browser.value(f"document.getElementById('chart-{name}').scrollIntoView({{behavior: 'instant'}})")
            browser.wait_for(f"document.querySelector('#chart-{name} .main-svg') !== null")
        assert browser.value("document.documentElement.scrollWidth") == 390
        dark = browser.value("getComputedStyle(document.body).backgroundColor")
        browser.value("document.querySelector('#theme').click()")  # from auto to light
        assert browser.value("getComputedStyle(document.body).backgroundColor") != dark
        assert browser.errors == []
