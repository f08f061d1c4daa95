import math

import pytest

from espl_jax.evolution.crossover import crossover, winners
from espl_jax.evolution.edits import CUT_OFF
from espl_jax.evolution.guards import Library
from espl_jax.structs import Genome, Population, Prompt, Rating
from tests.evolution.scripted import by_stage, config, fates, principles, problem, rollouts

PROBLEMS = [problem(f"What is {n} times {n + 1}?", str(n * (n + 1))) for n in (11, 23, 35, 47)]
# Means: prompt 4: .5 1 .5 .5; prompt 2: 1 0 .5 .5; prompt 7: 0 0 .5 .5. Won: 4: second; 2: first; 7: nothing.
REWARDS = [[[1, 0], [1, 1], [1, 0], [1, 0]], [[1, 1], [0, 0], [1, 0], [1, 0]], [[0, 0], [0, 0], [1, 0], [1, 0]]]


def state(*genomes: Genome) -> Population:
    ratings = {4: Rating(20.0, 2.0), 2: Rating(30.0, 1.0), 7: Rating(10.0, 3.0)}
    texts = genomes or (principles("Check the units.", "Draw."), principles("Split a factor."), principles("Guess."))
    return Population(tuple(Prompt(i, g, r, (), "root", 0) for (i, r), g in zip(ratings.items(), texts, strict=True)))


def crossed(reply, rewards=REWARDS, genomes=(), **changes):
    editor = by_stage(crossover=reply)
    samples = rollouts((4, 2, 7)[: len(rewards)], PROBLEMS, rewards)
    return crossover(state(*genomes), samples, 6, "Products.", editor, config(**changes), Library(())), editor


def test_winners_are_strictly_best():
    samples = rollouts((4, 2, 7), PROBLEMS, REWARDS)
    assert winners(samples, 0.01) == {2: [PROBLEMS[0]], 4: [PROBLEMS[1]]}
    assert winners(samples, 0.6) == {4: [PROBLEMS[1]]}
    assert winners(rollouts((4,), PROBLEMS, REWARDS[:1]), 0.01) == {}


def test_the_best_prompt_has_a_child_with_the_precision_weighted_rating():
    reply = (
        '[{"op": "modify", "id": "G1", "principle": "Split one factor.", "evidence": "won 1"},'
        ' {"op": "remove", "id": 0, "evidence": "no win"}, {"op": "add", "principle": "Round, then correct."}]'
    )
    reflection, editor = crossed(reply)
    child = reflection.child
    assert [len(batch) for batch in editor.batches] == [1]
    assert child.genome == principles("Split one factor.", "Round, then correct.")
    assert (child.parents, child.operator, child.born, child.id) == ((4, 2), "crossover", 6, -1)
    assert child.rating.mu == pytest.approx((20 / 4 + 30) / 1.25)
    assert child.rating.sigma == pytest.approx(math.sqrt(1 / 1.25 + 1))
    assert reflection.calls[0].operations[0].evidence == "won 1"
    assert fates(reflection.calls[0].operations) == ["applied"] * 3


def test_the_editor_sees_the_winners_and_what_each_won():
    _, editor = crossed("[]")
    text = editor.batches[0][0].messages[0].content
    best, other = text.split("Split a factor.")
    assert "[G0] Check the units.\n[G1] Draw." in best
    assert PROBLEMS[1].question in best and PROBLEMS[1].question not in other
    assert PROBLEMS[0].question in other and PROBLEMS[0].question not in best
    assert "Guess." not in text and PROBLEMS[2].question not in text
    assert not any(f"{p.answer}" in text for p in PROBLEMS)


def test_the_best_prompt_comes_first_wherever_it_stands():
    rewards = [REWARDS[1], REWARDS[0], REWARDS[2]]
    reflection, _ = crossed('[{"op": "add", "principle": "Round first."}]', rewards)
    assert reflection.parents == (2, 4)
    assert reflection.child.genome == principles("Split a factor.", "Round first.")


@pytest.mark.parametrize(
    ("rewards", "reason"),
    [
        ([[[1, 1]] * 4, [[0, 0]] * 4], "no prompt but the best"),
        ([[[1, 0]] * 4, [[1, 0]] * 4], "the best prompt won no problem"),
        ([[[1, 1]] * 4], "the best prompt won no problem"),
    ],
)
def test_without_two_winners_nothing_is_asked(rewards, reason):
    reflection, editor = crossed("[]", rewards)
    assert reason in reflection.reason and editor.batches == [] and reflection.calls == ()


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (('[{"op": "remove", "id": 0}]', "length"), CUT_OFF),
        ("I like them all.", "no JSON"),
        ("[]", "proposed no edit"),
        ('[{"op": "merge", "ids": [0, 1], "principle": "Both."}]', "not allowed"),
        ('[{"op": "add", "principle": "Know that 11 times 12 is 132."}]', "gives away"),
    ],
)
def test_without_a_usable_edit_there_is_no_child(reply, reason):
    reflection, _ = crossed(reply)
    assert reflection.child is None and reason in reflection.reason and len(reflection.calls) == 1


def test_documents_are_crossed_by_search_and_replace():
    genomes = [Genome("document", document=text) for text in ("Check units.\nDraw.", "Split.", "Guess.")]
    reflection, editor = crossed("<<<<<<< SEARCH\nDraw.\n=======\nDraw. Split.\n>>>>>>> REPLACE", genomes=genomes)
    assert reflection.child.genome.document == "Check units.\nDraw. Split."
    assert "Split." in editor.batches[0][0].messages[0].content


def test_the_hints_of_documents_are_crossed_by_a_sentence():
    genomes = [Genome("document", document=f"Long text.\n\nHints:\n- {hint}") for hint in ("Draw.", "Split it.", "Guess.")]
    reflection, editor = crossed(" Split the number first.\n", genomes=genomes, edit_form="sentence")
    assert reflection.child.genome.document == "Long text.\n\nHints:\n- Draw.\n- Split the number first."
    (operation,) = reflection.calls[0].operations
    assert (operation.op, operation.search, operation.fate) == ("replace", "- Draw.", "applied")
    asked = editor.batches[0][0].messages[0].content
    assert "- Draw." in asked and "- Split it." in asked and "Long text" not in asked
