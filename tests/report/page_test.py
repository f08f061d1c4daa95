"""The file without a browser: one piece, well-formed, nothing fetched, nothing from a run read as HTML."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from espl_jax import report
from espl_jax.records import artifacts
from espl_jax.report import charts, learning, page, run_page
from espl_jax.report.charts import Line
from espl_jax.report.page import Section
from tests.report import synthetic
from tests.report.reading_test import read

VOID = {"meta", "br", "input", "img", "link", "hr"}


class Reader(HTMLParser):
    """Every element with its attributes, the text of scripts, and tags that do not close."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict]] = []
        self.scripts: list[tuple[dict, str]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> ends {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        elif self.open and self.open[-1] != "style":
            self.words.append(data)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("synthetic") / "run & <b>name"
    synthetic.write(workdir, steps=12)
    report.write(workdir)
    return workdir


@pytest.fixture(scope="module")
def text(workdir):
    return (workdir / report.FILE).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def read_page(text):
    return Reader(text)


@pytest.fixture(scope="module")
def payload(read_page):
    [found] = [body for attributes, body in read_page.scripts if attributes.get("id") == "payload"]
    return json.loads(found)


def test_every_element_closes_and_every_id_is_there_once(read_page):
    assert read_page.open == []
    ids = [attributes["id"] for _, attributes in read_page.elements if "id" in attributes]
    assert len(ids) == len(set(ids)) > 30
    targets = {attributes["href"][1:] for tag, attributes in read_page.elements if tag == "a"}
    sections = {target for target in targets if not target.startswith("prompt-")}
    assert len(sections) > 5 and sections <= set(ids)


def test_scripts_ask_only_for_elements_that_are_there(read_page):
    ids = {attributes["id"] for _, attributes in read_page.elements if "id" in attributes}
    scripts = page.asset("page.js") + page.asset("run.js")
    asked = set(re.findall(r'(?:byId|getElementById)\("([\w-]+)"\)', scripts))
    assert asked <= ids and len(asked) > 12


def test_nothing_is_fetched(read_page):
    for tag, attributes in read_page.elements:
        assert tag not in ("link", "iframe", "object", "embed", "img", "base", "form", "video", "audio")
        for name in ("src", "href", "xlink:href", "data", "action", "background"):
            assert attributes.get(name, "#").startswith("#"), (tag, attributes)
    styles = page.asset("page.css") + page.asset("run.css")
    assert "url(" not in styles and "@import" not in styles
    for file in ("page.js", "run.js"):
        for word in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "fetch(", "XMLHttp", "import("):
            assert word not in page.asset(file)


def test_nothing_from_a_run_becomes_an_element_or_a_script(read_page, text):
    allowed = {"payload": "application/json", "plotly": "text/plain"}
    kinds = [attributes for attributes, _ in read_page.scripts]
    assert [attributes for attributes in kinds if attributes] == [{"type": kind, "id": name} for name, kind in allowed.items()]
    assert len(kinds) == 4  # and page.js, run.js
    assert not any(name.startswith("on") for _, attributes in read_page.elements for name in attributes)
    assert "window.hacked" in text and "window.hacked" in " ".join(read_page.words), "it is there, as text"
    names = [words for words in read_page.words if words == "run & <b>name"]
    assert len(names) >= 2, "title and heading"


def test_the_policy_names_the_hash_of_every_script_that_runs(read_page):
    [policy] = [a["content"] for _, a in read_page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    running = [body for attributes, body in read_page.scripts if attributes.get("id") != "payload"]
    hashes = {f"'sha256-{base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()}'" for body in running}
    assert set(rules["script-src"].split()) == hashes and len(hashes) == 3
    assert rules["default-src"] == "'none'"


def test_the_payload_gives_back_what_the_run_has(payload, workdir):
    record = read(workdir)
    texts = payload["texts"]
    for prompt in record.population.prompts:
        lines = [texts[place] for place in payload["prompts"][str(prompt.id)]["lines"]]
        assert lines == list(prompt.genome.principles)
    said = [line for prompt in record.population.prompts for line in prompt.genome.principles]
    assert any(line.startswith(synthetic.HOSTILE[1]) for line in said)
    assert payload["matches"][-1][:2] == [record.population.matches[-1].step, list(record.population.matches[-1].prompt_ids)]
    row = artifacts.read_rows(workdir / "steps/000012/reflections.jsonl")[0]
    shown = payload["attempts"][-1]
    assert shown["child"] == row["child"]["id"]
    fates = [operation["fate"] for operation in shown["calls"][0]["operations"]]
    assert fates == [operation["fate"] for operation in row["calls"][0]["operations"]]
    asked = row["calls"][1]["chat"]["messages"][0]["content"]
    assert texts[shown["calls"][1]["turns"][0][1]] == asked
    columns = [column for entry in payload["transcripts"] for group in entry["groups"] for column in group["columns"]]
    assert any([role for role, _ in column["turns"]] == ["user", "assistant", "tool", "assistant"] for column in columns)


def test_what_breaks_out_of_a_script_is_escaped():
    value = ["</script><script>alert(1)</script>", "<!--", "&amp;", "\u2028", "\ud800"]
    text = page.embedded_json(value)
    assert "<" not in text and ">" not in text and "&" not in text
    assert json.loads(text) == value


def test_pieces_escape_their_cells():
    shown = page.table(["<a>"], [["<b>"], [page.Markup("<i>kept</i>")]], caption="<c>")
    assert "&lt;a&gt;" in shown and "&lt;b&gt;" in shown and "&lt;c&gt;" in shown and "<i>kept</i>" in shown
    assert "&lt;x&gt;" in page.tiles([("<x>", "1", "")]) and "&lt;y&gt;" in page.folded("<y>", page.EMPTY)


def test_names_twice_on_a_page_are_refused():
    sections = [Section("one", "One", page.EMPTY), Section("one", "Two", page.EMPTY)]
    with pytest.raises(ValueError, match="'one'"):
        page.page("title", sections)


def test_a_page_of_any_sections_stands_alone():
    """As espl_jax.compare makes one: no run, its own curves and tables."""
    chart = charts.curves("cost", "Reward against cost", [Line("rl", [1, 2], [0.1, 0.2], [0.0, 0.1], [0.2, 0.3])])
    body = page.figure(chart) + page.table(["method", "reward"], [["rl", "0.2"]], [1])
    found = Reader(page.page("Comparison", [Section("curves", "Curves", body, (chart,))]))
    assert found.open == [] and ("div", "chart-cost") in [(tag, attributes.get("id")) for tag, attributes in found.elements]


def test_charts_are_figures_that_plotly_knows(workdir, payload):
    """Every property by plotly's own schema."""
    from plotly import graph_objects

    assert len(payload["charts"]) > 10
    for name, spec in payload["charts"].items():
        figure = graph_objects.Figure(spec)
        assert len(figure.data) == len(spec["data"]) > 0, name


def test_curves_have_their_numbers_and_escaped_names():
    line = Line("a<b", [1, 2, 3], [0.5, None, 1 / 3], [0.4, None, 0.2], [0.6, None, 0.4])
    band, curve = charts.curves("x", "X", [line]).spec["data"]
    assert curve["name"] == "a&lt;b" and curve["y"] == [0.5, None, 0.33333]
    assert band["x"] == [1, 3, 3, 1] and band["y"] == [0.6, 0.4, 0.2, 0.4]
    with pytest.raises(ValueError, match="lengths"):
        Line("short", [1, 2], [1.0])


def test_bands_are_around_the_metrics(workdir):
    """Two paths to one number: the mean of the transcripts' outcomes, and the metric that the run wrote."""
    record = read(workdir)
    for step in record.steps:
        row = next(row for row in record.metrics if row["step"] == step.step)
        for name in ("validation", "validation_no_prompt"):
            found = learning.score(step, name)
            assert found.mean == pytest.approx(row[f"{name}/pass@1"])
            assert found.low <= found.mean <= found.high
        if step.step:
            assert learning.interval(step.outcomes, 0, correct=False).mean == pytest.approx(row["train/reward"])


def test_the_ledger_adds_up(workdir, text):
    """12 steps of 300 generated for rollouts and 60 for reflections, 13 evaluations of 100."""
    shown = " ".join(Reader(text).words)
    for number in ("3,600", "720", "1,300", "5,620"):
        assert number in shown


def test_long_texts_are_cut_and_it_is_said(workdir, monkeypatch):
    monkeypatch.setattr(run_page, "TRANSCRIPT_BYTES", 3000)
    record = read(workdir)
    shown = Reader(run_page.run_page(record))
    words = " ".join(shown.words)
    assert "texts of transcripts are longer than" in words and "steps/*/rollouts.jsonl" in words
    assert str(record.workdir.absolute()) in words
