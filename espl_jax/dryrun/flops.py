"""Floating-point operations that a program asks for, counted in its jaxpr: every loop as often as it runs.

Products only (2 a multiplication and addition), over all devices, before the compiler changes anything; what is recomputed for
the backward pass counts. Fused kernels count the blocks of their whole grid, so causal ones twice what they do.
"""

import math
from collections.abc import Iterator
from typing import Any

from jax.extend import core

from espl_jax.dryrun.hlo import Running


def count(jaxpr: Any, running: Running, depth: int = 0) -> float:
    """Operations of a (closed) jaxpr. running: what loops and conditionals do."""
    return sum(of_equation(one, running, depth) for one in getattr(jaxpr, "jaxpr", jaxpr).eqns)


def of_equation(one: Any, running: Running, depth: int) -> float:
    """Operations of one equation and all that it calls."""
    name, parameters = one.primitive.name, one.params
    if name == "dot_general":
        return of_product(one)
    if name == "cond":
        branches = parameters["branches"]
        chosen = running.branch(len(branches))
        return max(count(one, running, depth) for one in (branches if chosen is None else [branches[chosen]]))
    if name == "while":
        body, test = (count(parameters[part], running, depth + 1) for part in ("body_jaxpr", "cond_jaxpr"))
        return running.loop(depth) * (body + test)
    inner = sum(count(part, running, depth) for part in called(parameters))
    return inner * times(name, parameters)


def of_product(one: Any) -> float:
    """2 a number of the result and contracted index."""
    (contracted, _), _ = one.params["dimension_numbers"]
    shape = one.invars[0].aval.shape
    return 2.0 * math.prod(one.outvars[0].aval.shape) * math.prod(shape[axis] for axis in contracted)


def times(name: str, parameters: dict) -> float:
    """How often an equation runs what it calls, devices added up."""
    if name == "scan":
        return parameters["length"]
    if name == "shard_map":
        return parameters["mesh"].size
    if name == "pallas_call":
        return math.prod(parameters["grid_mapping"].grid)
    return 1


def called(parameters: dict) -> Iterator[Any]:
    """The jaxprs among an equation's parameters."""
    for value in parameters.values():
        for part in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(part, (core.Jaxpr, core.ClosedJaxpr)):
                yield part
