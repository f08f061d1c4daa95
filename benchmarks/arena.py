"""The driver's half that all benchmarks share: flags, contestants, alternating repetitions."""

import argparse
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks import environments, report
from benchmarks.protocol import Contestant
from benchmarks.report import OURS, Measurement
from benchmarks.work import Rates
from espl_jax.policy import weights
from espl_jax.policy.hf_config import read_spec
from espl_jax.policy.model import ModelSpec

GREEDY_LENGTH = 24
# Config fields of ours that differ from experiments/base.py, by device: with two cores a second copy of the weights pays.
FIELDS = {
    "cpu": {"sampling.merge_weights": True, "sampling.prefill_tokens": 512, "sampling.prefill_chunk": 64},
    "gpu": {},
}


def add_flags(parser: argparse.ArgumentParser, contestants: str) -> None:
    """Flags of every benchmark that has peers. contestants: who runs unless --contestants says otherwise."""
    parser.add_argument("--contestants", default=contestants, help="some of ours,tunix,torch")
    parser.add_argument("--repetitions", type=int, default=3, help="rounds in which everybody runs once")
    parser.add_argument("--budget_s", type=float, default=100, help="no new round of a workload after so many seconds")
    parser.add_argument("--model", default="embedded", help="a Hugging Face directory, or embedded")
    parser.add_argument("--dtype", default="float32", help="of weights and products")
    parser.add_argument("--device", default="cpu", choices=("cpu", "gpu"))
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch; the others take all cores")
    parser.add_argument("--fields", type=json.loads, default={}, help="JSON object of more config fields of ours")
    parser.add_argument("--environments", type=Path, default=environments.default_directory())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=None, help="a JSON file; default: runs/benchmarks/NAME.json")


def model_of(flags: argparse.Namespace) -> tuple[Path, ModelSpec]:
    """Directory and architecture of the model that all contestants load."""
    directory = weights.resolve(flags.model, "main")
    return directory, read_spec(directory)


def command(name: str, flags: argparse.Namespace, directory: Path) -> list[str]:
    """How a contestant is started."""
    programs = {
        OURS: ("ours", [flags.dtype, json.dumps(FIELDS[flags.device] | flags.fields)]),
        "tunix": ("tunix_peer", [flags.dtype]),
        "torch": ("torch_peer", [flags.dtype, "cuda" if flags.device == "gpu" else "cpu", str(flags.threads)]),
    }
    if name not in programs:
        raise ValueError(f"unknown contestant {name!r}; use some of {', '.join(programs)}")
    module, arguments = programs[name]
    python = sys.executable if name == OURS else str(environments.interpreter(flags.environments, name))
    return [python, "-m", f"benchmarks.contestants.{module}", str(directory), *arguments]


@contextlib.contextmanager
def contestants(flags: argparse.Namespace, directory: Path, names: str) -> Iterator[dict[str, Contestant]]:
    """Those that names has ("ours,tunix"), each with the model loaded; hung up on at the end, also when the driver must end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("asked to end"))
    platform = "cuda" if flags.device == "gpu" else "cpu"
    environment = {
        "JAX_PLATFORMS": platform,
        "JAX_COMPILATION_CACHE_DIR": str(flags.environments / "xla"),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # on a GPU they share the card
    }
    with contextlib.ExitStack() as stack:
        started = {}
        for name in names.split(","):
            log = flags.environments / "logs" / f"{name}.txt"
            contestant = Contestant(name, command(name, flags, directory), environment, log)
            stack.callback(contestant.close)
            started[name] = contestant
        yield started


def alternate(
    names: Sequence[str], run: Callable[[str], float], repetitions: int, budget_s: float
) -> dict[str, tuple[float, ...]]:
    """Seconds of each repetition by contestant: a round is one run of each in turn; the first round is always whole."""
    start = time.monotonic()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(repetitions):
        for name in names:
            seconds[name].append(run(name))
        if time.monotonic() - start > budget_s:
            break
    return {name: tuple(values) for name, values in seconds.items()}


def same_greedy_tokens(started: Mapping[str, Contestant]) -> dict[str, int]:
    """How many of the first GREEDY_LENGTH greedy tokens after one question each peer has in common with ours.

    Empty without ours. Rounding may let a later token differ where two are nearly as likely.
    """
    if OURS not in started:
        return {}
    prompt = started[OURS].call("greedy_prompt")
    tokens = {name: one.call("greedy", tokens=prompt, length=GREEDY_LENGTH) for name, one in started.items()}
    ours = tokens.pop(OURS)
    return {
        name: next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), GREEDY_LENGTH)
        for name, theirs in tokens.items()
    }


def measured_rates(started: Mapping[str, Contestant]) -> Rates | None:
    """What the machine can do, as ours measures it; None without ours."""
    return Rates(**started[OURS].call("rates")) if OURS in started else None


def finish(name: str, flags: argparse.Namespace, measurements: Sequence[Measurement], facts: Mapping) -> None:
    """Prints the table and writes the JSON file."""
    print("\n" + report.table(report.HEADER, report.rows(measurements)))
    path = flags.output or Path("runs") / "benchmarks" / f"{name}.json"
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(flags).items()}
    report.write_json(path, report.as_json(measurements, {"benchmark": name, "settings": settings, **facts}))
    print(f"\nwritten to {path}")
