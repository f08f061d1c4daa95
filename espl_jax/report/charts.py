"""Charts as plotly figures in JSON: data and layout, without colours of their own.

A colour is the name of a variable of assets/page.css, "var(--c1)"; the page puts in what it stands for in the light or the
dark theme, again when the theme changes. Names that come from a run are escaped: plotly reads some HTML in its texts.
"""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

COLOURS = tuple(f"var(--c{number})" for number in range(1, 9))
FAINT = "var(--faint)"
HEAT = [[0.0, "var(--heat-0)"], [0.5, "var(--heat-1)"], [1.0, "var(--heat-2)"]]

Numbers = Sequence[float | None]


@dataclass(frozen=True)
class Line:
    """A curve; low and high are the ends of its band. colour: a variable of page.css, "" takes the next of COLOURS.

    extra: by point, texts that are shown with it. on: whether it is shown until its name in the legend is clicked.
    """

    name: str
    x: Sequence[float | None]
    y: Numbers
    low: Numbers | None = None
    high: Numbers | None = None
    colour: str = ""
    dash: str = "solid"
    width: float = 0.0  # pixels; 0: by the number of points
    extra: Sequence[str] | None = None
    on: bool = True

    def __post_init__(self):
        lengths = {len(values) for values in (self.x, self.y, self.low, self.high, self.extra) if values is not None}
        if len(lengths) != 1:
            raise ValueError(f"line {self.name!r} has columns of lengths {sorted(lengths)}; they must agree")


@dataclass(frozen=True)
class Chart:
    """A figure of the page. name: unique on the page (the element is "chart-" and it). spec: plotly's data
    and layout. height: pixels."""

    name: str
    title: str
    spec: Mapping[str, Any]
    caption: str = ""
    height: int = 300


def plain(text: str) -> str:
    """A text that plotly shows as it is."""
    return html.escape(str(text), quote=False)


def rounded(value: float | None) -> float | None:
    """Five significant digits, which is more than a screen shows; None for what is no finite number."""
    return float(f"{value:.5g}") if value is not None and math.isfinite(value) else None


def curves(
    name: str,
    title: str,
    lines: Sequence[Line],
    x_title: str = "step",
    y_title: str = "",
    y_format: str = "",
    logarithmic: bool = False,
    limits: Mapping[str, float] | None = None,
    caption: str = "",
    height: int = 300,
) -> Chart:
    """Curves with their bands. y_format: of d3 (".0%"). limits: name -> height of a dotted line across."""
    data = []
    for index, line in enumerate(lines):
        data += _traces(line, line.colour or COLOURS[index % len(COLOURS)], y_format)
    layout = _layout(x_title, y_title, y_format, logarithmic, len([line for line in lines if line.name]) > 1)
    if all(isinstance(x, int) for line in lines for x in line.x if x is not None):
        layout["xaxis"] |= _whole_ticks([x for line in lines for x in line.x if x is not None])
    for text, level in (limits or {}).items():
        place = math.log10(level) if logarithmic else level
        layout["shapes"].append(_across(level))
        layout["annotations"].append(_note(plain(text), place))
    return Chart(name, title, {"data": data, "layout": layout}, caption, height)


def _traces(line: Line, colour: str, y_format: str) -> list[dict[str, Any]]:
    x, y = list(line.x), [rounded(value) for value in line.y]
    text = f"%{{y:{y_format or '.4~g'}}}"
    width = line.width or (2.0 if len(x) < 80 else 1.4)
    trace: dict[str, Any] = {
        "type": "scatter", "mode": "lines+markers" if len(x) < 40 and line.name else "lines", "x": x, "y": y,
        "name": plain(line.name), "line": {"color": colour, "width": width, "dash": line.dash}, "marker": {"size": 5},
        "legendgroup": plain(line.name), "showlegend": bool(line.name), "visible": True if line.on else "legendonly",
    }  # fmt: skip
    extra = [""] * len(x) if line.extra is None else [plain(text) for text in line.extra]
    if line.low is None or line.high is None:
        trace |= {"hovertemplate": text + ("  %{customdata}" if line.extra else "")} if line.name else {"hoverinfo": "skip"}
        return [trace | ({"customdata": extra} if line.extra else {})]
    low, high = [rounded(value) for value in line.low], [rounded(value) for value in line.high]
    inner = f"%{{customdata[0]:{y_format or '.4~g'}}} to %{{customdata[1]:{y_format or '.4~g'}}}"
    trace |= {"customdata": [list(point) for point in zip(low, high, extra)]}
    trace |= {"hovertemplate": f"{text}  ({inner})" + ("  %{customdata[2]}" if line.extra else "")}
    return [_band(x, low, high, colour, trace), trace]


def _band(x: list, low: list, high: list, colour: str, line: Mapping[str, Any]) -> dict[str, Any]:
    """The area between two curves, as one outline there and back."""
    known = [index for index in range(len(x)) if low[index] is not None and high[index] is not None]
    back = known[::-1]
    return {
        "type": "scatter", "mode": "lines", "x": [x[i] for i in known + back],
        "y": [high[i] for i in known] + [low[i] for i in back], "fill": "toself", "fillcolor": colour, "opacity": 0.18,
        "line": {"width": 0, "color": colour}, "hoverinfo": "skip", "legendgroup": line["legendgroup"], "showlegend": False,
        "visible": line["visible"],
    }  # fmt: skip


def points(
    name: str, title: str, groups: Sequence[Line], x_title: str, y_title: str, caption: str = "", height: int = 340
) -> Chart:
    """Points that belong to no order. groups: their names, x, y and texts (extra); the rest of a Line does not count."""
    data = [
        {
            "type": "scatter", "mode": "markers", "name": plain(group.name), "x": [rounded(x) for x in group.x],
            "y": [rounded(y) for y in group.y], "marker": {"size": 8, "color": group.colour or COLOURS[index % len(COLOURS)]},
            "customdata": [plain(text) for text in group.extra or [""] * len(group.x)],
            "hovertemplate": "%{customdata}<br>%{x:.4~g}, %{y:.4~g}<extra></extra>",
        }
        for index, group in enumerate(groups)
    ]  # fmt: skip
    layout = _layout(x_title, y_title, "", False, len(groups) > 1) | {"hovermode": "closest"}
    return Chart(name, title, {"data": data, "layout": layout}, caption, height)


def stacked(name: str, title: str, parts: Mapping[str, Numbers], x: Sequence[int], y_title: str, caption: str = "") -> Chart:
    """Bars of which each is a sum, by step."""
    data = [
        {
            "type": "bar", "name": plain(part), "x": list(x), "y": [rounded(value) for value in values],
            "marker": {"color": COLOURS[index % len(COLOURS)], "line": {"width": 0}}, "hovertemplate": "%{y:.4~g}",
        }
        for index, (part, values) in enumerate(parts.items())
    ]  # fmt: skip
    layout = _layout("step", y_title, "", False, True) | {"barmode": "stack", "bargap": 0.15}
    layout["legend"] |= {"traceorder": "normal"}
    return Chart(name, title, {"data": data, "layout": layout}, caption)


def bars(name: str, title: str, values: Mapping[str, float], x_title: str, caption: str = "") -> Chart:
    """One lying bar for each name, the first on top."""
    names = [plain(part) for part in values][::-1]
    numbers = [rounded(value) for value in values.values()][::-1]
    data = [{
        "type": "bar", "orientation": "h", "y": names, "x": numbers, "marker": {"color": COLOURS[0]}, "text": numbers,
        "textposition": "auto", "hovertemplate": "%{y}: %{x}<extra></extra>",
    }]  # fmt: skip
    layout = _layout(x_title, "", "", False, False) | {"hovermode": "closest"}
    layout["xaxis"] |= _whole_ticks([0.0, *(number or 0.0 for number in numbers)])
    layout["yaxis"] |= {"automargin": True, "ticks": ""}
    return Chart(name, title, {"data": data, "layout": layout}, caption, 90 + 26 * len(names))


def heat_map(
    name: str, title: str, columns: Sequence[str], rows: Sequence[str], values: Sequence[Numbers],
    counts: Sequence[Sequence[int]], x_title: str, y_title: str, caption: str = "",
) -> Chart:  # fmt: skip
    """A cell for each row and column, None where nothing was measured; counts: how many samples a cell averages."""
    data = [{
        "type": "heatmap", "x": [plain(column) for column in columns], "y": [plain(row) for row in rows],
        "z": [[None if value is None else round(value, 3) for value in row] for row in values],
        "customdata": [list(row) for row in counts], "colorscale": HEAT, "zmin": 0, "zmax": 1, "hoverongaps": False, "ygap": 1,
        "xgap": int(len(columns) <= 40),
        "colorbar": {"thickness": 10, "outlinewidth": 0, "len": 0.9, "title": {"text": "mean reward"}},
        "hovertemplate": f"{plain(x_title)} %{{x}}, {plain(y_title)} %{{y}}<br>%{{z:.3f}} over %{{customdata}} samples"
        "<extra></extra>",
    }]  # fmt: skip
    layout = _layout(x_title, y_title, "", False, False) | {"hovermode": "closest"}
    layout["xaxis"] |= {"type": "category", "showgrid": False}
    layout["yaxis"] |= {"type": "category", "autorange": "reversed", "showgrid": False, "tickfont": {"size": 10}}
    return Chart(name, title, {"data": data, "layout": layout}, caption, min(900, 120 + 16 * len(rows)))


def _layout(x_title: str, y_title: str, y_format: str, logarithmic: bool, legend: bool) -> dict[str, Any]:
    axis = {"gridcolor": "var(--rule)", "zeroline": False, "linecolor": "var(--rule)", "automargin": True}
    return {
        "margin": {"l": 48, "r": 12, "t": 8, "b": 40}, "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 12, "color": "var(--ink-2)"}, "hovermode": "x unified",
        "hoverlabel": {"bgcolor": "var(--card)", "bordercolor": "var(--rule)", "font": {"color": "var(--ink)"}},
        "xaxis": axis | {"title": {"text": plain(x_title), "standoff": 8}},
        "yaxis": axis | {"title": {"text": plain(y_title), "standoff": 8}, "tickformat": y_format}
        | ({"type": "log", "exponentformat": "power"} if logarithmic else {}),
        "showlegend": legend, "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "xanchor": "left"},
        "shapes": [], "annotations": [],
    }  # fmt: skip


def _whole_ticks(values: Sequence[float]) -> dict[str, Any]:
    """Ticks at whole numbers where plotly would put some between them."""
    return {"dtick": 1} if values and max(values) - min(values) < 6 else {}


def _across(level: float) -> dict[str, Any]:
    return {
        "type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": level, "y1": level,
        "line": {"dash": "dot", "width": 1, "color": "var(--bad)"},
    }  # fmt: skip


def _note(text: str, place: float) -> dict[str, Any]:
    return {
        "text": text, "xref": "paper", "x": 1, "xanchor": "right", "y": place, "yanchor": "bottom", "showarrow": False,
        "font": {"color": "var(--bad)", "size": 11},
    }  # fmt: skip
