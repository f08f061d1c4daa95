"""Operations and bytes of a tiny model, by hand."""

import pytest

from benchmarks import work
from benchmarks.shapes import SHAPES
from benchmarks.work import Rates, Work
from benchmarks.workloads import LearnerWorkload, SamplerWorkload, Wanted
from espl_jax.policy.model import ModelSpec

SPEC = ModelSpec(
    vocab_size=10, width=4, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=3, mlp_width=5, rope_theta=1e4,
    rope_scaling=None, norm_eps=1e-6, tied_head=True, qkv_bias=False, qk_norm=False, max_positions=64,
)  # fmt: skip
# q 4 x 6, k and v 4 x 3, o 6 x 4, three matrices 4 x 5
LAYER = 24 + 12 + 12 + 24 + 60
BODY, HEAD = 2 * LAYER, 40
SEEN = 4 * 2 * 6  # operations a token for each position that it sees: 2 layers, 6 = heads x head_dim


def test_weights():
    assert work.layer_weights(SPEC) == LAYER
    assert work.all_weights(SPEC) == BODY + HEAD
    # rank 1: in + out of q, k, v, o, gate, up, down
    assert work.lora_weights(SPEC, 1) == 2 * (10 + 7 + 7 + 10 + 9 + 9 + 9)


def test_published_sizes():
    assert work.all_weights(SHAPES["qwen2.5-1.5b"]) == pytest.approx(1.54e9, rel=0.01)
    assert work.all_weights(SHAPES["qwen2.5-7b"]) == pytest.approx(7.61e9, rel=0.01)
    assert work.all_weights(SHAPES["qwen3-8b"]) == pytest.approx(8.19e9, rel=0.01)


def test_attention_sees_itself_and_all_before():
    assert work.attention_flops(SPEC, 0, 3) == SEEN * (1 + 2 + 3)
    assert work.attention_flops(SPEC, 5, 2) == SEEN * (6 + 7)
    assert work.forward_flops(SPEC, 5, 2) == 2 * 2 * BODY + SEEN * 13


def test_common_beginnings_are_counted_once():
    prompts = [(1, 2, 3), (1, 2, 4), (7,), (1, 2, 3)]
    assert work.shared_lengths(sorted(prompts)) == [0, 3, 2, 0]
    assert work.prompts_flops(SPEC, prompts) == 2 * BODY * 5 + SEEN * (1 + 2 + 3 + 3 + 1)


def test_sampling_work():
    requests = (Wanted((1, 2, 3), 3), Wanted((1, 2, 4), 1))
    found = work.sampling_work(SamplerWorkload("two", requests, 1.0, 1.0), SPEC, 4)
    # 4 prompt positions that see 1, 2, 3 and 3; two drawn tokens are fed again, at positions 3 and 4; 4 logits
    assert found.flops == 2 * BODY * (4 + 2) + SEEN * (1 + 2 + 3 + 3 + 4 + 5) + 4 * 2 * HEAD
    # three steps read the weights; steps 2 and 3 of the first request read 3 + 1 and 3 + 2 positions of 2 layers x 2 x 3
    assert found.bytes == 4 * (3 * (BODY + HEAD) + 12 * (4 + 5))


def test_positions_that_unfinished_sequences_share_are_read_once():
    requests = (Wanted((1, 2, 3), 2), Wanted((9,), 1), Wanted((1, 2, 4, 5), 2))
    assert work.positions_read(requests, 2) == (3 + 1) + (2 + 1)


def test_learning_work():
    workload = LearnerWorkload("one", (((1, 2),),), ((3, 4), (5,)), (0.5, -0.5))
    found = work.learning_work(workload, SPEC, 4)
    # positions 0, 1 once; token 3 at position 2; logits of three tokens; backward is twice forward
    assert found.flops == 3 * (2 * BODY * 3 + SEEN * (1 + 2 + 3) + 3 * 2 * HEAD)


def test_the_bound_is_the_slower_of_the_two():
    rates = Rates(flops=100.0, bytes=10.0)
    assert Work(flops=50, bytes=1).seconds(rates) == 0.5
    assert Work(flops=50, bytes=20).seconds(rates) == 2.0
