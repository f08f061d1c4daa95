"""The shapes that are compiled are those of a run: policy, optimizer, bytes on a device; and what a few layers tell of all."""

import jax
import pytest

from espl_jax.dryrun import programs, study
from espl_jax.dryrun.hlo import Collective
from espl_jax.policy import sharding
from espl_jax.policy.state import make_policy, open_model
from tests.tiny_run import tiny_config


def described(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), tree)


@pytest.mark.parametrize("rank", [4, 0])
def test_shapes_are_those_of_the_policy(tiny_qwen3, rank):
    config = tiny_config(tiny_qwen3, **{"rl.lora_rank": rank})
    directory, spec, tokenizer = open_model(config)
    policy, state = make_policy(config, directory, spec, tokenizer)
    shapes, shape_state = programs.shape_policy(config, spec, sharding.make_mesh(**config.mesh))
    assert described(shape_state) == described(state)
    assert described(shapes.frozen) == described(policy.frozen)
    assert described(shapes.reference) == described(policy.reference)
    held = sum(x.nbytes for x in jax.tree.leaves((state.trainable, policy.frozen)))
    assert programs.bytes_on_device((shape_state.trainable, shapes.frozen)) == held


def part(layers):
    each = Collective("all-reduce", ("f32", (8,)), 32, 2, 2.0 * layers)
    collectives = (each, Collective("all-gather", ("f32", (9,)), 36, 2, 1.0))
    return {
        "memory": {"arguments": 100 + 10 * layers, "temporaries": 50}, "flops": 7.0 * layers, "collectives": collectives,
        "seconds": 1.0,
    }  # fmt: skip


def test_what_one_layer_adds_every_layer_adds():
    found = study.inferred([(1, part(1)), (3, part(3))], 36)
    assert found["memory"] == part(36)["memory"] and found["flops"] == part(36)["flops"]
    assert set(found["collectives"]) == set(part(36)["collectives"]) and found["seconds"] == 2.0
    assert study.inferred([(36, part(36))], 36) == part(36)
