"""What a run spends, by purpose: one account that methods can be compared by. (What counts it: costs.py.)

Metrics ledger/<purpose>/<what> of each step, and their running totals in RunState.counters; no clock and no layout of devices
has a part in them, so that a resumed run has the same. Purposes: rollout, acceptance (paired tests of children), reflection,
update, evaluation. A budget (config.budget_tokens, config.budget_flops, config.budget_rollouts) is for all purposes but
evaluation, which measures and does not learn.
"""

from collections.abc import Iterable, Mapping
from typing import Any

PURPOSES = ("rollout", "acceptance", "reflection", "update", "evaluation")
FREE = "evaluation"  # counted, but no budget is spent on it
# purpose -> the phase whose wall seconds in metrics.jsonl are its own (acceptance is part of time/reflect)
SECONDS = {"rollout": "time/sample", "reflection": "time/reflect", "update": "time/update", "evaluation": "time/evaluate"}
# what a budget is in -> the counts that it adds up
BUDGETS = {
    "budget_tokens": ("prompt_tokens", "generated_tokens"),
    "budget_flops": ("flops",),
    "budget_rollouts": ("trajectories",),
}


def spent(counters: Mapping[str, float], budget: str) -> float:
    """What has been spent of a budget of BUDGETS."""
    names = {f"ledger/{purpose}/{what}" for purpose in PURPOSES if purpose != FREE for what in BUDGETS[budget]}
    return sum(value for name, value in counters.items() if name in names)


def is_last(config: Any, step: int, counters: Mapping[str, float]) -> bool:
    """Whether a run ends after this step: it has done all steps, or spent a budget. counters: the step's included."""
    over = (config[budget] and spent(counters, budget) >= config[budget] for budget in BUDGETS)
    return step >= config.num_steps or any(over)


def totals(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """{purpose: {what: sum}} over a run's metrics (metrics.read), with the wall seconds of its phase where it has one."""
    rows = list(rows)

    def total(name: str) -> float:
        return sum(row[name] for row in rows if name in row)

    names = sorted({name for row in rows for name in row if name.startswith("ledger/")})
    sums: dict[str, dict[str, float]] = {}
    for name in names:
        _, purpose, what = name.split("/")
        sums.setdefault(purpose, {})[what] = total(name)
    return {purpose: counts | _seconds(purpose, total) for purpose, counts in sums.items()}


def _seconds(purpose: str, total: Any) -> dict[str, float]:
    return {"seconds": total(SECONDS[purpose])} if purpose in SECONDS else {}
