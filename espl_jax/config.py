"""Checks a run's configuration before anything expensive: each mistake stops with one sentence that names the field."""

import json
import os
import urllib.parse
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from espl_jax.acceptance import ACCEPTANCE
from espl_jax.editors import EDITORS
from espl_jax.evolution.distance import DISTANCES
from espl_jax.evolution.fitness import FITNESS
from espl_jax.evolution.forms import FORMS
from espl_jax.evolution.grammar import GRAMMARS
from espl_jax.evolution.mating import MATING
from espl_jax.evolution.parents import PARENTS
from espl_jax.evolution.render import LAYOUTS
from espl_jax.evolution.selection import SELECTION
from espl_jax.policy import sharding
from espl_jax.policy.advantages import BASELINES
from espl_jax.policy.batch import AGGREGATIONS, RATIOS
from espl_jax.policy.constraints import CLOSING, load_library
from espl_jax.policy.lora import TARGETS
from espl_jax.policy.loss import LOSSES
from espl_jax.policy.model import REMAT
from espl_jax.policy.state import ATTENTION, SCHEDULES
from espl_jax.rollout import RULEBOOK
from espl_jax.tasks import EXTRACTION, TASKS


class ConfigError(ValueError):
    """A configuration that cannot run; the message names the field, its value and the remedy."""


# method -> the fields that it sets; what a method switches off is so in the saved configuration too
METHODS: dict[str, dict[str, Any]] = {
    "espl": {},
    "rl": {"num_prompts": 1},
    "evolution": {},
    "reflection": {"num_prompts": 1, "window": 1, "max_population": 1, "crossover_probability": 0.0},
    "gepa": {},  # a run of its own: baselines/gepa_run.py
}
TRAINS_WEIGHTS = ("espl", "rl")
WRITES_PROMPTS = ("espl", "evolution", "reflection")

# field -> the dict or tuple that lists its values
CHOICES: dict[str, Any] = {
    "method": METHODS,
    "model.dtype": ("float32", "bfloat16"),
    "model.weight_dtype": ("float32", "bfloat16"),
    "model.attention": ATTENTION,
    "model.remat": REMAT,
    "sampling.weights_layout": sharding.SAMPLING,
    "sampling.cache_dtype": ("model", "bfloat16", "float32", "int8"),
    "rl.loss": LOSSES,
    "rl.ratio": RATIOS,
    "rl.baseline": BASELINES,
    "rl.aggregation": AGGREGATIONS,
    "rl.schedule": SCHEDULES,
    "evolution.selection": SELECTION,
    "evolution.genome": ("principles", "document"),
    "evolution.edit_form": FORMS,
    "evolution.layout": LAYOUTS,
    "evolution.editor": EDITORS,
    "evolution.fitness": FITNESS,
    "evolution.distance": DISTANCES,
    "evolution.mating": MATING,
    "evolution.parent": PARENTS,
    "evolution.acceptance": ACCEPTANCE,
    "evolution.grammar": GRAMMARS,
    "sft.adapter_dtype": ("float32", "bfloat16"),
    "task.name": TASKS,
    "task.extraction": EXTRACTION,
}

# fields -> lowest and highest value allowed (None: no bound)
RANGES: dict[tuple[str, ...], tuple[float | None, float | None]] = {
    (
        "num_steps", "model.max_length", "sampling.max_new_tokens", "sampling.batch_size", "sampling.prefill_tokens",
        "sampling.prefill_chunk", "rl.num_minibatches", "rl.micro_batch_tokens", "rl.row_widths", "rl.head_chunk",
        "evolution.num_prompts", "evolution.window", "evolution.max_population", "evolution.max_edits",
        "evolution.max_principle_words", "evolution.max_principles",
        "evolution.max_document_words", "evolution.max_document_growth", "evolution.max_hints", "evolution.max_new_tokens",
        "evolution.max_trajectory_words", "task.num_problems",
        "task.num_samples", "task.grading_workers", "evaluation.num_samples", "evaluation.max_new_tokens",
        "records.checkpoint_every", "records.keep_last", "hosts.start_seconds",
        "evolution.islands", "evolution.max_age", "evolution.server_concurrency", "tools.max_turns", "tools.max_result_tokens",
        "tools.workers", "sft.batch_size", "gepa.minibatch",
    ): (1, None),
    ("hosts.num_processes", "hosts.process_id"): (-1, None),
    ("tools.topk",): (1, 100),  # a search server gives no more
    ("hosts.heartbeat_seconds",): (5, None),
    ("runtime.gpu_memory_fraction",): (0, 1),
    (
        "budget_tokens", "budget_flops", "budget_rollouts",
        "seed", "rl.lora_rank", "rl.warmup_steps", "rl.learning_rate", "rl.weight_decay", "rl.max_grad_norm", "rl.kl_coef",
        "rl.clip_low", "rl.clip_high", "rl.cispo_max", "sampling.temperature", "evolution.temperature",
        "evaluation.temperature", "evaluation.rated", "evolution.sigma_inflation", "evolution.tie_margin",
        "evolution.max_problems", "evolution.max_trajectories", "evolution.summarize_above",
        "evolution.migration_every", "evolution.server_retries", "evaluation.every", "records.keep_best", "task.num_train",
        "task.num_validation", "task.num_test", "runtime.cpu_devices", "records.grace", "tools.max_turn_tokens", "tools.ahead",
        "tools.retries", "tools.max_calls", "sft.num_demonstrations", "sft.num_validation", "sft.crossings",
        "gepa.num_pareto",
    ): (0, None),
    (
        "evolution.mutation_probability", "evolution.crossover_probability", "evolution.duplicate_similarity",
        "evolution.trueskill_draw_probability", "task.format_penalty", "task.two_hop",
    ): (0, 1),
    ("sampling.top_p", "evolution.top_p", "evaluation.top_p", "evolution.niche_radius"): (1e-6, 1),
    (
        "task.grading_timeout", "evolution.server_timeout", "evolution.selection_temperature", "evolution.trueskill_sigma",
        "evolution.trueskill_beta", "tools.timeout",
    ): (1e-6, None),
}


def field(config: Any, name: str) -> Any:
    """The value of a dotted field."""
    for part in name.split("."):
        config = config[part]
    return config


def resolve(config: ConfigDict) -> ConfigDict:
    """A locked copy of `config` with what its method implies set; raises ConfigError when it cannot run."""
    check(config)
    config = ConfigDict(config.to_dict())
    for name, value in METHODS[config.method].items():
        config.evolution[name] = value
    return config.lock()


def check(config: ConfigDict) -> None:
    """Raises ConfigError for the first mistake that can be seen without loading a model or data."""
    for name, choices in CHOICES.items():
        if (value := field(config, name)) not in choices:
            raise ConfigError(f"{name} is {value!r}; use one of {', '.join(choices)}")
    for names, (low, high) in RANGES.items():
        for name in names:
            _check_range(name, field(config, name), low, high)
    for name in ("model.chat_template_arguments", "task.gym_parameters", "evolution.server_parameters"):
        _check_json_object(name, field(config, name))
    _check_mesh(config)
    _check_hosts(config.hosts)
    _check_sampling(config)
    _check_weights_half(config)
    _check_prompts_half(config)


def _check_range(name: str, value: float, low: float | None, high: float | None) -> None:
    if (low is not None and not value >= low) or (high is not None and not value <= high):
        allowed = f"{low} or more" if high is None else f"{low} to {high}"
        raise ConfigError(f"{name} is {value}; use {allowed}")


def _check_json_object(name: str, text: str) -> None:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{name} is {text!r}, which is not JSON ({error}); write an object such as '{{}}'") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{name} is {text!r}; it must be a JSON object such as '{{}}'")


def _check_mesh(config: ConfigDict) -> None:
    rest = [name for name, size in config.mesh.items() if size == -1]
    for name, size in config.mesh.items():
        if size < 1 and size != -1:
            raise ConfigError(f"mesh.{name} is {size}; use 1 or more, or -1 for the rest of the devices")
    if len(rest) > 1:
        raise ConfigError(f"mesh.{rest[1]} is -1, and so is mesh.{rest[0]}; only one of them can be the rest of the devices")
    if config.sampling.merge_weights and config.sampling.weights_layout == "gathered":
        raise ConfigError(
            "sampling.weights_layout is 'gathered', which makes a copy of the weights for each call, but "
            "sampling.merge_weights keeps one of its own; switch one of them off"
        )


def _check_hosts(hosts: ConfigDict) -> None:
    address, total, mine = hosts.coordinator, hosts.num_processes, hosts.process_id
    if not address and total > 1:
        raise ConfigError(f"hosts.num_processes is {total}, but hosts.coordinator is ''; give host:port of process 0, or auto")
    if address and address != "auto" and not address.rpartition(":")[2].isdigit():
        raise ConfigError(f"hosts.coordinator is {address!r}; use '', auto or host:port of process 0")
    if address and total != -1 and mine >= total:
        raise ConfigError(f"hosts.process_id is {mine}, but hosts.num_processes is {total}; use 0 to {total - 1}")


def _check_sampling(config: ConfigDict) -> None:
    sampling = config.sampling
    if sampling.prefill_chunk & (sampling.prefill_chunk - 1):
        raise ConfigError(f"sampling.prefill_chunk is {sampling.prefill_chunk}; use a power of 2")
    if sampling.prefill_tokens % sampling.prefill_chunk:
        raise ConfigError(
            f"sampling.prefill_tokens is {sampling.prefill_tokens}, which is no multiple of sampling.prefill_chunk="
            f"{sampling.prefill_chunk}; make it one"
        )
    if sampling.merge_weights and (config.model.dtype, config.model.weight_dtype) != ("float32", "float32"):
        raise ConfigError(
            "sampling.merge_weights rounds the adapter away unless model.dtype and model.weight_dtype are float32; "
            "set them, or sampling.merge_weights=False"
        )


def _check_weights_half(config: ConfigDict) -> None:
    rl, task = config.rl, config.task
    unknown = set(rl.lora_targets) - set(TARGETS)
    if unknown:
        raise ConfigError(f"rl.lora_targets has {sorted(unknown)}; use some of {', '.join(TARGETS)}")
    if rl.lora_rank and not rl.lora_targets:
        raise ConfigError("rl.lora_targets is empty; name at least one projection, or set rl.lora_rank=0 to train all weights")
    if config.method not in TRAINS_WEIGHTS:
        return
    if config.sampling.temperature == 0:
        raise ConfigError("sampling.temperature is 0, which makes all samples of a group equal; use a positive temperature")
    if rl.baseline == "prompt" and task.num_samples < 2:
        raise ConfigError("task.num_samples is 1, so every advantage is zero; use 2 or more, or rl.baseline=marginal")
    trajectories = task.num_problems * task.num_samples
    if trajectories % rl.num_minibatches:
        raise ConfigError(
            f"rl.num_minibatches is {rl.num_minibatches}, which does not divide task.num_problems * task.num_samples "
            f"= {trajectories}; change one of them"
        )
    if rl.warmup_steps and rl.warmup_steps >= config.num_steps * rl.num_minibatches:
        raise ConfigError(f"rl.warmup_steps is {rl.warmup_steps}, not less than the run's optimizer steps; lower it")


def _check_prompts_half(config: ConfigDict) -> None:
    evolution, evaluation = config.evolution, config.evaluation
    if config.method == "gepa" and find_spec("gepa") is None:
        raise ConfigError("method is 'gepa', which needs the package gepa: pip install 'espl_jax[gepa]', or use another method")
    if config.method == "gepa" and config.task.world.drift:
        raise ConfigError(
            f"task.world.drift is {config.task.world.drift}, but method 'gepa' learns from problems that stay the same; "
            "set it to 0"
        )
    _check_server(evolution)
    _check_grammar(evolution)
    if evolution.root not in ("", RULEBOOK) and not Path(evolution.root).is_file():
        raise ConfigError(
            f"evolution.root is {evolution.root!r}, which is not a file; give the path of a text file, {RULEBOOK!r} or ''"
        )
    if evaluation.prompt not in ("best", "newest", "none") and not evaluation.prompt.isdigit():
        raise ConfigError(f"evaluation.prompt is {evaluation.prompt!r}; use best, newest, none or the id of a prompt")
    for name in ("sampling", "evaluation", "evolution"):
        limit = config[name].max_new_tokens
        if limit >= config.model.max_length:
            raise ConfigError(
                f"{name}.max_new_tokens is {limit}, which leaves no room for a prompt within "
                f"model.max_length={config.model.max_length}; lower the first or raise the second"
            )


def _check_server(evolution: Any) -> None:
    if evolution.editor != "server":
        return
    url = urllib.parse.urlsplit(evolution.server_url)
    if url.scheme not in ("http", "https") or not url.hostname or url.username or url.query:
        raise ConfigError(
            f"evolution.server_url is {_shown_url(evolution.server_url)!r}; give http(s)://host/path without a name, password "
            "or query, such as 'http://localhost:8000/v1' (a key comes from the variable that evolution.server_key names)"
        )
    if not evolution.server_model:
        raise ConfigError("evolution.server_model is '', but evolution.editor is 'server'; give the model's name there")
    if evolution.server_key and not os.environ.get(evolution.server_key):
        raise ConfigError(
            "evolution.server_key gives no environment variable's name; export one that holds the key and give its NAME, or "
            "set evolution.server_key='' for a server without keys"
        )


def _shown_url(url: str) -> str:
    """A URL without what may be secret in it."""
    before, at, after = url.rpartition("@")
    scheme = before.partition("://")[0] + "://" if at else ""
    return (scheme + after).partition("?")[0]


def _check_grammar(evolution: Any) -> None:
    if evolution.grammar == "none":
        return
    wanted = {"editor": ("reference", "current"), "genome": ("principles",), "edit_form": ("json",)}
    for name, values in wanted.items():
        if evolution[name] not in values:
            raise ConfigError(
                f"evolution.grammar is {evolution.grammar!r}, which needs evolution.{name}={' or '.join(values)} and got "
                f"{evolution[name]!r}; change one of them"
            )
    if evolution.max_new_tokens < 2 * CLOSING:
        raise ConfigError(
            f"evolution.max_new_tokens is {evolution.max_new_tokens}, too few for a reply that evolution.grammar could end in "
            f"time; use {2 * CLOSING} or more"
        )
    try:
        load_library()
    except ImportError as error:
        raise ConfigError(str(error)) from error


def check_lengths(config: ConfigDict, longest_prompt: int) -> None:
    """Raises ConfigError when the longest first prompt (tokens) and a full completion do not fit the context."""
    for name in ("sampling", "evaluation"):
        needed = longest_prompt + config[name].max_new_tokens
        if needed > config.model.max_length:
            raise ConfigError(
                f"the longest problem with the root prompt has {longest_prompt} tokens, which with {name}.max_new_tokens="
                f"{config[name].max_new_tokens} makes {needed}, more than model.max_length={config.model.max_length}; "
                "raise model.max_length or lower the other"
            )
