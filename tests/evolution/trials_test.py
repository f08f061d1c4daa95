"""The memory of rewards by problem, in the loop and in a checkpoint."""

import json
from dataclasses import asdict

from espl_jax.evolution import population as populations
from espl_jax.evolution.trials import add_trial, newest_values
from tests.evolution.scripted import population, principles, problem, rollouts

P, Q = problem("one?", "1"), problem("two?", "2")
STATE = population(principles("a"), principles("b"))


def test_the_latest_value_counts_and_old_ones_are_forgotten():
    state = add_trial(STATE, rollouts((0, 1), [P, Q], [[[1, 0], [0, 0]], [[1, 1], [0, 1]]]), 3, max_age=2)
    state = add_trial(state, rollouts((1,), [Q], [[[1, 1]]]), 4, max_age=2)
    assert newest_values(state) == {0: {P.id: 0.5, Q.id: 0.0}, 1: {P.id: 1.0, Q.id: 1.0}}
    state = add_trial(state, rollouts((0,), [Q], [[[0, 1]]]), 5, max_age=2)
    assert [trial.step for trial in state.trials] == [4, 5]
    assert newest_values(state) == {0: {Q.id: 0.5}, 1: {Q.id: 1.0}}


def test_a_checkpoint_holds_the_trials_and_one_without_them_is_read():
    state = add_trial(STATE, rollouts((0, 1), [P], [[[1, 0, 0]], [[1, 1, 0]]]), 1, 5)
    saved = json.loads(json.dumps(populations.to_json(state)))
    assert populations.from_json(saved) == state
    assert saved["trials"] == [json.loads(json.dumps(asdict(state.trials[0])))]
    del saved["trials"]
    assert populations.from_json(saved) == STATE
