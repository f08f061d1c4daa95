"""Workloads: the stated counts, the same from the same seed, lengths with a heavy tail."""

import json

import numpy as np
import pytest

from benchmarks import workloads
from benchmarks.workloads import FIRST_TOKEN, LONGEST, sampler_workload, trajectories

VOCAB = 1000


@pytest.mark.parametrize("name", ["uniform-8/0.95", "espl/1", "burst/1", "decode-2/1"])
def test_a_seed_decides_everything(name):
    assert sampler_workload(name, VOCAB, 3) == sampler_workload(name, VOCAB, 3)
    assert sampler_workload(name, VOCAB, 3) != sampler_workload(name, VOCAB, 4)


def test_uniform():
    workload = sampler_workload("uniform-8/0.95", VOCAB, 0)
    assert workload.name == "uniform-8/0.95" and workload.top_p == 0.95
    assert [(len(r.tokens), r.length) for r in workload.requests] == [(64, 128)] * 8
    assert len({r.tokens for r in workload.requests}) == 8
    assert workload.useful_tokens == 8 * 128


def test_espl_has_three_prompts_of_ten_problems_of_five_samples():
    requests = sampler_workload("espl/1", VOCAB, 0).requests
    assert len(requests) == 150
    assert {len(r.tokens) for r in requests} == {500}
    assert len({r.tokens[:400] for r in requests}) == 3
    assert len({r.tokens[400:] for r in requests}) == 10
    assert len({r.tokens for r in requests}) == 30
    assert all(requests[i].tokens == requests[i - i % 5].tokens for i in range(150))


def test_lengths_are_heavy_tailed_and_within_the_limit():
    lengths = np.array(workloads.heavy_tailed_lengths(np.random.default_rng(0), 10_000))
    assert lengths.min() >= 1 and lengths.max() == LONGEST
    assert 60 <= np.median(lengths) <= 68
    assert 0.06 < np.mean(lengths == LONGEST) < 0.11
    assert lengths.mean() > 1.2 * np.median(lengths)


def test_burst():
    requests = sampler_workload("burst/1", VOCAB, 0).requests
    sizes = [len(r.tokens) for r in requests]
    assert len(requests) == 40 and {r.length for r in requests} == {200}
    assert 600 <= min(sizes) < 800 and 1300 < max(sizes) <= 1500


def test_no_control_tokens_and_arguments_that_are_json():
    workload = sampler_workload("espl/1", VOCAB, 0)
    assert all(FIRST_TOKEN <= token < VOCAB for r in workload.requests for token in r.tokens)
    arguments = json.loads(json.dumps(workload.arguments))
    assert arguments["requests"][0] == {"tokens": list(workload.requests[0].tokens), "length": workload.requests[0].length}


@pytest.mark.parametrize("name", ["uniform", "uniform-x/1", "espl/", "other/1", "other-3/1"])
def test_unknown_workloads_are_refused(name):
    with pytest.raises(ValueError, match="unknown workload"):
        sampler_workload(name, VOCAB, 0)


def test_trajectories_of_the_uniform_learner_share_nothing():
    workload = trajectories("uniform", VOCAB, 0)
    assert workload.shape == (1, 16, 1)
    assert len(set(workload.contexts[0])) == 16
    assert workload.useful_tokens == 16 * 192


def test_trajectories_of_espl_have_signal_in_every_group():
    workload = trajectories("espl", VOCAB, 0)
    assert workload.shape == (3, 10, 5)
    groups = np.reshape(workload.advantages, (30, 5))
    assert (groups.min(axis=1) < 0).all() and (groups.max(axis=1) > 0).all()
    assert workload.useful_tokens == 150 * 500 + sum(map(len, workload.completions))


def test_unknown_trajectories_are_refused():
    with pytest.raises(ValueError, match="unknown trajectories"):
        trajectories("long", VOCAB, 0)
