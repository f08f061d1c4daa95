"""Peak memory of sampling and learning against the formula of espl_jax/policy/memory.py.

  python -m benchmarks.memory [--cases=sampling-quickstart,learning-lora] [--model=embedded]

One process a case, on CPU (Linux): it loads the model, does the phase once, which compiles, resets the kernel's record of the
process's peak, does the phase again and reads the record (VmHWM). What remains once all arrays are deleted (interpreter,
libraries, compiled programs) is subtracted: "programs" is how much of that came after the imports.
"""

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HEADER = ("case", "predicted MB", "measured MB", "predicted / measured", "programs MB")
CASES = {
    "sampling-quickstart": ("sample_quickstart", "quickstart", {}),
    "sampling-64x1024": ("sample_long", "base", {"sampling.batch_size": 64, "model.max_length": 1024}),
    "learning-lora": ("learn_quickstart", "quickstart", {}),
    "learning-full-none": ("learn_uniform", "base", {"model.remat": "none"}),
    "learning-full-layer": ("learn_uniform", "base", {"model.remat": "layer"}),
    "learning-full-none-scan": ("learn_uniform", "base", {"model.remat": "none", "model.scan_layers": True}),
    "learning-full-layer-scan": ("learn_uniform", "base", {"model.remat": "layer", "model.scan_layers": True}),
}
UNIFORM = {"model.max_length": 256, "rl.lora_rank": 0, "rl.micro_batch_tokens": 3072, "method": "rl"}


# -- a case, in its own process ----------------------------------------------------------------------------------------


def status(field: str) -> int:
    """Bytes of a field of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


def trimmed() -> int:
    """Resident bytes once garbage and free lists have been given back."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return status("VmRSS")


def make_config(kind: str, fields: dict, model: str) -> Any:
    """The experiment's config in float32, with a case's fields."""
    from experiments import base, quickstart

    config = {"base": base, "quickstart": quickstart}[kind].get_config()
    fixed = {"model.path": model, "model.dtype": "float32", "model.weight_dtype": "float32"}
    config.update_from_flattened_dict(fixed | fields)
    return config


def requests(shapes: Sequence[tuple[int, int, int]]) -> list:
    """`count` requests of the same prompt of `prompt` tokens for `new` tokens each, for every (count, prompt, new)."""
    import numpy as np

    from espl_jax.structs import Request

    rng, made = np.random.default_rng(0), []
    for count, prompt, new in shapes:
        tokens = rng.integers(32, 4096, prompt, dtype=np.int32)
        made += [Request(len(made) + i, tokens, (0, 0, 0, 0, len(made) + i), new, 1.0, 1.0) for i in range(count)]
    return made


def sampling(config: Any, wanted: list) -> tuple[Callable[[], None], float]:
    """(one run of the phase, its predicted peak)"""
    from espl_jax.policy import memory
    from espl_jax.policy.schedule import cut
    from espl_jax.policy.state import make_policy, open_model

    directory, spec, tokenizer = open_model(config)
    tokenizer.stop_ids = ()
    policy, state = make_policy(config, directory, spec, tokenizer)
    limits = [policy.sampler.room(request) for request in wanted]
    layout = policy.sampler.layout(wanted, limits, cut(wanted, config.sampling.share_prefixes))
    predicted = sum(memory.sampling_terms(spec, config, layout, merged=1).values())
    return lambda: policy.sampler(policy.variables(state.trainable), wanted), predicted


def sample_quickstart(config: Any) -> tuple[Callable[[], None], float]:
    """48 slots: 12 prompts, 4 samples each."""
    return sampling(config, requests([(4, 40, 16)] * 12))


def sample_long(config: Any) -> tuple[Callable[[], None], float]:
    """64 slots x 1,024 positions; one prompt is long, which is enough for the shapes."""
    return sampling(config, requests([(1, 1000, 8)] + [(1, 32, 8)] * 63))


def learning(config: Any, workload: Any) -> tuple[Callable[[], None], float]:
    """(one optimizer step, its predicted peak)"""
    import jax
    import numpy as np

    from espl_jax.policy import memory
    from espl_jax.policy.state import make_policy, open_model
    from espl_jax.policy.update import make_updater

    policy, state = make_policy(config, *open_model(config))
    rollouts = finished_rollouts(workload, policy.spec.vocab_size)
    update, held = make_updater(policy, state, config), [state]
    del state
    advantages_PQG = np.asarray(workload.advantages, np.float32).reshape(workload.shape)
    keep_PQ = np.ones(workload.shape[:2], bool)

    def step():
        state, _ = update(held.pop(), rollouts, advantages_PQG, keep_PQ, np.random.default_rng(0))
        held.append(jax.block_until_ready(state))

    terms = memory.learning_terms(policy.spec, config, memory.row_tokens(config, 1), False, jax.default_backend())
    return step, sum(terms.values())


def finished_rollouts(workload: Any, vocab_size: int) -> Any:
    """Rollouts of trajectories that are taken as drawn evenly."""
    import numpy as np

    from benchmarks.contestants.ours import finished
    from espl_jax.structs import Grade, Problem, Rollouts

    (P, Q, G), even = workload.shape, -float(np.log(vocab_size))
    completions = tuple(finished(i, tokens, even) for i, tokens in enumerate(workload.completions))
    return Rollouts(
        prompt_ids=tuple(range(P)),
        problems=tuple(Problem(str(q), str(q), "") for q in range(Q)),
        context_tokens=tuple(tuple(np.asarray(context, np.int32) for context in row) for row in workload.contexts),
        completions=completions,
        texts=("",) * len(completions),
        grades=(Grade(0.0),) * len(completions),
        rewards_PQG=np.zeros((P, Q, G), np.float32),
    )


def learn_quickstart(config: Any) -> tuple[Callable[[], None], float]:
    """A step of the quickstart: an adapter, on quickstart_trajectories."""
    return learning(config, quickstart_trajectories())


def quickstart_trajectories() -> Any:
    """2 prompts x 6 problems x 8 samples: 80 tokens and 16 new ones, one packed row of 2,560, the quickstart's micro-batch."""
    import numpy as np

    from benchmarks.workloads import LearnerWorkload, draw_tokens

    rng = np.random.default_rng(0)
    contexts = tuple(tuple(draw_tokens(rng, 80, 4096) for _ in range(6)) for _ in range(2))
    completions = tuple(draw_tokens(rng, 16, 4096) for _ in range(96))
    return LearnerWorkload("quickstart", contexts, completions, (0.5, -0.5) * 48)


def learn_uniform(config: Any) -> tuple[Callable[[], None], float]:
    """16 trajectories of 192 tokens, all weights trained, one packed row of 3,072."""
    from benchmarks.workloads import trajectories

    return learning(config, trajectories("uniform", 4096, 0))


def measure(name: str, model: str) -> dict:
    """One case, in this process."""
    import jax

    import espl_jax.policy.update  # noqa: F401  before the first look at the memory

    function, kind, fields = CASES[name]
    fields = fields | (UNIFORM if function == "learn_uniform" else {})
    jax.devices()
    imported = trimmed()
    run, predicted = globals()[function](make_config(kind, fields, model))
    run()
    trimmed()
    Path("/proc/self/clear_refs").write_text("5")
    run()
    peak = status("VmHWM")
    for array in jax.live_arrays():
        array.delete()
    left = trimmed()  # `run` still holds its compiled programs
    return {"case": name, "predicted": predicted, "measured": peak - left, "peak": peak, "programs": left - imported}


# -- all cases ---------------------------------------------------------------------------------------------------------


def row(found: dict) -> tuple[str, ...]:
    """Cells under HEADER."""
    sizes = [f"{found[name] / 1e6:,.0f}" for name in ("predicted", "measured")]
    return (found["case"], *sizes, f"{found['predicted'] / found['measured']:.2f}", f"{found['programs'] / 1e6:,.0f}")


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=",".join(CASES), help="comma-separated names")
    parser.add_argument("--case", default="", choices=("", *CASES), help="measure this one here and print a JSON object")
    parser.add_argument("--model", default="embedded", help="model.path")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks/memory.json"))
    flags = parser.parse_args(argv)
    if flags.case:
        print(json.dumps(measure(flags.case, flags.model)))
        return
    from benchmarks import report

    found = []
    for name in flags.cases.split(","):
        command = [sys.executable, "-m", "benchmarks.memory", f"--case={name}", f"--model={flags.model}"]
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
        found.append(json.loads(answer.stdout.splitlines()[-1]))
        print(f"{name}: {found[-1]}", file=sys.stderr)
    print(report.table(HEADER, [row(one) for one in found]))
    flags.output.parent.mkdir(parents=True, exist_ok=True)
    flags.output.write_text(json.dumps({"machine": report.machine(), "cases": found}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
