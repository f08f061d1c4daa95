from dataclasses import replace

import numpy as np
import pytest

from espl_jax.evolution.edits import CUT_OFF
from espl_jax.evolution.guards import Library
from espl_jax.evolution.mutation import find_cases, mutate
from espl_jax.structs import Genome, Message, Rating
from tests.evolution.scripted import by_stage, config, fates, population, principles, problem, rollouts

P0 = problem("What is 7 + 5?", "12")
P1 = problem("What is 40 + 2?", "42")
P2 = problem("What is 31 + 9?", "40")
P3 = problem("What is 8 + 8?", "16")
PROBLEMS = [P0, P1, P2, P3]
# Prompt 0: mixed on P0 and P2, all right on P1, all wrong on P3. Prompt 1: mixed on P1 and P3 alone.
ROLLOUTS = rollouts(
    (1, 0),
    PROBLEMS,
    [[[1, 1, 1], [1, 0, 0], [1, 1, 1], [0, 1, 0]], [[1, 0, 1], [1, 1, 1], [0, 0, 1], [0, 0, 0]]],
)
STATE = population(principles("Check the units.", "Name the unknowns."), principles("Other."))
ADD = '[{"op": "add", "principle": "%s"}]'


def mutated(editor, state=STATE, samples=ROLLOUTS, parent=0, **changes):
    rng = np.random.default_rng(0)
    return mutate(state, samples, parent, 9, "Sums of integers.", editor, config(**changes), rng, Library(()))


def each(answers: dict):
    """An answer a problem."""
    return lambda chat: answers[chat.id.rsplit("/")[-1]]


def test_a_child_is_written_in_three_batches():
    modify = '[{"op":"modify","id":"G1","principle":"Line up digits."}]'
    editor = by_stage(critique=each({P0.id: ADD % "Carry the tens.", P2.id: modify}), consolidation="[]")
    reflection = mutated(editor)
    assert [len(batch) for batch in editor.batches] == [6, 2, 1]
    assert reflection.child.genome == principles("Check the units.", "Line up digits.", "Carry the tens.")
    assert reflection.child.rating == Rating(25.0, np.sqrt(26.0))
    assert (reflection.child.id, reflection.child.parents) == (-1, (0,))
    assert (reflection.child.operator, reflection.child.born) == ("mutation", 9)
    assert [call.stage for call in reflection.calls] == ["summary"] * 6 + ["critique"] * 2 + ["consolidation"]
    assert [call.problem_id for call in reflection.calls[6:]] == [P0.id, P2.id, ""]


def test_summaries_hold_their_own_trajectory_problem_and_grade_alone():
    editor = by_stage(critique="[]")
    mutated(editor)
    expected = [f"mutation/summary/{p.id}/{g}" for p in (P0, P2) for g in range(3)]
    assert [chat.id for chat in editor.batches[0]] == expected
    for chat in editor.batches[0]:
        _, _, problem_id, g = chat.id.split("/")
        (text,) = [message.content for message in chat.messages]
        assert f"text of prompt 0, problem {problem_id}, sample {g}" in text
        assert text.count("text of prompt") == 1
        assert f"read-{g}" in text and "[G1] Name the unknowns." in text
        own = next(p for p in PROBLEMS if p.id == problem_id)
        assert [p for p in PROBLEMS if p.question in text] == [own] and f"answer: {own.answer}" in text
    grades = ["correct" in chat.messages[0].content for chat in editor.batches[0]]
    assert grades == [True, False, True, False, False, True]


def test_critiques_hold_the_summaries_of_their_own_problem_alone():
    editor = by_stage(summary=lambda chat: f"summary of {chat.id}", critique="[]")
    mutated(editor)
    assert [chat.id for chat in editor.batches[1]] == [f"mutation/critique/{p.id}" for p in (P0, P2)]
    for chat, own in zip(editor.batches[1], (P0, P2), strict=True):
        text = chat.messages[0].content
        assert text.count("summary of") == 3 == text.count(f"summary of mutation/summary/{own.id}/")
        assert [p for p in PROBLEMS if p.question in text] == [own]


def test_thinking_is_not_part_of_a_summary():
    editor = by_stage(summary="<think>secret</think>said", critique="[]")
    mutated(editor)
    text = editor.batches[1][0].messages[0].content
    assert "secret" not in text and text.count("said") == 3


def test_without_contrast_nothing_is_asked():
    editor = by_stage()
    flat = rollouts((0,), [P0, P1, P2], [[[1, 1], [0, 0], [0.5, 0.5]]])
    reflection = mutated(editor, samples=flat)
    assert "success and failure" in reflection.reason and reflection.calls == () and editor.batches == []


def test_cut_off_and_empty_summaries_are_left_out_with_their_error():
    def summary(chat):
        return {"0": ("half a", "length"), "1": "whole", "2": "<think>only"}[chat.id[-1]]

    editor = by_stage(summary=summary, critique="[]")
    reflection = mutated(editor)
    assert [call.error for call in reflection.calls[:3]] == [CUT_OFF, "", "the summary is empty"]
    text = editor.batches[1][0].messages[0].content
    assert "whole" in text and "half a" not in text and "Attempt 2 (wrong" in text and "Attempt 1" not in text


def test_a_problem_without_a_usable_summary_has_no_critique():
    editor = by_stage(summary=lambda chat: ("x", "length") if P0.id in chat.id else "fine", critique=ADD % "Go slowly.")
    assert mutated(editor).child.genome.principles[-1] == "Go slowly."
    assert [chat.id for chat in editor.asked("mutation/critique")] == [f"mutation/critique/{P2.id}"]


def test_when_all_summaries_are_cut_off_there_is_no_child():
    reflection = mutated(by_stage(summary=("x", "length")))
    assert reflection.child is None and CUT_OFF in reflection.reason and len(reflection.calls) == 6


def test_a_cut_off_critique_never_gives_a_child():
    reflection = mutated(by_stage(critique=(ADD % "Carry.", "length")))
    assert reflection.child is None and CUT_OFF in reflection.reason
    assert [call.error for call in reflection.calls[6:]] == [CUT_OFF] * 2


def test_edits_beyond_the_limit_of_a_critique_are_dropped_and_dropped_ones_do_not_count():
    items = '{"op":"add"}, {"op":"add","principle":"Carry."}, {"op":"add","principle":"Estimate."}'
    reflection = mutated(by_stage(critique=each({P0.id: f"[{items}]", P2.id: "[]"})), max_edits=1)
    assert fates(reflection.calls[6].operations) == ["has no text", "applied", "beyond the limit of 1 edits a reply"]
    assert reflection.child.genome.principles[2:] == ("Carry.",)


def test_answers_of_the_step_do_not_enter_the_child():
    """Also those of problems that were not reflected on."""
    leaky = each({P0.id: ADD % "Note 7 + 5 = 12.", P2.id: ADD % "Recall 40 + 2 = 42."})
    reflection = mutated(by_stage(critique=leaky))
    assert reflection.child is None and "gives away" in reflection.reason
    dropped = [fate for call in reflection.calls for fate in fates(call.operations)]
    assert dropped == [f"gives away the answer of problem {p.id}" for p in (P0, P1)]


def test_a_child_that_says_what_a_living_prompt_says_is_not_born():
    state = population(principles("Check the units."), principles("Check the units.", "Carry the tens."))
    reflection = mutated(by_stage(critique=each({P0.id: ADD % "Carry the tens.", P2.id: "[]"})), state=state)
    assert reflection.child is None and reflection.reason == "the child is identical to prompt 1"


def test_no_edits_is_a_reason():
    assert mutated(by_stage(critique="[]")).reason == "the editor proposed no edit"


def test_a_prompt_without_rollouts_is_an_error():
    with pytest.raises(ValueError, match="prompt 1 has no rollouts"):
        mutated(by_stage(), samples=rollouts((0,), [P0], [[[1, 0]]]), parent=1)


def test_an_editor_that_answers_out_of_order_is_an_error():
    editor = by_stage(critique="[]")
    with pytest.raises(ValueError, match="one reply a chat"):
        mutated(lambda chats: editor(chats)[::-1])
    with pytest.raises(ValueError, match="one reply a chat"):
        mutated(lambda chats: editor(chats)[:-1])


def test_what_the_editor_raises_passes_through():
    def editor(chats):
        raise ConnectionError("no server")

    with pytest.raises(ConnectionError):
        mutated(editor)


def test_trajectories_are_limited_by_turns():
    samples = rollouts((0,), [P0], [[[0, 0, 0, 1, 1]]])
    everything = [0, 1, 2, 3, 4]
    for limit, expected in ((0, everything), (1, [3]), (2, [0, 3]), (3, [0, 3, 4]), (4, [0, 1, 3, 4]), (9, everything)):
        (case,) = find_cases(samples, 0, config(max_trajectories=limit), np.random.default_rng(0))
        assert [attempt.number for attempt in case.attempts] == expected


def test_problems_are_limited_by_the_generator():
    problems = [problem(f"Question {n}?", "1") for n in range(10)]
    samples = rollouts((0,), problems, [[[1, 0]] * 10])
    draws = set()
    for seed in range(20):
        cases = find_cases(samples, 0, config(max_problems=3), np.random.default_rng(seed))
        ids = [problems.index(case.problem) for case in cases]
        assert ids == sorted(set(ids)) and len(ids) == 3
        draws.add(tuple(ids))
    assert len(draws) > 5


def test_a_problem_that_comes_twice_is_reflected_on_once():
    samples = rollouts((0,), [P0, P0], [[[1, 0], [0, 1]]])
    assert len(find_cases(samples, 0, config(), np.random.default_rng(0))) == 1


def test_partial_scores_count_and_are_shown():
    samples = rollouts((0,), [P0], [[[0.25, 0.75]]])
    editor = by_stage(critique="[]")
    mutated(editor, samples=samples)
    assert "score 0.25 of 1" in editor.batches[0][0].messages[0].content


def test_long_trajectories_lose_their_middle():
    editor = by_stage(critique="[]")
    mutated(editor, max_trajectory_words=4)
    assert "words left out" in editor.batches[0][0].messages[0].content


def test_short_trajectories_are_told_as_they_are():
    samples = replace(rollouts((0,), [P0], [[[1, 0, 0]]]), texts=("It is 4.", "One two three four five.", " "))
    editor = by_stage(critique="[]")
    mutated(editor, samples=samples, summarize_above=3)
    summarized = [chat.id for chat in editor.asked("mutation/summary")]
    assert summarized == [f"mutation/summary/{P0.id}/{g}" for g in (1, 2)]  # 2 says nothing
    (critique,) = editor.asked("mutation/critique")
    assert "It is 4." in critique.messages[0].content and "One two three" not in critique.messages[0].content


def test_without_summaries_the_critic_is_asked_at_once():
    editor = by_stage(critique="[]")
    reflection = mutated(editor, summarize_above=1000)
    assert [call.stage for call in reflection.calls] == ["critique", "critique"]


def test_a_document_is_edited_by_search_and_replace():
    state = population(Genome("document", document="Add the digits.\nCheck the sum."))
    block = "<<<<<<< SEARCH\n%s\n=======\n%s\n>>>>>>> REPLACE"
    texts = {P0.id: "Add from the right.", P2.id: "Add slowly."}
    editor = by_stage(critique=each({name: block % ("Add the digits.", text) for name, text in texts.items()}))
    reflection = mutated(editor, state=state)
    assert reflection.child.genome == Genome("document", document="Add from the right.\nCheck the sum.")
    found = [fates(call.operations) for call in reflection.calls[6:]]
    assert found == [["applied"], ["the search text occurs 0 times"]]
    assert "Check the sum." in editor.batches[1][0].messages[0].content


def test_conversations_are_retold():
    turns = (("user", "Sum?"), ("assistant", "I look."), ("tool", "5 is five."), ("assistant", "It is 12."))
    turns = tuple(Message(*turn) for turn in turns)
    samples = replace(rollouts((0,), [P0], [[[1, 0]]]), conversations=(turns, turns[:2]))
    editor = by_stage(critique="[]")
    mutated(editor, samples=samples, summarize_above=1000)
    text = editor.batches[0][0].messages[0].content
    assert "I look.\n[tool: 5 is five.]\nIt is 12.\n\nAttempt 2 (wrong, answer read: read-1):\nI look.\n" in text
    assert "Sum?" not in text and "text of prompt" not in text


def test_a_document_takes_advice_as_hints():
    state = population(Genome("document", document="Add the digits."))
    advice = each({P0.id: " Carry the tens.\n", P2.id: " Carry the tens!\n"})
    reflection = mutated(by_stage(critique=advice), state=state, edit_form="sentence")
    assert reflection.child.genome.document == "Add the digits.\n\nHints:\n- Carry the tens."
    assert [fates(call.operations) for call in reflection.calls[6:]] == [["applied"], ["repeats what the document says"]]


def test_a_sentence_of_advice_is_a_principle():
    advice = each({P0.id: " Carry the tens.\n", P2.id: ' "Line up the digits."\n'})
    editor = by_stage(critique=advice, consolidation=" Mind the tens.\n")
    reflection = mutated(editor, edit_form="sentence")
    assert {chat.reply_prefix for chat in editor.asked("mutation/critique")} == {"Advice:"}
    assert {chat.stop for chat in editor.asked("mutation/critique")} == {"\n"}
    assert reflection.child.genome == principles("Check the units.", "Name the unknowns.", "Mind the tens.")
