"""Crossover: the best prompt of a step takes over what made others win problems it did not.

One editor call (Zhang, Chen, Stadie, arXiv 2602.14697v3). A prompt wins a problem when its mean reward there
is strictly the best, by the tie margin or more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from espl_jax.evolution.forms import edit_chat, shown
from espl_jax.evolution.grammar import held
from espl_jax.evolution.guards import Library, Watched
from espl_jax.evolution.mating import MATING
from espl_jax.evolution.rating import child_rating_crossover, ranks
from espl_jax.evolution.reflection import APPLY, ask, best_prompt, birth, edit_call
from espl_jax.evolution.render import fill, guidance
from espl_jax.evolution.words import elide
from espl_jax.structs import Chat, Editor, Population, Problem, Prompt, Reflection, Rollouts

ALLOWED = {"principles": ("add", "modify", "remove"), "document": ("replace",)}


def crossover(
    population: Population, rollouts: Rollouts, step: int, describe: str, editor: Editor, config, library: Library
) -> Reflection:
    """A child of the prompts that won problems, made from the best one, or the reason why there is none.

    population: after this step's rating. describe: the task in a sentence or two. config: config.evolution. library: the
    training set, of which no edit may quote a problem. The best prompt comes first among the parents. The editor is called
    once, and not at all unless the best prompt and at least one that it may cross with (config.mating) won a problem.
    """
    won = winners(rollouts, config.tie_margin)
    best = best_prompt(rollouts)
    others = [population[prompt_id] for prompt_id in rollouts.prompt_ids if prompt_id in won and prompt_id != best]
    mates = MATING[config.mating](population[best], others, population, config)
    parents = (best, *(prompt.id for prompt in mates))
    if best not in won:
        return Reflection("crossover", parents, (), reason="the best prompt won no problem by itself")
    if not mates:
        why = f"no winner is {config.mating} to the best prompt" if others else "no prompt but the best won a problem by itself"
        return Reflection("crossover", parents, (), reason=why)
    prompts = [population[prompt_id] for prompt_id in parents]
    kind = prompts[0].genome.kind
    count = len(prompts[0].genome.principles)
    [chat] = held([_chat(prompts, won, describe, config)], ALLOWED[kind], config, count, evidence=True)
    call = edit_call("crossover", chat, ask(editor, [chat])[0], ALLOWED[kind], config)
    genome, judged = APPLY[kind](prompts[0].genome, call.operations, config, Watched(rollouts.problems, library))
    rating = child_rating_crossover([prompt.rating for prompt in prompts], config.sigma_inflation)
    return birth("crossover", population, parents, genome, rating, step, [replace(call, operations=judged)])


def winners(rollouts: Rollouts, tie_margin: float) -> dict[int, list[Problem]]:
    """The problems that each prompt won, by prompt id; prompts that won nothing are absent, draws have no winner."""
    won: dict[int, list[Problem]] = {}
    if len(rollouts.prompt_ids) < 2:
        return won
    for q, problem in enumerate(rollouts.problems):
        placed = ranks([float(value) for value in rollouts.values_PQ[:, q]], tie_margin)
        if placed.count(0) == 1:
            won.setdefault(rollouts.prompt_ids[placed.index(0)], []).append(problem)
    return won


def _chat(prompts: Sequence[Prompt], won: Mapping[int, list[Problem]], describe: str, config) -> Chat:
    best, others = prompts[0], prompts[1:]
    parts = [
        fill("winner", guidance=shown(prompt.genome, config), problems=_listed(won[prompt.id], config)) for prompt in others
    ]
    values = {"task": describe, "won": _listed(won[best.id], config), "others": "\n\n".join(parts)}
    if best.genome.kind == "document":
        values |= {"document": shown(best.genome, config), "max_words": str(config.max_document_words)}
        values["max_growth"] = str(config.max_document_growth)
        name = "document_crossover"
    else:
        values |= {"principles": guidance(best.genome), "max_words": str(config.max_principle_words)}
        name = "crossover"
    return edit_chat("crossover", name, config, **values)


def _listed(problems: Sequence[Problem], config) -> str:
    return "\n".join(f"- {elide(problem.question, config.max_trajectory_words)}" for problem in problems)
