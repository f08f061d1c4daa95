"""What a run would need, from shapes alone: python -m espl_jax.dryrun --config=experiments/NAME.py --topology=v5p:4x4x4.

Compiles prefill, decode and train step of the run for a TPU that is not there (libtpu's own compiler), for virtual CPU devices
(--topology=cpu:8) or for what is here (--topology=local), and prints one table. No weights, no tokenizer and no TPU are needed:
the architecture comes from --architecture, from the directory model.path, or from a built-in one of the same name.
"""

import json
import sys
from pathlib import Path
from typing import Any

from absl import app, flags
from ml_collections import config_flags

from espl_jax.dryrun import chips

_CONFIG = config_flags.DEFINE_config_file("config", None, "An experiment file; its fields are flags too.", lock_config=True)
_TOPOLOGY = flags.DEFINE_string("topology", "", "v4:2x2x1, v5e:4x4, v5p:4x4x4, v6e:4x4, tpu7x:2x2x1, cpu:8 or local.")
_SMALLEST = flags.DEFINE_string("smallest", "", "Instead: the smallest slice of this kind (v5e) that fits; chooses the mesh.")
_ARCHITECTURE = flags.DEFINE_string("architecture", "", "A built-in one (qwen3-8b, ...) or a directory with config.json.")
_PROMPT = flags.DEFINE_integer("prompt_tokens", 600, "Assumed: tokens of a system prompt.", lower_bound=1)
_PROBLEM = flags.DEFINE_integer("problem_tokens", 200, "Assumed: tokens of a problem.", lower_bound=2)
_COMPLETION = flags.DEFINE_float("completion_tokens", 0, "Assumed: mean tokens of a completion; 0: half of the most.", 0)
_REPLY = flags.DEFINE_integer("reply_tokens", 1000, "Assumed: tokens of an editor's reply.", lower_bound=1)
_LAYERS = flags.DEFINE_list("layers", [], "Compile the sampler with 1,2 layers (say) and infer the rest; empty: all.")
_EFFORT = flags.DEFINE_float("effort", -1.0, "Of the compiler, -1 to 1; 0 is what runs use, -1 is three times as fast.")
_FORMULA = flags.DEFINE_bool("formula", False, "With --smallest: compile nothing, go by the formula alone.")
_OUTPUT = flags.DEFINE_string("output", "", "Also write everything as JSON to this file.")


def inputs(config: Any) -> tuple[Any, Any, Any]:
    """(configuration, architecture, assumptions), checked."""
    from espl_jax import config as configs
    from espl_jax.dryrun.built_in import architecture
    from espl_jax.dryrun.study import Assumptions
    from espl_jax.policy.hf_config import read_spec

    config = configs.resolve(config)
    spec = read_spec(architecture(_ARCHITECTURE.value, config.model.path))
    if config.model.max_length > spec.max_positions:
        raise ValueError(f"model.max_length is {config.model.max_length}, but the model knows {spec.max_positions}; lower it")
    if not all(part.isdigit() for part in _LAYERS.value) or len(_LAYERS.value) not in (0, 2) or "0" in _LAYERS.value:
        raise ValueError(f"layers is {','.join(_LAYERS.value)}; give two numbers such as 1,2, or none")
    completion = _COMPLETION.value or config.sampling.max_new_tokens / 2
    if completion > config.sampling.max_new_tokens:
        raise ValueError(f"completion_tokens is {completion:g}, more than sampling.max_new_tokens; lower it")
    layers = tuple(sorted(map(int, _LAYERS.value)))
    return config, spec, Assumptions(_PROMPT.value, _PROBLEM.value, completion, _REPLY.value, layers)


def one_slice(config: Any, spec: Any, given: Any, topology: str) -> tuple[Any, dict]:
    """Studies one slice and shows it: (the study, its JSON)."""
    from espl_jax.dryrun import estimate, report
    from espl_jax.dryrun.programs import Lengths
    from espl_jax.dryrun.study import study

    where = chips.open_slice(topology)
    found = study(config, spec, where, given)
    lengths = Lengths(given.prompt_tokens, given.problem_tokens, config.sampling.max_new_tokens)
    advice = []
    if where.device_memory is not None and not found.fits:
        advice = estimate.remedies(config, spec, where, lengths, report.needs(found))
    mesh = ", ".join(f"{name} {size}" for name, size in found.mesh.items())
    title = f"{_ARCHITECTURE.value or config.model.path} on {where.name}: {where.chips} chips; mesh {mesh}"
    report.show(found, title, advice)
    return found, report.as_json(found, title, advice)


def smallest(config: Any, spec: Any, given: Any, kind: str) -> dict:
    """The JSON of the smallest slice that fits; the formula says where to begin, and with which mesh."""
    from espl_jax.dryrun import estimate
    from espl_jax.dryrun.programs import Lengths

    if kind not in chips.SLICES:
        raise chips.TopologyError(f"smallest is {kind!r}; use one of {', '.join(chips.SLICES)}")
    lengths = Lengths(given.prompt_tokens, given.problem_tokens, config.sampling.max_new_tokens)
    for shape in chips.SLICES[kind]:
        where = chips.open_slice(f"{kind}:{shape}")
        tried = estimate.meshes(config, spec, len(where.devices), lengths)[0]
        needs = estimate.estimate(tried, spec, len(where.devices), lengths)
        if max(needs.values()) > where.device_memory:
            continue
        if _FORMULA.value:
            print(f"{where.name}: {estimate.mesh_text(tried)}; by formula {estimate.needs_text(needs)}")
            return {"topology": where.name, "mesh": dict(tried.mesh), "needs": needs}
        found, record = one_slice(tried, spec, given, where.name)
        if found.fits:
            return record
    raise ValueError(f"nothing of {kind} up to {shape} fits; lower sampling.batch_size or sampling.max_new_tokens")


def main(argv: list[str]) -> None:
    """Runs; what a user can mend ends in one sentence."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]!r}; fields are set as --config.field=value")
    chips.quiet_environment(_TOPOLOGY.value)
    import jax

    try:
        if bool(_TOPOLOGY.value) == bool(_SMALLEST.value):
            raise ValueError("give either --topology or --smallest")
        jax.config.update("jax_exec_time_optimization_effort", _EFFORT.value)
        config, spec, given = inputs(_CONFIG.value)
        if _SMALLEST.value:
            record = smallest(config, spec, given, _SMALLEST.value)
        else:
            record = one_slice(config, spec, given, _TOPOLOGY.value)[1]
        if _OUTPUT.value:
            Path(_OUTPUT.value).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    flags.mark_flags_as_required(["config"])
    app.run(main)
