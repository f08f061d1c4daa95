"""The same run on one device and on eight virtual ones."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from espl_jax.records.checkpoint import read_raw

ROOT = Path(__file__).parents[1]
AXES = ("data", "fsdp", "tensor", "sequence")
MESHES = ((8, 1, 1, 1), (2, 2, 2, 1), (2, 1, 2, 2))
FIELDS = ("num_steps=1", "evaluation.temperature=0.0", 'evolution.edit_form="json"', "rl.micro_batch_tokens=1024")


def start(model: Path, workdir: Path, devices: int, *mesh: str) -> subprocess.Popen:
    environment = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "tests.tiny_run", str(model), str(workdir), *FIELDS, *mesh]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def texts(workdir: Path, name: str) -> list[str]:
    lines = (workdir / "steps" / name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines]


@pytest.fixture(scope="module")
def runs(tiny_qwen3, tmp_path_factory):
    """{devices along each axis: the directory of a run}; two at a time."""
    made = {mesh: tmp_path_factory.mktemp("run") for mesh in ((1, 1, 1, 1), *MESHES)}
    pairs = list(made.items())[:2], list(made.items())[2:]
    for pair in pairs:
        axes = [[f"mesh.{axis}={size}" for axis, size in zip(AXES, mesh)] for mesh, _ in pair]
        running = [start(tiny_qwen3, path, math.prod(mesh), *sizes) for (mesh, path), sizes in zip(pair, axes)]
        for process in running:
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors.decode()[-2000:]
    return made


@pytest.mark.parametrize("mesh", MESHES)
def test_eight_devices_give_the_run_of_one(mesh, runs):
    alone, together = runs[1, 1, 1, 1], runs[mesh]
    greedy = "000000/evaluation_validation.jsonl"
    assert texts(alone, greedy) == texts(together, greedy)
    one, eight = (read_raw(path).policy["trainable"] for path in (alone, together))
    for a, b in zip(flat(one), flat(eight), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)  # Adam's first step is the learning rate, 1e-2, times a sign


def flat(tree) -> list[np.ndarray]:
    return [tree] if isinstance(tree, np.ndarray) else [leaf for key in sorted(tree) for leaf in flat(tree[key])]
