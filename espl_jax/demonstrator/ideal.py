"""The ideal editor: it answers every chat of mutation and crossover as well as what the chat shows allows.

It knows the scene that the chat was made from, but says nothing that a reader of the chat could not find out.
"""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from espl_jax.demonstrator.finding import find, fits
from espl_jax.demonstrator.scenes import Scene, examples_of, statement
from espl_jax.evolution.crossover import winners
from espl_jax.evolution.reflection import best_prompt
from espl_jax.structs import Chat, Genome, Problem, Reply
from espl_jax.tasks.smallworld.reading import read_rule, statements
from espl_jax.tasks.smallworld.rules import Rule

_LINE = re.compile(r"^\[G(\d+)\] (\([^)]*\) )?(.*)$", re.MULTILINE)
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
    """What the sheet shows about the principles: a meaning is missing, one is wrong, or all is well."""
    genome = scene.population[best_prompt(scene.rollouts)].genome
    positions = lines_about(genome, scene.world.words)
    said = {word: lines[-1][1] for word, lines in positions.items()}
    if lucky := guessed_right(scene, problem, said):
        number, guesses = lucky
        thought = " and ".join(f"{word} means: {rule.wording()}" for word, rule in guesses.items())
        size = len(problem.data["items"])
        edits = [{"op": "add", "principle": statement(word, rule, size)} for word, rule in guesses.items()]
        return answer(f"Attempt {number + 1} is correct. It guessed that {thought}.", edits[:max_edits])
    found = examples_of(problem, said)
    if found is None:
        return answer("More than one meaning is missing, and no attempt is correct, so none can be found from this.", [])
    word, examples = found
    wrong = [(number, rule) for number, rule in positions.get(word, ()) if not fits(rule, examples)]
    if word in positions and not wrong:
        numbers = ", ".join(f"G{number}" for number, _ in positions[word])
        return answer(f"{word}: {', '.join(map(str, examples))}. {numbers} fits: the failures are slips in the work.", [])
    thought, rule = find(word, examples, tried(scene, problem, word))
    if rule is None:
        return answer(f"{opening(word, wrong)}\n{thought}", [])
    text = statement(word, rule, len(examples))
    edits = [{"op": "modify", "id": f"G{number}", "principle": text} for number, _ in wrong[:max_edits]]
    return answer(f"{opening(word, wrong)}\n{thought}", edits or [{"op": "add", "principle": text}])


def guessed_right(scene: Scene, problem: Problem, said: dict[str, Rule]) -> tuple[int, dict[str, Rule]] | None:
    """The first attempt that is wholly right by what it went by, and its guesses about words of which nothing is `said`.

    None without such guesses. An attempt that is right only because two mistakes met says nothing.
    """
    words = [word for word in dict.fromkeys(step.word for step in problem.data["items"][0].steps) if word not in said]
    p, q = place(scene, problem)
    for g, reward in enumerate(scene.rollouts.rewards_PQG[p, q]):
        guesses = meanings_in(scene.rollouts.texts[scene.rollouts.index(p, q, g)], words)
        if words and reward == 1 and gives_all(problem, said | guesses):
            return g, guesses
    return None


def gives_all(problem: Problem, meanings: dict[str, Rule]) -> bool:
    """Whether these meanings give every result of the sheet."""
    pairs = zip(problem.data["items"], problem.data["answers"], strict=True)
    return all(expression.value(meanings.__getitem__) == answer for expression, answer in pairs)


def meanings_in(text: str, words: Sequence[str]) -> dict[str, Rule]:
    """What an attempt took the words to mean."""
    lines = {line.partition(":")[0]: read_rule(line.partition(":")[2]) for line in text.splitlines()}
    return {word: lines[word] for word in words if lines.get(word) is not None}


def place(scene: Scene, problem: Problem) -> tuple[int, int]:
    """Where the best prompt and a problem stand in the rollouts."""
    return (
        scene.rollouts.prompt_ids.index(best_prompt(scene.rollouts)),
        [one.id for one in scene.rollouts.problems].index(problem.id),
    )


def opening(word: str, wrong: Sequence[tuple[int, Rule]]) -> str:
    """What is the matter with the list."""
    if not wrong:
        return f"No principle says what {word} means."
    return f"{', '.join(f'G{number}' for number, _ in wrong)} says what {word} means, but does not fit."


def tried(scene: Scene, problem: Problem, word: str) -> list[Rule]:
    """The meanings that the attempts gave the word, those of the best attempts first."""
    p, q = place(scene, problem)
    rewards = scene.rollouts.rewards_PQG[p, q]
    order = sorted(range(len(rewards)), key=lambda g: -rewards[g])
    texts = [scene.rollouts.texts[scene.rollouts.index(p, q, g)] for g in order if rewards[g] > 0]
    return [rule for text in texts for rule in meanings_in(text, [word]).values()]


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
    lines = [(int(number), line) for number, _, line in _LINE.findall(text)]
    thoughts, edits = [], []
    for word in words:
        about = [(number, line, rule) for number, line in lines for _, rule, _ in read(line, word) if rule is not None]
        if len(about) < 2:
            continue
        number, line, rule = max(about, key=lambda one: support(one[1]))
        numbers = [f"G{number}" for number, _, _ in about]
        same = all(rule.equals(other) for _, _, other in about)
        why = "say the same" if same else f"differ, and G{number} fits most"
        thoughts.append(f"{' and '.join(numbers)} are about {word}: they {why}.")
        edits.append({"op": "merge", "ids": numbers, "principle": statement(word, rule, support(line))})
    return answer(" ".join(thoughts) or "Each word has one line.", edits)


def read(line: str, word: str) -> list[tuple[str, Rule | None, str]]:
    """(word, meaning, sentence) of what a line says about one word."""
    return [(one.word, one.rule, one.text) for one in statements(line, (word,))]


def support(line: str) -> int:
    """How many examples a principle is known to fit."""
    found = _SUPPORT.search(line)
    return int(found.group(1)) if found else 0


# -- crossover -----------------------------------------------------------------------------------------------------------


def crossed(scene: Scene, tie_margin: float) -> str:
    """What others won with and the best lacks, word by word."""
    won, best = winners(scene.rollouts, tie_margin), best_prompt(scene.rollouts)
    own = lines_about(scene.population[best].genome, scene.world.words)
    thoughts, edits, seen = [], [], set()
    for prompt_id, problems in won.items():
        theirs = lines_about(scene.population[prompt_id].genome, scene.world.words) if prompt_id != best else {}
        for problem in problems:
            for word in dict.fromkeys(step.word for step in problem.data["items"][0].steps):
                if word in seen or word not in theirs or not theirs[word]:
                    continue
                rule = theirs[word][-1][1]
                seen.add(word)
                if edit := taken_over(word, rule, own.get(word, []), support_of(scene, prompt_id, word)):
                    thoughts.append(f"A list that says what {word} means won {problem.data['items'][0]}.")
                    edits.append({**edit, "evidence": f"it won {problem.data['items'][0]}"})
    return answer(" ".join(thoughts) or "The others won with nothing that the best list lacks.", edits)


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
