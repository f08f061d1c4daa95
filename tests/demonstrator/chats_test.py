"""Demonstrations of the small world: ideal in what they say, rendered as in a run, and of no world that a run lives in."""

import itertools
import json
import random
import re
from collections import Counter

import pytest

from espl_jax import config as configs
from espl_jax import sft, tasks
from espl_jax.demonstrations import DEMONSTRATIONS
from espl_jax.demonstrator.answers import GUESS, misspelt, worked_out
from espl_jax.demonstrator.chats import answers, calls, conversations, crossing, mutation
from espl_jax.demonstrator.finding import Example, find, fits
from espl_jax.demonstrator.ideal import tidied
from espl_jax.demonstrator.scenes import examples_of, make_scene
from espl_jax.evolution.edits import parse_edits
from espl_jax.policy.state import open_model
from espl_jax.structs import Problem
from espl_jax.tasks.smallworld.reading import rules_known, statements
from espl_jax.tasks.smallworld.rules import RULES, Rule
from espl_jax.tasks.smallworld.task import grade
from espl_jax.tasks.smallworld.words import owner
from espl_jax.tasks.smallworld.world import Expression, Step, draw_world
from experiments import smallworld, smallworld_sft

SCENES = 60
WORD = re.compile(r"\b[bdfgklmnprtvz][aeiou][bdfgklmnprtvz][aeiou][xzvkj]\b")
EXAMPLE_OF_THE_TASK = "kafux"  # in the description that every editor reads; it belongs to neither


@pytest.fixture(scope="module")
def config():
    """As supervised training has it: what its method sets must not take anything out of the scenes."""
    return sft.resolve(smallworld_sft.get_config())


@pytest.fixture(scope="module")
def scenes(config):
    return [make_scene(config, f"test/{number}") for number in range(SCENES)]


@pytest.fixture(scope="module")
def made(scenes, config):
    """(scene, call) of every model call in the scenes."""
    return [(scene, call) for number, scene in enumerate(scenes) for call in calls(scene, config, number)]


def test_every_kind_of_call_is_shown(made):
    assert {call.stage for _, call in made} == {"summary", "critique", "consolidation", "crossover"}


def test_every_reply_is_read_without_a_fault(made):
    allowed = {"critique": ("add", "modify"), "consolidation": ("modify", "merge"), "crossover": ("add", "modify", "remove")}
    for _, call in made:
        assert call.error == "", call.reply.text
        if call.stage in allowed:
            operations, error = parse_edits(call.reply.text, allowed[call.stage], "stop")
            assert not error and not [op.fate for op in operations if op.fate]


def test_what_a_critique_adds_fits_every_example_that_it_saw(made):
    added = 0
    for scene, call in made:
        if call.stage != "critique":
            continue
        problem = next(one for one in scene.problems if one.id == call.problem_id)
        if len(problem.data["items"][0].steps) > 1:
            continue  # what is found there depends on what the prompt says, rightly or not, about the inner words
        for operation in call.operations:
            [said] = statements(operation.text, scene.world.words)
            word, examples = examples_of(problem, {})
            assert said.word == word and fits(said.rule, examples), (operation.text, problem.question, problem.answer)
            added += 1
    assert added > 20


def test_a_critique_begins_with_the_list_as_the_chat_has_it(made):
    for _, call in made:
        if call.stage != "critique":
            continue
        asked, thought = call.chat.messages[-1].content, call.reply.text.removeprefix("<think>").splitlines()
        listed = re.findall(r"^\[(G\d+)\] (\w+)?", asked, re.MULTILINE)
        assert thought[0] == f"List: {', '.join(' '.join(one) for one in listed) or 'empty'}."


def test_a_critique_of_a_deeper_sheet_ends_where_an_inner_word_is_not_said_and_works_it_out_where_it_is(made):
    ended = worked = 0
    for scene, call in made:
        problem = next((one for one in scene.problems if one.id == call.problem_id), None)
        if call.stage != "critique" or len(problem.data["items"][0].steps) == 1:
            continue
        lines = call.reply.text.replace("</think>", "\n").splitlines()
        inner, outer = (step.word for step in problem.data["items"][0].steps)
        assert lines[1].startswith(f"inside, {inner}: ")
        if lines[1].endswith("not said."):
            assert lines[2:] == ["Nothing can be told.", "", "[]"]
            ended += 1
        else:
            assert lines[2].startswith(f"{outer}: ") and sum(f" {inner} " in line for line in lines[3:]) >= 1
            worked += 1
    assert ended > 5 and worked > 5


def test_the_ideal_editor_makes_prompts_know_more(scenes, config):
    """Of the words, the share that is known rises; guesses by few examples may be wrong, most are right."""
    before, after = [], []
    for number, scene in enumerate(scenes):
        reflection = mutation(scene, config, number)
        if reflection.child is not None:
            parent = scene.population[reflection.parents[0]].genome
            for genome, shares in ((parent, before), (reflection.child.genome, after)):
                shares.append(rules_known(genome, scene.world.meanings)["evolution/rules_known"])
    assert len(after) > SCENES / 3
    assert sum(after) / len(after) > sum(before) / len(before) + 0.15


def test_answers_are_right_where_every_meaning_is_stated_rightly(scenes, config):
    right = 0
    for number, scene in enumerate(scenes):
        for messages in answers(scene, config, random.Random(number)):
            reply = messages[-1].content
            asked = messages[-2].content.removesuffix(config.task.question_suffix)
            problem = next(one for one in scene.problems if one.question == asked)
            stated = [line for line in reply.splitlines() if not line[0].isdigit() and not line.startswith("Answer")]
            meanings = {one.word: one.rule for line in stated for one in statements(line, scene.world.words)}
            true = all(scene.world.meanings[word].equals(rule) for word, rule in meanings.items())
            assert GUESS in reply or messages[0].role == "system"
            if true:
                assert grade(problem, reply).score == 1.0
                right += 1
    assert right > 20


def test_the_experiment_has_room_for_the_reply_of_a_solver_who_knows_all_and_makes_no_mistake():
    config = configs.resolve(smallworld.get_config())
    _, _, tokenizer = open_model(config)
    room = min(config.sampling.max_new_tokens, config.evaluation.max_new_tokens)
    for seed in range(4):
        task = tasks.build(config.task, seed, config.tools)
        meanings = draw_world("the world", "run", config.task.world.operations, str(seed)).meanings
        texts = {worked_out(problem.data["items"], meanings, {}) for problem in (*task.train, *task.validation, *task.test)}
        assert max(len(tokenizer.encode(text)) for text in texts) < room


def test_no_operation_of_any_evaluated_world_is_in_a_demonstration(config):
    """By the words themselves: each belongs to runs or to demonstrations, whatever the seed; and for some seeds by looking."""
    texts = [message.content for messages in itertools.islice(conversations(config, 0), 1500) for message in messages]
    shown = {word for text in texts for word in WORD.findall(text)} - {EXAMPLE_OF_THE_TASK}
    assert len(shown) > 100 and {owner(word) for word in shown} == {"demonstration"}
    for seed in range(5):
        task = tasks.build(config.task, seed, config.tools)
        asked = {word for problem in (*task.train, *task.test) for word in WORD.findall(problem.question)}
        stated = {word for genome in task.rulebooks.values() for line in genome.principles for word in WORD.findall(line)}
        assert asked and stated and not (asked | stated) & shown
        assert EXAMPLE_OF_THE_TASK not in asked | stated


def test_demonstrations_are_the_same_for_the_same_seed_and_as_many_as_are_asked_for(config):
    config = config.copy_and_resolve_references().unlock()
    config.sft.update({"num_demonstrations": 40, "num_validation": 5})
    first, again = (list(DEMONSTRATIONS["smallworld"](config, 3)) for _ in range(2))
    assert first == again and len(set(first)) == 45
    config.sft.num_demonstrations = 0
    with pytest.raises(ValueError, match="sft.num_demonstrations 0"):
        DEMONSTRATIONS["smallworld"](config, 3)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_is_found_from_examples_that_tell_it_from_all_others(rule):
    examples = [Example(a, b, rule.value(a, b)) for a, b in ((7, 4), (2, 9), (5, 5), (8, 8), (1, 6))]
    thought, found = find("kafux", examples)
    assert found == rule
    assert thought.splitlines()[0] == "kafux: " + ", ".join(f"{one.a} {one.b} is {one.result}" for one in examples) + "."
    assert thought.endswith(f"yes, add {rule.extra or 'nothing'}.")


def test_the_reasoning_by_hand():
    examples = [Example(7, 4, 14), Example(2, 9, 14)]
    thought, rule = find("kafux", examples, suspects=[Rule("larger", 1)])
    assert rule == Rule("sum", 3)
    assert thought.splitlines() == [
        "kafux: 7 4 is 14, 2 9 is 14.",
        "larger: the larger is 7 -> 14 more, no.",
        "sum: 7+4=11 -> 14 +3, 2+9=11 -> 14 +3, yes, add 3.",
    ]
    assert find("kafux", [Example(1, 1, 99)])[1] is None


def test_a_list_is_tidied_by_what_fits_most():
    text = (
        "[G0] kafux: take the larger number (fits 1).\n[G1] (new) bemoz: add the two numbers (fits 2).\n"
        "[G2] (G0 in a different wording) kafux: keep the lesser number (fits 3)."
    )
    thought, _, edits = tidied(text, ("kafux", "bemoz")).partition("</think>")
    assert json.loads(edits) == [
        {"op": "merge", "ids": ["G0", "G2"], "principle": "kafux: take the smaller number (fits 3)."}
    ]
    assert "G2 fits most" in thought
    assert "List: G0 kafux, G1 bemoz, G2 kafux." in thought
    assert tidied("[G0] kafux: take the larger number.", ("kafux",)) == (
        "<think>List: G0 kafux.\nEach word has one line.</think>\n[]"
    )


def test_a_crossover_looks_every_word_of_the_sheets_that_others_won_up_in_both_lists(config):
    """By the chat alone: the words that stand on those sheets, and what the two lists say of them."""
    kinds = Counter()
    for number in range(80):
        scene = make_scene(config, f"test/crossing/{number}")
        for call in crossing(scene, config).calls:
            asked, thought = call.chat.messages[-1].content, call.reply.text.removeprefix("<think>").partition("</think>")[0]
            best, others = asked.partition("--- another one ---")[::2]
            theirs, sheets = others.partition("--- it won these problems:")[::2]
            opening, *won = thought.partition("\nList: ")[0].splitlines()
            listed, *lines, plan = thought.partition("\nList: ")[2].splitlines()
            assert opening == "Others won:" and len(won) == sheets.partition("\n\n")[0].count("\n- ")
            assert all(line.partition(":")[0] in sheets for line in won) and listed.count("G") == best.count("[G")
            on_sheets = [word for line in won for word in line.partition(": ")[2].rstrip(".").split(", ")]
            assert [line.partition(":")[0] for line in lines] == list(dict.fromkeys(on_sheets))
            verdicts = []
            for word, _, said in (line.partition(": ") for line in lines):
                assert word in sheets
                assert said.endswith(" They say nothing. Keep.") == (f"- {word}: " not in theirs)
                assert said.startswith("not said. They say ") == (f"] {word}: " not in best)
                assert said.endswith(". Add.") == (f"- {word}: " in theirs and f"] {word}: " not in best)
                verdicts.append(said.rstrip(".").rpartition(". ")[2].split()[0])
            kinds.update(verdicts)
            edits = json.loads(call.reply.text.partition("</think>")[2])
            made = [f"{edit['op']} {edit['principle'].partition(':')[0]}" for edit in edits]
            assert plan == f"Edits: {', '.join(made) or 'none'}."
            ops = [edit["op"] for edit in edits]
            assert (ops.count("add"), ops.count("modify")) == (verdicts.count("Add"), verdicts.count("Change"))
    assert set(kinds) == {"Add", "Change", "Keep"} and min(kinds.values()) > 5


def test_a_misspelt_attempt_has_another_word_of_the_same_owner_throughout():
    text = "temuk: add the two numbers.\n7 temuk 4: 7+4=11.\nAnswer: 11"
    found = {misspelt(text, ("temuk", "bonak"), random.Random(seed)) for seed in range(40)}
    words = {line.partition(":")[0] for one in found for line in one.splitlines()[:1]}
    assert len(words) > 2 and "temuk" not in words
    assert {owner(word) for word in words} == {owner("temuk")} and {word[:3] for word in words} == {"tem"}
    assert all(one.count(word) == 2 for one in found for word in words if one.startswith(word))
    assert misspelt("Answer: 11", ("temuk",), random.Random(0)) == "Answer: 11"


def test_of_a_deep_sheet_the_outermost_word_is_told_where_the_others_are_known():
    items = (Expression(7, (Step("kafux", 4), Step("bemoz", 2, before=True))),)
    problem = Problem("p", "q", "13", {"items": items, "answers": [13]})
    assert examples_of(problem, {"kafux": Rule("sum")}) == ("bemoz", (Example(2, 11, 13),))
    assert examples_of(problem, {}) is None
    twice = Problem("p", "q", "1", {"items": (Expression(7, (Step("kafux", 4), Step("kafux", 2))),), "answers": [1]})
    assert examples_of(twice, {"kafux": Rule("sum")}) is None
