"""The same run on one device and on eight virtual ones."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from espl_jax.records.checkpoint import read_raw

ROOT = Path(__file__).parents[1]
FIELDS = ("num_steps=1", "evaluation.temperature=0.0", 'evolution.edit_form="json"', "rl.micro_batch_tokens=1024")


def start(model: Path, workdir: Path, devices: int, *mesh: str) -> subprocess.Popen:
    environment = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "tests.tiny_run", str(model), str(workdir), *FIELDS, *mesh]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def texts(workdir: Path, name: str) -> list[str]:
    lines = (workdir / "steps" / name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines]


@pytest.mark.parametrize("mesh", [(8, 1, 1), (2, 2, 2)])
def test_eight_devices_give_the_run_of_one(mesh, tiny_qwen3, tmp_path):
    axes = [f"mesh.{axis}={size}" for axis, size in zip(("data", "fsdp", "tensor"), mesh)]
    running = [start(tiny_qwen3, tmp_path / "one", 1), start(tiny_qwen3, tmp_path / "eight", 8, *axes)]
    for process in running:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors.decode()[-2000:]
    greedy = "000000/evaluation_validation.jsonl"
    assert texts(tmp_path / "one", greedy) == texts(tmp_path / "eight", greedy)
    one, eight = (read_raw(tmp_path / name).policy["trainable"] for name in ("one", "eight"))
    for a, b in zip(flat(one), flat(eight), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)  # Adam's first step is the learning rate, 1e-2, times a sign


def flat(tree) -> list[np.ndarray]:
    return [tree] if isinstance(tree, np.ndarray) else [leaf for key in sorted(tree) for leaf in flat(tree[key])]
