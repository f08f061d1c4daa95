"""How well a model crosses prompts in the small world: does the best list take over the meanings that others won with?

  python -m benchmarks.crossover [--adapter=DIR] [--worlds=200] [--out=FILE]

The reference policy of experiments/smallworld.py, its adapter merged, answers the crossovers of so many scenes
(espl_jax/demonstrator), of which no demonstration was made. A meaning is lacking when another list states it, that list won a
sheet with the word in it, and the best list says nothing or something else of the word. Counted are replies that can be read,
the lacking meanings that surviving edits bring in, and what else they state. A first line has the same for the ideal editor.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ml_collections import ConfigDict

from benchmarks import reflection
from espl_jax.demonstrator.chats import crossing
from espl_jax.demonstrator.scenes import Scene, make_scene
from espl_jax.evolution.apply import apply_principles
from espl_jax.evolution.crossover import ALLOWED
from espl_jax.evolution.guards import Library, Watched
from espl_jax.evolution.reflection import edit_call, is_applied
from espl_jax.structs import Call, Reply
from espl_jax.tasks.smallworld.reading import statements

PROBLEMS = 6  # of a scene: with three of them half as many scenes have two prompts that won one
HEADER = ("editor", "crossovers", "readable", "lacking", "brought in", "stated besides")
Meaning = tuple[str, str]  # a word, and its rule's name


def settings() -> ConfigDict:
    """The experiment's, with sheets enough for two prompts to win one."""
    config = reflection.settings()
    config.task.num_problems = PROBLEMS
    return config


@dataclass(frozen=True)
class Case:
    """A crossover of a scene, with the ideal editor's call. parents: the best prompt's id, then the others'."""

    scene: Scene
    parents: tuple[int, ...]
    call: Call


@dataclass(frozen=True)
class Verdict:
    """What a reply's surviving edits state: lacking meanings, found or not, and what else."""

    readable: bool
    lacking: int
    found: int
    besides: int


def cases(config: ConfigDict, worlds: int) -> list[Case]:
    """The crossovers of so many scenes in which the editor is asked."""
    found = []
    for number in range(worlds):
        scene = make_scene(config, f"benchmark/{number}")
        crossed = crossing(scene, config)
        found += [Case(scene, crossed.parents, call) for call in crossed.calls]
    return found


def stated_by(case: Case, reply: Reply, config: ConfigDict) -> tuple[bool, set[Meaning]]:
    """Whether a reply can be read, and the meanings that its edits state, as far as they survive the guards."""
    call = edit_call("crossover", case.call.chat, reply, ALLOWED["principles"], config.evolution)
    genome = case.scene.population[case.parents[0]].genome
    watched = Watched(case.scene.problems, Library(case.scene.problems))
    _, judged = apply_principles(genome, call.operations, config.evolution, watched)
    said = [one for edit in judged if is_applied(edit) for one in statements(edit.text, case.scene.world.words)]
    return call.error == "", {(one.word, one.rule.name) for one in said if one.rule is not None}


def judge(case: Case, reply: Reply, config: ConfigDict) -> Verdict:
    """A reply held against the ideal editor's."""
    _, lacking = stated_by(case, case.call.reply, config)
    readable, stated = stated_by(case, reply, config)
    return Verdict(readable, len(lacking), len(lacking & stated), len(stated - lacking))


def row(name: str, verdicts: Sequence[Verdict]) -> tuple[str, ...]:
    """One line of the table."""
    readable, lacking, found, besides = (
        sum(getattr(one, field) for one in verdicts) for field in ("readable", "lacking", "found", "besides")
    )
    return name, str(len(verdicts)), f"{readable / len(verdicts):.1%}", str(lacking), str(found), str(besides)


if __name__ == "__main__":
    reflection.examine(__doc__, HEADER, settings(), cases, judge, row)
