"""The price of evolution: one whole iteration of E-SPL against the same one with method `rl`.

  python -m benchmarks.iteration [--experiment=quickstart] [--steps=3] [--repetitions=2]
  python -m benchmarks.iteration --count [--experiment=beyondaime] [--shape=qwen3-8b] [--trajectory_tokens=8000] [--worst]

The first form runs both on this machine, by turns, from the same weights: E-SPL with M prompts already in its population, so
that it samples under all of them and reflects; rl with the root prompt alone and M times as many samples of each problem, so
that both have M x B x N trajectories. Evaluation and records are left out. The second form runs nothing and counts.
"""

import argparse
import contextlib
import dataclasses
import importlib
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from benchmarks import count, report
from benchmarks.shapes import SHAPES
from espl_jax import config as configs
from espl_jax import tasks
from espl_jax.evolution.population import add_child
from espl_jax.evolution.reflection import UNBORN
from espl_jax.records.logbook import Logbook, enable_compilation_cache
from espl_jax.structs import Genome, Prompt, RunState
from espl_jax.train import Run, iterate, set_up

METHODS = ("espl", "rl")
PHASES = ("sample", "update", "reflect")
HEADER = ("method", "step", "median s", "min", "max", "n", *PHASES, "trajectories used", "tokens written")
# What the prompts beside the root say; one word of its number makes each different.
ADVICE = "Read the question twice, work through it one step at a time, and check the result against every condition ({})."


class Stopwatch(Logbook):
    """A logbook that nothing is committed to; `seconds` by phase since the last `restart`."""

    def restart(self) -> None:
        self.seconds = dict.fromkeys(PHASES, 0.0)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


@dataclasses.dataclass(frozen=True)
class Timing:
    """One iteration: its seconds, those of its phases (which may overlap), and its metrics."""

    seconds: float
    phases: dict[str, float]
    metrics: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Side:
    """One method, ready to iterate from `state` again and again."""

    run: Run
    state: RunState

    def time(self, step: int) -> Timing:
        """Iteration number step + 1 from the same weights. The update replaces its state, so it gets a copy."""
        policy = jax.block_until_ready(jax.tree.map(jnp.copy, self.state.policy))
        state = dataclasses.replace(self.state, step=step, policy=policy)
        self.run.logbook.restart()
        start = time.perf_counter()
        done = iterate(self.run, state)
        jax.block_until_ready(done.state.policy)
        return Timing(time.perf_counter() - start, dict(self.run.logbook.seconds), dict(done.metrics))


def side_config(experiment: str, method: str) -> ConfigDict:
    """The experiment's config for one side: no evaluation, and as many trajectories for both."""
    config = importlib.import_module(f"experiments.{experiment}").get_config()
    config.method = method
    config.evaluation.every = 0
    config.records.tensorboard = False
    if method == "rl":
        config.task.num_samples = config.evolution.num_prompts * config.task.num_samples
    return configs.resolve(config)


def with_prompts(state: RunState, config: ConfigDict) -> RunState:
    """The state with as many prompts as compete in a step."""
    population = state.population
    root = population.prompts[0]
    for number in range(1, config.evolution.num_prompts):
        genome = Genome("principles", (ADVICE.format(number),))
        prompt = Prompt(UNBORN, genome, root.rating, (root.id,), "human", 0)
        population, _ = add_child(population, prompt, config.evolution.max_population)
    return dataclasses.replace(state, population=population)


def make_side(config: ConfigDict, stack: contextlib.ExitStack) -> Side:
    """Loads everything that the method needs."""
    workdir = stack.enter_context(tempfile.TemporaryDirectory())
    logbook = stack.enter_context(Stopwatch(config, workdir))
    task = stack.enter_context(contextlib.closing(tasks.build(config.task, config.seed, config.tools)))
    run, state = set_up(config, task, logbook)
    return Side(run, with_prompts(state, config))


def compare(flags: argparse.Namespace) -> dict[tuple[str, int], list[Timing]]:
    """Timings by (method, step): every pair once to compile, then `repetitions` rounds by turns."""
    timings: dict[tuple[str, int], list[Timing]] = {}
    with contextlib.ExitStack() as stack:
        sides = {method: make_side(side_config(flags.experiment, method), stack) for method in METHODS}
        for repetition in range(-1, flags.repetitions):
            for step in range(flags.steps):
                for method, side in sides.items():
                    timing = side.time(step)
                    print(f"step {step + 1}: {method} took {timing.seconds:.2f} s", file=sys.stderr)
                    if repetition >= 0:
                        timings.setdefault((method, step), []).append(timing)
    return timings


def tokens_written(metrics: dict[str, float]) -> float:
    """Rollouts' and reflections' tokens."""
    return sum(value for name, value in metrics.items() if name.startswith("tokens/generated_"))


def cells(timings: dict[tuple[str, int], list[Timing]]) -> list[tuple[str, ...]]:
    """Table rows under HEADER."""
    found = []
    for (method, step), values in sorted(timings.items()):
        seconds = [timing.seconds for timing in values]
        phases = (f"{statistics.median(timing.phases[phase] for timing in values):.2f}" for phase in PHASES)
        metrics = values[0].metrics
        found.append((
            method, str(step + 1), f"{statistics.median(seconds):.2f}", f"{min(seconds):.2f}", f"{max(seconds):.2f}",
            str(len(seconds)), *phases, f"{metrics['train/trajectories_used']:.0f}", f"{tokens_written(metrics):.0f}",
        ))  # fmt: skip
    return found


def price(timings: dict[tuple[str, int], list[Timing]]) -> float:
    """Sum of the steps' median times with espl, over the same with rl."""
    sums = dict.fromkeys(METHODS, 0.0)
    for (method, _), values in timings.items():
        sums[method] += statistics.median(timing.seconds for timing in values)
    return sums["espl"] / sums["rl"]


def measured(flags: argparse.Namespace) -> None:
    """Runs both, prints the table and writes the JSON file."""
    enable_compilation_cache("~/.cache/espl_jax/xla")
    timings = compare(flags)
    print("\n" + report.table(HEADER, cells(timings)))
    print(f"\nan iteration with espl takes {price(timings):.2f} times as long as one with rl")
    rows = [
        {"method": method, "step": step + 1, "timings": [dataclasses.asdict(timing) for timing in values]}
        for (method, step), values in sorted(timings.items())
    ]
    facts = {"benchmark": "iteration", "experiment": flags.experiment, "price": price(timings), "iterations": rows}
    path = flags.output or Path("runs") / "benchmarks" / "iteration.json"
    report.write_json(path, report.as_json([], facts))
    print(f"written to {path}")


def counted(flags: argparse.Namespace) -> None:
    """Prints what an iteration consists of under the flags' assumptions."""
    config = importlib.import_module(f"experiments.{flags.experiment}").get_config()
    full = config.evolution.max_new_tokens / flags.tokens_per_word
    assumptions = count.Assumptions(
        trajectory_tokens=flags.trajectory_tokens,
        mixed=1.0 if flags.worst else flags.mixed,
        problem_words=flags.problem_words,
        answer_words=2,
        principles=config.evolution.max_principles if flags.worst else flags.principles,
        summary_words=full if flags.worst else flags.summary_words,
        critique_words=full if flags.worst else flags.critique_words,
        consolidation_words=full if flags.worst else flags.critique_words,
        crossover_words=full if flags.worst else flags.critique_words,
        tokens_per_word=flags.tokens_per_word,
    )
    rl, espl = count.count(SHAPES[flags.shape], config, assumptions)
    print(report.table(count.HEADER, count.cells(rl, espl)))
    print(f"\n{assumptions}\nan iteration with espl needs {count.total(espl) / count.total(rl):.3f} times the operations of rl")


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default=None, help="of experiments/; default: quickstart, or beyondaime to count")
    parser.add_argument("--steps", type=int, default=3, help="iterations with different problems")
    parser.add_argument("--repetitions", type=int, default=3, help="of each of them")
    parser.add_argument("--output", type=Path, default=None, help="default: runs/benchmarks/iteration.json")
    parser.add_argument("--count", action="store_true", help="count tokens and operations instead of running")
    parser.add_argument("--shape", default="qwen3-8b", choices=sorted(SHAPES))
    parser.add_argument("--trajectory_tokens", type=float, default=8000, help="mean length of a trajectory")
    parser.add_argument("--mixed", type=float, default=0.5, help="share of the best prompt's problems with 0 < V < 1")
    parser.add_argument("--principles", type=int, default=10, help="of a prompt")
    parser.add_argument("--problem_words", type=int, default=60)
    parser.add_argument("--summary_words", type=float, default=250)
    parser.add_argument("--critique_words", type=float, default=150, help="of a critique, the consolidation, a crossover")
    parser.add_argument("--tokens_per_word", type=float, default=1.6, help="mathematics; plain English has about 1.3")
    parser.add_argument("--worst", action="store_true", help="every problem mixed, every reply and list as long as allowed")
    flags = parser.parse_args(argv)
    flags.experiment = flags.experiment or ("beyondaime" if flags.count else "quickstart")
    (counted if flags.count else measured)(flags)


if __name__ == "__main__":
    main(sys.argv[1:])
