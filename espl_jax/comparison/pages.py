"""A comparison for people and programs: comparison.json, table.md and report.html of the same figures."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from markupsafe import Markup

from espl_jax.comparison import learned, statistics
from espl_jax.comparison.statistics import Band
from espl_jax.comparison.summary import AXES, STEP, Method, Pair, Summary, without_prompt
from espl_jax.records import json_files, ledger
from espl_jax.report import charts, page
from espl_jax.report.charts import Chart, Line
from espl_jax.report.intervals import LEVEL, Interval
from espl_jax.report.learning import clock, words
from espl_jax.report.page import Section

JSON, TABLE, PAGE = "comparison.json", "table.md", "report.html"
AXIS_TITLES = {
    STEP: "step", "budget_tokens": "tokens asked and drawn", "budget_flops": "FLOPs, by formula",
    "budget_rollouts": "trajectories",
}  # fmt: skip
# columns of what was spent -> how they are written
COUNTS = {
    "trajectories": "{:,.0f}".format, "requests": "{:,.0f}".format, "prompt_tokens": "{:,.0f}".format,
    "generated_tokens": "{:,.0f}".format,
    "flops": "{:.3g}".format, "seconds": clock,
}  # fmt: skip

HOW_SURE = (
    f"Rewards are means over seeds of means over held-out problems, at each run's last evaluation. Intervals ({LEVEL:.0%}) are "
    f"of {statistics.RESAMPLES:,} bootstrap resamples that draw seeds and, within each, problems. Bands of curves go from the "
    "lowest to the highest seed."
)
HOW_PAIRED = (
    "Differences are of the same seed and the same held-out problem. p, problems: two-sided sign-flip permutation test over "
    f"problems (scipy, {statistics.FLIPS:,} flips), which takes the trained runs as given; adjusted: for the number of pairs, "
    "by Holm's rule. p, seeds: the same over the seeds' means, which asks whether other seeds would show it too: with n seeds "
    "it is never below 2 / 2^n, 0.25 for three."
)
HOW_SPENT = (
    "Means over seeds. The budget is for everything but evaluation, which no method is charged for; a run ends after the step "
    "that reaches it, so that it spends a little more. Seconds are those of the program's phases: acceptance is within "
    "reflection."
)


def write(summary: Summary, title: str, workdir: Path) -> list[Path]:
    """Writes the three files and returns their paths. Raises page.ReportError where plotly is missing."""
    contents = {JSON: json_files.dumps(as_json(summary), indent=1) + "\n", TABLE: markdown(summary, title)}
    contents[PAGE] = html(summary, title, workdir)
    for name, text in contents.items():
        json_files.write_atomic(workdir / name, text)
    return [workdir / name for name in contents]


def as_json(summary: Summary) -> dict[str, Any]:
    """All figures by name; of runs, their evaluations as means."""
    parts = {name: value for name, value in asdict(summary).items() if name != "runs"}
    runs = [
        {
            "method": run.job.method, "seed": run.job.seed, "folder": str(run.job.folder), "done": run.done, "steps": run.steps,
            "spent": run.spent, "seconds": run.seconds, "children": run.children, "prompt": run.prompt, "ledger": run.totals,
            "evaluations": [
                {"step": one.step, "spent": one.spent, "reward": {name: _mean(own) for name, own in one.rewards.items()}}
                for one in run.points
            ],
        }
        for run in summary.runs
    ]  # fmt: skip
    return parts | {"runs": runs}


def _mean(values: Mapping[str, float]) -> float:
    return sum(values.values()) / len(values)


def shown(interval: Interval | None) -> str:
    """0.512 [0.430, 0.590]."""
    return "-" if interval is None else f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def method_table(summary: Summary) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the main table, the best first."""
    ranked = sorted(summary.methods, key=lambda method: -method.final[summary.measured].mean)
    reward = f"{summary.measured} reward"
    header = ["method", "seeds", reward, "before", "by seed", "no prompt", "steps", "prompts born", "spent", "time"]
    return header, [_method_row(method, summary) for method in ranked]


def _method_row(method: Method, summary: Summary) -> list[str]:
    return [
        method.name, str(len(method.by_seed)), shown(method.final[summary.measured]), f"{method.start:.3f}",
        ", ".join(f"{value:.3f}" for _, value in sorted(method.by_seed.items())),
        shown(without_prompt(method, summary.measured)), f"{method.steps:.0f}", f"{method.children:.1f}",
        f"{method.share:.0%}", clock(method.seconds),
    ]  # fmt: skip


def other_table(summary: Summary) -> tuple[list[str], list[list[str]]]:
    """Header and rows of every held-out set, a row each, in the columns the methods."""
    methods = summary.methods
    rows = [[words(name), *(shown(method.final.get(name)) for method in methods)] for name in summary.sets]
    return ["set", *(method.name for method in methods)], rows


def pair_table(pairs: Sequence[Pair]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the paired tests."""
    header = ["first - second", "difference", "p, problems", "adjusted", "p, seeds", "seeds ahead", "problems"]
    rows = [
        [
            f"{pair.first} - {pair.second}", shown(pair.paired.difference), f"{pair.paired.p_problems:.4f}",
            f"{pair.p_adjusted:.4f}", f"{pair.paired.p_seeds:.3f}" if pair.paired.seeds > 1 else "-",
            f"{pair.paired.ahead} of {pair.paired.seeds}", str(pair.paired.problems),
        ]
        for pair in pairs
    ]  # fmt: skip
    return header, rows


def spent_table(summary: Summary) -> tuple[list[str], list[list[str]]]:
    """Header and rows of what each method spent, by purpose."""
    rows = []
    for method in summary.methods:
        for purpose in [name for name in ledger.PURPOSES if name in method.ledger]:
            counts = method.ledger[purpose]
            rows.append([method.name, purpose, *(COUNTS[what](counts[what]) if what in counts else "-" for what in COUNTS)])
        tokens, flops, rollouts = (method.spent[field] for field in ("budget_tokens", "budget_flops", "budget_rollouts"))
        total = [f"{rollouts:,.0f}", "", "", f"{tokens:,.0f} in all", f"{flops:.3g}", clock(method.seconds)]
        rows.append([method.name, "charged for", *total])
    return ["method", "purpose", *(name.replace("_", " ") for name in COUNTS)], rows


def run_table(summary: Summary, linked: Path | None = None) -> tuple[list[str], list[list[Any]]]:
    """Header and rows of the single runs. linked: the page's directory, where the runs' own pages are named by links."""
    rows = []
    for run in summary.runs:
        value = run.points[-1].rewards if run.points else {}
        reward = f"{_mean(value[summary.measured]):.3f}" if summary.measured in value else "-"
        name: Any = str(run.job)
        if linked is not None:
            name = Markup(", ").join(_link(workdir, linked, run.job.method, run.job.seed) for workdir in run.job.workdirs)
        state = "ended" if run.done else "failed" if str(run.job) in summary.failed else "not ended"
        prompt, spent = " ".join(run.prompt.split()), run.spent[summary.budget.field]
        prompt = prompt if len(prompt) <= 160 else prompt[:157] + "..."
        rows.append([name, state, reward, str(run.steps), f"{spent / summary.budget.amount:.0%}", clock(run.seconds), prompt])
    return ["run", "state", "reward", "steps", "spent", "time", "best prompt"], rows


def _link(workdir: Path, base: Path, method: str, seed: int) -> Markup:
    where = workdir.relative_to(base).as_posix()
    return Markup('<a href="{}/report.html">{}</a>').format(where, f"{method}, seed {seed}")


def markdown(summary: Summary, title: str) -> str:
    """table.md."""
    parts = [f"# {title}", f"Budget of each run: {summary.budget}."]
    if summary.methods:
        parts += [_markdown_table(*method_table(summary)), HOW_SURE]
    if summary.pairs:
        parts += ["## Paired", _markdown_table(*pair_table(summary.pairs)), HOW_PAIRED]
    if len(summary.sets) > 1:
        parts += ["## Held-out sets", _markdown_table(*other_table(summary))]
    if summary.methods:
        parts += ["## What each method spent", _markdown_table(*spent_table(summary)), HOW_SPENT]
    if rows := learned.prompt_rows(summary.runs):
        parts += ["## What the prompts learned", _markdown_table(learned.PROMPT_HEADER, rows), learned.HOW_LEARNED]
    if rows := learned.origin_rows(summary.runs):
        parts += [_markdown_table(learned.ORIGIN_HEADER, rows), learned.HOW_FOUND]
    if rows := learned.rating_rows(summary.runs):
        parts += ["## Ratings against accuracy", _markdown_table(learned.RATING_HEADER, rows), learned.HOW_RATED]
    parts += ["## Runs", _markdown_table(*run_table(summary))]
    parts += [f"{name} failed:\n\n```\n{error}\n```" for name, error in summary.failed.items()]
    return "\n\n".join(parts) + "\n"


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", "<br>") for cell in cells) + " |"

    return "\n".join([line(header), line(["---"] * len(header)), *map(line, rows)])


def html(summary: Summary, title: str, workdir: Path) -> str:
    """report.html."""
    sections = [_results(summary), _curves(summary)] if summary.methods else []
    colours = _colours(summary)
    sections += [*learned.prompts_section(summary.runs), *learned.ratings_section(summary.runs, colours)]
    sections += [_spent(summary)] if summary.methods else []
    sections.append(_runs(summary, workdir))
    return page.page(title, sections, _header(summary))


def _header(summary: Summary) -> Markup:
    line = Markup('<p class="sub">equal budget of <b>{}</b> a run &middot; compared by {}</p>').format(
        summary.budget, summary.measured or "nothing yet: no run has ended"
    )
    ranked = sorted(summary.methods, key=lambda method: -method.final[summary.measured].mean)
    tiles = []
    for method in ranked:
        end = method.final[summary.measured]
        tiles.append((method.name, f"{end.mean:.3f}", f"{end.low:.3f} to {end.high:.3f}; {method.start:.3f} before"))
    return line + (page.tiles(tiles) if tiles else page.EMPTY)


def _results(summary: Summary) -> Section:
    numeric = range(1, 10)
    body = page.table(*method_table(summary), numeric) + page.paragraph(HOW_SURE)
    if summary.pairs:
        body += page.table(*pair_table(summary.pairs), range(1, 7), "Paired") + page.paragraph(HOW_PAIRED)
    if len(summary.sets) > 1:
        body += page.table(*other_table(summary), range(1, len(summary.methods) + 1), "Every held-out set")
    return Section("results", "Results at equal budget", body, nav="Results")


def _colours(summary: Summary) -> dict[str, str]:
    return {method.name: charts.COLOURS[i % len(charts.COLOURS)] for i, method in enumerate(summary.methods)}


def _curves(summary: Summary) -> Section:
    colours = _colours(summary)
    shown_charts = [_chart(summary, axis, colours) for axis in AXES]
    shown_charts += [_known_chart(name, bands, colours) for name, bands in summary.known.items()]
    return Section("curves", "Learning curves", page.figures(shown_charts) + page.paragraph(HOW_SURE), tuple(shown_charts))


def _lines(bands: Mapping[str, Band], colours: Mapping[str, str]) -> list[Line]:
    return [Line(name, band.x, band.mean, band.low, band.high, colour=colours[name]) for name, band in bands.items()]


def _known_chart(measure: str, bands: Mapping[str, Band], colours: Mapping[str, str]) -> Chart:
    title = words(measure.rpartition("/")[2])
    name = f"curve-{measure.rpartition('/')[2].replace('_', '-')}"
    return charts.curves(name, title, _lines(bands, colours), "step", "share", y_format=".0%", height=340)


def _chart(summary: Summary, axis: str, colours: Mapping[str, str]) -> Chart:
    lines = _lines(summary.curves[axis], colours)
    title = f"{words(summary.measured)} reward by {AXIS_TITLES[axis]}"
    caption = "A step is an iteration of its method; they differ in what they cost." if axis == STEP else ""
    name = f"curve-{axis.replace('_', '-')}"
    return charts.curves(name, title, lines, AXIS_TITLES[axis], "mean reward", caption=caption, height=340)


def _spent(summary: Summary) -> Section:
    body = page.table(*spent_table(summary), range(2, 7)) + page.paragraph(HOW_SPENT)
    return Section("spent", "What each method spent", body, nav="Spent")


def _runs(summary: Summary, workdir: Path) -> Section:
    body = page.table(*run_table(summary, workdir), range(2, 6))
    failed = Markup('<p class="notice bad">{} failed</p><pre>{}</pre>')
    body += page.joined(failed.format(name, error) for name, error in summary.failed.items())
    return Section("runs", "Runs", body)
