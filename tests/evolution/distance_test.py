"""Distances, species and diversity, against numbers found by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espl_jax.evolution.distance import DISTANCES, behaviour_distance, diversity_metrics, species, text_distance
from espl_jax.evolution.trials import add_trial
from tests.evolution.scripted import config, population, principles, problem, rollouts

PROBLEMS = [problem(f"question {i}?", str(i)) for i in range(3)]
# words: {check, units}, {check, units, twice}, {draw, figure}, {}
STATE = population(
    principles("Check units"), principles("check", "units twice"), principles("Draw figure"), principles()
)


def with_rewards(state=STATE):
    """Prompts 0 and 1 on problems 0 and 1; later prompts 1 and 2 on problems 1 and 2; prompt 3 on nothing."""
    state = add_trial(state, rollouts((0, 1), PROBLEMS[:2], [[[1, 1], [0, 0]], [[1, 0], [1, 1]]]), 1, 9)
    return add_trial(state, rollouts((1, 2), PROBLEMS[1:], [[[1, 0], [1, 1]], [[0, 0], [1, 0]]]), 2, 9)


def test_text_distance_is_one_less_the_share_of_common_words():
    distances = [text_distance(STATE[0], STATE[i], STATE) for i in range(4)]
    assert distances == pytest.approx([0, 1 / 3, 1, 1])
    assert text_distance(STATE[3], STATE[3], STATE) == 0


def test_behaviour_distance_is_over_the_problems_both_know_by_their_latest_values():
    state = with_rewards()
    assert behaviour_distance(state[0], state[1], state) == pytest.approx((0.5 + 0.5) / 2)
    assert behaviour_distance(state[1], state[2], state) == pytest.approx((0.5 + 0.5) / 2)
    assert behaviour_distance(state[0], state[2], state) == 0.0  # problem 1: nobody got it right
    assert behaviour_distance(state[0], state[3], state) == 1.0  # unknown


texts = st.lists(st.sampled_from("check draw units twice figure carry".split()), max_size=4).map(" ".join)


rewards = st.lists(st.integers(0, 1), min_size=8, max_size=8)


@given(st.lists(texts, min_size=2, max_size=4), st.sampled_from(sorted(DISTANCES)), rewards)
def test_every_distance_is_symmetric_within_bounds_and_zero_to_itself(words, name, rewards):
    state = population(*(principles(*([text] if text else [])) for text in words))
    samples = rollouts((0, 1), PROBLEMS[:2], [[rewards[0:2], rewards[2:4]], [rewards[4:6], rewards[6:8]]])
    state = add_trial(state, samples, 1, 5)
    for a in state.prompts:
        assert DISTANCES[name](a, a, state) == 0
        for b in state.prompts:
            assert 0 <= DISTANCES[name](a, b, state) == DISTANCES[name](b, a, state) <= 1


def test_species_are_chains_of_near_prompts():
    state = population(*(principles(text) for text in ("a b c d", "x y", "b c d e", "c d e f")))
    # neighbours in the chain share 3 of 5 words (distance 0.4), its ends 2 of 6 (0.67)
    found = species(state.prompts, state, config(niche_radius=0.5))
    assert sorted(sorted(prompt.id for prompt in cluster) for cluster in found) == [[0, 2, 3], [1]]
    assert len(species(state.prompts, state, config(niche_radius=0.4))) == 4


def test_diversity_is_of_the_window():
    found = diversity_metrics(STATE, config())
    assert found == {"evolution/diversity": pytest.approx((1 / 3 + 1 + 1 + 1 + 1 + 1) / 6), "evolution/species": 3.0}
    assert diversity_metrics(STATE, config(window=1)) == {"evolution/diversity": 0.0, "evolution/species": 1.0}
    known = diversity_metrics(with_rewards(), config(distance="behaviour"))
    assert known["evolution/behaviour_distance"] == pytest.approx((0.5 + 0.5 + 0.0) / 3)
    assert known["evolution/species"] == 3.0  # 0 and 2 do alike
