"""The prompts' half on a page: the tree, the ratings, which prompt did well on which problem, and what became of every edit."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from espl_jax.evolution import population as populations
from espl_jax.evolution.apply import APPLIED
from espl_jax.report import charts, lineage, page
from espl_jax.report.charts import Chart, Line
from espl_jax.report.lineage import Place
from espl_jax.report.page import Section
from espl_jax.report.reading import RunRecord
from espl_jax.structs import Population, Prompt, Rating

LANE, NARROW = 28, 19  # pixels between lanes, and where prompts are many
SHADES = 6  # classes of mu, m0 to m5 of run.css
NAMED = 5  # prompts whose rating has a colour of its own
MAX_PROBLEMS, MAX_PROMPTS = 80, 200  # rows and columns of the heat map
MAX_FATES = 14


def tree_section(record: RunRecord, histories: Mapping[int, list[tuple[int, Rating]]]) -> Section:
    """The drawing and the ratings, and beside them whatever prompt is chosen."""
    population = record.population
    legend = Markup(
        '<p class="note legend"><svg class="key" viewBox="0 0 20 20"><circle cx="10" cy="10" r="6"/></svg>mutation '
        '<svg class="key" viewBox="0 0 20 20"><path d="M10 3l7 7-7 7-7-7z"/></svg>crossover '
        '<svg class="key" viewBox="0 0 20 20"><rect x="4" y="4" width="12" height="12"/></svg>root or by hand '
        '<span class="ramp">{}</span> mu {:.1f} to {:.1f}; ringed: the best; pale: retired</p>'
    ).format(page.joined(Markup('<i class="m{}"></i>').format(shade) for shade in range(SHADES)), *_mu_range(population))
    chart, ranked = ratings(record, histories)
    body = Markup(
        '<div class="split"><div class="left">{}<div class="scroll tree" tabindex="0">{}</div></div><div class="below">{}</div>'
        '<aside id="prompt" aria-live="polite"><p class="note">Choose a prompt in the tree.</p></aside></div>{}'
    ).format(legend, drawing(population, record.last_step), page.figure(chart), _standings(record, ranked))
    return Section("evolution", "Evolutionary tree", body, (chart,), nav="Tree")


def _mu_range(population: Population) -> tuple[float, float]:
    mus = [prompt.rating.mu for prompt in population.prompts]
    return min(mus), max(mus)


def drawing(population: Population, last_step: int) -> Markup:
    """The tree as SVG: steps from left to right, each prompt a link to its details."""
    prompts = population.prompts
    step_width = min(max(700 / max(last_step, 1), 16), 64)
    crowded = step_width < 26
    radius = 6 if crowded else 11
    places = lineage.places(prompts, gap=1)
    width = 60 + step_width * max(last_step, 1)
    lane = NARROW if crowded else LANE
    height = 48 + lane * (1 + max(place.lane for place in places.values()))

    def spot(place: Place) -> tuple[float, float]:
        return 28 + step_width * place.step, 40 + lane * place.lane

    best, line = populations.best(population).id, _ancestry(population)
    edges = []
    for prompt in prompts:
        for rank, parent in enumerate(prompt.parents):
            kinds = ("second" if rank else "", "line" if (parent, prompt.id) in line else "")
            path = (_across if rank else _along)(spot(places[parent]), spot(places[prompt.id]))
            edges.append(_EDGE.format(path, " ".join(filter(None, kinds)), parent, prompt.id))
    nodes = [_node(prompt, population, spot(places[prompt.id]), radius, prompt.id == best, crowded) for prompt in prompts]
    return Markup(
        '<svg id="tree" width="{0:.0f}" height="{1:.0f}" viewBox="0 0 {0:.0f} {1:.0f}" role="group" '
        'aria-label="Evolutionary tree"><g class="ticks">{2}</g><g class="edges">{3}</g><g class="nodes">{4}</g></svg>'
    ).format(width, height, _ticks(last_step, step_width, height), page.joined(edges), page.joined(nodes))


_EDGE = Markup('<path d="{}" class="{}" data-from="{}" data-to="{}"/>')


def _ticks(last_step: int, step_width: float, height: float) -> Markup:
    every = next(size for size in (1, 2, 5, 10, 20, 50, 100, 1000, 10**9) if size * step_width >= 56 or size == 10**9)
    mark = Markup('<line x1="{0}" x2="{0}" y1="20" y2="{1:.0f}"/><text x="{0}" y="13">{2}</text>')
    return page.joined(mark.format(f"{28 + step_width * step:.1f}", height, step) for step in range(0, last_step + 1, every))


def _along(start: tuple[float, float], end: tuple[float, float]) -> str:
    """From a first parent at once into the child's lane, which is free from there on (lineage.places)."""
    (x0, y0), (x1, y1) = start, end
    bend = min(12.0, (x1 - x0) / 2)
    middle, there = x0 + bend, x0 + 2 * bend
    return f"M{x0:.1f} {y0:.1f}C{middle:.1f} {y0:.1f} {middle:.1f} {y1:.1f} {there:.1f} {y1:.1f}L{x1:.1f} {y1:.1f}"


def _across(start: tuple[float, float], end: tuple[float, float]) -> str:
    """From another parent on a slant."""
    (x0, y0), (x1, y1) = start, end
    return f"M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}"


def _node(
    prompt: Prompt, population: Population, spot: tuple[float, float], radius: float, best: bool, crowded: bool
) -> Markup:
    low, high = _mu_range(population)
    shade = min(int(SHADES * (prompt.rating.mu - low) / (high - low or 1)), SHADES - 1)
    x, y = spot
    kinds = [f"m{shade}", "retired" if prompt.id in population.retired else "", "best" if best else ""]
    label = f"prompt {prompt.id}, {prompt.operator}, born in step {prompt.born}, rating {_rating(prompt.rating)}"
    number = page.EMPTY if crowded else Markup('<text y="3.5">{}</text>').format(prompt.id)
    return Markup(
        '<a href="#prompt-{0}" id="node-{0}" class="node {1}" aria-label="{2}" transform="translate({3:.1f} {4:.1f})">'
        '<title>{2}</title><circle class="area" r="13"/>{5}{6}</a>'
    ).format(prompt.id, " ".join(filter(None, kinds)), label, x, y, _shape(prompt.operator, radius), number)


def _shape(operator: str, radius: float) -> Markup:
    if operator == "crossover":
        return Markup('<path class="mark" d="M0 -{0}L{0} 0L0 {0}L-{0} 0z"/>').format(radius + 1.5)
    if operator in ("root", "human"):
        half = radius - 1
        return Markup('<rect class="mark" x="-{0}" y="-{0}" width="{1}" height="{1}" rx="2"/>').format(half, 2 * half)
    return Markup('<circle class="mark" r="{}"/>').format(radius)


def _ancestry(population: Population) -> set[tuple[int, int]]:
    """The edges (parent, child) that lead to the best prompt."""
    known = {prompt.id: prompt for prompt in population.prompts}
    edges, waiting = set(), [populations.best(population).id]
    while waiting:
        child = waiting.pop()
        for parent in known[child].parents:
            if (parent, child) not in edges:
                edges.add((parent, child))
                waiting.append(parent)
    return edges


def _rating(rating: Rating) -> str:
    return f"{rating.mu:.1f} ± {rating.sigma:.1f}"


def ratings(record: RunRecord, histories: Mapping[int, list[tuple[int, Rating]]]) -> tuple[Chart, list[Prompt]]:
    """mu with bands of one sigma, the strongest in colour, all others behind them; and the prompts, strongest first."""
    ranked = sorted(record.population.prompts, key=lambda prompt: -prompt.rating.mu)
    surely = sorted(ranked, key=lambda prompt: 2 * prompt.rating.sigma - prompt.rating.mu)  # a newborn inherits its mu
    named = [prompt.id for prompt in surely[:NAMED]]
    x: list[int | None] = []
    y: list[float | None] = []
    for prompt in record.population.prompts:
        if prompt.id not in named:
            x += [*(step for step, _ in histories[prompt.id]), None]
            y += [*(rating.mu for _, rating in histories[prompt.id]), None]
    lines = [Line("", x, y, colour=charts.FAINT, width=1.0)] if x else []
    lines += [_history(prompt_id, histories[prompt_id], charts.COLOURS[rank]) for rank, prompt_id in enumerate(named)]
    best = lineage.best_over_time(record)
    if best:
        extra = [f"prompt {prompt_id}" for _, prompt_id, _ in best]
        steps, values = [step for step, _, _ in best], [rating.mu for _, _, rating in best]
        lines.append(Line("the best so far", steps, values, colour="var(--ink-2)", dash="dot", extra=extra))
    caption = (
        f"TrueSkill mu with a band of one sigma on each side: the {len(named)} prompts with the highest mu - 2 sigma at the "
        "end, the others in grey. A rating begins at birth and changes in matches only; ranks within a step are comparable, "
        "rewards of different steps are not."
    )
    return charts.curves("ratings", "Rating of prompts", lines, y_title="mu", caption=caption, height=380), ranked


def _history(prompt_id: int, history: Sequence[tuple[int, Rating]], colour: str) -> Line:
    mus = [rating.mu for _, rating in history]
    low, high = [r.mu - r.sigma for _, r in history], [r.mu + r.sigma for _, r in history]
    return Line(f"prompt {prompt_id}", [step for step, _ in history], mus, low, high, colour=colour)


def link(prompt_id: int) -> Markup:
    """A link that shows the prompt beside the tree."""
    return Markup('<a href="#prompt-{0}">{0}</a>').format(prompt_id)


def _standings(record: RunRecord, ranked: Sequence[Prompt], count: int = 12) -> Markup:
    won, offspring = lineage.record_of(record.population.matches), lineage.children(record.population)
    rows = []
    for prompt in ranked[:count]:
        first, played = won[prompt.id] if prompt.id in won else (0, 0)
        parents = Markup(", ").join(map(link, prompt.parents))
        origin = Markup("{} of {}").format(prompt.operator, parents) if prompt.parents else "root"
        lines = lineage.lines_of(prompt.genome)
        text = lines[-1] if lines else "(empty)"
        shown = (f"{len(lines)} lines, the last: " if len(lines) > 1 else "") + (text if len(text) <= 90 else text[:87] + "...")
        rows.append((
            link(prompt.id), f"{prompt.rating.mu:.1f}", f"{prompt.rating.sigma:.1f}", f"{first} of {played}", prompt.born,
            len(offspring[prompt.id]), origin, shown,
        ))  # fmt: skip
    header = ("prompt", "mu", "sigma", "first in", "born", "children", "origin", "says")
    rest = len(ranked) - len(rows)
    caption = "The strongest" + (f"; {rest} more are in the tree" if rest else "")
    return page.table(header, rows, (0, 1, 2, 3, 4, 5), caption, "stack")


def rewards_section(record: RunRecord) -> Section:
    """Mean reward of every prompt on every problem, as a map."""
    cells: dict[tuple[str, int], list[float]] = {}
    for step in record.steps:
        for one in step.outcomes:
            cells.setdefault((one.problem, one.prompt), []).append(one.reward)
    title = "Reward by problem and prompt"
    if not cells:
        return Section("rewards", title, page.paragraph("No trajectory is recorded yet."), nav="Rewards")
    problems = _most(cells, 0, MAX_PROBLEMS)
    prompts = sorted(_most(cells, 1, MAX_PROMPTS))
    mean = {problem: _mean([r for prompt in prompts for r in cells.get((problem, prompt), ())]) for problem in problems}
    problems.sort(key=lambda problem: (mean[problem], problem))
    values = [[_mean(cells[problem, p]) if (problem, p) in cells else None for p in prompts] for problem in problems]
    counts = [[len(cells.get((problem, p), ())) for p in prompts] for problem in problems]
    everything = ({problem for problem, _ in cells}, {prompt for _, prompt in cells})
    caption = (
        f"{len(problems)} of {len(everything[0])} problems (the hardest on top) and {len(prompts)} of {len(everything[1])} "
        "prompts: those with the most samples. Samples of all steps are averaged, though the weights changed meanwhile. A "
        "click shows the prompt."
    )
    chart = charts.heat_map(
        "reward-map", "Mean training reward", [str(p) for p in prompts], problems, values, counts, "prompt", "problem", caption
    )
    worded = {problem: record.problems[problem] for problem in problems}
    rows = [(problem, asked[:160], answer[:40], f"{mean[problem]:.3f}") for problem, (asked, answer) in worded.items()]
    header = ("problem", "question", "answer", "mean reward")
    listed = page.folded("The problems in words", page.table(header, rows, (3,), kind="stack"))
    return Section("rewards", title, page.figure(chart) + listed, (chart,), "Rewards")


def _most(cells: Mapping[tuple[str, int], Sequence[float]], part: int, limit: int) -> list:
    """The problems (part 0) or prompts (part 1) with the most samples."""
    counts: Counter = Counter()
    for key, rewards in cells.items():
        counts[key[part]] += len(rewards)
    return [name for name, _ in counts.most_common(limit)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def operations_section(record: RunRecord) -> Section:
    """Every proposed edit with its fate; the list itself is made by run.js, which filters it."""
    attempts = record.attempts
    operations = [operation for attempt in attempts for call in attempt.calls for operation in call.operations]
    errors = [call.error for attempt in attempts for call in attempt.calls if call.error]
    fates = Counter(kind_of(operation["fate"]) for operation in operations) + Counter(f"reply: {kind_of(e)}" for e in errors)
    reasons = Counter(kind_of(attempt.reason) for attempt in attempts if attempt.child < 0)
    born = sum(attempt.child >= 0 for attempt in attempts)
    title = "Edits and their fates"
    if not attempts:
        return Section("operations", title, page.paragraph("Nothing was reflected on in this run."), nav="Edits")
    shown: list[Chart] = []
    if fates:
        caption = "Numbers and quoted texts in a reason are left out here, so that like goes with like."
        counted = dict(fates.most_common(MAX_FATES))
        shown.append(charts.bars("fates", "What became of edits, and replies that had none", counted, "count", caption))
    if reasons:
        shown.append(charts.bars("reasons", "Why an attempt had no child", dict(reasons.most_common(MAX_FATES)), "attempts"))
    told = f"{len(attempts)} attempts: {born} children. {len(operations)} edits proposed, {_applied(operations)} applied."
    body = page.paragraph(told, "lead") + page.figures(shown) + Markup(
        '<div class="explorer"><label>show <select id="fate"></select></label> <span class="note" id="fate-count"></span>'
        '<div class="scroll stack"><table id="edits"></table></div>'
        '<button id="more-edits" type="button" hidden>show more</button></div>'
    )  # fmt: skip
    return Section("operations", title, body, tuple(shown), "Edits")


def _applied(operations: Sequence[Mapping]) -> int:
    return sum(operation["fate"] == APPLIED for operation in operations)


def kind_of(reason: str) -> str:
    """A reason without what differs from case to case."""
    text = re.sub(r"'[^']*'|\"[^\"]*\"", "...", reason or "no reason given")
    text = re.sub(r"\b[0-9a-f]{12}\b|\d+(?:\.\d+)?", "#", text)
    return text if len(text) <= 70 else text[:67] + "..."
