"""How far evolution gets in the small world when solver and editor are ideal: the method without a model, in a second a world.

  python -m benchmarks.evolution [--worlds=100] [--steps=40] [--variant=NAME=espl,field=value,... ...] [--out=FILE]

The worlds, problems and their order are those of experiments/smallworld.py with seeds 0, 1, 2, ...; attempts follow what a
prompt says, guess what it does not say and slip now and then, and the operators are answered by an editor that makes no mistake
(espl_jax/demonstrator). So this shows what a shape of steps or an idea for evolution can come to, whatever the model, and no
more: only prompts learn here. The first line is the experiment, the others its variants (docs/compare.md), with the difference
to the first over the same worlds. Brackets are 95% bootstraps over worlds.
"""

import argparse
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from espl_jax import config as configs
from espl_jax.comparison.pages import shown
from espl_jax.comparison.plan import parse_variants
from espl_jax.comparison.statistics import two_level
from espl_jax.demonstrator.ideal import ideal_editor
from espl_jax.demonstrator.scenes import Scene, attempt_all
from espl_jax.evaluate import choose_prompt
from espl_jax.evolution.crossover import crossover
from espl_jax.evolution.guards import Library
from espl_jax.evolution.mutation import mutate
from espl_jax.evolution.parents import PARENTS
from espl_jax.evolution.population import root_population
from espl_jax.evolution.rating import rate
from espl_jax.evolution.selection import select
from espl_jax.evolution.trials import add_trial
from espl_jax.records import json_files
from espl_jax.structs import Genome, Population, Reflection, Task
from espl_jax.tasks.smallworld.task import in_world
from espl_jax.tasks.smallworld.world import World, draw_world
from espl_jax.tasks.splits import batch_at
from espl_jax.train import adopt
from experiments import smallworld

MARKS = 0.25, 0.5, 1.0  # of the steps, at which the share of known rules is shown
HEADER = ("variant", "trajectories a step", "crossovers asked", "born")


@dataclass(frozen=True)
class Course:
    """A run without a model. known: by step, the share of the rules that the evaluated prompt states rightly; asked, born: how
    often crossover asked its editor, and its children."""

    known: tuple[float, ...]
    asked: int
    born: int


def course(config: ConfigDict, seed: int, steps: int) -> Course:
    """So many steps of the run with this seed. config: resolved."""
    world = draw_world("the world", "run", config.task.world.operations, str(seed))
    task = in_world(world, config.task, seed)
    population, known, crossings = root_population(Genome("principles"), config.evolution), [], []
    for step in range(1, steps + 1):
        population, reflections = iterate(config, seed, step, world, task, population)
        crossings += [reflection for reflection in reflections if reflection.operator == "crossover"]
        known.append(task.measure(choose_prompt(population, config.evaluation.prompt).genome)["evolution/rules_known"])
    asked, born = sum(bool(one.calls) for one in crossings), sum(one.child is not None for one in crossings)
    return Course(tuple(known), asked, born)


def iterate(
    config: ConfigDict, seed: int, step: int, world: World, task: Task, population: Population
) -> tuple[Population, list[Reflection]]:
    """train.iterate without weights: selection, attempts, ratings, mutation and crossover, each by the code of a run."""
    evolution = config.evolution
    select_rng, reflect_rng = np.random.default_rng((seed, step, 0)), np.random.default_rng((seed, step, 2))
    prompts = select(population, evolution, select_rng, step)
    problems = batch_at(task.train, step - 1, config.task.num_problems, seed)
    attempts = random.Random(f"evolution/{seed}/{step}")
    rollouts = attempt_all(world, prompts, problems, config.task.num_samples, attempts)
    population = rate(population, rollouts.prompt_ids, rollouts.values_P.tolist(), step, evolution)
    population = add_trial(population, rollouts, step, evolution.max_age)
    editor = ideal_editor(Scene(world, population, problems, rollouts), evolution.tie_margin, evolution.max_edits)
    library, reflections = Library(task.ever_trained, task.protected), []
    mutating, crossing = reflect_rng.random(2) < (evolution.mutation_probability, evolution.crossover_probability)
    if mutating:
        parent = PARENTS[evolution.parent](population, rollouts, reflect_rng, evolution)
        child = mutate(population, rollouts, parent, step, task.describe, editor, evolution, reflect_rng, library)
        population, child = adopt(population, child, evolution.max_population)
        reflections.append(child)
    if crossing:
        child = crossover(population, rollouts, step, task.describe, editor, evolution, library)
        population, child = adopt(population, child, evolution.max_population)
        reflections.append(child)
    return population, reflections


def row(name: str, config: ConfigDict, courses: Sequence[Course], first: Sequence[Course]) -> list[str]:
    """One line of the table. first: the courses that they are compared with, of the same worlds."""
    trajectories = config.evolution.num_prompts * config.task.num_problems * config.task.num_samples
    counts = [f"{np.mean([getattr(one, field) for one in courses]):.2f}" for field in ("asked", "born")]
    cells = [name, f"{trajectories}", *counts]
    for step in marks(len(courses[0].known)):
        cells.append(shown(two_level([[one.known[step - 1]] for one in courses], 0)))
    if courses is not first:
        gains = [[one.known[-1] - other.known[-1]] for one, other in zip(courses, first, strict=True)]
        return [*cells, shown(two_level(gains, 0))]
    return [*cells, "-"]


def marks(steps: int) -> list[int]:
    """The steps at which the share of known rules is shown."""
    return sorted({max(1, round(steps * mark)) for mark in MARKS})


def settings(variants: Sequence[str]) -> dict[str, ConfigDict]:
    """The experiment and its variants, by name, resolved. Raises ConfigError."""
    base = smallworld.get_config()
    found = {"smallworld": base}
    for name, variant in parse_variants(variants, base).items():
        config = base.copy_and_resolve_references()
        config.update_from_flattened_dict(dict(variant.fields) | {"method": variant.method})
        found[name] = config
    return {name: configs.resolve(config) for name, config in found.items()}


def main() -> None:
    """Prints a line for the experiment and one for each variant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=100)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--variant", action="append", default=[], help="NAME=METHOD,field=value,...; may be repeated")
    parser.add_argument("--out", type=Path, help="a JSONL file with every course")
    flags = parser.parse_args()
    try:
        chosen = settings(flags.variant)
    except ValueError as error:
        sys.exit(f"error: {error}")
    known = [f"known at {step}" for step in marks(flags.steps)]
    sys.stdout.write(" | ".join([*HEADER, *known, "difference at the end"]) + "\n")
    rows, first = [], None
    for name, config in chosen.items():
        courses = [course(config, seed, flags.steps) for seed in range(flags.worlds)]
        first = first or courses
        sys.stdout.write(" | ".join(row(name, config, courses, first)) + "\n")
        sys.stdout.flush()
        rows += [{"variant": name, "seed": seed, **vars(one)} for seed, one in enumerate(courses)]
    if flags.out:
        flags.out.write_text(json_files.lines(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
