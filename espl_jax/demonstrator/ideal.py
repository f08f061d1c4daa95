"""The ideal editor: it answers every chat of mutation and crossover as well as what the chat shows allows.

It knows the scene that the chat was made from, but says nothing that a reader of the chat could not find out.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from espl_jax.demonstrator.finding import find, fits
from espl_jax.demonstrator.scenes import Scene, examples_of, statement
from espl_jax.evolution.crossover import winners
from espl_jax.evolution.reflection import best_prompt
from espl_jax.structs import Chat, Genome, Problem, Reply
from espl_jax.tasks.smallworld.reading import statements
from espl_jax.tasks.smallworld.rules import Rule
from espl_jax.tasks.smallworld.world import Expression, Step

_LINE = re.compile(r"^\[G\d+\] (\([^)]*\) )?(.*)$", re.MULTILINE)
_SUPPORT = re.compile(r"\(fits (\d+)\)")
Edit = dict[str, Any]


def ideal_editor(scene: Scene, tie_margin: float, max_edits: int) -> Callable[[Sequence[Chat]], list[Reply]]:
    """An Editor for the scene; tie_margin, max_edits: of config.evolution."""
    problems = {problem.id: problem for problem in scene.problems}

    def reply(chat: Chat) -> str:
        operator, _, rest = chat.id.partition("/")
        stage, _, which = rest.partition("/")
        if operator == "crossover":
            return crossed(scene, tie_margin)
        if stage == "consolidation":
            return tidied(chat.messages[-1].content, scene.world.words)
        problem = problems[which.partition("/")[0]]
        if stage == "summary":
            return retold(scene, problem, int(which.partition("/")[2]))
        return criticised(scene, problem, max_edits)

    return lambda chats: [Reply(chat.id, reply(chat), "stop", 0, 0) for chat in chats]


def answer(thought: str, edits: Sequence[Edit]) -> str:
    """A reply that thinks first, as parse_edits reads it."""
    listed = ",\n ".join(json.dumps(edit, ensure_ascii=False) for edit in edits)
    return f"<think>{thought}</think>\n[{listed}]"


# -- mutation ------------------------------------------------------------------------------------------------------------


def criticised(scene: Scene, problem: Problem, max_edits: int) -> str:
    """What the sheet shows about the principles: a meaning is missing, one is wrong, or all is well.

    Always the same way: which line is about which word, what is said of each word of the sheet from the inside out (an inner
    one of which nothing is said ends it), the inner results, the outermost word's examples, a search that begins with what is
    said, and a verdict. Nothing is claimed that has not been worked out before. What the attempts guessed is no part of it: a
    small model that goes by an attempt copies one that failed.
    """
    genome = scene.population[best_prompt(scene.rollouts)].genome
    positions = lines_about(genome, scene.world.words)
    said = {word: lines[-1][1] for word, lines in positions.items()}
    *inner, last = words_of(problem)
    lines = [index(genome, positions)]
    for word in inner:
        lines.append(f"inside, {opening(word, positions.get(word, ()))}")
        if word not in said:
            return answer("\n".join([*lines, "Nothing can be told."]), [])
    about = positions.get(last, ())
    _, examples = examples_of(problem, said)
    thought, rule = find(last, examples, [stated for _, stated in reversed(about)])
    thoughts = "\n".join([*lines, opening(last, about), *inner_work(problem, said), thought])
    if rule is None:
        return answer(thoughts, [])
    wrong = [number for number, stated in about if not fits(stated, examples)]
    verdicts = [f"G{number} is {'wrong' if number in wrong else 'right'}." for number, _ in about]
    text = statement(last, rule, len(examples))
    corrections = [{"op": "modify", "id": f"G{number}", "principle": text} for number in wrong[:max_edits]]
    return answer("\n".join([thoughts, *verdicts]), corrections if about else [{"op": "add", "principle": text}])


def words_of(problem: Problem) -> list[str]:
    """The words of a sheet, from the inside out."""
    return list(dict.fromkeys(step.word for step in problem.data["items"][0].steps))


def index(genome: Genome, positions: dict[str, list[tuple[int, Rule]]]) -> str:
    """Which line of the list is about which word, in its order: without it a small model takes one line for another."""
    words = {number: word for word, about in positions.items() for number, _ in about}
    found = [f"G{number} {words.get(number, 'other')}" for number in range(len(genome.principles))]
    return f"List: {', '.join(found) or 'empty'}."


def opening(word: str, about: Sequence[tuple[int, Rule]]) -> str:
    """What the list says about a word."""
    if not about:
        return f"{word}: not said."
    return f"{word}: {', '.join(f'G{number} says {rule.wording()}' for number, rule in about)}."


def inner_work(problem: Problem, said: dict[str, Rule]) -> list[str]:
    """How the inner results of a deeper sheet are reached; nothing of a plain one."""
    return [
        f"{a} {step.word} {b}: {said[step.word].work(a, b)}."
        for expression in problem.data["items"]
        for step, a, b in inner_steps(expression, said)
    ]


def inner_steps(expression: Expression, said: dict[str, Rule]) -> list[tuple[Step, int, int]]:
    """All operations but the outermost, with their numbers."""
    inner = Expression(expression.first, expression.steps[:-1])
    return [(step, a, b) for step, a, b, _ in inner.worked(said.__getitem__)] if inner.steps else []


def place(scene: Scene, problem: Problem) -> tuple[int, int]:
    """Where the best prompt and a problem stand in the rollouts."""
    return (
        scene.rollouts.prompt_ids.index(best_prompt(scene.rollouts)),
        [one.id for one in scene.rollouts.problems].index(problem.id),
    )


def retold(scene: Scene, problem: Problem, g: int) -> str:
    """An attempt in steps: which meaning it went by and where that is from, then each result, right or wrong."""
    p, q = place(scene, problem)
    text = scene.rollouts.texts[scene.rollouts.index(p, q, g)]
    positions = lines_about(scene.population[best_prompt(scene.rollouts)].genome, scene.world.words)
    meanings, steps = [line for line in text.splitlines() if re.match(r"[a-z]+: ", line)], []
    for line in meanings:
        word, _, rest = line.partition(": ")
        source = f"G{positions[word][-1][0]}" if word in positions else "a guess"
        steps.append(f"Took {word} to mean: {rest.removesuffix('.').removesuffix(' (a guess)')}. This is from {source}.")
    given = text.rpartition("Answer: ")[2].split(", ")
    for expression, result, true in zip(problem.data["items"], given, problem.data["answers"], strict=True):
        verdict = "right" if int(result) == true else f"wrong, it is {true}"
        steps.append(f"Gave {result} for {expression}: {verdict}.")
    return "\n".join(f"{number}. {step}" for number, step in enumerate(steps, start=1))


def tidied(text: str, words: tuple[str, ...]) -> str:
    """The plan for a list: lines about the same word become one, the better supported where they differ."""
    listed = Genome("principles", tuple(line for _, line in _LINE.findall(text)))
    positions = lines_about(listed, words)
    thoughts, edits = [index(listed, positions)], []
    for word, about in positions.items():
        if len(about) < 2:
            continue
        number, rule = max(about, key=lambda one: support(listed.principles[one[0]]))
        numbers = [f"G{number}" for number, _ in about]
        same = all(rule.equals(other) for _, other in about)
        why = "say the same" if same else f"differ, and G{number} fits most"
        thoughts.append(f"{' and '.join(numbers)} are about {word}: they {why}.")
        text = statement(word, rule, support(listed.principles[number]))
        edits.append({"op": "merge", "ids": numbers, "principle": text})
    return answer("\n".join(thoughts if edits else [*thoughts, "Each word has one line."]), edits)


def support(line: str) -> int:
    """How many examples a principle is known to fit."""
    found = _SUPPORT.search(line)
    return int(found.group(1)) if found else 0


# -- crossover -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Use:
    """A meaning that a list won a problem with; support: the examples that it is known to fit."""

    rule: Rule
    support: int
    problem: Problem


def crossed(scene: Scene, tie_margin: float) -> str:
    """What others won with and the best lacks.

    Always the same way: the sheets that others won with the words on each, the best list, of each word what the best list says,
    as in a critique, what the others say, and what is to be done about it, and all edits once more before they are written.
    Without the sheets a small model forgot some of the words, without verdicts it took over what its list said already, with
    what others say first it found that its list said the same where that says nothing, and without the last line it wrote edits
    that it had just found to be needless.
    """
    best = best_prompt(scene.rollouts)
    genome = scene.population[best].genome
    own = lines_about(genome, scene.world.words)
    others = {prompt_id: sheets for prompt_id, sheets in winners(scene.rollouts, tie_margin).items() if prompt_id != best}
    thoughts = ["Others won:", *(f"{first(sheet)}: {', '.join(words_of(sheet))}." for sheet in chain(*others.values()))]
    thoughts.append(index(genome, own))
    edits: dict[str, Edit] = {}
    for word, use in used_by(scene, others).items():
        thoughts.append(f"{opening(word, own.get(word, ()))} {compared(use, own.get(word, ()))}")
        if use and (edit := taken_over(word, use.rule, own.get(word, []), use.support)):
            edits[word] = {**edit, "evidence": f"it won {first(use.problem)}"}
    planned = ", ".join(f"{edit['op']} {word}" for word, edit in edits.items())
    thoughts.append(f"Edits: {planned or 'none'}.")
    return answer("\n".join(thoughts), list(edits.values()))


def first(problem: Problem) -> Expression:
    """What a sheet is known by here."""
    return problem.data["items"][0]


def used_by(scene: Scene, others: Mapping[int, Sequence[Problem]]) -> dict[str, Use | None]:
    """By word of the sheets that others won, in their order: what such a list says of it; None where none says anything."""
    used: dict[str, Use | None] = {}
    for prompt_id, sheets in others.items():
        about = lines_about(scene.population[prompt_id].genome, scene.world.words)
        for word, won in [(word, sheet) for sheet in sheets for word in words_of(sheet)]:
            use = Use(about[word][-1][1], support_of(scene, prompt_id, word), won) if word in about else None
            used[word] = used.get(word) or use
    return used


def compared(use: Use | None, own: Sequence[tuple[int, Rule]]) -> str:
    """What the others say of a word, and what is to be done."""
    if use is None:
        return "They say nothing. Keep."
    theirs = f"They say {use.rule.wording()}."
    if not own:
        return f"{theirs} Add."
    number, stated = own[-1]
    return f"{theirs} Keep." if stated.equals(use.rule) else f"{theirs} Change G{number}."


def taken_over(word: str, rule: Rule, own: Sequence[tuple[int, Rule]], supported: int) -> Edit | None:
    """The edit that brings the meaning into the best list; None where it is there already."""
    text = statement(word, rule, supported)
    if not own:
        return {"op": "add", "principle": text}
    number, stated = own[-1]
    return None if stated.equals(rule) else {"op": "modify", "id": f"G{number}", "principle": text}


def support_of(scene: Scene, prompt_id: int, word: str) -> int:
    """The support of what a prompt says last about a word."""
    principles = scene.population[prompt_id].genome.principles
    return support(principles[lines_about(scene.population[prompt_id].genome, (word,))[word][-1][0]])


def lines_about(genome: Genome, words: tuple[str, ...]) -> dict[str, list[tuple[int, Rule]]]:
    """By word: the positions of the principles that say what it means, and the meanings."""
    found: dict[str, list[tuple[int, Rule]]] = {}
    for number, text in enumerate(genome.principles):
        for one in statements(text, words):
            if one.rule is not None:
                found.setdefault(one.word, []).append((number, one.rule))
    return found
