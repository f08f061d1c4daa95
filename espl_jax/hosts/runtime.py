"""What has to be said before the first device is touched: flags of XLA, memory of GPUs, devices and memory of a CPU.

Environment variables of JAX: https://docs.jax.dev/en/latest/gpu_memory_allocation.html
"""

import ctypes
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
    if runtime.keep_memory:
        keep_memory()


# mallopt(3): parameter -> value
KEEP = {
    "M_ARENA_MAX": (-8, 1),  # one heap, which all threads give back to and take from
    "M_MMAP_MAX": (-4, 0),  # large buffers come from it too
    "M_TRIM_THRESHOLD": (-1, -1),  # and its end is never given back
    "M_TOP_PAD": (-2, 2**26),
}


def keep_memory() -> bool:
    """Lets freed memory stay with the process; whether the C library could be told so (glibc can).

    XLA on CPU takes a program's buffers anew for each call: gigabytes, of which the kernel then clears every page again. On two
    cores that took half of the time of a learner's step (docs/performance.md).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(*setting) for setting in KEEP.values())
