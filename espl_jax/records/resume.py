"""Going on with a run: which config may it have now, and what of its files will be written again."""

import shutil
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from espl_jax.records import artifacts, json_files, metrics

# Fields that a resumed run may change. Everything else decides what is sampled, learned, graded or measured.
# First, what no result depends on: where and how often is recorded, when to warn, how many processes grade.
OPERATIONAL = (
    "records.*", "rl.gap_warning", "task.grading_workers", "hosts.coordinator", "hosts.process_id", "hosts.*_seconds",
    "runtime.gpu_*", "tools.workers", "tools.timeout", "tools.retries",
    "evolution.server_url", "evolution.server_key", "evolution.server_timeout", "evolution.server_retries",
    "evolution.server_concurrency",
)
# Second, how the same mathematics is laid out on devices and cut into pieces, so that a run can move to other hardware:
# sampled tokens do not depend on the batch around them and gradients are sums, up to the order of float additions.
LAYOUT = (
    "mesh.*",
    "hosts.num_processes",
    "runtime.*",
    "model.attention",
    "model.remat",
    "model.scan_layers",
    "sampling.batch_size",
    "sampling.prefill_tokens",
    "sampling.prefill_chunk",
    "sampling.share_prefixes",
    "sampling.single_slot",
    "sampling.merge_weights",
    "rl.micro_batch_tokens",
    "rl.row_widths",
    "rl.head_chunk",
    "tools.ahead",
)
# Third, when it ends.
ENDS = ("num_steps", "budget_tokens", "budget_flops", "budget_rollouts")
ABSENT = "(absent)"


def check_config(saved: Mapping[str, Any], now: Mapping[str, Any], steps_done: int) -> list[str]:
    """Refuses to go on with a run under a config that contradicts it.

    saved, now: configs as JSON (artifacts.config_json). Returns notes worth logging: fields that moved the last bits of
    floats, or the end of a schedule. Raises ValueError, in one sentence that names every field with both values.
    """
    changes = differences(saved, now)
    forbidden = [name for name in changes if not _allowed(name)]
    if forbidden:
        raise ValueError(
            f"this run was started with another config: {_listed(changes, forbidden)}; "
            "use the saved values or another --workdir"
        )
    if now["num_steps"] < steps_done:
        raise ValueError(
            f"num_steps is {now['num_steps']}, but this run has done {steps_done} steps; use {steps_done} or more"
        )
    return _notes(changes, now)


def differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Fields whose values differ, by dotted name: (saved, now); a field that one side lacks is "(absent)" there."""
    before, after = _flat(saved), _flat(now)
    names = list(before) + [name for name in after if name not in before]
    pairs = {name: (before.get(name, ABSENT), after.get(name, ABSENT)) for name in names}
    return {name: (old, new) for name, (old, new) in pairs.items() if old != new}


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in config.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value})
    return flat


def _allowed(name: str) -> bool:
    return name in ENDS or any(fnmatchcase(name, pattern) for pattern in OPERATIONAL + LAYOUT)


def _listed(changes: Mapping[str, tuple[Any, Any]], names: list[str]) -> str:
    return ", ".join(f"{name} was {changes[name][0]!r} and is now {changes[name][1]!r}" for name in names)


def _notes(changes: Mapping[str, tuple[Any, Any]], now: Mapping[str, Any]) -> list[str]:
    moved = [name for name in changes if any(fnmatchcase(name, pattern) for pattern in LAYOUT)]
    notes = [f"{_listed(changes, moved)}: the last bits of floats may differ from an unchanged run"] if moved else []
    if "num_steps" in changes and now["rl"]["schedule"] != "constant":
        notes.append(f"{_listed(changes, ['num_steps'])}: the {now['rl']['schedule']} schedule ends at another step")
    return notes


def rewind(workdir: str | Path, step: int) -> Path | None:
    """Brings metrics.jsonl and steps/ back to `step`, that of the checkpoint a run goes on from; -1 when it has none.

    What was recorded after it will be written again; the first writing is kept in DIR/superseded/NNN, which is returned
    (None when there was nothing to move). Left-overs of a write that a crash cut short are deleted. Call before opening
    metrics, on the first host only. A crash in here is harmless: the next call does the rest.
    """
    workdir = Path(workdir)
    steps = workdir / "steps"
    for unfinished in steps.glob(".*.tmp"):
        shutil.rmtree(unfinished)
    aside = _next_folder(workdir / "superseded")
    metrics.truncate_after(workdir, step, aside)
    for folder in sorted(steps.glob("[0-9]*")):
        if int(folder.name) > step:
            (aside / "steps").mkdir(parents=True, exist_ok=True)
            folder.rename(aside / "steps" / folder.name)
    if not aside.exists():
        return None
    json_files.sync_folder(workdir)
    return aside


def _next_folder(parent: Path) -> Path:
    """parent/000, or the first number after those that are there."""
    taken = [int(folder.name) for folder in parent.glob("[0-9]*")]
    return parent / f"{max(taken, default=-1) + 1:03d}"


def write_config(workdir: str | Path, config: Mapping[str, Any]) -> None:
    """Writes DIR/config.json: the config of the run as it goes on now."""
    artifacts.write_json(Path(workdir) / "config.json", config)
