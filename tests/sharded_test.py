"""One device or eight: the same logits, the same text, the same gradients.

The model is an awkward one: 9 query and 3 key/value heads and an odd vocabulary, which no axis divides. This file is also the
program that the tests run in processes of their own, with one and with eight virtual devices:
python -m tests.sharded_test MODEL_DIRECTORY OUT.npz DATA,FSDP,TENSOR,SEQUENCE ...
"""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from espl_jax.policy import packing, weights
from espl_jax.policy.attention import Causal, fused_layout
from espl_jax.policy.hf_config import read_spec
from espl_jax.policy.sampler import Active
from espl_jax.policy.schedule import Schedule, cut
from espl_jax.policy.state import init_state, make_policy, open_model
from espl_jax.policy.update import make_updater
from espl_jax.structs import Completion, Grade, Problem, Request, Rollouts
from experiments import base
from tests.tiny import random_params

AXES = ("data", "fsdp", "tensor", "sequence")
MESHES = ("8,1,1,1", "2,2,2,1", "1,2,2,2")
GATHERED = "1,2,2,2"  # where sampling.weights_layout is not "same"
KINDS = {"lora": 4, "full": 0}  # rl.lora_rank


# -- in the process with virtual devices ----------------------------------------------------------------------------


def main(directory, out, *meshes):
    outcomes = {}
    for mesh in meshes:
        for kind, rank in KINDS.items():
            measured = measure(Path(directory), mesh, rank)
            outcomes |= {f"{mesh}/{kind}/{name}": value for name, value in measured.items()}
    np.savez(out, **outcomes)


def measure(directory, mesh, lora_rank):
    """Arrays by name: logits, sampled tokens, gradients (as Adam's first moment), weights after an update, layouts."""
    config = make_config(directory, mesh, lora_rank)
    policy, state = make_policy(config, *open_model(config))
    shardings = jax.tree.map(lambda x: x.sharding, state.trainable)
    if lora_rank:  # a fresh adapter is half zeros; any other numbers will do
        rng = np.random.default_rng(2)
        noisy = jax.tree.map(lambda x: 0.1 * rng.standard_normal(x.shape, np.float32), state.trainable)
        state = init_state(policy, jax.device_put(noisy, shardings))
    variables = policy.variables(state.trainable)
    found = layouts(state, "before") | pieces(variables["params"])
    if lora_rank:
        found |= {"logits": logits(policy, variables)} | sample(policy, variables) | by_paths(policy.mesh)
        found["decode/gathered"] = np.array(gathered_shapes(policy, variables))
    update = make_updater(policy, state, config)
    rewards = rollouts()
    state, learned = update(state, rewards, rewards.rewards_PQG - 0.5, np.ones((1, 2), bool), np.random.default_rng(0))
    found |= layouts(state, "after")
    found |= arrays("weight", state.trainable, policy.spec) | arrays("gradient", adam(state).mu, policy.spec)
    return found | {f"metric/{name}": value for name, value in learned().items()}


def make_config(directory, mesh, lora_rank):
    """Plain arithmetic (float32, no clipping) and an eps that makes Adam's step a smooth function of the gradient."""
    config = base.get_config()
    config.mesh.update(dict(zip(AXES, map(int, mesh.split(",")))))
    config.sampling.weights_layout = "gathered" if mesh == GATHERED else "same"
    config.model.update(path=str(directory), dtype="float32", weight_dtype="float32", max_length=64)
    config.sampling.update(temperature=0.7, max_new_tokens=9, batch_size=4)
    config.rl.update(lora_rank=lora_rank, lora_alpha=8.0, learning_rate=0.1, adam_eps=1.0, max_grad_norm=0.0)
    config.rl.update(kl_coef=0.1 if lora_rank else 0.0, micro_batch_tokens=1024, head_chunk=8, gap_warning=100.0)
    return config


def arrays(name, tree, spec):
    """{name and path: array}; the padding of a vocabulary must be zero, and is cut off."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        table = path[-1].key in ("embedding", "head")
        assert not (table and np.asarray(leaf)[spec.vocab_size :].any())
        found[f"{name}{path}"] = np.asarray(leaf)[: spec.vocab_size] if table else np.asarray(leaf)
    return found


def logits(policy, variables):
    tokens = np.random.default_rng(0).integers(0, policy.spec.vocab_size, (8, 16), np.int32)

    def forward(variables):
        hidden, _ = policy.model.apply(variables, tokens, np.broadcast_to(np.arange(16), tokens.shape))
        return policy.model.apply(variables, hidden, method="logits")

    return np.asarray(jax.jit(forward)(variables))[..., : policy.spec.vocab_size]


def sample(policy, variables):
    """More requests than slots (but for the widest mesh), greedy and not."""
    rng = np.random.default_rng(1)
    settings = [(0.0, 1.0), (1.0, 1.0), (0.0, 1.0), (0.7, 0.9), (0.0, 1.0)]
    prompts = [rng.integers(5, policy.spec.vocab_size, n, np.int32) for n in (3, 9, 1, 6, 12)]
    requests = [Request(i, prompts[i], (1, 1, 0, 0, i), 40, *settings[i]) for i in range(5)]
    completions = policy.sampler(variables, requests)
    found = {}
    for name in ("tokens", "behavior", "untempered"):
        found |= {f"{name}{i}": getattr(completion, name) for i, completion in enumerate(completions)}
    return found


def by_paths(mesh):
    """What a kernel for causal rows gives on this mesh, and its gradients."""
    T, rng = 256, np.random.default_rng(4)
    trees = packing.pack([np.arange(20)] * 3 + [np.arange(9, 40)], [30, 1, 40, 50], T) + packing.pack([np.arange(100)], [99], T)
    attend = jax.tree.map(jax.numpy.asarray, fused_layout(lambda q, k, v: Causal()(q, k, v, None)[0], mesh)(trees, T))
    q, k, v, cotangent = (rng.standard_normal((2, T, n, 8)).astype(np.float32) for n in (9, 3, 3, 9))
    real = np.stack([tree.ends(T) > 0 for tree in trees])[..., None, None]

    def total(q, k, v):
        out = attend(q, k, v, None)[0]
        return jax.numpy.sum(out * cotangent * real), out * real

    gradients, out = jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))(q, k, v)
    return {f"paths/{i}": np.asarray(x) for i, x in enumerate((out, *gradients))}


def gathered_shapes(policy, variables):
    """Shapes ("8,1,32") of the values that a decode call gathers from several devices."""
    sampler, request = policy.sampler, Request(0, np.arange(3), (1, 1, 0, 0, 0), 4, 0.0, 1.0)
    pieces = cut([request] * 5, share=True)
    layout = sampler.layout([request] * 5, [4] * 5, pieces)
    schedule = Schedule(pieces, range(5), layout, sampler.decoding.prefill_chunk)
    active = {seat.slot: Active(request, 4) for seat in schedule.admit()}
    told = sampler.table(schedule, list(schedule.seats.values()), [], active), sampler.stretch(schedule, active)
    decode = sampler._decode.lower(sampler.merged(variables), sampler._empty(layout), *told, sampler.seed)
    found = re.findall(r"= (.*?) all-gather(?:-start)?\(", decode.compile().as_text())
    return ["", *(re.findall(r"\[([\d,]*)\]", types)[-1] for types in found)]


def rollouts():
    """Two groups of four made-up trajectories."""
    rng = np.random.default_rng(3)
    completions = []
    for i in range(8):
        n = int(rng.integers(2, 16))
        logp = (-5 + 0.3 * rng.standard_normal((3, n))).astype(np.float32)
        completions.append(Completion(i, rng.integers(0, 290, n).astype(np.int32), *logp, "length"))
    return Rollouts(
        prompt_ids=(0,), problems=(Problem("a", "a", ""), Problem("b", "b", "")),
        context_tokens=((np.arange(3, 12), np.arange(7, 9)),), completions=tuple(completions), texts=("",) * 8,
        grades=(Grade(0.0),) * 8, rewards_PQG=rng.integers(0, 2, (1, 2, 4)).astype(np.float32),
    )  # fmt: skip


def adam(state):
    """The state of Adam within that of the optimizer."""
    leaves = jax.tree.leaves(state.opt_state, is_leaf=lambda x: isinstance(x, optax.ScaleByAdamState))
    return next(leaf for leaf in leaves if isinstance(leaf, optax.ScaleByAdamState))


def layouts(state, when):
    """Whether both moments lie exactly as the weights do, and where every array of the state lies."""
    def specs(tree):
        return [str(leaf.sharding.spec) for leaf in jax.tree.leaves(tree)]

    moments = [specs(adam(state).mu), specs(adam(state).nu)]
    return {f"follow/{when}": moments == [specs(state.trainable)] * 2, f"layout/{when}": np.array(specs(state))}


def pieces(params):
    """The share of some weights that one device holds."""
    layer = params["layers_0"]
    kernels = {"up": layer["mlp"]["up"]["kernel"], "o": layer["attention"]["o"]["kernel"], "head": params["head"]}
    return {f"piece/{name}": np.array(kernel.addressable_shards[0].data.shape) for name, kernel in kernels.items()}


# -- in the process of the tests ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def outcomes(tiny_qwen3, tmp_path_factory):
    """What processes, side by side, have measured: {mesh: {kind/name: array}}."""
    out = tmp_path_factory.mktemp("sharded")
    spec = dataclasses.replace(read_spec(tiny_qwen3), num_layers=1, num_heads=9, num_kv_heads=3, head_dim=8)
    weights.save(out / "model", spec, random_params(spec, 0), tiny_qwen3, np.float32)
    groups = [("1,1,1,1",), MESHES[:1], MESHES[1:]]
    running = [launch(out / "model", out / f"{i}.npz", 8 if i else 1, group) for i, group in enumerate(groups)]
    for process in running:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-3000:]
        assert "nvoluntary full rematerialization" not in errors, errors[-3000:]
    arrays = {name: array for i in range(len(groups)) for name, array in np.load(out / f"{i}.npz").items()}
    return {
        mesh: {name.removeprefix(f"{mesh}/"): array for name, array in arrays.items() if name.startswith(f"{mesh}/")}
        for mesh in ("1,1,1,1", *MESHES)
    }


def launch(directory, out, devices, meshes):
    """Compiled without optimisation: what is compared is where arrays lie, and it halves the time."""
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    root = str(Path(__file__).parents[1])
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONPATH": root}
    command = [sys.executable, "-m", "tests.sharded_test", str(directory), str(out), *meshes]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def assert_near(ours, expected, names, tolerance=1e-5):
    """Every array within `tolerance` of the largest entry of all of them."""
    assert names
    largest = max(np.abs(expected[name]).max() for name in names)
    assert largest > 0
    for name in names:
        np.testing.assert_allclose(ours[name], expected[name], rtol=0, atol=tolerance * largest, err_msg=name)


def starting(expected, *starts):
    return [name for name in expected if name.startswith(starts)]


@pytest.fixture(params=MESHES)
def pair(request, outcomes):
    """(on a mesh of eight, on one device)"""
    return outcomes[request.param], outcomes["1,1,1,1"]


def test_logits(pair):
    assert_near(*pair, ["lora/logits"])


def test_sampled_text_is_equal_token_for_token(pair):
    ours, expected = pair
    for i in range(5):
        assert len(expected[f"lora/tokens{i}"]) > 0
        assert ours[f"lora/tokens{i}"].tolist() == expected[f"lora/tokens{i}"].tolist()
        np.testing.assert_allclose(ours[f"lora/behavior{i}"], expected[f"lora/behavior{i}"], atol=1e-4)
    assert max(len(expected[name]) for name in starting(expected, "lora/tokens")) > 9


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_and_updated_weights(pair, kind):
    assert_near(*pair, starting(pair[1], f"{kind}/gradient"))
    assert_near(*pair, starting(pair[1], f"{kind}/weight"))
    for name in starting(pair[1], f"{kind}/metric"):
        np.testing.assert_allclose(pair[0][name], pair[1][name], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_the_optimizer_lies_where_its_weights_lie_before_and_after_an_update(pair, kind):
    ours, _ = pair
    assert ours[f"{kind}/follow/before"] and ours[f"{kind}/follow/after"]
    assert ours[f"{kind}/layout/before"].tolist() == ours[f"{kind}/layout/after"].tolist()


@pytest.mark.parametrize(
    "mesh, up, o, head",
    [
        ("1,1,1,1", (32, 64), (72, 32), (297, 32)),
        ("8,1,1,1", (32, 64), (72, 32), (297, 32)),
        ("2,2,2,1", (16, 32), (36, 16), (149, 16)),  # the vocabulary is padded, by as little as can be when it is trained
        ("1,2,2,2", (8, 32), (36, 8), (149, 8)),
    ],
)
def test_weights_are_split_over_fsdp_sequence_and_tensor(outcomes, mesh, up, o, head):
    for kind in KINDS:
        pieces = [outcomes[mesh][f"{kind}/piece/{name}"].tolist() for name in ("up", "o", "head")]
        rows = 256 if kind == "lora" and head[0] < 297 else head[0]  # else to whole blocks of 128
        assert pieces == [list(up), list(o), [rows, head[1]]]


def test_no_weight_is_gathered_for_each_token(pair):
    """A kernel whose width is whole has 32 by one of these, split by tensor or not; activations have 8 slots or fewer."""
    sizes = {whole // parts for whole in (72, 24, 64, 298, 512) for parts in (1, 2)}
    kernels = {f"{a},{b}" for n in sizes for a, b in ((32, n), (n, 32))}
    assert not kernels & set(pair[0]["lora/decode/gathered"].tolist())


def test_a_fused_kernel_over_paths(pair):
    assert_near(*pair, starting(pair[1], "lora/paths"))


if __name__ == "__main__":
    main(*sys.argv[1:])
