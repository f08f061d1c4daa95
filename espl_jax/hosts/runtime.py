"""What has to be said before the first device is touched: flags of XLA, memory of GPUs, devices of a CPU.

Environment variables of JAX: https://docs.jax.dev/en/latest/gpu_memory_allocation.html
"""

import os
from typing import Any

import jax

FRACTION, PREALLOCATE, FLAGS = "XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_PREALLOCATE", "XLA_FLAGS"


def environment(runtime: Any, present: dict[str, str]) -> dict[str, str]:
    """The variables that config.runtime asks for; `present` ones stay, and flags of ours come behind those that are there."""
    wanted = {}
    if runtime.gpu_memory_fraction:
        wanted[FRACTION] = f"{runtime.gpu_memory_fraction:g}"
    if not runtime.gpu_preallocate:
        wanted[PREALLOCATE] = "false"
    if runtime.xla_flags:
        before = [flag for flag in present.get(FLAGS, "").split() if flag not in runtime.xla_flags.split()]
        wanted[FLAGS] = " ".join([*before, *runtime.xla_flags.split()])
    return wanted


def prepare(runtime: Any) -> None:
    """Sets up this process as config.runtime says; nothing may have been computed in it yet."""
    os.environ.update(environment(runtime, dict(os.environ)))
    if runtime.cpu_devices:
        jax.config.update("jax_num_cpu_devices", runtime.cpu_devices)
