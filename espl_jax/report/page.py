"""One HTML file that needs nothing else: the shell of a page, and the pieces that its sections are made of.

`page` makes a page of any sections: those of one run (run_page.py), or of a comparison of many. Whatever comes from a run is
data: `Markup.format` of markupsafe escapes it, the payload is JSON in which no tag can end, scripts put texts into the page as
texts, and a Content-Security-Policy lets the browser run only the scripts whose hashes it names, and fetch nothing.
"""

import base64
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from markupsafe import Markup

from espl_jax.report.charts import Chart

EMPTY = Markup("")


class ReportError(RuntimeError):
    """The page cannot be made on this machine; the message says what is missing."""


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading. id: its anchor. body: its HTML, in which figures stand for their charts.

    nav: its name in the menu, "" for the title.
    """

    id: str
    title: str
    body: Markup
    charts: tuple[Chart, ...] = ()
    nav: str = ""


@dataclass(frozen=True)
class Assets:
    """What a page needs beyond the shell: names of files in assets/, and what their scripts read, by name."""

    scripts: tuple[str, ...] = ()
    styles: tuple[str, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)


def page(title: str, sections: Sequence[Section], header: Markup = EMPTY, assets: Assets | None = None) -> str:
    """The whole file. header: HTML below the title. Raises ReportError when plotly is not installed, ValueError when two
    charts or sections have one name."""
    assets = assets or Assets()
    charts = [chart for section in sections for chart in section.charts]
    names = [f"chart-{chart.name}" for chart in charts] + [section.id for section in sections]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"the names {sorted(twice)} are used twice on one page")
    payload = {"charts": {chart.name: dict(chart.spec) for chart in charts}} | dict(assets.data)
    library, scripts = plotly(), [asset(name) for name in ("page.js", *assets.scripts)]
    styles = "\n".join(asset(name) for name in ("page.css", *assets.styles))
    menu = joined(Markup('<a href="#{}">{}</a>').format(section.id, section.nav or section.title) for section in sections)
    return _SHELL.format(
        policy=policy([library, *scripts]), title=title, styles=Markup(styles), header=header, menu=menu,
        sections=joined(_section(section) for section in sections), payload=Markup(embedded_json(payload)),
        library=Markup(library),
        scripts=joined(Markup("<script>{}</script>\n").format(Markup(script)) for script in scripts),
        written=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    )  # fmt: skip


_SHELL = Markup("""<!doctype html>
<html lang="en" data-theme="auto">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title>
<style>
{styles}
</style>
</head>
<body>
<header class="top"><div class="wide">
<div class="title"><h1>{title}</h1><div class="tools"><button id="theme" type="button">theme: auto</button></div></div>
{header}
</div></header>
<nav class="menu" aria-label="Sections"><div class="wide">{menu}</div></nav>
<main class="wide">
<p id="trouble" class="notice bad" hidden></p>
<noscript><p class="notice bad">Charts, prompts and transcripts need JavaScript; all of it is in this file.</p></noscript>
{sections}
</main>
<footer class="wide">Written {written} by espl_jax.report. This file needs no network.</footer>
<script type="application/json" id="payload">{payload}</script>
<script type="text/plain" id="plotly">{library}</script>
{scripts}</body>
</html>
""")


def policy(scripts: Sequence[str]) -> str:
    """The Content-Security-Policy of a page with these scripts: they run, nothing else does, and nothing is fetched."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; "
        "form-action 'none'"
    )


def plotly() -> str:
    """plotly.js, from its Python package, which is not imported. Raises ReportError when it is not there."""
    spec = find_spec("plotly")
    path = Path(spec.submodule_search_locations[0]) / "package_data" / "plotly.min.js" if spec else None
    if path is None or not path.exists():
        raise ReportError("the report needs the package plotly: pip install 'plotly>=6'")
    return path.read_text(encoding="utf-8").replace("</script", "<\\/script")


def asset(name: str) -> str:
    """The text of assets/<name>."""
    return (resources.files("espl_jax.report") / "assets" / name).read_text(encoding="utf-8")


def embedded_json(value: Any) -> str:
    """JSON for inside a <script> element: "<", ">" and "&" are escaped in strings, so nothing in it is ever read as HTML."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def joined(parts: Any) -> Markup:
    """The parts, escaped where they are not markup, one behind the other."""
    return EMPTY.join(parts)


def _section(section: Section) -> Markup:
    return Markup('<section id="{}"><h2>{}</h2>\n{}\n</section>\n').format(section.id, section.title, section.body)


def figure(chart: Chart) -> Markup:
    """The place of a chart; it is drawn when it comes into view."""
    caption = Markup('<p class="note">{}</p>').format(chart.caption) if chart.caption else EMPTY
    return Markup(
        '<figure><figcaption>{}</figcaption><div class="chart" id="chart-{}" style="height:{}px"></div>{}</figure>\n'
    ).format(chart.title, chart.name, chart.height, caption)


def figures(charts: Sequence[Chart]) -> Markup:
    """Charts side by side where there is room."""
    return Markup('<div class="grid">{}</div>').format(joined(figure(chart) for chart in charts))


def table(
    header: Sequence[str], rows: Sequence[Sequence[Any]], numeric: Sequence[int] = (), caption: str = "", kind: str = ""
) -> Markup:
    """A table that scrolls by itself when it is wider than the screen. numeric: columns that are set to the right.
    kind: "narrow" where it should be no wider than its content, "stack" where a phone shows a row's cells below each other."""

    def row(cells: Sequence[Any], tag: str) -> Markup:
        kinds = [Markup(' class="n"') if index in numeric else EMPTY for index in range(len(cells))]
        named = zip(kinds, header, cells)
        cell = Markup('<{0}{1} data-name="{2}"><span>{3}</span></{0}>' if kind == "stack" else "<{0}{1}>{3}</{0}>")
        return Markup("<tr>{}</tr>").format(joined(cell.format(Markup(tag), *parts) for parts in named))

    return Markup('<div class="scroll {}"><table>{}<thead>{}</thead><tbody>{}</tbody></table></div>\n').format(
        kind,
        Markup("<caption>{}</caption>").format(caption) if caption else EMPTY,
        row(header, "th"),
        joined(row(cells, "td") for cells in rows),
    )


def tiles(facts: Sequence[tuple[str, str, str]]) -> Markup:
    """The figures to see first: (name, value, remark)."""
    return Markup('<dl class="tiles">{}</dl>').format(
        joined(Markup("<div><dt>{}</dt><dd>{}</dd><dd class='note'>{}</dd></div>").format(*fact) for fact in facts)
    )


def folded(summary: str, body: Markup, opened: bool = False) -> Markup:
    """Something that is unfolded by a click."""
    return Markup("<details{}><summary>{}</summary>{}</details>\n").format(Markup(" open") if opened else EMPTY, summary, body)


def paragraph(text: str, kind: str = "note") -> Markup:
    """A paragraph. kind: a class of page.css."""
    return Markup('<p class="{}">{}</p>\n').format(kind, text)
