"""Demonstrations without end: scene after scene, what a solver and an editor say there, as conversations to learn from.

By tokens a good third are critiques, a sixth each drills of their search, looking words up and crossovers, a twelfth answers;
sft.crossings says how many crossovers there are.
"""

import itertools
import random
from collections.abc import Iterator

import numpy as np
from ml_collections import ConfigDict

from espl_jax.demonstrator.answers import guesses, worked_out
from espl_jax.demonstrator.drills import drills, lookups
from espl_jax.demonstrator.ideal import ideal_editor
from espl_jax.demonstrator.scenes import Scene, make_scene
from espl_jax.evolution.crossover import crossover
from espl_jax.evolution.guards import Library
from espl_jax.evolution.mutation import mutate
from espl_jax.evolution.reflection import best_prompt
from espl_jax.evolution.render import layout_messages
from espl_jax.structs import Call, Message, Reflection
from espl_jax.tasks.smallworld.reading import told
from espl_jax.tasks.smallworld.task import DESCRIBE

ANSWERS, DRILLS, LOOKUPS = 2, 4, 3  # of a scene
SUMMARISED = 12  # in one scene of so many all attempts are summarised, however short they are


def conversations(config: ConfigDict, seed: int) -> Iterator[tuple[Message, ...]]:
    """A conversation after the other; each ends with the reply that is to be learned. The same for the same seed."""
    for number in itertools.count():
        scene = make_scene(config, f"{seed}/{number}")
        yield from answers(scene, config, random.Random(f"demonstrator/answers/{seed}/{number}"))
        rng = random.Random(f"demonstrator/drills/{seed}/{number}")
        yield from drills(scene.world.words, config.task.world.largest, DRILLS, rng)
        yield from lookups(LOOKUPS, rng)
        for call in calls(scene, config, number):
            yield (*call.chat.messages, Message("assistant", call.reply.text))
        for crossed in range(config.sft.crossings):  # in half of them two prompts won, and are crossed
            for call in crossing(make_scene(config, f"{seed}/{number}/crossing/{crossed}"), config).calls:
                yield (*call.chat.messages, Message("assistant", call.reply.text))


def answers(scene: Scene, config: ConfigDict, rng: random.Random) -> Iterator[tuple[Message, ...]]:
    """Sheets worked out without a slip, under prompts that know some of the words: what is not known is guessed."""
    for _ in range(ANSWERS):
        prompt, problem = rng.choice(scene.population.prompts), rng.choice(scene.problems)
        said = {word: rules[-1] for word, rules in told(prompt.genome, scene.world.words).items()}
        expressions = problem.data["items"]
        words = list(dict.fromkeys(step.word for step in expressions[0].steps))
        asked = layout_messages(problem.question + config.task.question_suffix, prompt.genome, config.evolution.layout)
        yield (*asked, Message("assistant", worked_out(expressions, said, guesses(words, said, rng))))


def calls(scene: Scene, config: ConfigDict, number: int) -> Iterator[Call]:
    """The calls of the scene's mutation and of its crossover. number: of the scene."""
    yield from mutation(scene, config, number).calls
    yield from crossing(scene, config).calls


def mutation(scene: Scene, config: ConfigDict, number: int) -> Reflection:
    """What mutation of the scene's best prompt comes to with the ideal editor."""
    evolution = ConfigDict(config.evolution.to_dict())
    if number % SUMMARISED == 0:
        evolution.summarize_above = 0
    editor = ideal_editor(scene, evolution.tie_margin, evolution.max_edits)
    rng, library = np.random.default_rng((config.seed, number)), Library(scene.problems)
    best = best_prompt(scene.rollouts)
    return mutate(scene.population, scene.rollouts, best, 0, DESCRIBE, editor, evolution, rng, library)


def crossing(scene: Scene, config: ConfigDict) -> Reflection:
    """What crossover of the scene's prompts comes to with the ideal editor; without calls where no two prompts won."""
    evolution, library = config.evolution, Library(scene.problems)
    editor = ideal_editor(scene, evolution.tie_margin, evolution.max_edits)
    return crossover(scene.population, scene.rollouts, 0, DESCRIBE, editor, evolution, library)
