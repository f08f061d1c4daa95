"""Adapters in PEFT's format: names, round trips, sums, and refusals; PEFT's own formula is computed here by hand."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from espl_jax.policy import adapter_files, lora, sharding, weights
from espl_jax.policy.adapter_files import Adapter
from espl_jax.policy.hf_config import read_spec
from espl_jax.policy.model import Decoder, abstract_params

TOKENS = np.arange(5, 17, dtype=np.int32)[None]


@pytest.fixture(scope="module")
def model(tiny_qwen3):
    """Shapes and shardings of the tiny model, and its logits with any weights and adapter (scale 2)."""
    decoder = Decoder(read_spec(tiny_qwen3), lora_scale=2.0)
    shapes, names = abstract_params(decoder)
    mesh = sharding.make_mesh(1, 1, 1, jax.devices()[:1])

    @jax.jit
    def logits(variables):
        hidden, _ = decoder.apply(variables, TOKENS, jnp.arange(TOKENS.shape[1])[None])
        return decoder.apply(variables, hidden, method="logits")

    shardings = sharding.tree_shardings(names, shapes, mesh)

    def load(adapter=None):
        return weights.load(tiny_qwen3, shapes, shardings, np.float32, adapter)

    return SimpleNamespace(shapes=shapes, names=names, load=load, logits=logits, path=str(tiny_qwen3))


def trained(model, rank=4, targets=lora.TARGETS, seed=0):
    """A tree of policy/lora.py with every number random."""
    rng = np.random.default_rng(seed)
    shapes, _ = lora.abstract(model.shapes, model.names, rank, targets)
    return jax.tree.map(lambda leaf: 0.1 * rng.standard_normal(leaf.shape).astype(np.float32), shapes)


def config(model, path):
    return SimpleNamespace(path=model.path, adapter=str(path))


@pytest.fixture
def saved(model, tmp_path):
    """A work directory with an adapter of rank 4, and its tree."""
    tree = trained(model)
    adapter_files.save(tmp_path / "adapter", adapter_files.from_tree(tree, 8.0, model.path))
    return tmp_path, tree


def test_what_is_loaded_with_an_adapter_computes_what_was_trained_beside_the_weights(model, saved):
    workdir, tree = saved
    beside = model.logits({"params": model.load(), "lora": tree})
    for path in (workdir, workdir / "adapter", workdir / "adapter" / "adapter_model.safetensors"):
        adapter = adapter_files.load(config(model, path), model.shapes)
        np.testing.assert_allclose(model.logits({"params": model.load(adapter)}), beside, atol=1e-4)
    assert np.abs(model.logits({"params": model.load()}) - beside).max() > 0.1
    assert adapter_files.load(config(model, ""), model.shapes) is None


def test_names_and_orientation_are_pefts(model, saved):
    """W + alpha / r * B @ A, W as torch stores it [out, in] (LoRA, section 4.1), for one projection by hand."""
    workdir, tree = saved
    tensors = load_file(workdir / "adapter" / "adapter_model.safetensors")
    prefix = "base_model.model.model.layers.1.mlp.down_proj"
    a, b = tensors[f"{prefix}.lora_A.weight"], tensors[f"{prefix}.lora_B.weight"]
    assert a.shape == (4, 64) and b.shape == (32, 4) and len(tensors) == 2 * 2 * 7
    attention = "base_model.model.model.layers.0.self_attn"
    assert {f"{attention}.{name}_proj.lora_{side}.weight" for name in "qkvo" for side in "AB"} <= set(tensors)
    np.testing.assert_array_equal(a, tree["layers_1"]["mlp"]["down"]["a"].T)
    plain, changed = (model.load(one)["layers_1"]["mlp"]["down"]["kernel"] for one in (None, adapter_files.read(workdir)))
    np.testing.assert_allclose(changed, np.asarray(plain) + (2.0 * b @ a).T, atol=1e-6)
    described = json.loads((workdir / "adapter" / "adapter_config.json").read_text())
    assert (described["peft_type"], described["task_type"], described["r"], described["lora_alpha"]) == (
        "LORA", "CAUSAL_LM", 4, 8.0
    )  # fmt: skip
    assert described["target_modules"] == sorted(
        f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")
    ) and described["base_model_name_or_path"] == model.path


def test_two_adapters_become_one(model):
    """Of different rank, scale and targets."""
    first = adapter_files.from_tree(trained(model, 4), 8.0, "base")
    second = adapter_files.from_tree(trained(model, 2, ("q", "up"), seed=1), 6.0, "base")
    both = adapter_files.combined(first, second)
    assert both.rank == 6 and both.scale == 1 and both.targets == first.targets
    for name, (a, b) in both.factors.items():
        parts = [one.scale * one.factors[name][1] @ one.factors[name][0] for one in (first, second) if name in one.factors]
        assert len(parts) == 1 + (".q_proj" in name or ".up_proj" in name)
        np.testing.assert_allclose(both.scale * b @ a, sum(parts), atol=1e-6)


def test_bfloat16_halves_the_file_and_rounds(model, tmp_path):
    adapter = adapter_files.from_tree(trained(model), 8.0, model.path)
    for dtype in ("float32", "bfloat16"):
        adapter_files.save(tmp_path / dtype, adapter, dtype)
    sizes = [(tmp_path / dtype / "adapter_model.safetensors").stat().st_size for dtype in ("float32", "bfloat16")]
    numbers = sum(a.size + b.size for a, b in adapter.factors.values())
    assert sizes[0] - sizes[1] == pytest.approx(2 * numbers, abs=64)
    for name, pair in adapter_files.read(tmp_path / "bfloat16").factors.items():
        for ours, exact in zip(pair, adapter.factors[name]):
            assert ours.dtype == np.float32
            np.testing.assert_allclose(ours, exact, rtol=2**-8)


def test_saving_replaces_what_was_there(model, tmp_path):
    for targets in (lora.TARGETS, ("q",)):
        adapter_files.save(tmp_path / "x", adapter_files.from_tree(trained(model, targets=targets), 4.0, "base"))
    assert adapter_files.read(tmp_path / "x").targets == ["q_proj"]
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def described(folder, **changes):
    file = folder / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def tensors(folder, change):
    file = folder / "adapter" / "adapter_model.safetensors"
    save_file(change(load_file(file)), file)


KEY = "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda folder: described(folder, base_model_name_or_path="Qwen/Qwen3-8B"), "was made for Qwen/Qwen3-8B"),
        (lambda folder: described(folder, r=8), "says r=8"),
        (lambda folder: described(folder, r="4"), "r='4'"),
        (lambda folder: described(folder, lora_alpha=0), "lora_alpha=0"),
        (lambda folder: described(folder, use_dora=True), "use_dora=True"),
        (lambda folder: described(folder, peft_type="IA3"), "peft_type='IA3'"),
        (lambda folder: described(folder, rank_pattern={"q_proj": 2}), "rank_pattern"),
        (lambda folder: described(folder, target_modules=["q_proj"]), "lists q_proj"),
        (lambda folder: tensors(folder, lambda found: {n: found[n] for n in found if n != KEY}), "layers.0.mlp.up_proj.lora_A"),
        (lambda folder: tensors(folder, lambda found: found | {KEY: np.zeros((4, 31), np.float32)}), "as if it had shape"),
        (lambda folder: tensors(folder, lambda found: {n.replace("s.1.", "s.7."): found[n] for n in found}), "layers.7"),
        (lambda folder: tensors(folder, lambda found: {"other.weight": found[KEY]}), "no adapter of low-rank pairs"),
        (lambda folder: (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"x" * 20), "not a whole safetensors"),
        (lambda folder: (folder / "adapter" / "adapter_model.safetensors").unlink(), "no adapter_model.safetensors"),
        (lambda folder: (folder / "adapter" / "adapter_config.json").unlink(), "adapter_config.json does not exist"),
    ],
)  # fmt: skip
def test_what_does_not_belong_here_is_refused_in_one_sentence(model, saved, spoil, named):
    workdir, _ = saved
    spoil(workdir)
    with pytest.raises((ValueError, OSError)) as error:
        adapter_files.load(config(model, workdir), model.shapes)
    assert named in str(error.value) and "\n" not in str(error.value)


def test_the_embedded_model_has_the_name_that_peft_looks_for():
    assert adapter_files.base_name("embedded") == "HuggingFaceTB/SmolLM2-135M-Instruct"
    a, b = np.zeros((2, 3), np.float32), np.zeros((5, 2), np.float32)
    assert Adapter("x", 2, 3.0, {"model.layers.0.mlp.up_proj.weight": (a, b)}).scale == 1.5
