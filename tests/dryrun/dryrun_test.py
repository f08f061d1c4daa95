"""The whole dry run, in processes of their own: for eight virtual devices, and with the real TPU compiler."""

import importlib.util
import json
import os
import subprocess
import sys

import jax
import pytest

from espl_jax.dryrun import chips
from espl_jax.dryrun.study import Assumptions, study
from espl_jax.policy.hf_config import config_json
from espl_jax.policy.model import ModelSpec
from experiments import base

SPEC = ModelSpec(
    vocab_size=1024, width=256, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=128, mlp_width=512, rope_theta=1e4,
    rope_scaling=None, norm_eps=1e-6, tied_head=False, qkv_bias=False, qk_norm=True, max_positions=1024,
)  # fmt: skip
FIELDS = {
    "model.max_length": 256, "model.scan_layers": True, "mesh.data": 2, "mesh.tensor": 2, "sampling.max_new_tokens": 100,
    "sampling.batch_size": 8, "sampling.prefill_chunk": 64, "sampling.prefill_tokens": 128, "evaluation.max_new_tokens": 100,
    "evolution.max_new_tokens": 100, "task.num_problems": 2, "task.num_samples": 4, "rl.lora_rank": 8,
    "rl.micro_batch_tokens": 512, "rl.head_chunk": 128,
}  # fmt: skip
# by hand: q 256 x 512, k and v 256 x 256, o 512 x 256, three of 256 x 512; norms 2 x 256 and 2 x 128, which all devices have
LAYER, NORMS = 2 * 256 * 512 + 2 * 256 * 256 + 3 * 256 * 512, 2 * 256 + 2 * 128
WEIGHTS = (2 * 1024 * 256 + 2 * LAYER) // 2 + 2 * NORMS + 256  # of one device: two parts
ADAPTER = 2 * 8 * (3 * (256 + 256) + 2 * (256 + 128) + (256 + 256) + (256 + 256))  # the side that tensor splits is half


def dry_run(tmp_path, *flags):
    (tmp_path / "config.json").write_text(json.dumps(config_json(SPEC, "bfloat16", {})))
    command = [sys.executable, "-m", "espl_jax.dryrun", "--config=experiments/base.py", f"--architecture={tmp_path}"]
    command += ["--prompt_tokens=60", "--problem_tokens=20", f"--output={tmp_path / 'out.json'}", *flags]
    command += [f"--config.{name}={value}" for name, value in FIELDS.items()]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    found = json.loads((tmp_path / "out.json").read_text()) if (tmp_path / "out.json").exists() else None
    return ended, found


def check(found, ended):
    programs = {one["name"]: one for one in found["programs"]}
    assert list(programs) == ["prefill", "decode", "gradient", "apply"]
    resident = programs["decode"]["resident"]
    assert resident["weights"] == 2 * WEIGHTS and resident["adapter"] == resident["reference"] == 4 * ADAPTER
    assert resident["optimizer"] == pytest.approx(8 * ADAPTER, abs=64)  # and counters
    for name in ("decode", "gradient", "apply"):  # prefill does not read the head
        assert programs[name]["memory"]["arguments"] >= programs[name]["memory"]["known"]
    assert found["gathered_whole"] == [] and "no weight is gathered whole per token" in ended.stdout
    kinds = {one["kind"] for one in programs["decode"]["collectives"]}
    assert "all-reduce" in kinds
    return programs


def test_virtual_devices(tmp_path):
    ended, found = dry_run(tmp_path, "--topology=cpu:4")
    assert ended.returncode == 0, ended.stderr
    programs = check(found, ended)
    assert found["mesh"] == {"data": 2, "fsdp": 1, "sequence": 1, "tensor": 2} and found["chip"] is None
    # 2 a weight and token of prefill's 128 at the least; logits of 8 tokens for a decode step
    assert programs["prefill"]["flops"] > 2 * 128 * 2 * LAYER
    assert programs["decode"]["flops"] > 2 * 8 * (2 * LAYER + 1024 * 256)


@pytest.mark.skipif(not importlib.util.find_spec("libtpu"), reason="pip install 'jax[tpu]' (it needs no TPU)")
def test_the_real_tpu_compiler(tmp_path):
    ended, found = dry_run(tmp_path, "--topology=v5e:2x2")
    assert ended.returncode == 0, ended.stderr
    programs = check(found, ended)
    assert found["fits"] and found["chips"] == 4 and "it fits" in ended.stdout
    assert all(0 < one["seconds"]["memory"] < 1 for one in programs.values())
    # each layer adds up the parts of two products, over tensor
    small = [one for one in programs["decode"]["collectives"] if one["kind"] == "all-reduce" and one["group"] == 2]
    assert sum(one["times"] for one in small) >= 2 * 2


def test_a_mistake_is_one_sentence(tmp_path):
    ended, found = dry_run(tmp_path, "--topology=v9:4x4")
    assert ended.returncode == 1 and found is None
    assert ended.stderr.strip().splitlines()[-1].startswith("error: topology 'v9:4x4' is unknown; use one such as v4:2x2x4, ")
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("topology", ["v5e", "v5e:4x4x4", "v5p:4x4", "v5e:0x4", "cpu:0", "cpu", "local:2", "v5e:axb"])
def test_an_unknown_topology_is_refused(topology):
    with pytest.raises(chips.TopologyError, match=f"topology {topology!r} is unknown; use one such as"):
        chips.open_slice(topology)


def test_lengths_that_do_not_fit_are_refused():
    config = base.get_config()
    config.model.max_length = 15100
    where = chips.Slice("cpu:1", tuple(jax.devices()[:1]), 1, None)
    with pytest.raises(ValueError, match="= 800 and sampling.max_new_tokens=15000 are more than model.max_length=15100; raise"):
        study(config, SPEC, where, Assumptions(600, 200, 1.0, 1, ()))


def test_libtpu_is_asked_for_in_one_sentence(tmp_path):
    (tmp_path / "libtpu.py").write_text("raise ImportError")  # as if it were not installed
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    code = "from espl_jax.dryrun import chips; chips.quiet_environment('v5e:2x2'); chips.open_slice('v5e:2x2')"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert ended.returncode == 1 and "TopologyError: topology v5e:2x2 needs the TPU compiler" in ended.stderr
    assert "pip install 'jax[tpu]'" in ended.stderr
