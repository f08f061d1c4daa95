"""One optimizer step of full fine-tuning: ours against google-tunix's GRPO step and a plain one in torch.

  python -m benchmarks.learner [--workloads=uniform,espl] [--contestants=ours,tunix] [--repetitions=3] [--rows=tunix=4]

Workloads are sets of finished trajectories (benchmarks/workloads.py). Each contestant accumulates gradients over micro-batches
of ROWS trajectories (ours: tokens, a shared beginning once); the peers pad prompts on the left and completions on the right,
each to the longest, as tunix does. What does not fit into memory beside each other runs --apart. Of several rounds one more
comes first, which is not counted.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence

from benchmarks import arena
from benchmarks.protocol import Contestant
from benchmarks.report import OURS, Measurement
from benchmarks.sampler import ITEM_BYTES
from benchmarks.work import Rates, learning_work
from benchmarks.workloads import LearnerWorkload, trajectories
from espl_jax.policy.model import ModelSpec

WORKLOADS = {"cpu": "uniform,espl", "gpu": "long-8,espl"}
# Trajectories of a micro-batch (ours: tokens) that fit in 24 GiB; tunix holds the logits of every position of all of them.
ROWS = {
    "uniform": {OURS: 1536, "tunix": 8, "torch": 16},
    "espl": {OURS: 2048, "tunix": 2, "torch": 5},
    "long": {OURS: 4096, "tunix": 2, "torch": 2},
}


def micro_batch(name: str, workload: LearnerWorkload, flags: argparse.Namespace) -> int:
    """Size of a contestant's micro-batches: of --rows if it is named there, else of ROWS."""
    chosen = dict(part.split("=") for part in flags.rows.split(",") if part)
    return int(chosen[name]) if name in chosen else ROWS[workload.name.partition("-")[0]][name]


def measure(
    workload: LearnerWorkload, started: Mapping[str, Contestant], flags: argparse.Namespace, spec: ModelSpec,
    rates: Rates | None,
) -> list[Measurement]:
    """The contestants that have started on one workload, alternating."""
    for name, contestant in started.items():
        print(f"{workload.name}: {name} warms up", file=sys.stderr)
        rows = micro_batch(name, workload, flags)
        contestant.call("prepare_learning", **workload.arguments, micro_batch=rows, remat=flags.remat)

    def run(name: str) -> float:
        seconds = started[name].call("learn")["seconds"]
        print(f"{workload.name}: {name} took {seconds:.2f} s", file=sys.stderr)
        return seconds

    if flags.repetitions > 1:  # a process's heap has its size after the second step: the first of ours is a fifth slower
        arena.alternate(list(started), run, 1, 0)
    seconds = arena.alternate(list(started), run, flags.repetitions, flags.budget_s)
    bound = learning_work(workload, spec, ITEM_BYTES[flags.dtype]).seconds(rates) if rates else 0.0
    return [Measurement(workload.name, name, values, workload.useful_tokens, bound) for name, values in seconds.items()]


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arena.add_flags(parser, "ours,tunix")
    parser.add_argument("--workloads", default=None, help="comma-separated; default: those of the device")
    parser.add_argument("--rows", default="", help="micro-batches other than ROWS, e.g. ours=8192,tunix=4")
    parser.add_argument("--remat", default="none", choices=("none", "layer"), help="recompute layers in the backward pass")
    parser.add_argument("--apart", action="store_true", help="one contestant after the other, each alone in memory")
    flags = parser.parse_args(argv)
    directory, spec = arena.model_of(flags)
    names = (flags.workloads or WORKLOADS[flags.device]).split(",")
    workloads = [trajectories(name, spec.vocab_size, flags.seed) for name in names]
    versions, rates, measurements = {}, None, []
    for turn in flags.contestants.split(",") if flags.apart else [flags.contestants]:
        with arena.contestants(flags, directory, turn) as started:
            versions |= {name: contestant.call("versions") for name, contestant in started.items()}
            if found := arena.measured_rates(started):
                rates = found
                print(f"this machine: {rates.flops / 1e9:.0f} GFLOP/s, {rates.bytes / 1e9:.1f} GB/s")
            measurements += [m for workload in workloads for m in measure(workload, started, flags, spec, rates)]
    measurements.sort(key=lambda m: names.index(m.workload))
    arena.finish("learner", flags, measurements, {"versions": versions, "rates": rates and vars(rates)})


if __name__ == "__main__":
    main(sys.argv[1:])
