"""Measurements to a table and a JSON file."""

import json
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OURS = "ours"
HEADER = ("workload", "contestant", "median s", "min", "max", "n", "useful tokens/s", "ours is", "of the bound")


@dataclass(frozen=True)
class Measurement:
    """Repetitions of one workload by one contestant. seconds: of each; bound_seconds: no program can be faster, 0: unknown."""

    workload: str
    contestant: str
    seconds: tuple[float, ...]
    useful_tokens: int
    bound_seconds: float

    def __post_init__(self):
        if not self.seconds:
            raise ValueError(f"{self.contestant} has no repetition of {self.workload}")

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def tokens_per_second(self) -> float:
        return self.useful_tokens / self.median


def speedup(measurement: Measurement, measurements: Sequence[Measurement]) -> float | None:
    """How many times as fast as this contestant ours was on the same workload; None for ours itself, or without ours."""
    for other in measurements:
        if other.workload == measurement.workload and other.contestant == OURS != measurement.contestant:
            return measurement.median / other.median
    return None


def rows(measurements: Sequence[Measurement]) -> list[tuple[str, ...]]:
    """The table's cells, under HEADER."""
    cells = []
    for m in measurements:
        ratio = speedup(m, measurements)
        cells.append((
            m.workload, m.contestant, f"{m.median:.2f}", f"{min(m.seconds):.2f}", f"{max(m.seconds):.2f}", str(len(m.seconds)),
            f"{m.tokens_per_second:.0f}", "" if ratio is None else f"{ratio:.2f} x as fast",
            f"{m.bound_seconds / m.median:.0%}" if m.bound_seconds else "",
        ))
    return cells


def table(header: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """Aligned columns: the first two to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in [header, *cells]) for i in range(len(header))]
    lines = [
        "  ".join(text.ljust(width) if i < 2 else text.rjust(width) for i, (text, width) in enumerate(zip(row, widths)))
        for row in [header, ["-" * width for width in widths], *cells]
    ]
    return "\n".join(line.rstrip() for line in lines)


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {"cpu": names[0] if names else model, "cores": len(names) or None, "system": platform.platform()}


def commit() -> str:
    """The checkout's commit, with "+" when files differ from it; "unknown" outside one."""
    root = Path(__file__).resolve().parent
    try:
        head, changed = (
            subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+" if changed else "")


def as_json(measurements: Sequence[Measurement], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that was measured, and what is needed to judge it (`facts`: settings, versions, rates, checks)."""
    return {
        "commit": commit(),
        "machine": machine(),
        **facts,
        "measurements": [
            {
                "workload": m.workload, "contestant": m.contestant, "seconds": list(m.seconds), "median_seconds": m.median,
                "useful_tokens": m.useful_tokens, "useful_tokens_per_second": m.tokens_per_second,
                "bound_seconds": m.bound_seconds, "fraction_of_bound": m.bound_seconds / m.median,
                "ours_speedup": speedup(m, measurements),
            }
            for m in measurements
        ],
    }  # fmt: skip


def write_json(path: Path, value: Any) -> None:
    """Writes `value`, making folders as needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
