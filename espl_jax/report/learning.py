"""What a run's numbers say by step: held-out scores and rewards with intervals, diagnostics, time and tokens."""

from collections.abc import Mapping, Sequence

from espl_jax.report import charts, intervals, page
from espl_jax.report.charts import Chart, Line
from espl_jax.report.intervals import Interval
from espl_jax.report.page import Section
from espl_jax.report.reading import Outcome, RunRecord, StepRecord

PASS = "/pass@1"
NO_PROMPT = "_no_prompt"
RIGHT = 1.0  # a sample is correct when its reward is this (evaluate.py)
ORDER = ("validation", "validation_no_prompt", "test", "test_no_prompt")
COLOURS = {"validation": "var(--c1)", "validation_no_prompt": "var(--c2)", "test": "var(--c3)", "test_no_prompt": "var(--c6)"}


def column(record: RunRecord, name: str) -> tuple[list[int], list[float | None]]:
    """The steps that have a metric, and its values; None where it was not finite."""
    rows = [row for row in record.metrics if name in row]
    return [row["step"] for row in rows], [row[name] for row in rows]


def names(record: RunRecord) -> list[str]:
    """Every metric of the run, sorted."""
    return sorted({name for row in record.metrics for name in row} - {"step", "nonfinite"})


def sets(record: RunRecord) -> list[str]:
    """The held-out sets that were evaluated, in the order in which they are shown."""
    found = [name.removesuffix(PASS) for name in names(record) if name.endswith(PASS)]
    return sorted(found, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))


def words(name: str) -> str:
    """The name of a held-out set for people."""
    return name.removesuffix(NO_PROMPT).replace("_", " ") + (", no prompt" if name.endswith(NO_PROMPT) else "")


def interval(outcomes: Sequence[Outcome], seed: int, correct: bool) -> Interval | None:
    """The interval of the mean reward, or of the share that is correct; None without outcomes."""
    by_problem: dict[str, list[float]] = {}
    for one in outcomes:
        by_problem.setdefault(one.problem, []).append(float(one.reward >= RIGHT) if correct else one.reward)
    return intervals.bootstrap(list(by_problem.values()), seed) if by_problem else None


def score(step: StepRecord, name: str) -> Interval | None:
    """The interval of pass@1 on a held-out set; while the evaluated prompt was empty, no prompt is the same evaluation."""
    outcomes = step.evaluations.get(name) or step.evaluations.get(name.removesuffix(NO_PROMPT), ())
    return interval(outcomes, step.step, correct=True)


def _banded(record: RunRecord, metric: str, found: Mapping[int, Interval | None], name: str, **look) -> Line:
    x, y = column(record, metric)
    ends = [found.get(step) for step in x]
    low, high = [end and end.low for end in ends], [end and end.high for end in ends]
    return Line(name, x, y, low, high, **look)


def held_out(record: RunRecord) -> Chart | None:
    """pass@1 of every held-out set by step."""
    lines = []
    for name in sets(record):
        found = {step.step: score(step, name) for step in record.steps if step.evaluations}
        look = {"colour": COLOURS[name]} if name in COLOURS else {}
        lines.append(_banded(record, name + PASS, found, words(name), **look))
    if not lines:
        return None
    return charts.curves("held-out", "Held-out pass@1", lines, y_title="share correct", y_format=".0%", height=340)


def training_reward(record: RunRecord) -> Chart | None:
    """Mean reward of the training rollouts by step, and that of the step's best prompt."""
    if not column(record, "train/reward")[0]:
        return None
    found = {step.step: interval(step.outcomes, step.step, correct=False) for step in record.steps}
    lines = [_banded(record, "train/reward", found, "all prompts")]
    x, y = column(record, "train/reward_best_prompt")
    lines += [Line("the step's best prompt", x, y, dash="dot", colour="var(--c3)")] if x else []
    caption = "Each step has other problems: it goes up and down with their difficulty."
    return charts.curves("training-reward", "Training reward", lines, y_title="mean reward", caption=caption, height=340)


def pass_at_k(record: RunRecord) -> list[Chart]:
    """pass@1, ..., pass@n of the last evaluation of each set."""
    lines = []
    for name in sets(record):
        rows = [row for row in record.metrics if name + PASS in row]
        found = {int(key.rpartition("@")[2]): value for key, value in rows[-1].items() if key.startswith(f"{name}/pass@")}
        look = {"colour": COLOURS[name]} if name in COLOURS else {}
        lines.append(Line(words(name), sorted(found), [found[k] for k in sorted(found)], **look))
    if not any(len(line.x) > 1 for line in lines):
        return []
    title = "pass@k at the last evaluation"
    return [charts.curves("pass-at-k", title, lines, "k: samples of which one must be right", "share of problems", ".0%")]


def learning_section(record: RunRecord) -> Section:
    """Held-out scores and training reward."""
    shown = [chart for chart in (held_out(record), training_reward(record)) if chart] + pass_at_k(record)
    body = page.figures(shown) + page.paragraph(intervals.RULE)
    return Section("learning", "Learning curves", body, tuple(shown), "Learning")


def facts(record: RunRecord) -> list[tuple[str, str, str]]:
    """The figures to see first: (name, value, remark)."""
    found = []
    for name in sets(record)[:3]:
        x, y = column(record, name + PASS)
        steps = {step.step: step for step in record.steps}
        end = score(steps[x[-1]], name) if x[-1] in steps else None
        within = f"{end.low:.0%} to {end.high:.0%}; " if end else ""
        found.append((f"pass@1, {words(name)}", percent(y[-1]), f"{within}{percent(y[0])} at step {x[0]}"))
    x, y = column(record, "train/reward")
    if x:
        found.append(("training reward", f"{y[-1]:.3f}", f"{y[0]:.3f} at step {x[0]}"))
    made = [name for name in names(record) if name.startswith("tokens/generated_")]
    generated, seconds = sum(_total(record, name) for name in made), _total(record, "time/step")
    found.append(("tokens generated", compact(generated), f"in {clock(seconds)}"))
    return found


def _total(record: RunRecord, name: str) -> float:
    return sum(value for value in column(record, name)[1] if value is not None)


def percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def compact(value: float) -> str:
    """12.3 k, 4.56 M."""
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value:g}"


def clock(seconds: float) -> str:
    """1 h 02 min, 3 min 04 s or 12 s."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


# name, title, {metric: its name in the legend}, logarithmic, caption
DIAGNOSTICS = (
    ("gap", "Sampler against trainer", {"policy/logprob_gap": "mean", "policy/logprob_gap_max": "largest"}, True,
     "How far the log-probabilities of the same tokens are apart, natural log; the dotted line is rl.gap_warning."),
    ("ratio", "Importance ratio", {"policy/ratio": "mean", "policy/ratio_p99": "99th percentile",
     "policy/clip_fraction": "share clipped"}, False,
     "Policy over sampler, by token. 1 while the weights are those that sampled."),
    ("loss", "Loss and gradient", {"policy/loss": "loss", "policy/grad_norm": "gradient norm"}, False, ""),
    ("entropy", "Entropy and KL", {"policy/entropy": "entropy of the policy", "policy/kl": "KL to the reference"}, False,
     "Nats a token."),
    ("finish", "How replies end", {"train/finish_stop": "by themselves", "train/finish_length": "by the budget of tokens",
     "train/finish_turns": "by that of turns", "train/finish_calls": "by that of calls",
     "train/graded_with_error": "graded with an error", "train/groups_without_signal": "groups without signal"}, False,
     "Shares of a step's trajectories, and of its groups of samples."),
    ("length", "Length of replies", {"train/completion_tokens": "mean"}, False, "Tokens."),
    ("calls", "The editor's work", {"evolution/calls": "calls", "evolution/operations_proposed": "edits proposed",
     "evolution/operations_applied": "edits applied", "evolution/replies_cut_off": "replies cut off",
     "evolution/replies_unparseable": "replies without an edit that parses"}, False, "Counts a step."),
)  # fmt: skip


def diagnostics_section(record: RunRecord) -> Section:
    """Whether the two halves of the policy agree, and how the optimisation goes; then any other metric."""
    shown = []
    for name, title, wanted, logarithmic, caption in DIAGNOSTICS:
        found = {legend: column(record, metric) for metric, legend in wanted.items() if column(record, metric)[0]}
        lines = [Line(legend, x, _positive(y) if logarithmic else y) for legend, (x, y) in found.items()]
        limits = {"rl.gap_warning": record.config["rl"]["gap_warning"]} if name == "gap" else None
        if lines:
            shown.append(charts.curves(name, title, lines, logarithmic=logarithmic, limits=limits, caption=caption, height=250))
    body = page.figures(shown) if shown else page.paragraph("No step has been done yet.")
    chooser = page.Markup(
        '<div class="explorer"><label>any metric <select id="metric"></select></label><div class="chart" id="any" '
        'style="height:260px"></div></div>'
    )
    return Section("diagnostics", "Diagnostics", body + chooser, tuple(shown))


def _positive(values: Sequence[float | None]) -> list[float | None]:
    """What has a logarithm."""
    return [value if value is not None and value > 0 else None for value in values]


PHASES = ("sample", "update", "reflect", "evaluate", "record")  # the order in which they are shown; others come behind
TOKENS = ("generated", "prompt", "tool")  # kinds of tokens, as in tokens/generated_rollout
# of the names that begin with time/ those that are no phase
TOTALS = ("time/step", "time/tokens_per_second", "time/compile", "time/programs")


def _sums(parts: Mapping[str, Sequence[float | None]]) -> dict[str, float]:
    return {name: sum(value for value in values if value is not None) for name, values in parts.items()}


def _ledger(prompt: Mapping[str, float], generated: Mapping[str, float], tool: Mapping[str, float]) -> page.Markup:
    """Tokens by purpose, the largest first, and all of them."""
    total = sum(generated.values())
    rows = []
    for purpose in sorted({*prompt, *generated, *tool}, key=lambda name: (-generated.get(name, 0.0), name)):
        read, made, given = (part.get(purpose, 0.0) for part in (prompt, generated, tool))
        share = f"{made / total:.1%}" if total else "-"
        rows.append([purpose.replace("_", " "), f"{read:,.0f}", f"{given:,.0f}", f"{made:,.0f}", share])
    rows.append(["all", f"{sum(prompt.values()):,.0f}", f"{sum(tool.values()):,.0f}", f"{total:,.0f}", ""])
    header = ["purpose", "prompt tokens", "tool tokens", "generated tokens", "share of generated"]
    if not tool:
        header, rows = header[:2] + header[3:], [row[:2] + row[3:] for row in rows]
    return page.table(header, rows, range(1, len(header)), "Ledger of tokens")


def _times(seconds: Mapping[str, float]) -> page.Markup:
    """Seconds by phase, the longest first."""
    everything = sum(seconds.values())
    phases = sorted(seconds.items(), key=lambda phase: -phase[1])
    rows = [(name, f"{spent:,.1f}", f"{spent / everything:.1%}" if everything else "-") for name, spent in phases]
    return page.table(("phase", "seconds", "share"), rows, (1, 2), "Time of the program by phase")


def _rank(name: str) -> int:
    order = (*PHASES, "rollout", "reflection", *ORDER)
    return order.index(name) if name in order else len(order)


def cost_section(record: RunRecord) -> Section:
    """Seconds by phase, and tokens by purpose."""
    x = [row["step"] for row in record.metrics]

    def parts(prefix: str) -> dict[str, list[float]]:
        chosen = [name for name in names(record) if name.startswith(prefix) and name not in TOTALS]
        chosen.sort(key=lambda name: _rank(name.removeprefix(prefix)))
        return {name.removeprefix(prefix): [row[name] if name in row else 0.0 for row in record.metrics] for name in chosen}

    seconds, generated, prompt, tool = (parts(prefix) for prefix in ("time/", *(f"tokens/{kind}_" for kind in TOKENS)))
    shown = [charts.stacked("phases", "Seconds by phase", seconds, x, "seconds")] if seconds else []
    shown += [charts.stacked("tokens", "Tokens generated, by purpose", generated, x, "tokens")] if generated else []
    body = page.figures(shown) + page.Markup('<div class="grid">{}{}</div>').format(
        _ledger(_sums(prompt), _sums(generated), _sums(tool)), _times(_sums(seconds))
    )
    note = (
        "Prompt tokens count each sample's whole context, shared prefixes too, whether or not they were computed again. "
        "Tool tokens are what tools answered within a conversation. Seconds are those of the program: a phase waits for what "
        "was queued on the device before it."
    )
    return Section("cost", "Time and tokens", body + page.paragraph(note), tuple(shown))
