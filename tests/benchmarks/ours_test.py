"""Our own contestant on a tiny random model of the kind that an accelerator is given."""

from dataclasses import replace

import pytest

from benchmarks import random_model
from benchmarks.contestants.ours import Ours
from benchmarks.shapes import SHAPES
from benchmarks.workloads import LearnerWorkload, SamplerWorkload, Wanted
from espl_jax.policy.hf_config import read_spec

SPEC = replace(
    SHAPES["qwen2.5-1.5b"], vocab_size=300, width=16, num_layers=1, num_heads=4, num_kv_heads=2, head_dim=8, mlp_width=24,
    max_positions=256,
)  # fmt: skip


@pytest.fixture(scope="module")
def ours(tiny_qwen3, tmp_path_factory) -> Ours:
    directory = random_model.write(SPEC, tmp_path_factory.mktemp("models") / "random", tiny_qwen3, seed=0)
    assert read_spec(directory) == SPEC
    return Ours(directory, "bfloat16", {})


def test_every_request_gets_the_tokens_it_wants(ours):
    requests = tuple(Wanted((40 + i, 41, 42), length) for i, length in enumerate((1, 5, 9)))
    workload = SamplerWorkload("three", requests, 1.0, 0.95)
    ours.prepare_sampling(**workload.arguments, batch_size=2)
    answer = ours.sample()
    assert answer["useful_tokens"] == workload.useful_tokens == 15 and answer["seconds"] > 0


def test_a_step_trains_on_every_trajectory(ours):
    workload = LearnerWorkload("two", (((40, 41), (42, 43)),), ((50,), (51, 52), (53,), (54,)), (0.5, -0.5, 0.5, -0.5))
    ours.prepare_learning(**workload.arguments, micro_batch=64, remat="none")
    assert ours.learn()["seconds"] > 0
    assert int(ours.state.updates) == 2
