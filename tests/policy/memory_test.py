"""The formula of peak memory: every term by hand on a tiny model, and both programs against XLA's own count."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from espl_jax.policy import batch as batching
from espl_jax.policy import lora, memory, packing, sharding
from espl_jax.policy.attention import make_layout
from espl_jax.policy.cache import Layout, Members, PrefillAttend
from espl_jax.policy.loss import batch_loss
from espl_jax.policy.model import Decoder, ModelSpec, abstract_params
from espl_jax.policy.sampler import Sampler, Table
from experiments import base

SPEC = ModelSpec(
    vocab_size=1024, width=32, num_layers=3, num_heads=4, num_kv_heads=2, head_dim=16, mlp_width=48, rope_theta=1e4,
    rope_scaling=None, norm_eps=1e-6, tied_head=True, qkv_bias=False, qk_norm=False, max_positions=512,
)  # fmt: skip
LAYOUT = Layout(
    slots=16, length=256, head_length=128, tail_length=128, chunk=32, heads=4, head_members=16, tails=7, tail_members=4
)
# q 32 x 64, k and v 32 x 32, o 64 x 32, gate and up 32 x 48, down 48 x 32, two norms of 32
LAYER = 2048 + 2 * 1024 + 2048 + 3 * 1536 + 64
MODEL = 1024 * 32 + 3 * LAYER + 32
# rank 4: the sum of in and out of all seven
ADAPTER = 4 * (96 + 64 + 64 + 96 + 80 + 80 + 80)  # of one layer
T = 256


def make_config(**fields):
    config = base.get_config()
    config.model.update(dtype="float32", weight_dtype="float32", remat="layer")
    config.sampling.update(prefill_tokens=64, prefill_chunk=32)
    config.rl.update(lora_rank=4, head_chunk=64, micro_batch_tokens=T)
    config.update_from_flattened_dict(fields)
    return config


def test_what_lives_as_long_as_the_run():
    terms = memory.run_terms(SPEC, make_config(**{"model.weight_dtype": "bfloat16"}))
    assert terms == {"weights": 2 * MODEL, "adapter": 12 * ADAPTER, "moments": 24 * ADAPTER, "reference": 12 * ADAPTER}
    full = make_config(**{"rl.lora_rank": 0, "method": "rl"})
    assert memory.run_terms(SPEC, full) == {"weights": 4 * MODEL, "moments": 8 * MODEL, "reference": 0}
    full.method = "espl"  # the frozen weights write the children
    assert memory.run_terms(SPEC, full)["reference"] == 4 * MODEL


@pytest.mark.parametrize("tied_head, qkv_bias, qk_norm", [(True, False, False), (False, True, True)])
def test_numbers_of_the_model_are_those_of_the_model(tied_head, qkv_bias, qk_norm):
    spec = dataclasses.replace(SPEC, tied_head=tied_head, qkv_bias=qkv_bias, qk_norm=qk_norm)
    shapes, names = abstract_params(Decoder(spec))
    assert memory.model_numbers(spec) == sum(x.size for x in jax.tree.leaves(shapes))
    low, _ = lora.abstract(shapes, names, 4, ("q", "down"))
    config = make_config(**{"rl.lora_targets": ("q", "down")})
    assert 3 * memory.adapter_numbers(spec, config.rl) == sum(x.size for x in jax.tree.leaves(low))


@pytest.mark.parametrize("kind, size", [("model", 4), ("bfloat16", 2), ("int8", 1 + 4 / 16)])
def test_keys_and_values(kind, size):
    config = make_config(**{"sampling.cache_dtype": kind})
    positions, numbers = 16 * 256 + (4 + 7) * 128, 3 * 2 * 2 * 16  # layers, keys and values, heads, width
    assert memory.cache_bytes(SPEC, config, LAYOUT) == positions * numbers * size


def test_temporaries_of_sampling():
    config = make_config()
    scores = (16 * 256 + 4 * 16 * 128 + 7 * 4 * 128) * 4 * 4
    assert memory.decode_bytes(SPEC, config, LAYOUT) == max(3 * 16 * 1024 * 4, scores) == scores
    unpacked = (16 * 256 + 11 * 128) * 2 * 2 * 16 * 4
    packed = make_config(**{"sampling.cache_dtype": "int8"})
    assert memory.decode_bytes(SPEC, packed, LAYOUT) == scores + unpacked
    wide = Layout(16, 128, 128, 128, 32, 0, 0, 0, 0)
    assert memory.decode_bytes(SPEC, config, wide) == 3 * 16 * 1024 * 4
    # R 2, C 32; blocks of 128, 64 and 64 positions of each row
    attention = 2 * 4 * 32 * (256 + 3 * 16) * 4 + 2 * 2 * 256 * 2 * 16 * 4 + 64 * (4 + 2 * 2) * 16 * 4
    assert memory.prefill_bytes(SPEC, config, LAYOUT) == 2 * 64 * 32 * 4 + attention
    assert memory.merged_bytes(SPEC, config) == 0
    merging = make_config(**{"sampling.merge_weights": True})
    assert memory.merged_bytes(SPEC, merging) == 4 * 3 * LAYER
    assert memory.sampling_terms(SPEC, merging, LAYOUT, merged=2)["merged"] == 8 * 3 * LAYER


# D 32, q 64, k 32, F 48, 4 heads; adapters 7 x 4 a token, and the outputs of all but down: 64 + 32 + 32 + 32 + 48 + 48
KEPT = {
    ("layer", True, 0): 32,
    ("attention", True, 0): 32 + 64 + 4,
    ("dots", True, 0): 2 * 32 + 2 * 64 + 2 * 32 + 2 * 48 + 4,
    ("dots", True, 4): 2 * 32 + 2 * 64 + 2 * 32 + 2 * 48 + 4 + 28 + 256,
    ("none", True, 0): 9 * 32 + 3 * 64 + 2 * 32 + 6 * 48 + 8,
    ("none", True, 4): 7 * 32 + 3 * 64 + 2 * 32 + 6 * 48 + 8 + 28,
    ("none", False, 0): 5 * 32 + 4 * 64 + 4 * 32 + 4 * 48 + 8,
    ("none", False, 4): 4 * 32 + 4 * 64 + 4 * 32 + 7 * 48 + 8 + 28,
}


@pytest.mark.parametrize("remat, scanned, rank", KEPT)
def test_what_is_kept_for_the_backward_pass(remat, scanned, rank):
    config = make_config(**{"rl.lora_rank": rank})
    assert memory.kept_numbers(SPEC, config, remat, scanned) == KEPT[remat, scanned, rank]


def test_terms_of_learning():
    config = make_config(**{"rl.lora_rank": 0, "model.scan_layers": True, "method": "rl"})
    terms = memory.gradient_terms(SPEC, config, T, several=True, platform="cpu")
    assert terms["gradient"] == 8 * MODEL and terms["stacked"] == 8 * 3 * LAYER
    assert terms["kept for backward"] == 3 * T * 32 * 4 and terms["weights in model.dtype"] == 0
    chunk, table = 64 * 1024 * 4, 1024 * 32 * 4
    assert memory.head_bytes(SPEC, config, T) == max(2 * chunk, chunk + table) + 4 * T * 32 * 4
    scores = 3 * 4 * 128 * 128 * 4  # of a block of queries and the keys that it meets at one time
    assert memory.layer_bytes(SPEC, config, T, "layer") == T * (KEPT["none", False, 0] - 32 + 2 * 48) * 4 + scores
    assert memory.optimizer_terms(SPEC, config)["update"] == 4 * MODEL
    frozen = memory.gradient_terms(SPEC, make_config(**{"model.scan_layers": True}), T, several=False, platform="cpu")
    assert frozen["stacked"] == 4 * 3 * LAYER + 8 * 3 * ADAPTER and frozen["gradient"] == 4 * 3 * ADAPTER


def test_unrolled_layers_are_not_recomputed_on_cpu():
    config = make_config()
    assert memory.effective_remat(config, "cpu") == "none" and memory.effective_remat(config, "tpu") == "layer"


def test_casting_weights_is_counted():
    config = make_config(**{"rl.lora_rank": 0, "model.dtype": "bfloat16"})
    terms = memory.gradient_terms(SPEC, config, T, several=False, platform="tpu")
    assert terms["weights in model.dtype"] == 2 * (1024 * 32 + LAYER)


# -- against XLA ---------------------------------------------------------------------------------------------------------


def ints(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def counted(compiled):
    """Bytes of a program: what it is given, what it gives, and what it needs meanwhile."""
    found = compiled.memory_analysis()
    given = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    return given + found.temp_size_in_bytes


def shapes_of(config):
    """(weights, adapter) as shapes."""
    shapes, names = abstract_params(Decoder(SPEC))
    return shapes, lora.abstract(shapes, names, config.rl.lora_rank, tuple(config.rl.lora_targets))[0]


def sampler_programs(config):
    mesh = sharding.make_mesh(1, 1, 1, jax.devices()[:1])
    sampler = Sampler(Decoder(SPEC), mesh, (2,), 0, config.sampling, LAYOUT.length)
    weights, low = shapes_of(config)
    variables, slots = {"params": weights, "lora": low}, jax.eval_shape(lambda: sampler.empty_slots(LAYOUT))
    B = LAYOUT.slots
    members = [Members(ints(X, M), ints(B), ints(X)) for X, M in ((4, 16), (7, 4))]
    columns = [ints(B), jax.ShapeDtypeStruct((B,), bool), *[ints(B)] * 4, *[jax.ShapeDtypeStruct((B,), jnp.float32)] * 2]
    table = Table(*members, *columns, jax.ShapeDtypeStruct((B, 5), jnp.uint32))
    decode = sampler._decode.lower(variables, slots, table, (ints(), ints()), sampler.seed)
    attend = PrefillAttend(ints(), *[ints(2)] * 6)
    prefill = sampler._prefill.lower(variables, slots, ints(2, 32), ints(2, 32), attend)
    return decode.compile(), prefill.compile()


def test_sampling_is_what_xla_counts():
    config = make_config()
    terms = memory.sampling_terms(SPEC, config, LAYOUT, merged=1)
    predicted = sum(terms.values()) - terms["moments"] - terms["reference"]  # which no program of the sampler is given
    assert max(map(counted, sampler_programs(config))) == pytest.approx(predicted, rel=0.2)


def gradient_program(config):
    """As in update.py, of one empty packed row."""
    model = Decoder(SPEC, remat=config.model.remat, scan_layers=config.model.scan_layers)
    weights, low = shapes_of(config)
    mesh = sharding.make_mesh(1, 1, 1, jax.devices()[:1])
    layout = make_layout("xla", "float32", mesh)
    batch = batching.fill([packing.EMPTY], [], [], T, config.rl.ratio, layout)
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), batch)

    def gradient(trainable, frozen, batch):
        def loss(trainable):
            variables = {"params": trainable} if frozen is None else {"params": frozen, "lora": trainable}
            return batch_loss(model, variables, None, batch, config.rl)

        return jax.grad(loss, has_aux=True)(trainable)

    trained = (low, weights) if config.rl.lora_rank else (weights, None)
    return jax.jit(gradient).lower(*trained, batch).compile()


@pytest.mark.parametrize("rank", [4, 0], ids=["lora", "full"])
@pytest.mark.parametrize("remat, scanned", [("none", False), ("none", True), ("layer", True)])
def test_learning_is_what_xla_counts(rank, remat, scanned):
    config = make_config(**{"rl.lora_rank": rank, "model.remat": remat, "model.scan_layers": scanned, "method": "rl"})
    terms = memory.gradient_terms(SPEC, config, T, several=False, platform="cpu")
    predicted = sum(terms.values()) - terms["moments"] - terms["reference"] if rank else sum(terms.values()) - 8 * MODEL
    assert counted(gradient_program(config)) == pytest.approx(predicted, rel=0.2)
