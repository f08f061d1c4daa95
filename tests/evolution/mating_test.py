"""Whom the best prompt may cross with."""

from hypothesis import given
from hypothesis import strategies as st

from espl_jax.evolution.crossover import crossover
from espl_jax.evolution.guards import Library
from espl_jax.evolution.mating import MATING
from tests.evolution.scripted import ScriptedEditor, config, population, principles, problem, rollouts

STATE = population(principles("a b c d"), principles("b c d e"), principles("x y z"))  # distances to 0: 0.4 and 1
PROBLEMS = [problem(f"question {i}?", str(i)) for i in range(4)]


def test_mates_by_distance():
    found = {name: [p.id for p in MATING[name](STATE[0], STATE.prompts[1:], STATE, config())] for name in MATING}
    assert found == {"any": [1, 2], "similar": [1], "different": [2]}


@given(st.lists(st.text("ab c", max_size=5), min_size=2, max_size=5), st.floats(0.01, 1.0))
def test_everybody_is_either_similar_or_different(texts, radius):
    state, settings = population(*(principles(text) for text in texts)), config(niche_radius=radius)
    best, others = state.prompts[0], state.prompts[1:]
    split = [MATING[name](best, others, state, settings) for name in ("similar", "different")]
    assert sorted(p.id for group in split for p in group) == [p.id for p in MATING["any"](best, others, state, settings)]


def test_crossover_asks_with_the_mates_alone():
    # prompt 0 wins problems 0 and 1, prompts 1 and 2 one each
    rewards = [[[1], [1], [0], [0]], [[0], [0], [1], [0]], [[0], [0], [0], [1]]]
    samples = rollouts((0, 1, 2), PROBLEMS, rewards)
    for name, parents in (("any", (0, 1, 2)), ("similar", (0, 1)), ("different", (0, 2))):
        editor = ScriptedEditor(lambda chat: "[]")
        reflection = crossover(STATE, samples, 1, "Sums.", editor, config(mating=name), Library(()))
        assert reflection.parents == parents and len(editor.batches) == 1
        assert ("x y z" in editor.batches[0][0].messages[0].content) == (2 in parents)
    alone = crossover(STATE, samples, 1, "Sums.", editor, config(mating="similar", niche_radius=0.1), Library(()))
    assert alone.reason == "no winner is similar to the best prompt" and not alone.calls
