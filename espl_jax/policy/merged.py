"""Weights as they decode fastest: the adapter added in, projections of one input side by side, kernels [out, in].

On CPU a product of few rows reads kernels fastest that way. This is a second copy of the weights, made once after each update.
In float32 the merged adapter changes log-probabilities by rounding only; in bfloat16 it would not, so there the adapter is kept
apart (config.sampling.merge_weights).
"""

from typing import Any

import jax.numpy as jnp

from espl_jax.policy import lora
from espl_jax.policy.model import Decoder

TOGETHER = {"attention": ("q", "k", "v"), "mlp": ("gate", "up")}
ALONE = {"attention": "o", "mlp": "down"}


def merge_weights(variables: Any, model: Decoder) -> Any:
    """{"params", "fused"} of variables {"params"} with or without {"lora"}: the same function, to be decoded with."""
    params = variables["params"]
    if "lora" in variables:
        params = lora.merge(params, variables["lora"], model.lora_scale)
    params, fused = dict(params), {}
    for name in [f"layers_{i}" for i in range(model.spec.num_layers)]:
        params[name], fused[name] = fuse_layer(params[name])
    return {"params": params, "fused": fused}


def fuse_layer(layer: Any) -> tuple[Any, Any]:
    """A layer's parameters without its projections, and these: kernels [out, in], biases one behind the other."""
    kept, fused = dict(layer), {}
    for block, names in TOGETHER.items():
        parts = [layer[block][name] for name in names]
        joined = {kind: jnp.concatenate([part[kind].T for part in parts]) for kind in parts[0]}
        kept[block] = {name: value for name, value in layer[block].items() if name not in (*names, ALONE[block])}
        fused[block] = {"_".join(names): joined, ALONE[block]: {"kernel": layer[block][ALONE[block]]["kernel"].T}}
    return kept, fused
