"""An attribution for people and programs: attribution.json and attribution.html of the same figures."""

from dataclasses import asdict
from pathlib import Path

from markupsafe import Markup

from espl_jax.attribution.calibration import Calibration
from espl_jax.attribution.study import Attribution, Effect
from espl_jax.comparison.pages import shown
from espl_jax.records import json_files
from espl_jax.report import charts, page
from espl_jax.report.charts import Line
from espl_jax.report.page import Section

JSON, PAGE = "attribution.json", "attribution.html"

HOW_PAIRED = (
    "Every condition is sampled on the same problems with the same random numbers; differences are of the same problem. "
    "Intervals (95%) are of bootstrap resamples of problems, p is of a two-sided sign-flip permutation test over them; of "
    "several parts, each by itself."
)
HOW_FORETOLD = (
    "Of each match every pair of prompts counts, seen from the one that was rated higher before it; a draw is half a win, "
    "which the prediction knows nothing of. Pairs of one match are not independent."
)


def write(found: Attribution, workdir: Path) -> list[Path]:
    """Writes the two files and returns their paths. Raises page.ReportError where plotly is missing."""
    json_files.write_atomic(workdir / JSON, json_files.dumps(asdict(found), indent=1) + "\n")
    json_files.write_atomic(workdir / PAGE, html(found))
    return [workdir / JSON, workdir / PAGE]


def html(found: Attribution) -> str:
    """The page."""
    sections = [_moved(found), _matrix(found), _parts(found)] if found.whole is not None else []
    sections.append(_calibration(found.calibration))
    samples, problems = found.measured
    how = f"{samples} samples of each of {problems} validation problems" if samples else "from the records alone"
    line = Markup('<p class="sub">step {} &middot; prompt {} &middot; {}</p>').format(found.step, found.prompt, how)
    return page.page(f"Attribution of {Path(found.workdir).absolute().name}", sections, line)


def _effect(effect: Effect) -> tuple[str, str]:
    return shown(effect.difference), f"{effect.p:.4f}"


def _moved(found: Attribution) -> Section:
    title, moved = "Prompt and weights", found.moved
    if moved is None:
        body = page.paragraph("All weights were trained and the untrained ones are not at hand, so the gain cannot be split.")
        return Section("moved", title, body, nav="Moved")
    rows = [
        ("untrained weights, no prompt", f"{moved.start:.3f}", ""),
        ("moved into the weights: trained weights, no prompt", *_effect(moved.weights)),
        ("left in the prompt: with it, on top of that", *_effect(moved.prompt)),
        ("both together", *_effect(moved.total)),
        ("trained weights and prompt", f"{moved.end:.3f}", ""),
    ]
    return Section("moved", title, page.table(("", "reward", "p"), rows, (1, 2)) + page.paragraph(HOW_PAIRED), nav="Moved")


def _matrix(found: Attribution) -> Section:
    names = list(dict.fromkeys(name for row in found.matrix.values() for name in row))
    rows = [(weights, *(shown(row[name]) if name in row else "-" for name in names)) for weights, row in found.matrix.items()]
    header = ("weights", *(name if name == "none" else f"prompt {name}" for name in names))
    return Section("matrix", "Every prompt under every weights", page.table(header, rows, range(1, len(header))), nav="Matrix")


def _parts(found: Attribution) -> Section:
    title = "Without each part of the prompt"
    if not found.parts:
        return Section("parts", title, page.paragraph("The prompt has no part that can be left out."), nav="Parts")
    ranked = sorted(found.parts, key=lambda part: -part.effect.difference.mean)
    rows = [(part.name, part.text[:300], f"{part.without:.3f}", *_effect(part.effect)) for part in ranked]
    header = ("part", "text", "reward without it", "what it adds", "p")
    lead = page.paragraph(f"With all of it: {shown(found.whole)}.", "lead")
    return Section("parts", title, lead + page.table(header, rows, (2, 3, 4), kind="stack"), nav="Parts")


def _calibration(found: Calibration | None) -> Section:
    title = "Do ratings foretell wins?"
    if found is None:
        said = page.paragraph("No match is recorded: one prompt competes with nobody.")
        return Section("calibration", title, said, nav="Ratings")
    rows = [
        (f"{one.low:.1f} to {one.high:.1f}", one.meetings, f"{one.predicted:.3f}", f"{one.observed:.3f}") for one in found.bins
    ]
    lead = (
        f"{found.meetings} meetings, {found.draws} of them draws. Brier score {found.brier:.4f} (0 is perfect; always saying "
        f"0.5 has {found.brier_of_even:.4f})."
    )
    lines = [
        Line("observed", [one.predicted for one in found.bins], [one.observed for one in found.bins], colour="var(--c1)"),
        Line("perfect", [0.5, 1.0], [0.5, 1.0], colour=charts.FAINT, dash="dot"),
    ]
    chart = charts.curves("reliability", "Reliability", lines, "predicted share of wins of the favourite", "observed share")
    header = ("predicted", "meetings", "mean predicted", "observed")
    body = page.paragraph(lead, "lead") + page.table(header, rows, (1, 2, 3), kind="narrow") + page.figure(chart)
    return Section("calibration", title, body + page.paragraph(HOW_FORETOLD), (chart,), "Ratings")
