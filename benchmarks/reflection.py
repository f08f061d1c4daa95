"""How well a model reflects in the small world: critiques in fresh worlds, and whether what they state fits what they saw.

  python -m benchmarks.reflection [--adapter=DIR] [--worlds=200] [--out=FILE]

The reference policy of experiments/smallworld.py, its adapter merged, answers the critiques of so many scenes
(espl_jax/demonstrator), of which no demonstration was made. Counted are replies that can be read, edits that survive the guards
by themselves, and, of the meanings that these state from a sheet of one operation, those that fit every example on it, by the
number of examples. A first line has the same for the ideal editor: what cannot be known from a sheet bounds everybody.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ml_collections import ConfigDict

from espl_jax import config as configs
from espl_jax.demonstrator.chats import mutation
from espl_jax.demonstrator.finding import fits
from espl_jax.demonstrator.scenes import Scene, examples_of, make_scene
from espl_jax.editors import EDITORS
from espl_jax.evolution.apply import apply_principles
from espl_jax.evolution.guards import Library, Watched
from espl_jax.evolution.mutation import ALLOWED
from espl_jax.evolution.reflection import drop_beyond, edit_call, is_applied
from espl_jax.policy.state import make_policy, open_model
from espl_jax.records import json_files
from espl_jax.records.logbook import enable_compilation_cache
from espl_jax.structs import Call, Problem, Reply
from espl_jax.tasks.smallworld.reading import statements
from experiments import smallworld

HEADER = ("editor", "critiques", "readable", "edits", "survive", "meanings stated (examples: fit / stated)")


def settings() -> ConfigDict:
    """The experiment's, with so many sheets and samples in a scene that it gives one or two critiques."""
    config = smallworld.get_config()
    config.task.num_problems, config.task.num_samples = 3, 4
    return config


@dataclass(frozen=True)
class Case:
    """A critique of a scene. parent: the id of the prompt that is revised."""

    scene: Scene
    parent: int
    problem: Problem
    call: Call


@dataclass(frozen=True)
class Verdict:
    """What became of a reply. stated: (number of examples, whether it fits them) of each meaning from a plain sheet."""

    readable: bool
    edits: int
    survive: int
    stated: tuple[tuple[int, bool], ...]


def cases(config: ConfigDict, worlds: int) -> list[Case]:
    """The critiques of so many scenes, with the ideal editor's replies."""
    found = []
    for number in range(worlds):
        scene = make_scene(config, f"benchmark/{number}")
        reflection = mutation(scene, config, number)
        problems = {problem.id: problem for problem in scene.problems}
        critiques = [call for call in reflection.calls if call.stage == "critique"]
        found += [Case(scene, reflection.parents[0], problems[call.problem_id], call) for call in critiques]
    return found


def judge(case: Case, reply: Reply, config: ConfigDict) -> Verdict:
    """A reply held against what its chat showed, as if it were the mutation's only critique."""
    evolution = config.evolution
    call = edit_call("critique", case.call.chat, reply, ALLOWED["principles"], evolution, case.problem.id)
    proposed = drop_beyond(call.operations, evolution.max_edits)
    watched = Watched([case.problem], Library(case.scene.problems))
    _, judged = apply_principles(case.scene.population[case.parent].genome, proposed, evolution, watched)
    applied = [operation for operation in judged if is_applied(operation)]
    stated = []
    if len(case.problem.data["items"][0].steps) == 1:
        word, examples = examples_of(case.problem, {})
        said = [one for operation in applied for one in statements(operation.text, (word,))]
        stated = [(len(examples), one.rule is not None and fits(one.rule, examples)) for one in said]
    return Verdict(call.error == "", len(judged), len(applied), tuple(stated))


def row(name: str, verdicts: Sequence[Verdict]) -> tuple[str, ...]:
    """One line of the table."""
    stated, fit = Counter(), Counter()
    for verdict in verdicts:
        for examples, fitting in verdict.stated:
            stated[examples] += 1
            fit[examples] += fitting
    counts = ", ".join(f"{examples}: {fit[examples]}/{stated[examples]}" for examples in sorted(stated))
    readable, edits, survive = (sum(getattr(one, field) for one in verdicts) for field in ("readable", "edits", "survive"))
    return name, str(len(verdicts)), f"{readable / len(verdicts):.1%}", str(edits), str(survive), counts or "none"


def replies_of(config: ConfigDict, found: Sequence[Case]) -> list[Reply]:
    """The reference policy's replies."""
    enable_compilation_cache(config.records.compilation_cache)
    policy, state = make_policy(config, *open_model(config))
    editor = EDITORS["reference"](policy, state, config, 0, Path())
    return editor([case.call.chat for case in found])


def examine(
    description: str, header: Sequence[str], config: ConfigDict, cases: Callable, judge: Callable, row: Callable
) -> None:
    """A benchmark of the editor by its flags: asks, prints the table, the ideal editor's line first, and writes --out.

    header, row: of the table. cases(config, worlds): what the editor is asked, each with the ideal editor's `call`.
    judge(case, reply, config): a dataclass.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", help="model.adapter, where it is not the experiment's; '' for the bare model")
    parser.add_argument("--worlds", type=int, default=200)
    parser.add_argument("--out", type=Path, help="a JSONL file with every question, reply and verdict")
    flags = parser.parse_args()
    if flags.adapter is not None:
        config.model.adapter = flags.adapter
    config = configs.resolve(config)
    found = cases(config, flags.worlds)
    sys.stdout.write(" | ".join(header) + "\n")
    rows = []
    for name, replies in (("ideal", [case.call.reply for case in found]), ("reference", replies_of(config, found))):
        verdicts = [judge(case, reply, config) for case, reply in zip(found, replies, strict=True)]
        sys.stdout.write(" | ".join(row(name, verdicts)) + "\n")
        rows += [
            {"editor": name, "asked": case.call.chat.messages[-1].content, "reply": reply.text, **vars(verdict)}
            for case, reply, verdict in zip(found, replies, verdicts)
        ]
    if flags.out:
        flags.out.write_text(json_files.lines(rows), encoding="utf-8")


if __name__ == "__main__":
    examine(__doc__, HEADER, settings(), cases, judge, row)
