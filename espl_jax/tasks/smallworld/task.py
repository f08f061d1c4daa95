"""The small world as a Task: sheets of invented operations, and the sets that tell prompt and weights apart.

validation and test ask about the world that is trained on. Two more sets are held out: transfer asks about another world, swap
about the same words with other meanings. Each can be asked under the world's true rulebook too: transfer under its rulebook is
skill without memory, swap under its rulebook asks whether the model obeys its prompt or its weights.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from ml_collections import ConfigDict

from espl_jax.structs import Genome, Grade, Problem, Task
from espl_jax.tasks.extraction import answer_line
from espl_jax.tasks.grading import Inline
from espl_jax.tasks.smallworld.reading import rules_known
from espl_jax.tasks.smallworld.world import (
    MAX_DEPTH,
    MAX_OPERATIONS,
    World,
    draw_world,
    sheets,
    split_of,
    swapped,
)

DESCRIBE = (
    "Invented operations on whole numbers, such as 7 kafux 4. What a word means is said nowhere but in the principles, one for "
    'each word. A reply ends with a line "Answer:" and the results in their order; its score is the share of right results.'
)
WHOLE_NUMBER = re.compile(r"[0-9]{1,9}")
# field of config.task.world -> lowest and highest value allowed
LIMITS = {
    "operations": (2, MAX_OPERATIONS), "depth": (1, MAX_DEPTH), "min_depth": (1, MAX_DEPTH), "examples": (1, 8),
    "largest": (3, 99), "drift_step": (0, None),
}  # fmt: skip


def build(config: ConfigDict, seed: int, tools: ConfigDict) -> Task:
    """The task of the world that `seed` draws. task.num_train says how many problems; num_test is for test, transfer and swap.

    With world.drift and world.drift_step, Task.later has the same task after that share of its words has changed its meaning.
    Raises ValueError for a field that cannot be followed, and if there are too few different questions.
    """
    check(config)
    world = draw_world("the world", "run", config.world.operations, str(seed))
    task = in_world(world, config, seed)
    if not config.world.drift_step:
        return task
    changed = in_world(swapped(world, f"{seed}/drift", config.world.drift), config, seed)
    return replace(task, later={config.world.drift_step: changed})


def in_world(world: World, config: ConfigDict, seed: int) -> Task:
    """The task about one world, with transfer and swap beside it."""
    other = draw_world("another world", "run", config.world.operations, f"{seed}/transfer")
    swap = swapped(world, f"{seed}/swap")
    sizes = {"train": config.num_train, "validation": config.num_validation, "test": config.num_test}
    problems = {split: draw(world, config, sizes[split], split, seed) for split in sizes}
    further = {
        name: draw(held_out, config, config.num_test, "test", seed)
        for name, held_out in (("transfer", other), ("swap", swap))
        if config.num_test
    }
    return Task(
        name="smallworld",
        **problems,
        question=lambda problem: problem.question + config.question_suffix,
        grader=Inline(grade),
        describe=DESCRIBE,
        further=further,
        rulebooks={"validation": rulebook(world), "test": rulebook(world)}
        | {name: rulebook(held_out) for name, held_out in (("transfer", other), ("swap", swap)) if name in further},
        measure=partial(rules_known, meanings=world.meanings),
    )


def check(config: ConfigDict):
    """Raises ValueError for fields that this task cannot follow."""
    for name, (low, high) in LIMITS.items():
        value = config.world[name]
        if value < low or (high is not None and value > high):
            raise ValueError(f"task.world.{name} is {value}; use {low} {'or more' if high is None else f'to {high}'}")
    if config.world.min_depth > config.world.depth:
        raise ValueError(
            f"task.world.min_depth is {config.world.min_depth}, more than task.world.depth={config.world.depth}; lower it"
        )
    if config.world.depth > config.world.operations:
        raise ValueError(
            f"task.world.depth is {config.world.depth}, more than task.world.operations={config.world.operations}; no word "
            "comes twice in an expression: lower the first or raise the second"
        )
    if not 0 <= config.world.drift <= 1:
        raise ValueError(f"task.world.drift is {config.world.drift}; use a share of the operations, 0 to 1")
    if bool(config.world.drift) != bool(config.world.drift_step):
        raise ValueError(
            f"task.world.drift is {config.world.drift} and task.world.drift_step {config.world.drift_step}; set both (the "
            "share of operations that change their meaning, and from which step on), or leave both 0"
        )
    if config.num_train == 0:
        raise ValueError("task.num_train is 0 but smallworld makes its problems; say how many it should be")
    for name in ("validation", "test"):
        if config[name]:
            raise ValueError(
                f"task.{name} is {config[name]!r} but smallworld makes its problems; leave it empty and set task.num_{name}"
            )


def draw(world: World, config: ConfigDict, number: int, split: str, seed: int) -> tuple[Problem, ...]:
    """`number` problems of a split of a world. Raises ValueError if there are not so many."""
    rng = random.Random(f"smallworld/problems/{seed}/{split}/{world.name}")
    depths = range(config.world.min_depth, config.world.depth + 1)
    stream = sheets(
        world, depths, config.world.examples, config.world.largest, lambda expression: split_of(expression, seed) == split, rng
    )
    found = tuple(problem for problem, _ in zip(stream, range(number)))
    if len(found) < number:
        raise ValueError(
            f"task.num_{split} is {number} but {world.name} has only {len(found)} different questions for it; lower it, or "
            "raise task.world.operations, task.world.depth or task.world.largest"
        )
    return found


def rulebook(world: World) -> Genome:
    """The true meanings, one principle a word."""
    return Genome("principles", tuple(f"{word}: {rule.wording()}." for word, rule in world.meanings.items()))


def grade(problem: Problem, reply: str) -> Grade:
    """The share of the results, in their order, that the reply's last "Answer:" line gives."""
    said = answer_line(reply)
    if not said:
        return Grade(0.0, note="no answer line")
    given, wanted = read_results(said), problem.data["answers"]
    right = sum(number == answer for number, answer in zip(given, wanted))
    note = "" if len(given) == len(wanted) else f"{len(given)} results, not {len(wanted)}"
    return Grade(0.0 if len(given) > len(wanted) else right / len(wanted), said[:80], note)


def read_results(text: str) -> Sequence[int | None]:
    """The whole numbers of an answer line, separated by commas or "and"; None for a piece that is none."""
    pieces = [piece.strip().rstrip(".") for piece in text.replace(" and ", ",").split(",")]
    return [int(piece) if WHOLE_NUMBER.fullmatch(piece) else None for piece in pieces]
