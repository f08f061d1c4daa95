"""What prompts learned: the best one of each run beside the truth, and ratings against accuracy, as tables and sections."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from markupsafe import Markup

from espl_jax import ratings
from espl_jax.comparison.reading import Run
from espl_jax.report import charts, page
from espl_jax.report.charts import Line
from espl_jax.report.page import Section

PROMPT_HEADER = ["run", "best prompt at the end", "what is true"]
ORIGIN_HEADER = ["run", "line of the best prompt", "from"]
RATING_HEADER = ["run", "prompts", "rank correlation", "best rated", "mean", "best of all"]
HOW_LEARNED = (
    "The best prompt by rating, as the model reads it, beside all that the task itself could have said, which no run is told."
)
HOW_FOUND = (
    "The oldest forebear that handed a line down, and the edit that wrote it there; its chat is among the reflections of that "
    "step (python -m espl_jax.prompts)."
)
HOW_RATED = (
    "Prompts that competed most, measured on held-out problems under the last weights (evaluation.rated). Rank correlation "
    "(Spearman) of rating and mean reward, 1 where ratings order prompts as accuracy does; the reward of the prompt with the "
    "highest rating, beside the mean of all and that of the prompt that in hindsight is best."
)


def prompt_rows(runs: Sequence[Run]) -> list[list[str]]:
    """Rows of PROMPT_HEADER, of runs whose task has a rulebook and which have written something."""
    return [[str(run.job), run.prompt, run.rulebook] for run in runs if run.rulebook and run.prompt]


def origin_rows(runs: Sequence[Run]) -> list[list[str]]:
    """Rows of ORIGIN_HEADER, a line each, of the same runs."""
    return [[str(run.job), one.line, str(one)] for run in runs if run.rulebook for one in run.origins]


def rating_rows(runs: Sequence[Run]) -> list[list[str]]:
    """Rows of RATING_HEADER, of runs that have measured it."""
    rows = []
    for run in filter(lambda run: run.rated, runs):
        rewards = [row["reward"] for row in run.rated]
        first = max(run.rated, key=lambda row: row["mu"])["reward"]
        found = ratings.correlation(run.rated)
        shown = "-" if found is None else f"{found:+.2f}"
        rows.append([str(run.job), str(len(rewards)), shown, f"{first:.3f}", f"{fmean(rewards):.3f}", f"{max(rewards):.3f}"])
    return rows


def prompts_section(runs: Sequence[Run]) -> list[Section]:
    """What the prompts learned; nothing where it is not known."""
    if not (rows := prompt_rows(runs)):
        return []
    broken = [[name, *(Markup("<br>").join(text.splitlines()) for text in texts)] for name, *texts in rows]
    body = page.table(PROMPT_HEADER, broken) + page.paragraph(HOW_LEARNED)
    if found := origin_rows(runs):
        body += page.table(ORIGIN_HEADER, found) + page.paragraph(HOW_FOUND)
    return [Section("prompts", "What the prompts learned", body)]


def ratings_section(runs: Sequence[Run], colours: Mapping[str, str]) -> list[Section]:
    """Ratings against accuracy; nothing where nobody measured it. colours: of methods."""
    if not (rows := rating_rows(runs)):
        return []
    rated = [run for run in runs if run.rated]
    groups = [
        Line(
            str(run.job), [row["mu"] for row in run.rated], [row["reward"] for row in run.rated],
            colour=colours[run.job.method] if run.job.method in colours else "",
            extra=[f"prompt {row['prompt']} of {run.job}, {row['matches']} matches" for row in run.rated],
        )
        for run in rated
    ]  # fmt: skip
    chart = charts.points("ratings", "reward by rating, a point a prompt", groups, "rating (mu)", "held-out reward")
    body = page.table(RATING_HEADER, rows, range(1, 6)) + page.figures([chart]) + page.paragraph(HOW_RATED)
    return [Section("ratings", "Ratings against accuracy", body, (chart,), nav="Ratings")]
