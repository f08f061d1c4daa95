"""What evolution.grammar makes of a weak editor: how many replies can be read, and how many edits survive the guards.

  python -m benchmarks.grammar [--reflections=200] [--grammars=none,json] [--out=DIR]

The model of experiments/quickstart.py attempts its problems under a list of two principles, and reflects on those it got right
and wrong, as in a mutation: the same critiques, asked for once in free text and once held to the grammar. Each reply is then
judged by itself, against the same list and the same training set. DIR gets every reply with the fates of its edits.
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from espl_jax import tasks
from espl_jax.editors import EDITORS
from espl_jax.evolution.apply import apply_principles
from espl_jax.evolution.fates import kind
from espl_jax.evolution.guards import Library, Watched
from espl_jax.evolution.mutation import ALLOWED, mutate
from espl_jax.evolution.population import root_population
from espl_jax.evolution.reflection import drop_beyond, edit_call
from espl_jax.policy.state import make_policy, open_model
from espl_jax.records import json_files
from espl_jax.records.logbook import enable_compilation_cache
from espl_jax.rollout import plan_groups, sample
from espl_jax.structs import Call, Genome, Operation, Rollouts
from experiments import quickstart

PARENT = Genome("principles", ("Read the question twice.", "Write the final number at the end of the reply."))
HEADER = ("grammar", "critiques", "can be read", "propose an edit", "edits", "edits that survive", "tokens a reply", "seconds")


def settings(reflections: int, grammar: str) -> ConfigDict:
    """quickstart's config, with edits asked for as JSON and enough problems that get both right and wrong answers."""
    config = quickstart.get_config()
    config.evolution.edit_form, config.evolution.grammar = "json", grammar
    config.evolution.max_new_tokens, config.evolution.max_problems = 256, reflections
    config.task.num_problems, config.task.num_train = 5 * reflections, 5 * reflections
    config.task.num_samples, config.task.num_validation, config.task.num_test = 6, 0, 0
    config.task.gym_parameters = config.task.gym_parameters.replace('"max_digits": 1', '"max_digits": 2')
    return config.lock()


class Bench:
    """The model, the task and one set of attempts, which every grammar's critiques are about."""

    def __init__(self, reflections: int):
        config = settings(reflections, "none")
        enable_compilation_cache(config.records.compilation_cache)
        self.task = tasks.build(config.task, config.seed, config.tools)
        directory, spec, tokenizer = open_model(config)
        self.policy, self.state = make_policy(config, directory, spec, tokenizer)
        self.population = root_population(PARENT, config.evolution)
        self.library = Library(self.task.train)
        self.rollouts = self.attempts(config)

    def attempts(self, config: ConfigDict) -> Rollouts:
        plan = plan_groups(
            self.policy.tokenizer, self.population.prompts, self.task.train, config.task.num_samples, config.sampling,
            "rollout", 1, self.task, config.evolution.layout, config.tools,
        )
        [rollouts] = sample(self.policy, self.policy.variables(self.state.trainable), [plan], self.task.grader)
        return rollouts

    def critiques(self, config: ConfigDict) -> tuple[list[Call], float]:
        """One call a problem, and the seconds that all of the mutation took."""
        editor = EDITORS["reference"](self.policy, self.state, config, 1, Path())
        start, rng = time.perf_counter(), np.random.default_rng(config.seed)
        reflection = mutate(
            self.population, self.rollouts, 0, 1, self.task.describe, editor, config.evolution, rng, self.library
        )
        seconds = time.perf_counter() - start
        return [call for call in reflection.calls if call.stage == "critique"], seconds

    def judged(self, call: Call, config: ConfigDict) -> list[dict[str, str]]:
        """The edits of one reply as the guards see them when there are no others."""
        shown = [problem for problem in self.rollouts.problems if problem.id == call.problem_id]
        _, judged = apply_principles(PARENT, proposed(call, config), config.evolution, Watched(shown, self.library))
        return [{"op": op.op, "text": op.text, "fate": op.fate} for op in judged]


def proposed(call: Call, config: ConfigDict) -> tuple[Operation, ...]:
    """The reply's operations as they were proposed: those of `call` carry what the consolidation made of them."""
    fresh = edit_call("critique", call.chat, call.reply, ALLOWED["principles"], config.evolution, call.problem_id)
    return drop_beyond(fresh.operations, config.evolution.max_edits)


def row(grammar: str, calls: Sequence[Call], edits: Sequence[list[dict[str, str]]], seconds: float) -> tuple[str, ...]:
    """One line of the table."""
    flat = [edit for reply in edits for edit in reply]
    survive = sum(edit["fate"] == "applied" for edit in flat)
    tokens = np.mean([call.reply.generated_tokens for call in calls])
    readable = sum(call.error == "" for call in calls)
    return (
        grammar, str(len(calls)), str(readable), str(sum(bool(reply) for reply in edits)), str(len(flat)),
        f"{survive} ({survive / max(1, len(flat)):.0%})", f"{tokens:.0f}", f"{seconds:.0f}",
    )  # fmt: skip


def main() -> None:
    """Prints the table, and why edits were dropped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reflections", type=int, default=200)
    parser.add_argument("--grammars", default="none,json")
    parser.add_argument("--out", type=Path)
    flags = parser.parse_args()
    bench = Bench(flags.reflections)
    sys.stdout.write(f"{jax.devices()[0].device_kind}\n" + " | ".join(HEADER) + "\n")
    for grammar in flags.grammars.split(","):
        config = settings(flags.reflections, grammar)
        calls, seconds = bench.critiques(config)
        edits = [bench.judged(call, config) for call in calls]
        sys.stdout.write(" | ".join(row(grammar, calls, edits, seconds)) + "\n")
        fates = Counter(kind(edit["fate"]) for reply in edits for edit in reply if edit["fate"] != "applied")
        errors = Counter(call.error.split(" (")[0] for call in calls if call.error)
        sys.stdout.write(f"  dropped: {json.dumps(fates)}; not read: {json.dumps(errors)}\n")
        sys.stdout.flush()
        if flags.out:
            flags.out.mkdir(parents=True, exist_ok=True)
            rows = [{"reply": call.reply.text, "error": call.error, "edits": found} for call, found in zip(calls, edits)]
            (flags.out / f"{grammar}.jsonl").write_text(json_files.lines(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
