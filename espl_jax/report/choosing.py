"""Which trajectories a page shows whole: all of them would not fit in a file that a browser opens at once.

Training: of at most STEPS steps, evenly spread with the first and the last, the PROBLEMS problems whose rewards differ most;
of each the best and the worst sample and, up to COLUMNS, the best under every other prompt. Held-out sets: of the first and the
last evaluation, the first sample of the first HELD_OUT problems, which is a choice that looks at no reward.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from espl_jax.report.reading import Choose, Row

STEPS = 50
PROBLEMS = 2
COLUMNS = 4
HELD_OUT = 6

RULE = (
    f"Training: of {STEPS} steps at the most, evenly spread, the {PROBLEMS} problems whose rewards differ most; of each the "
    f"best and the worst sample, then the best under every other prompt, {COLUMNS} in all. Held-out sets: of the first and the "
    f"last evaluation, the first sample of the first {HELD_OUT} problems, whatever its reward."
)


def chooser(workdir: str | Path) -> Choose:
    """The rule above for the run in `workdir`."""
    folders = sorted((Path(workdir) / "steps").glob("[0-9]*"))
    training = set(spread([int(folder.name) for folder in folders if (folder / "rollouts.jsonl").exists()], STEPS))
    evaluated = [int(folder.name) for folder in folders if any(folder.glob("evaluation_*.jsonl"))]
    held_out = {evaluated[0], evaluated[-1]} if evaluated else set()

    def choose(kind: str, step: int, rows: Sequence[Row]) -> list[tuple[str, Row]]:
        if kind == "rollouts":
            return contrasts(rows) if step in training else []
        return first_of_each(rows) if step in held_out else []

    return choose


def spread(steps: Sequence[int], count: int) -> list[int]:
    """At most `count` of the steps, evenly spread over them, the first and the last included."""
    if len(steps) <= count:
        return list(steps)
    return [steps[index] for index in np.unique(np.linspace(0, len(steps) - 1, count).round().astype(int))]


def contrasts(rows: Sequence[Row]) -> list[tuple[str, Row]]:
    """Best, worst and the other prompts' best of the problems with the widest rewards, each with its label."""
    by_problem: dict[str, list[Row]] = {}
    for row in rows:
        by_problem.setdefault(row["problem"], []).append(row)

    def width(problem: str) -> float:
        rewards = [row["reward"] for row in by_problem[problem]]
        return max(rewards) - min(rewards)

    widest = sorted(by_problem, key=width, reverse=True)[:PROBLEMS]  # stable: of equals those that come first
    return [chosen for problem in widest for chosen in _contrast(by_problem[problem])]


def _contrast(rows: Sequence[Row]) -> list[tuple[str, Row]]:
    best, worst = max(rows, key=lambda row: row["reward"]), min(rows, key=lambda row: row["reward"])
    if best["reward"] == worst["reward"]:
        worst = next((row for row in rows if row["prompt"] != best["prompt"]), rows[-1])
    chosen = [("best", best)]
    if worst is not best:
        chosen.append(("worst" if worst["reward"] < best["reward"] else "another", worst))
    shown = {best["prompt"], worst["prompt"]}
    for prompt in dict.fromkeys(row["prompt"] for row in rows if row["prompt"] not in shown):
        mine = max((row for row in rows if row["prompt"] == prompt), key=lambda row: row["reward"])
        chosen.append((f"best of prompt {prompt}", mine))
    return chosen[:COLUMNS]


def first_of_each(rows: Sequence[Row]) -> list[tuple[str, Row]]:
    """The first sample of the first problems."""
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(row["problem"], row)
    return [("first sample", row) for row in list(first.values())[:HELD_OUT]]
