"""What an accelerator has: memory, arithmetic and links, as its maker states them; and the slices that it comes in.

TPU: compute, HBM and interconnect of v5e, v5p and v6e as Google's pages at https://docs.cloud.google.com/tpu/docs state them
(peak bfloat16; links a chip, both directions); v4 and TPU7x have not been checked against theirs. What a program may use of the
HBM is, for v5e, what the compiler of libtpu 0.0.42 names when a program does not fit, and for the others taken to be alike.
GPU: H100 SXM and H200 SXM as in NVIDIA's data sheets (dense bfloat16; NVLink 4: 900 GB/s, both directions), not checked again.
"""

import dataclasses
import math
import os
from collections.abc import Sequence
from typing import Any

GIB = 2**30
TB = 1e12


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip. memory: bytes that a program may use. flops: a second, bfloat16. bandwidth: of the memory, bytes a second.
    links: bytes a second over all links of a chip, both directions. axes: of the torus; 0: a switch. devices: that JAX sees.
    """

    name: str
    memory: float
    flops: float
    bandwidth: float
    links: float
    axes: int
    devices: int = 1

    @property
    def ring(self) -> float:
        """Bytes a second that a chip sends in a collective over one mesh axis: one way, on the links of one torus axis.

        A ring in both directions uses two of the 2 * axes links; a switch gives one way of everything.
        """
        return self.links / 2 / max(1, self.axes)


CHIPS = {
    "v4": Chip("TPU v4", 30.75 * GIB, 275e12, 1.228 * TB, 0.6 * TB, axes=3),
    "v5e": Chip("TPU v5e", 15.75 * GIB, 197e12, 0.819 * TB, 0.4 * TB, axes=2),
    "v5p": Chip("TPU v5p", 95.74 * GIB, 459e12, 2.765 * TB, 1.2 * TB, axes=3),
    "v6e": Chip("TPU v6e", 31.25 * GIB, 918e12, 1.638 * TB, 0.8 * TB, axes=2),
    "tpu7x": Chip("TPU7x", 0.98 * 192e9, 2307e12, 7.38 * TB, 1.2 * TB, axes=3, devices=2),
}
GPUS = {
    "H100": Chip("NVIDIA H100 SXM", 0.98 * 80e9, 989e12, 3.35 * TB, 0.9 * TB, axes=0),
    "H200": Chip("NVIDIA H200 SXM", 0.98 * 141e9, 989e12, 4.8 * TB, 0.9 * TB, axes=0),
}
# slices from the smallest on, as the pages above list them (those that make whole hosts)
SLICES = {
    "v5e": ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
    "v6e": ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
    "v4": ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8"),
    "v5p": ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8"),
    "tpu7x": ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8"),
}
MISSING_LIBTPU = (
    "topology {name} needs the TPU compiler, which is not installed; pip install 'jax[tpu]' (it needs no TPU), or use "
    "--topology=cpu:8"
)


class TopologyError(ValueError):
    """A topology that nothing can be compiled for; the message names it and the remedy."""


@dataclasses.dataclass(frozen=True)
class Slice:
    """Devices to compile for, and what each chip has. None: not known (a CPU, another GPU). chips: how many of them."""

    name: str
    devices: tuple[Any, ...]
    chips: int
    chip: Chip | None

    @property
    def device_memory(self) -> float | None:
        """Bytes that a program may use on one device."""
        return self.chip.memory * self.chips / len(self.devices) if self.chip else None


def quiet_environment(topology: str) -> None:
    """What must be set before JAX is imported: which backend it starts, and that libtpu looks for no TPU and no other user."""
    kind, _, count = topology.partition(":")
    if kind == "local":
        return
    os.environ["JAX_PLATFORMS"] = "cpu"
    if kind == "cpu" and count.isdigit():
        os.environ["JAX_NUM_CPU_DEVICES"] = count
    silent = {
        "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "TPU_WORKER_HOSTNAMES": "localhost", "TPU_STDERR_LOG_LEVEL": "3", "TPU_MIN_LOG_LEVEL": "3", "TF_CPP_MIN_LOG_LEVEL": "3",
    }  # fmt: skip
    for name, value in silent.items():
        os.environ.setdefault(name, value)


def open_slice(topology: str) -> Slice:
    """The devices of "v5e:4x4", "cpu:8" or "local". Raises TopologyError, in one sentence."""
    import jax

    kind, _, shape = topology.partition(":")
    if kind == "local" and not shape:
        devices = tuple(jax.devices())
        found = [chip for name, chip in GPUS.items() if name in devices[0].device_kind]
        return Slice(f"local ({devices[0].device_kind})", devices, len(devices), found[0] if found else None)
    if kind == "cpu" and shape.isdigit() and int(shape) > 0:
        if len(jax.devices("cpu")) < int(shape):
            raise TopologyError(f"topology {topology} needs {shape} devices; set JAX_NUM_CPU_DEVICES={shape} before JAX starts")
        return Slice(topology, tuple(jax.devices("cpu")[: int(shape)]), int(shape), None)
    sizes = shape.split("x")
    if kind not in CHIPS or len(sizes) != CHIPS[kind].axes or not all(size.isdigit() and int(size) > 0 for size in sizes):
        known = ", ".join(f"{name}:{SLICES[name][2]}" for name in CHIPS)
        raise TopologyError(f"topology {topology!r} is unknown; use one such as {known}, cpu:8 or local")
    return tpu_slice(topology, kind, [int(size) for size in sizes])


def tpu_slice(topology: str, kind: str, sizes: Sequence[int]) -> Slice:
    """The devices of a TPU slice that is not there."""
    from jax.experimental import topologies

    options = {"chip_config_name": "megacore"} if kind == "v4" else {}  # one device a chip, as JAX has it there
    if math.prod(sizes) == 1:
        options["chips_per_host_bounds"] = tuple(sizes) + (1,) * (3 - len(sizes))
    try:
        import libtpu  # noqa: F401
    except ImportError:
        raise TopologyError(MISSING_LIBTPU.format(name=topology)) from None
    try:
        devices = topologies.get_topology_desc(platform="tpu", topology_name=topology, **options).devices
    except Exception as error:
        reason = str(error).partition("\n")[0].removeprefix("INVALID_ARGUMENT: ")
        raise TopologyError(f"the TPU compiler knows no topology {topology}: {reason}") from None
    return Slice(topology, tuple(devices), math.prod(sizes), CHIPS[kind])
