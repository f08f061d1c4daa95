"""Scenes: a step of a run in a world of its own, with prompts that know some of it, and graded attempts at its sheets."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ml_collections import ConfigDict

from espl_jax.demonstrator.answers import guesses, misspelt, with_slips, worked_out
from espl_jax.demonstrator.finding import Example
from espl_jax.structs import Completion, Genome, Population, Problem, Prompt, Rating, Rollouts
from espl_jax.tasks.smallworld.reading import told
from espl_jax.tasks.smallworld.rules import RULES, STYLES, Rule
from espl_jax.tasks.smallworld.task import grade
from espl_jax.tasks.smallworld.world import World, draw_world, sheets

PROMPTS = 2  # of a scene, whatever a run has: supervised training has one (its method is rl), and nobody would ever cross
SLIPS = 0.12  # of the results in the attempts
MISSPELT = 0.1  # of the attempts
KNOWN, WRONG, TWICE = 0.45, 0.2, 0.1  # of a world's words: stated rightly; wrongly; in a second line too


@dataclass(frozen=True)
class Scene:
    """What the operators need, and the world that the ideal editor is examined by."""

    world: World
    population: Population
    problems: tuple[Problem, ...]
    rollouts: Rollouts


def make_scene(config: ConfigDict, seed: str) -> Scene:
    """A scene at the difficulty of config.task.world, with config.task's numbers of problems and samples."""
    rng = random.Random(f"demonstrator/{seed}")
    shape = config.task.world
    operations = rng.randint(max(2, shape.depth), shape.operations)
    world = draw_world(f"demonstration {seed}", "demonstration", operations, f"demonstrator/{seed}")
    depths = range(shape.min_depth, shape.depth + 1)
    stream = sheets(world, depths, rng.randint(1, shape.examples + 1), shape.largest, lambda expression: True, rng)
    problems = tuple(problem for problem, _ in zip(stream, range(config.task.num_problems)))
    known = rng.choice((0.0, KNOWN, KNOWN, 0.8))
    genomes = [partial_rulebook(world, known, rng) for _ in range(PROMPTS)]
    prompts = tuple(
        Prompt(number, genome, Rating(25.0, 8.0), (), "root", 0) for number, genome in enumerate(dict.fromkeys(genomes))
    )
    return Scene(world, Population(prompts), problems, attempt_all(world, prompts, problems, config.task.num_samples, rng))


def partial_rulebook(world: World, known: float, rng: random.Random) -> Genome:
    """Some words' meanings, some of them wrong, some said twice, in several styles and any order."""
    lines = []
    for word, rule in world.meanings.items():
        if rng.random() < known:
            stated = rng.choice(RULES) if rng.random() < WRONG else rule
            lines.append(statement(word, stated, rng.randint(1, 4), rng.randrange(STYLES)))
            if rng.random() < TWICE:
                lines.append(statement(word, rule, rng.randint(1, 4), rng.randrange(STYLES)))
    rng.shuffle(lines)
    return Genome("principles", tuple(lines))


def statement(word: str, rule: Rule, support: int, style: int = 0) -> str:
    """A principle, with the number of examples that it is known to fit."""
    return f"{word}: {rule.wording(style)} (fits {support})."


def attempt_all(
    world: World, prompts: Sequence[Prompt], problems: Sequence[Problem], samples: int, rng: random.Random
) -> Rollouts:
    """Attempts under each prompt, by a solver who follows it, guesses what it does not say and slips now and then."""
    texts = [
        tried(prompt.genome, problem, world, rng)
        for prompt in prompts
        for problem in problems
        for _ in range(samples)
    ]
    asked = [problem for _ in prompts for problem in problems for _ in range(samples)]
    grades = tuple(grade(problem, text) for problem, text in zip(asked, texts, strict=True))
    nothing = np.zeros(0, np.int32)
    drawn = Completion(None, nothing, *(nothing.astype(np.float32) for _ in range(3)), "stop")
    rewards = np.asarray([one.score for one in grades], np.float32)
    return Rollouts(
        prompt_ids=tuple(prompt.id for prompt in prompts),
        problems=tuple(problems),
        context_tokens=tuple(tuple(nothing for _ in problems) for _ in prompts),
        completions=(drawn,) * len(texts),
        texts=tuple(texts),
        grades=grades,
        rewards_PQG=rewards.reshape(len(prompts), len(problems), samples),
    )


def tried(genome: Genome, problem: Problem, world: World, rng: random.Random) -> str:
    """An attempt with the faults that attempts have."""
    text = with_slips(attempt(genome, problem, world, rng), SLIPS, rng)
    return misspelt(text, world.words, rng) if rng.random() < MISSPELT else text


def attempt(genome: Genome, problem: Problem, world: World, rng: random.Random) -> str:
    """The ideal reply under a prompt: the last meaning that it gives each word, and a guess where it gives none."""
    said = {word: rules[-1] for word, rules in told(genome, world.words).items()}
    expressions = problem.data["items"]
    words = list(dict.fromkeys(step.word for step in expressions[0].steps))
    said = {word: said[word] for word in words if word in said}
    return worked_out(expressions, said, guesses(words, said, rng))


def examples_of(problem: Problem, said: dict[str, Rule]) -> tuple[str, tuple[Example, ...]] | None:
    """The word whose meaning a graded sheet tells, and its applications; None where it can't be told.

    Of one operation it is that one. Of several it is the outermost, if what is said of all others gives the inner results.
    """
    expressions = problem.data["items"]
    *inner, last = expressions[0].steps
    if any(step.word not in said or step.word == last.word for step in inner):
        return None
    found = []
    for expression, result in zip(expressions, problem.data["answers"], strict=True):
        *before, last = expression.steps
        value = expression.first
        for step in before:
            value = said[step.word].value(*((step.number, value) if step.before else (value, step.number)))
        found.append(Example(*((last.number, value) if last.before else (value, last.number)), result))
    return last.word, tuple(found)
