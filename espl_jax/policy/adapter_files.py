"""Adapters in PEFT's format: adapter_model.safetensors and adapter_config.json (https://huggingface.co/docs/peft, LoraConfig).

Saved ones are read by PEFT and by `model.adapter`, which adds them to the weights while these are loaded: tensor by tensor, in
float32, each device its slice. No weight of the base is ever held twice. Those that come with the project, in
espl_jax/adapters, are known by their names.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import ml_dtypes  # noqa: F401  gives numpy the dtype bfloat16
import numpy as np
from flax import traverse_util
from jax.experimental import multihost_utils
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from espl_jax.policy import embedded
from espl_jax.policy.hf_config import read_json
from espl_jax.policy.weights import hf_name

TENSORS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
FOLDER, MODEL_FOLDER = "adapter", "model"  # in the work directory of a supervised run: an adapter, or a whole model
PREFIX, SIDES = "base_model.model.", ("lora_A", "lora_B")
SHIPPED = Path(__file__).parents[1] / "adapters"
EMBEDDED_NAME = f"HuggingFaceTB/{embedded.NAME}"  # the embedded model's name where PEFT looks for it
# What PEFT can do with an adapter besides adding scale * B @ A, and the value at which it does not.
PLAIN = {
    "peft_type": "LORA", "bias": "none", "use_dora": False, "use_rslora": False, "fan_in_fan_out": False,
    "modules_to_save": None, "rank_pattern": {}, "alpha_pattern": {}, "layer_replication": None,
}  # fmt: skip


@dataclass(frozen=True)
class Adapter:
    """A low-rank change of some weights: weight + alpha / rank * B @ A.

    base: name of the model that it belongs to. factors: name of a weight in the model's files, where it is stored [out, in]
    ("model.layers.0.mlp.up_proj.weight") -> (A [rank, in], B [out, rank]), float32.
    """

    base: str
    rank: int
    alpha: float
    factors: Mapping[str, tuple[np.ndarray, np.ndarray]]

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    @property
    def targets(self) -> list[str]:
        """The projections that it changes, as PEFT calls them ("q_proj")."""
        return sorted({name.split(".")[-2] for name in self.factors})

    def on(self, name: str, entry: Any) -> Any:
        """A tensor of the model's files, changed; as it is where the adapter leaves it."""
        return Changed(entry, *self.factors[name], self.scale) if name in self.factors else entry


@dataclass(frozen=True)
class Changed:
    """A slice of a safetensors file with the adapter's product added; the part of its interface that weights.py uses."""

    entry: Any
    a: np.ndarray
    b: np.ndarray
    scale: float

    def get_shape(self) -> list[int]:
        return self.entry.get_shape()

    def __getitem__(self, index: tuple[slice, slice]) -> np.ndarray:
        out, into = index
        return self.entry[index].astype(np.float32) + self.scale * (self.b[out] @ self.a[:, into])


def base_name(model_path: str) -> str:
    """How an adapter names the model that config.model.path names."""
    return EMBEDDED_NAME if model_path == "embedded" else model_path


def from_tree(tree: Any, alpha: float, base: str) -> Adapter:
    """The adapter of policy/lora.py's tree {"a": [in, rank], "b": [rank, out]}; with several hosts all must call."""
    flat = {path: _host(leaf) for path, leaf in traverse_util.flatten_dict(tree).items()}
    factors = {
        hf_name("/".join((*path[:-1], "kernel")))[0]: (a.T, flat[(*path[:-1], "b")].T)
        for path, a in flat.items()
        if path[-1] == "a"
    }
    return Adapter(base, len(next(iter(factors.values()))[0]), alpha, factors)


def _host(leaf: Any) -> np.ndarray:
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        leaf = multihost_utils.process_allgather(leaf, tiled=True)
    return np.asarray(leaf, np.float32)


def combined(first: Adapter, second: Adapter) -> Adapter:
    """One adapter that changes the base as `first` and then `second` do; its rank is the sum of theirs."""
    rank = first.rank + second.rank

    def factors(name):
        parts = [one for one in (first, second) if name in one.factors]
        a = np.concatenate([one.factors[name][0] for one in parts])
        b = np.concatenate([one.scale * one.factors[name][1] for one in parts], axis=1)
        missing = rank - len(a)
        return np.pad(a, ((0, missing), (0, 0))), np.pad(b, ((0, 0), (0, missing)))

    return Adapter(first.base, rank, float(rank), {name: factors(name) for name in {**first.factors, **second.factors}})


def save(directory: Path, adapter: Adapter, dtype: Any = np.float32) -> None:
    """Writes a directory of PEFT's two files; it replaces one of that name when it is whole. dtype: of the file's tensors."""
    directory = Path(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        PREFIX + name.removesuffix("weight") + side + ".weight": np.ascontiguousarray(array).astype(dtype, copy=False)
        for name, pair in adapter.factors.items()
        for side, array in zip(SIDES, pair)
    }
    config = PLAIN | {
        "base_model_name_or_path": adapter.base, "task_type": "CAUSAL_LM", "r": adapter.rank, "lora_alpha": adapter.alpha,
        "lora_dropout": 0.0, "target_modules": adapter.targets, "inference_mode": True, "init_lora_weights": True,
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix=".saving-", dir=directory.parent) as making:
        new = Path(making) / "new"
        new.mkdir()
        (new / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        save_file(tensors, new / TENSORS, metadata={"format": "pt"})
        shutil.copymode(new / CONFIG, new / TENSORS)
        if directory.exists():
            directory.rename(Path(making) / "old")
        new.rename(directory)


def load(model: Any, shapes: Any) -> Adapter | None:
    """The adapter that config.model names, or None; checked against the model's shapes (model.abstract_params).

    Raises FileNotFoundError or ValueError in one sentence when there is none, when it does more than a plain adapter, or when
    it belongs to another model.
    """
    if not model.adapter:
        return None
    adapter = read(SHIPPED / model.adapter if model.adapter in shipped() else Path(model.adapter).expanduser())
    _check(adapter, shapes, model)
    return adapter


def shipped() -> list[str]:
    """The names of the adapters that come with the project."""
    return sorted(found.parent.name for found in SHIPPED.glob(f"*/{TENSORS}"))


def read(path: Path) -> Adapter:
    """The adapter in a directory of PEFT's two files, in one's .safetensors file, or in a supervised run's work directory."""
    tensors = _find(path)
    config = read_json(tensors.with_name(CONFIG))
    for name, value in PLAIN.items():
        if config.get(name, value) not in (value, None):
            raise ValueError(f"{tensors.with_name(CONFIG)} has {name}={config[name]!r}; only {name}={value!r} can be loaded")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, (int, float)) or alpha <= 0:
        raise ValueError(f"{tensors.with_name(CONFIG)} has r={rank!r} and lora_alpha={alpha!r}; both must be positive numbers")
    adapter = Adapter(config.get("base_model_name_or_path") or "", rank, float(alpha), _factors(tensors, rank))
    listed = config.get("target_modules")
    if isinstance(listed, list) and {name.split(".")[-1] for name in listed} != set(adapter.targets):
        raise ValueError(f"{tensors} changes {', '.join(adapter.targets)}, but its {CONFIG} lists {', '.join(sorted(listed))}")
    return adapter


def _find(path: Path) -> Path:
    """The file of tensors."""
    if path.suffix == ".safetensors" and path.is_file():
        return path
    for folder in (path, path / FOLDER):
        if (folder / TENSORS).is_file():
            return folder / TENSORS
    if (path / MODEL_FOLDER).is_dir():
        raise ValueError(
            f"model.adapter is {str(path)!r}, a run that trained all weights; use model.path={path / MODEL_FOLDER} instead"
        )
    raise FileNotFoundError(
        f"model.adapter is {str(path)!r}, where there is no {TENSORS}, nor in {FOLDER}/ below it; give a finished supervised "
        f"run's work directory, an adapter's directory or its file, or the name of one that is shipped ({', '.join(shipped())})"
    )


def _factors(path: Path, rank: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    try:
        with safe_open(path, framework="numpy") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}); save or fetch it again") from None
    names = {name.split(".lora_")[0] for name in found}
    expected = {f"{name}.{side}.weight" for name in names for side in SIDES}
    if not found or expected != set(found) or not all(name.startswith(PREFIX) for name in names):
        strange = sorted(expected ^ set(found) or set(found) or {"its names: it has none"})
        raise ValueError(f"{path} is no adapter of low-rank pairs; look at {strange[0]}")
    pairs = {name: tuple(found[f"{name}.{side}.weight"].astype(np.float32) for side in SIDES) for name in sorted(names)}
    for name, (a, b) in pairs.items():
        if a.ndim != 2 or b.ndim != 2 or (a.shape[0], b.shape[1]) != (rank, rank):
            raise ValueError(f"{path}: {name} has factors {a.shape} and {b.shape}, but its {CONFIG} says r={rank}")
    return {name.removeprefix(PREFIX) + ".weight": pair for name, pair in pairs.items()}


def _check(adapter: Adapter, shapes: Any, model: Any) -> None:
    """That it belongs to this model: its name (a directory's or hub name's last part) and the shapes of what it changes."""
    base = base_name(model.path)
    if adapter.base and Path(adapter.base).name != Path(base).name:
        raise ValueError(
            f"model.adapter={model.adapter} was made for {adapter.base}, but model.path is {model.path!r}; use the model that "
            f"it was made for, or correct base_model_name_or_path in its {CONFIG}"
        )
    kernels = {}
    for path, leaf in traverse_util.flatten_dict(shapes).items():
        if path[-1] == "kernel":
            kernels[hf_name("/".join(path))[0]] = leaf.shape[::-1]
    for name, (a, b) in adapter.factors.items():
        if name not in kernels:
            raise ValueError(f"model.adapter={model.adapter} changes {name}, which {model.path} does not have")
        if (b.shape[0], a.shape[1]) != kernels[name]:
            raise ValueError(
                f"model.adapter={model.adapter} changes {name} as if it had shape {(b.shape[0], a.shape[1])}, but in "
                f"{model.path} it has {kernels[name]}; it was made for another model"
            )
