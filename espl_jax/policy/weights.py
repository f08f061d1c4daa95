"""Weights between a Hugging Face directory (safetensors) and the Decoder's pytree, without torch and without pickle.

Loading reads, for each device, only the slice of each tensor that the device holds, straight into its dtype and
sharding: host memory holds one tensor at a time. Saving writes the same format back, one file of at most MAX_FILE_BYTES
at a time, into a temporary directory that is renamed when it is whole.
"""

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import ml_dtypes  # noqa: F401  gives numpy the dtype bfloat16, which safetensors then returns
import numpy as np
from jax.experimental import multihost_utils
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from espl_jax.policy import embedded
from espl_jax.policy.hf_config import TOKEN_IDS, config_json, read_json
from espl_jax.policy.model import ModelSpec

MAX_FILE_BYTES = 5 * 10**9
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = ("F64", "F32", "F16", "BF16")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "tokenizer.model", "chat_template.jinja", "chat_template.json", "generation_config.json",
)  # fmt: skip
TOP_NAMES = {
    "embedding": "model.embed_tokens.weight",
    "head": "lm_head.weight",
    "final_norm/scale": "model.norm.weight",
}
TABLES = ("embedding", "head")  # rows: the vocabulary
MODULE_NAMES = {
    "attention/q": "self_attn.q_proj",
    "attention/k": "self_attn.k_proj",
    "attention/v": "self_attn.v_proj",
    "attention/o": "self_attn.o_proj",
    "attention/q_norm": "self_attn.q_norm",
    "attention/k_norm": "self_attn.k_norm",
    "attention_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "mlp/gate": "mlp.gate_proj",
    "mlp/up": "mlp.up_proj",
    "mlp/down": "mlp.down_proj",
}
HUB_FILES = ("config.json", "model*.safetensors", INDEX, *TOKENIZER_FILES)


def resolve(path: str, revision: str) -> Path:
    """The local directory of a model: "embedded", a directory, or the name of one on the hub ("Qwen/Qwen3-8B").

    revision: branch, tag or commit on the hub. Only JSON, safetensors and tokenizer files are fetched, once. Raises
    FileNotFoundError in one sentence when there is no such directory or the hub does not give it.
    """
    if path == "embedded":
        return embedded.embedded_model_dir()
    local = Path(os.path.expanduser(path))
    if path and local.is_dir():
        return local
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", path):
        raise FileNotFoundError(f"model {path!r} is no directory here, and no hub name either (those are OWNER/NAME)")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(path, revision=revision, allow_patterns=list(HUB_FILES)))
    except Exception as error:  # its errors have many types: no network, no such name, no permission
        reason = " ".join(str(error).split())[:200]
        raise FileNotFoundError(
            f"model {path!r} is no directory here, and revision {revision!r} of it could not be had from the hub: "
            f"{reason}"
        ) from None


def hf_name(path: str) -> tuple[str, bool]:
    """Hugging Face's name of a Decoder weight ("layers_0/mlp/up/kernel"), and whether it is stored transposed."""
    if path in TOP_NAMES:
        return TOP_NAMES[path], False
    layer, rest = path.split("/", 1)
    module, kind = rest.rsplit("/", 1)
    number = layer.removeprefix("layers_")
    suffix = "bias" if kind == "bias" else "weight"
    return f"model.layers.{number}.{MODULE_NAMES[module]}.{suffix}", kind == "kernel"


def load(directory: Path, shapes: Any, shardings: Any, dtype: Any, adapter: Any | None = None) -> Any:
    """The weights in `directory` as a pytree of jax arrays.

    shapes: tree of ShapeDtypeStruct (model.abstract_params; only the shapes count); embedding and head may have more rows
    than the file, which become zeros (Decoder.vocab_rows). shardings: the same tree of NamedSharding. dtype: of every array
    made. adapter: what is added to the file's weights (adapter_files.Adapter). Raises what `check` raises, and ValueError for a
    tied model whose file holds a different head.
    """
    with open_files(Path(directory)) as files:
        _check(files, shapes, directory, padded=True)
        _check_tied_head(files, shapes, directory)

        def read(path, shape, sharding):
            name, transposed = hf_name(_path(path))
            entry = files[name].get_slice(name)
            return _read(adapter.on(name, entry) if adapter else entry, transposed, shape.shape, sharding, dtype)

        return jax.tree_util.tree_map_with_path(read, shapes, shardings)


def check(directory: Path, shapes: Any) -> None:
    """Reads the headers alone and raises, in one sentence, when `load` could not load these shapes from `directory`.

    FileNotFoundError: no safetensors (pickle files are never loaded) or a missing shard. ValueError: a damaged file, or
    a tensor that is missing, unexpected, of another shape or not of floating point.
    """
    with open_files(Path(directory)) as files:
        _check(files, shapes, directory, padded=False)


def save(directory: Path, spec: ModelSpec, params: Any, tokenizer_directory: Path, dtype: Any) -> None:
    """Writes a model directory that `load` and transformers read; it replaces one of that name when it is whole.

    params: tree of arrays (no adapter: merge it first; padding of the vocabulary is left out). tokenizer_directory: where
    tokenizer, chat template, generation config and token ids are copied from. dtype: of the file's tensors. With several
    hosts all must call; the first writes.
    """
    directory = Path(directory)
    leaves = [(_path(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)]
    sizes = {path: int(np.prod(_stored(path, leaf, spec))) * np.dtype(dtype).itemsize for path, leaf in leaves}
    files, leaves = _plan(sizes), dict(leaves)
    with contextlib.ExitStack() as stack:
        making = None
        if jax.process_index() == 0:
            directory.parent.mkdir(parents=True, exist_ok=True)
            making = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".saving-", dir=directory.parent)))
            _save_config(making / "new", spec, Path(tokenizer_directory), dtype)
        for file, paths in files.items():
            tensors = dict(_for_file(path, leaves[path], spec, dtype) for path in paths)
            if making is not None:
                save_file(tensors, making / "new" / file, metadata={"format": "pt"})
                shutil.copymode(making / "new" / "config.json", making / "new" / file)
        if making is not None:
            _save_index(making / "new", files, sum(sizes.values()))
            if directory.exists():
                directory.rename(making / "old")
            (making / "new").rename(directory)


def _path(path: tuple) -> str:
    return "/".join(key.key for key in path)


@contextlib.contextmanager
def open_files(directory: Path) -> Iterator[dict[str, Any]]:
    """Tensor name -> the open safetensors file that holds it."""
    with contextlib.ExitStack() as stack:
        files = {}
        for path in _weight_files(directory):
            try:
                file = stack.enter_context(safe_open(path, framework="numpy"))
            except (SafetensorError, OSError) as error:
                raise ValueError(f"{path} is not a whole safetensors file ({error}); fetch it again") from None
            files |= dict.fromkeys(file.keys(), file)
        yield files


def _weight_files(directory: Path) -> list[Path]:
    if (directory / SINGLE).exists():
        return [directory / SINGLE]
    if not (directory / INDEX).exists():
        pickles = sorted(path.name for pattern in PICKLES for path in directory.glob(pattern))
        if pickles:
            raise FileNotFoundError(
                f"{directory} holds its weights only as pickle ({pickles[0]}), which can run code when it is loaded "
                "and is refused; convert them to safetensors"
            )
        raise FileNotFoundError(
            f"{directory} has neither {SINGLE} nor {INDEX}; only safetensors are loaded, pickle weights never are"
        )
    names = sorted(set(read_json(directory / INDEX)["weight_map"].values()))
    for name in names:
        if Path(name).name != name:
            raise ValueError(f"{directory / INDEX} names the file {name!r} outside its directory, which is refused")
        if not (directory / name).exists():
            raise FileNotFoundError(f"{directory} lacks {name}, which its index names; fetch it again")
    return [directory / name for name in names]


def _check(files: dict[str, Any], shapes: Any, directory: Path, padded: bool) -> None:
    expected, tables = {}, {TOP_NAMES[name] for name in TABLES} if padded else set()
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        name, transposed = hf_name(_path(path))
        expected[name] = leaf.shape[::-1] if transposed else leaf.shape
    missing = sorted(expected.keys() - files.keys())
    if missing:
        raise ValueError(f"{directory} lacks the tensor {missing[0]}{_more(missing)}; its config.json asks for it")
    # Old files carry a table of rope frequencies, which is computed; a tied head may be there a second time.
    allowed = {TOP_NAMES["head"]} | {name for name in files if name.endswith("rotary_emb.inv_freq")}
    unexpected = sorted(files.keys() - expected.keys() - allowed)
    if unexpected:
        raise ValueError(
            f"{directory} has a tensor {unexpected[0]}{_more(unexpected)} that its config.json has no place for"
        )
    for name, shape in expected.items():
        entry = files[name].get_slice(name)
        if name in tables:
            shape = (min(shape[0], entry.get_shape()[0]), *shape[1:])
        if tuple(entry.get_shape()) != tuple(shape):
            raise ValueError(
                f"{directory}: {name} has shape {tuple(entry.get_shape())}, but its config.json means {tuple(shape)}"
            )
        if entry.get_dtype() not in DTYPES:
            raise ValueError(f"{directory}: {name} is of type {entry.get_dtype()}; known are {', '.join(DTYPES)}")


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _check_tied_head(files: dict[str, Any], shapes: Any, directory: Path) -> None:
    name, embedding_name = TOP_NAMES["head"], TOP_NAMES["embedding"]
    if "head" in shapes or name not in files:
        return
    head, embedding = files[name].get_slice(name), files[embedding_name].get_slice(embedding_name)
    rows, chunk = embedding.get_shape()[0], 4096
    equal = head.get_shape() == embedding.get_shape() and all(
        np.array_equal(head[start : min(start + chunk, rows)], embedding[start : min(start + chunk, rows)])
        for start in range(0, rows, chunk)
    )
    if not equal:
        raise ValueError(
            f"{directory}: config.json ties the head to the embedding, but {name} differs from {embedding_name}"
        )


def _read(entry: Any, transposed: bool, shape: tuple, sharding: Any, dtype: Any) -> jax.Array:
    """One tensor onto its devices; a slice that several devices hold is read once."""
    slices: dict[str, np.ndarray] = {}

    def stored(index: tuple[slice, ...]) -> np.ndarray:
        """A part of the array; zeros behind the file's rows."""
        (start, stop, _), rows = index[0].indices(shape[0]), entry.get_shape()[0]
        if stop <= rows:
            return entry[index]
        part = np.zeros([len(range(*where.indices(size))) for where, size in zip(index, shape)], dtype)
        if start < rows:
            part[: rows - start] = entry[(slice(start, rows), *index[1:])]
        return part

    def device_slice(index: tuple[slice, ...]) -> np.ndarray:
        key = str(index)
        if key not in slices:
            part = entry[index[::-1]].T if transposed else stored(index)
            slices[key] = np.array(part, dtype, order="C")
        return slices[key]

    return jax.make_array_from_callback(shape, sharding, device_slice)


def _plan(sizes: dict[str, int]) -> dict[str, list[str]]:
    """Which weights go into which file, in order, none above MAX_FILE_BYTES (a larger tensor has its own)."""
    groups, filled = [[]], 0
    for path, size in sizes.items():
        if groups[-1] and filled + size > MAX_FILE_BYTES:
            groups.append([])
            filled = 0
        groups[-1].append(path)
        filled += size
    if len(groups) == 1:
        return {SINGLE: groups[0]}
    return {f"model-{i + 1:05d}-of-{len(groups):05d}.safetensors": group for i, group in enumerate(groups)}


def _stored(path: str, leaf: Any, spec: ModelSpec) -> tuple[int, ...]:
    """The shape of a weight without padding."""
    return (min(leaf.shape[0], spec.vocab_size), *leaf.shape[1:]) if path in TABLES else leaf.shape


def _for_file(path: str, leaf: Any, spec: ModelSpec, dtype: Any) -> tuple[str, np.ndarray]:
    name, transposed = hf_name(path)
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        leaf = multihost_utils.process_allgather(leaf, tiled=True)
    host = np.asarray(leaf)[: _stored(path, leaf, spec)[0]]
    return name, np.ascontiguousarray(host.T if transposed else host).astype(dtype, copy=False)


def _save_config(directory: Path, spec: ModelSpec, tokenizer_directory: Path, dtype: Any) -> None:
    directory.mkdir()
    source = tokenizer_directory / "config.json"
    known = read_json(source) if source.exists() else {}
    token_ids = {name: known[name] for name in TOKEN_IDS if known.get(name) is not None}
    config = config_json(spec, np.dtype(dtype).name, token_ids)
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    for name in TOKENIZER_FILES:
        if (tokenizer_directory / name).exists():
            shutil.copyfile(tokenizer_directory / name, directory / name)


def _save_index(directory: Path, files: dict[str, list[str]], total: int) -> None:
    if list(files) == [SINGLE]:
        return
    weight_map = {hf_name(path)[0]: file for file, paths in files.items() for path in paths}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
