"""Mutation: the best prompt of a step is revised in the light of its own successes and failures.

Three stages, each one batch of editor calls: summaries of trajectories (those that are longer than a summary needs to be), a
critique a problem, one consolidation of all edits (Zhang, Chen, Stadie, arXiv 2602.14697v3). Only problems with 0 < V < 1 under
the prompt count: there is nothing to contrast where all attempts fared alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, zip_longest

import numpy as np

from espl_jax.evolution import consolidation
from espl_jax.evolution.documents import apply_document
from espl_jax.evolution.edits import CUT_OFF, strip_thinking
from espl_jax.evolution.forms import edit_chat, form_text, shown
from espl_jax.evolution.grammar import held
from espl_jax.evolution.guards import Library, Watched
from espl_jax.evolution.rating import child_rating_mutation
from espl_jax.evolution.reflection import ask, birth, drop_beyond, edit_call
from espl_jax.evolution.render import guidance
from espl_jax.evolution.retelling import retell
from espl_jax.evolution.words import elide
from espl_jax.structs import (
    Call,
    Chat,
    Editor,
    Genome,
    Message,
    Operation,
    Population,
    Problem,
    Reflection,
    Reply,
    Rollouts,
)

ALLOWED = {"principles": ("add", "modify"), "document": ("replace",)}


@dataclass(frozen=True)
class Attempt:
    """One trajectory of a problem. number: its sample index g in the rollouts; text: a conversation is retold in it."""

    number: int
    text: str
    reward: float
    extracted: str


@dataclass(frozen=True)
class Case:
    """A problem to reflect on, with attempts under the parent alone."""

    problem: Problem
    attempts: tuple[Attempt, ...]


def mutate(
    population: Population,
    rollouts: Rollouts,
    parent_id: int,
    step: int,
    describe: str,
    editor: Editor,
    config,
    rng: np.random.Generator,
    library: Library,
) -> Reflection:
    """A child of `parent_id` with edited text and the parent's mu, or the reason why there is none.

    population: after this step's rating. describe: the task in a sentence or two. config: config.evolution. rng: draws
    the problems where max_problems limits them; nothing else is random here. library: the training set, of which no edit may
    quote a problem. Calls the editor up to three times. Raises ValueError when the parent has no rollouts.
    """
    parent = population[parent_id]
    cases = find_cases(rollouts, parent_id, config, rng)
    if not cases:
        return Reflection("mutation", (parent_id,), (), reason="no problem has both success and failure")
    summaries = _summarise(cases, parent.genome, describe, editor, config)
    critiques = _criticise(cases, summaries, parent.genome, describe, editor, config)
    watched = Watched(rollouts.problems, library)
    genome, edits = REVISE[parent.genome.kind](parent.genome, critiques, watched, describe, editor, config)
    rating = child_rating_mutation(parent.rating, config.sigma_inflation)
    return birth("mutation", population, (parent_id,), genome, rating, step, summaries + edits)


def find_cases(rollouts: Rollouts, parent_id: int, config, rng: np.random.Generator) -> list[Case]:
    """The problems with 0 < V < 1 under the parent, each once, in the order of the rollouts.

    Rewards lie in [0, 1], so unequal ones say as much; equal partial scores (all 0.5) hold no contrast: left out.
    """
    if parent_id not in rollouts.prompt_ids:
        raise ValueError(f"prompt {parent_id} has no rollouts; those are of {rollouts.prompt_ids}")
    p = rollouts.prompt_ids.index(parent_id)
    found = {}
    for q, problem in enumerate(rollouts.problems):
        rewards = rollouts.rewards_PQG[p, q]
        if rewards.min() < rewards.max():
            found.setdefault(problem.id, q)
    kept = list(found.values())
    if 0 < config.max_problems < len(kept):
        kept = [kept[i] for i in sorted(rng.choice(len(kept), config.max_problems, replace=False))]
    return [Case(rollouts.problems[q], _attempts(rollouts, p, q, config)) for q in kept]


def _attempts(rollouts: Rollouts, p: int, q: int, config) -> tuple[Attempt, ...]:
    """The trajectories of one group; max_trajectories keeps successes and failures by turns. Above V is a success."""
    rewards, limit = rollouts.rewards_PQG[p, q], config.max_trajectories
    order = list(range(len(rewards)))
    if limit > 0:
        wins, losses = ([g for g in order if (rewards[g] > rewards.mean()) == won] for won in (True, False))
        order = sorted([g for g in chain(*zip_longest(wins, losses)) if g is not None][:limit])
    flat = [(g, rollouts.index(p, q, g)) for g in order]
    return tuple(Attempt(g, _told(rollouts, i, config), float(rewards[g]), rollouts.grades[i].extracted) for g, i in flat)


def _told(rollouts: Rollouts, index: int, config) -> str:
    """A trajectory as an editor reads it."""
    if rollouts.conversations is None:
        return rollouts.texts[index]
    return retell(rollouts.conversations[index], config.max_trajectory_words)


def _summarise(cases: Sequence[Case], genome: Genome, describe: str, editor: Editor, config) -> list[Call]:
    pairs = [(case, attempt) for case in cases for attempt in case.attempts if _is_long(attempt, config)]
    chats = [_summary_chat(case.problem, attempt, genome, describe, config) for case, attempt in pairs]
    replies = ask(editor, chats)
    return [
        Call("summary", chat, reply, case.problem.id, error=_summary_error(reply))
        for (case, _), chat, reply in zip(pairs, chats, replies, strict=True)
    ]


def _is_long(attempt: Attempt, config) -> bool:
    """Whether the critic reads a summary of it, and not the attempt itself; what says nothing is always summarised."""
    return not 0 < len(attempt.text.split()) <= config.summarize_above


def _summary_chat(problem: Problem, attempt: Attempt, genome: Genome, describe: str, config) -> Chat:
    text = form_text(
        "summary",
        config,
        task=describe,
        question=problem.question,
        answer=problem.answer,
        guidance=guidance(genome),
        grade=_grade(attempt),
        attempt=elide(attempt.text, config.max_trajectory_words),
    )
    return Chat(f"mutation/summary/{problem.id}/{attempt.number}", (Message("user", text),))


def _grade(attempt: Attempt) -> str:
    grade = {0.0: "wrong", 1.0: "correct"}.get(attempt.reward, f"score {attempt.reward:.2f} of 1")
    return f"{grade}, answer read: {attempt.extracted}" if attempt.extracted else grade


def _summary_error(reply: Reply) -> str:
    if reply.finish == "length":
        return CUT_OFF
    return "" if strip_thinking(reply.text) else "the summary is empty"


def _criticise(
    cases: Sequence[Case], summaries: Sequence[Call], genome: Genome, describe: str, editor: Editor, config
) -> list[Call]:
    """One critique for each case of which something can be told; operations beyond max_edits are dropped."""
    texts = {call.chat.id: strip_thinking(call.reply.text) for call in summaries if not call.error}
    told = [(case, _retold(case, texts, config)) for case in cases]
    told = [(case, attempts) for case, attempts in told if attempts]
    chats = [_critique_chat(case.problem, attempts, genome, describe, config) for case, attempts in told]
    chats = held(chats, ALLOWED[genome.kind], config, len(genome.principles))
    calls = [
        edit_call("critique", chat, reply, ALLOWED[genome.kind], config, case.problem.id)
        for (case, _), chat, reply in zip(told, chats, ask(editor, chats), strict=True)
    ]
    return [replace(call, operations=drop_beyond(call.operations, config.max_edits)) for call in calls]


def _retold(case: Case, texts: dict[str, str], config) -> str:
    """The usable summaries of a case, and its short attempts as they are, each under its grade."""
    found = []
    for attempt in case.attempts:
        summary = texts.get(f"mutation/summary/{case.problem.id}/{attempt.number}")
        text = summary if _is_long(attempt, config) else elide(attempt.text.strip(), config.max_trajectory_words)
        if text:
            found.append(f"Attempt {attempt.number + 1} ({_grade(attempt)}):\n{text}")
    return "\n\n".join(found)


def _critique_chat(problem: Problem, attempts: str, genome: Genome, describe: str, config) -> Chat:
    values = {"task": describe, "question": problem.question, "answer": problem.answer, "attempts": attempts}
    values["max_edits"] = str(config.max_edits)
    if genome.kind == "document":
        values |= {"document": shown(genome, config), "max_words": str(config.max_document_words)}
        values["max_growth"] = str(config.max_document_growth)
        name = "document_critique"
    else:
        values |= {"principles": guidance(genome), "max_words": str(config.max_principle_words)}
        name = "critique"
    return edit_chat(f"mutation/critique/{problem.id}", name, config, **values)


def _revise_document(
    genome: Genome, critiques: list[Call], problems: Sequence[Problem], describe: str, editor: Editor, config
) -> tuple[Genome, list[Call]]:
    """All edits in the order of the critiques: the document itself is the plan, an edit that no longer fits drops."""
    flat = [operation for call in critiques for operation in call.operations]
    genome, judged = apply_document(genome, flat, config, problems)
    return genome, with_fates(critiques, judged)


def _revise_principles(
    genome: Genome, critiques: list[Call], problems: Sequence[Problem], describe: str, editor: Editor, config
) -> tuple[Genome, list[Call]]:
    flat = [operation for call in critiques for operation in call.operations]
    genome, judged, plan = consolidation.consolidate(genome, flat, problems, describe, editor, config)
    return genome, with_fates(critiques, judged) + plan


def with_fates(calls: Sequence[Call], operations: Sequence[Operation]) -> list[Call]:
    """The calls with their operations taken, in order, from one flat list."""
    left = iter(operations)
    return [replace(call, operations=tuple(next(left) for _ in call.operations)) for call in calls]


REVISE = {"principles": _revise_principles, "document": _revise_document}
