"""How XLA is to compile the jitted programs, by kind of device, where its defaults are slow (docs/performance.md)."""

import functools
from collections.abc import Mapping

import jax
from absl import logging

# jaxlib 0.10's default on CPU makes products YNNPACK's; with XLA's own a step of the learner takes up to a third less.
WITHOUT_YNNPACK = {"xla_cpu_experimental_ynn_fusion_type": ""}
# Loops and branches also go into CUDA graphs: a decode call is launched once, not kernel by kernel.
GRAPHS = {
    "xla_gpu_enable_command_buffer": "FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL,DYNAMIC_SLICE_FUSION,CONDITIONAL,WHILE"
}
# Kind of program -> kind of device -> XLA's options
OPTIONS: dict[str, dict[str, Mapping[str, str]]] = {
    "gradient": {"cpu": WITHOUT_YNNPACK},
    "sampler": {"gpu": GRAPHS},
}


def compiler_options(program: str, platform: str) -> dict[str, str]:
    """OPTIONS for a kind of program, if this version of XLA knows them: they are experimental there."""
    options = OPTIONS[program].get(platform, {})
    return dict(options) if _known(tuple(sorted(options.items()))) else {}


@functools.cache
def _known(options: tuple[tuple[str, str], ...]) -> bool:
    """Asks the compiler, once a process; nothing is asked when there are none."""
    if not options:
        return True
    try:
        jax.jit(lambda: 0, compiler_options=dict(options)).lower().compile()
    except jax.errors.JaxRuntimeError as error:
        logging.info("compiled without %s: %s", options, error)
        return False
    return True
