"""Weights from Hugging Face directories: goldens of transformers and torch, round trips, slices, and refusals."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from espl_jax.policy import sharding, weights
from espl_jax.policy.cache import DecodeAttend, Layout, Members, empty_cache
from espl_jax.policy.chat import Tokenizer
from espl_jax.policy.hf_config import read_spec
from espl_jax.policy.model import Decoder, abstract_params
from espl_jax.structs import Chat, Message
from tests.goldens.chats import CHATS
from tests.tiny import random_params

GOLDENS = Path(__file__).parents[1] / "goldens"
FAMILIES = ("llama3", "smollm2", "qwen2", "qwen3")


def loaded(directory, dtype=np.float32):
    """(model, params) on the first device."""
    model = Decoder(read_spec(directory))
    shapes, names = abstract_params(model)
    mesh = sharding.make_mesh(1, 1, 1, jax.devices()[:1])
    return model, weights.load(directory, shapes, sharding.tree_shardings(names, shapes, mesh), dtype)


def logits(model, params, tokens_BL):
    positions = jnp.broadcast_to(jnp.arange(tokens_BL.shape[1]), tokens_BL.shape)
    hidden, cache = model.apply({"params": params}, jnp.asarray(tokens_BL), positions)
    return np.asarray(model.apply({"params": params}, hidden, method="logits")), cache


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_transformers(family):
    golden = np.load(GOLDENS / family / "golden.npz")
    model, params = loaded(GOLDENS / family)
    ours, _ = logits(model, params, golden["tokens"])
    assert np.abs(golden["logits"]).max() > 1
    assert np.abs(ours - golden["logits"]).max() < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_one_token_at_a_time_gives_the_same_logits(family):
    golden = np.load(GOLDENS / family / "golden.npz")
    model, params = loaded(GOLDENS / family)
    tokens, mesh = golden["tokens"], sharding.make_mesh(1, 1, 1, jax.devices()[:1])
    layout = Layout(
        slots=2, length=128, head_length=128, tail_length=128, chunk=16, heads=0, head_members=0, tails=0, tail_members=0
    )
    nobody = Members(jnp.zeros((0, 0), jnp.int32), jnp.full(2, -1), jnp.zeros(0, jnp.int32))

    @jax.jit
    def step(tokens_B1, position, caches):
        attend = DecodeAttend(jnp.full(2, position), nobody, nobody, jnp.ones(2, bool), model.constrain)
        hidden, caches = model.apply({"params": params}, tokens_B1, jnp.full((2, 1), position), attend, caches)
        return model.apply({"params": params}, hidden, method="logits"), caches

    caches = empty_cache(model.spec, layout, "float32", mesh)
    for position in range(tokens.shape[1]):
        ours, caches = step(jnp.asarray(tokens[:, position : position + 1]), position, caches)
        assert np.abs(np.asarray(ours[:, 0]) - golden["logits"][:, position]).max() < 1e-4


@pytest.fixture(scope="module")
def embedded_model(embedded_directory):
    return loaded(embedded_directory)


@pytest.mark.parametrize("name", CHATS)
def test_the_embedded_model_has_the_logits_of_another_reader_of_its_file(embedded_directory, embedded_model, name):
    golden = np.load(GOLDENS / "embedded.npz")
    messages = tuple(Message(turn["role"], turn["content"]) for turn in CHATS[name])
    tokens = Tokenizer(embedded_directory, {}).render(Chat(name, messages))
    assert tokens.tolist() == golden[f"{name}/tokens"].tolist()
    ours, _ = logits(*embedded_model, tokens[None])
    # The reference is float64. These are 64 ids a position: over the whole vocabulary, with logits up to 43, our
    # float32 is as far as 1.2e-4 from it, and torch's own 1.1e-4. Which of two orders XLA adds up in is a tenth of that.
    at_ids = np.take_along_axis(ours[0], golden[f"{name}/ids"], axis=-1)
    assert np.abs(at_ids - golden[f"{name}/logits"]).max() < 1.5e-4
    assert (ours[0].argmax(-1) == golden[f"{name}/ids"][:, 0]).all()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory of the process from /proc")
def test_loading_needs_the_memory_of_one_model(embedded_directory):
    def anonymous():
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

    peak, done = [anonymous()], threading.Event()

    def watch():
        while not done.is_set():
            peak.append(anonymous())
            time.sleep(0.005)

    before, watcher = anonymous(), threading.Thread(target=watch)
    watcher.start()
    _, params = loaded(embedded_directory)
    jax.block_until_ready(params)
    done.set()
    watcher.join()
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    largest = max(leaf.nbytes for leaf in jax.tree.leaves(params))
    assert max(peak) - before < size + 1.5 * largest


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_saved_loads_back_equal(tmp_path, family, dtype):
    model, params = loaded(GOLDENS / family, dtype)
    weights.save(tmp_path / "out", model.spec, params, GOLDENS / family, dtype)
    again_model, again = loaded(tmp_path / "out", dtype)
    assert again_model.spec == model.spec
    jax.tree.map(np.testing.assert_array_equal, params, again)
    assert os.listdir(tmp_path) == ["out"]


def test_saved_names_are_those_of_transformers(tmp_path):
    for family in ("smollm2", "qwen2"):
        model, params = loaded(GOLDENS / family)
        weights.save(tmp_path / family, model.spec, params, GOLDENS / family, np.float32)
        ours, theirs = (load_file(root / family / "model.safetensors") for root in (tmp_path, GOLDENS))
        assert ours.keys() == theirs.keys()
        for name, tensor in theirs.items():
            np.testing.assert_array_equal(ours[name], tensor)


def test_a_large_model_is_saved_in_several_files_and_replaces_the_old_one(tmp_path, tiny_qwen3, monkeypatch):
    model, params = loaded(tiny_qwen3)
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").touch()
    monkeypatch.setattr(weights, "MAX_FILE_BYTES", 40_000)
    weights.save(out, model.spec, params, tiny_qwen3, np.float32)
    assert not (out / "old").exists() and not (out / "model.safetensors").exists()
    index = json.loads((out / "model.safetensors.index.json").read_text())
    files = set(index["weight_map"].values())
    assert len(files) > 3 and all(name.endswith(f"-of-{len(files):05d}.safetensors") for name in files)
    assert index["metadata"]["total_size"] == sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    assert all((out / name).stat().st_mode & 0o777 == (out / "config.json").stat().st_mode & 0o777 for name in files)
    jax.tree.map(np.testing.assert_array_equal, params, loaded(out)[1])
    assert Tokenizer(out, {}).stop_ids == Tokenizer(tiny_qwen3, {}).stop_ids


def test_a_save_that_fails_leaves_the_old_directory(tmp_path, tiny_qwen3, monkeypatch):
    model, params = loaded(tiny_qwen3)
    shutil.copytree(tiny_qwen3, tmp_path / "out")

    def full_disk(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr(weights, "save_file", full_disk)
    with pytest.raises(OSError, match="no space left"):
        weights.save(tmp_path / "out", model.spec, params, tiny_qwen3, np.float32)
    assert os.listdir(tmp_path) == ["out"]
    weights.check(tmp_path / "out", abstract_params(model)[0])


def test_rows_that_pad_the_vocabulary_are_zeros_drawn_by_nobody_and_not_written(tmp_path):
    spec, tokens = read_spec(GOLDENS / "qwen3"), np.arange(12, dtype=np.int32).reshape(2, 6)
    model, mesh = Decoder(spec, vocab_rows=spec.vocab_size + 3), sharding.make_mesh(1, 1, 1, jax.devices()[:1])
    shapes, names = abstract_params(model)
    params = weights.load(GOLDENS / "qwen3", shapes, sharding.tree_shardings(names, shapes, mesh), np.float32)
    assert params["embedding"].shape[0] == params["head"].shape[0] == spec.vocab_size + 3
    assert not np.asarray(params["embedding"])[spec.vocab_size :].any()
    _, plain = loaded(GOLDENS / "qwen3")
    (ours, _), (expected, _) = (logits(m, p, tokens) for m, p in ((model, params), (Decoder(spec), plain)))
    np.testing.assert_allclose(ours[..., : spec.vocab_size], expected, atol=1e-6)
    assert not jax.nn.softmax(ours)[..., spec.vocab_size :].any()
    weights.save(tmp_path / "saved", spec, params, GOLDENS / "qwen3", np.float32)
    _, again = loaded(tmp_path / "saved")
    jax.tree.map(np.testing.assert_array_equal, again, plain)


SHARDED = """
import sys
import jax, numpy as np
from pathlib import Path
from espl_jax.policy import sharding, weights
from espl_jax.policy.hf_config import read_spec
from espl_jax.policy.model import Decoder, abstract_params
directory, out = Path(sys.argv[1]), Path(sys.argv[2])
model = Decoder(read_spec(directory))
shapes, names = abstract_params(model)
largest = []
array = np.array
mesh = sharding.make_mesh(2, 2, 2)
weights.np.array = lambda part, *args, **kwargs: (largest.append(np.shape(part)), array(part, *args, **kwargs))[1]
params = weights.load(directory, shapes, sharding.tree_shardings(names, shapes, mesh), np.float32)
up = params["layers_0"]["mlp"]["up"]["kernel"]
assert up.addressable_shards[0].data.shape == (16, 32), up.sharding
assert max(rows * columns for rows, columns in (s for s in largest if len(s) == 2)) < 32 * 297 // 2 + 1, largest
assert len(largest) < 4 * len(jax.tree.leaves(shapes)) + 1, "a slice is read once for all devices that hold it"
weights.save(out, model.spec, params, directory, np.float32)
"""


def test_eight_devices_read_their_slices_and_save_the_whole(tmp_path, tiny_qwen3):
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    command = [sys.executable, "-c", SHARDED, str(tiny_qwen3), str(tmp_path / "out")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    ours, theirs = (load_file(root / "model.safetensors") for root in (tmp_path / "out", tiny_qwen3))
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)


def changed(tmp_path, source, change):
    """A copy of a single-file model directory whose tensors `change` has edited."""
    shutil.copytree(source, tmp_path / "model")
    tensors = load_file(source / "model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "model" / "model.safetensors")
    return tmp_path / "model"


DOWN = "model.layers.1.mlp.down_proj.weight"


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.pop(DOWN), f"lacks the tensor {DOWN}; "),
        (lambda t: [t.pop(name) for name in list(t)[:3]], "and 2 more"),
        (lambda t: t.update({"model.layers.2.x": np.zeros(2, np.float32)}), r"a tensor model.layers.2.x that"),
        (lambda t: t.update({DOWN: t[DOWN].T.copy()}), r"has shape \(48, 24\), but its config.json means \(24, 48\)"),
        (lambda t: t.update({DOWN: t[DOWN].astype(np.int8)}), "is of type I8"),
        (lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"] + 1}), "lm_head.weight differs"),
    ],
)
def test_wrong_tensors_are_named_in_one_sentence(tmp_path, change, message):
    directory = changed(tmp_path, GOLDENS / "smollm2", change)
    with pytest.raises(ValueError, match=message) as caught:
        loaded(directory)
    assert "\n" not in str(caught.value)


def test_a_second_copy_of_a_tied_head_and_a_table_of_rope_are_ignored(tmp_path):
    def add(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(4, np.float32)

    _, params = loaded(changed(tmp_path, GOLDENS / "smollm2", add))
    assert "head" not in params


def test_a_truncated_file_is_told_from_a_whole_one(tmp_path):
    shutil.copytree(GOLDENS / "llama3", tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    for size in (path.stat().st_size - 1, 100, 0):
        os.truncate(path, size)
        with pytest.raises(ValueError, match="is not a whole safetensors file"):
            loaded(tmp_path / "model")


def test_pickle_is_refused_and_missing_files_are_named(tmp_path):
    model = tmp_path / "model"
    shutil.copytree(GOLDENS / "qwen3", model)
    (model / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks model-00002-of-00002.safetensors, which its index names"):
        loaded(model)
    (model / "model.safetensors.index.json").unlink()
    with pytest.raises(FileNotFoundError, match="has neither model.safetensors nor"):
        loaded(model)
    (model / "pytorch_model.bin").touch()
    with pytest.raises(FileNotFoundError, match=r"only as pickle \(pytorch_model.bin\)"):
        loaded(model)


def test_an_index_cannot_point_outside_its_directory(tmp_path):
    shutil.copytree(GOLDENS / "qwen3", tmp_path / "model")
    index = {"weight_map": {"lm_head.weight": "../other.safetensors"}}
    (tmp_path / "model" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="outside its directory"):
        loaded(tmp_path / "model")


def test_resolve_finds_directories_and_refuses_the_rest(tmp_path, monkeypatch):
    assert weights.resolve(str(tmp_path), "main") == tmp_path
    for missing in (str(tmp_path / "none"), "./none", "none", "a/b/c", "~none/x", ""):
        with pytest.raises(FileNotFoundError, match="is no directory here, and no hub name"):
            weights.resolve(missing, "main")
    monkeypatch.setenv("ESPL_JAX_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"run `python launch/fetch_model.py`"):
        weights.resolve("embedded", "main")


def test_resolve_asks_the_hub_for_safe_files_only(tmp_path, monkeypatch):
    import huggingface_hub

    asked = {}

    def snapshot(name, **arguments):
        asked.update(arguments, name=name)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert weights.resolve("Qwen/Qwen3-8B", "abc") == tmp_path
    assert (asked["name"], asked["revision"]) == ("Qwen/Qwen3-8B", "abc")
    assert not any(pattern.endswith((".bin", ".py", "*")) for pattern in asked["allow_patterns"])

    def offline(name, **arguments):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(FileNotFoundError, match="could not be had from the hub: no route to host"):
        weights.resolve("Qwen/Qwen3-8B", "abc")


def test_random_params_fit_every_family():
    spec = read_spec(GOLDENS / "qwen3")
    ours, _ = logits(Decoder(spec), random_params(spec, 0), np.zeros((1, 4), np.int32))
    assert ours.shape == (1, 4, spec.vocab_size) and np.isfinite(ours).all()
