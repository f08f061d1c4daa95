"""Sampling: ours against google-tunix and transformers on the same weights and workloads.

  python -m benchmarks.sampler [--workloads=uniform-32/1,espl/1] [--contestants=ours,tunix,torch] [--repetitions=3]

A workload is KIND/TOP_P (benchmarks/workloads.py). In espl and burst the peers draw in batches of --tunix_batch and
--torch_batch, in the order of the requests, each batch until its longest member has ended; "useful tokens" are those that were
wanted.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence

from benchmarks import arena
from benchmarks.protocol import Contestant
from benchmarks.report import OURS, Measurement
from benchmarks.work import Rates, sampling_work
from benchmarks.workloads import SamplerWorkload, sampler_workload
from espl_jax.policy.model import ModelSpec

WORKLOADS = {
    "cpu": "uniform-8/1,uniform-32/1,uniform-64/1,uniform-128/1,uniform-32/0.95,espl/1,burst/1",
    "all": ",".join(
        [f"uniform-{batch}/{top_p}" for top_p in ("1", "0.95") for batch in (8, 32, 64, 128)]
        + [f"{kind}/{top_p}" for kind in ("espl", "burst") for top_p in ("1", "0.95")]
    ),
    "gpu": "decode-1/1,decode-32/1,decode-128/1,decode-256/1,espl/1,burst/1",
}
ITEM_BYTES = {"float32": 4, "bfloat16": 2}


def batch_size(name: str, workload: SamplerWorkload, flags: argparse.Namespace) -> int:
    """Rows that a contestant decodes together: all of a uniform workload, else what is best for it."""
    if not workload.name.startswith(("espl", "burst")):
        return len(workload.requests)
    return {OURS: flags.slots, "tunix": flags.tunix_batch, "torch": flags.torch_batch}[name]


def measure(
    workload: SamplerWorkload, started: Mapping[str, Contestant], flags: argparse.Namespace, spec: ModelSpec,
    rates: Rates | None,
) -> list[Measurement]:
    """All contestants on one workload, alternating."""
    for name, contestant in started.items():
        print(f"{workload.name}: {name} warms up", file=sys.stderr)
        contestant.call("prepare_sampling", **workload.arguments, batch_size=batch_size(name, workload, flags))

    def run(name: str) -> float:
        answer = started[name].call("sample")
        if answer["useful_tokens"] != workload.useful_tokens:
            raise RuntimeError(f"{name} drew {answer['useful_tokens']} useful tokens of {workload.useful_tokens}")
        print(f"{workload.name}: {name} took {answer['seconds']:.2f} s", file=sys.stderr)
        return answer["seconds"]

    seconds = arena.alternate(list(started), run, flags.repetitions, flags.budget_s)
    bound = sampling_work(workload, spec, ITEM_BYTES[flags.dtype]).seconds(rates) if rates else 0.0
    return [Measurement(workload.name, name, values, workload.useful_tokens, bound) for name, values in seconds.items()]


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arena.add_flags(parser, "ours,tunix,torch")
    parser.add_argument("--workloads", default=None, help="comma-separated, or a set: cpu, gpu, all; default: --device")
    parser.add_argument("--slots", type=int, default=64, help="sequences that ours decodes together in espl and burst")
    parser.add_argument("--tunix_batch", type=int, default=32, help="the same of tunix")
    parser.add_argument("--torch_batch", type=int, default=32, help="the same of torch")
    flags = parser.parse_args(argv)
    directory, spec = arena.model_of(flags)
    chosen = flags.workloads or flags.device
    names = WORKLOADS.get(chosen, chosen).split(",")
    workloads = [sampler_workload(name, spec.vocab_size, flags.seed) for name in names]
    with arena.contestants(flags, directory, flags.contestants) as started:
        versions = {name: contestant.call("versions") for name, contestant in started.items()}
        agreement = arena.same_greedy_tokens(started)
        rates = arena.measured_rates(started)
        for name, count in agreement.items():
            print(f"greedy tokens that {name} has in common with ours: {count} of {arena.GREEDY_LENGTH}")
        if rates:
            print(f"this machine: {rates.flops / 1e9:.0f} GFLOP/s, {rates.bytes / 1e9:.1f} GB/s")
        measurements = [m for workload in workloads for m in measure(workload, started, flags, spec, rates)]
    facts = {"versions": versions, "greedy_tokens_in_common": agreement, "rates": rates and vars(rates)}
    arena.finish("sampler", flags, measurements, facts)


if __name__ == "__main__":
    main(sys.argv[1:])
