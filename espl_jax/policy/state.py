"""The policy as a value: what is trained (PolicyState), and what it is trained around (Policy)."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from espl_jax.policy import adapter_files, drawing, lora, sharding, weights
from espl_jax.policy.chat import Tokenizer
from espl_jax.policy.hf_config import read_spec
from espl_jax.policy.model import Decoder, ModelSpec, abstract_params
from espl_jax.policy.sampler import Sampler


@flax.struct.dataclass
class PolicyState:
    """What the gradient changes, and all that a checkpoint holds of the policy.

    trainable: the adapter, or all weights, float32. opt_state: optax. updates: int32 scalar, optimizer steps done.
    """

    trainable: Any
    opt_state: Any
    updates: jax.Array


@dataclasses.dataclass(frozen=True)
class Policy:
    """What stays fixed in a run: architecture, frozen weights, mesh, tokenizer, optimizer, sampler.

    frozen: the base weights under an adapter, else None. reference: variables of the reference policy (for an adapter the
    same frozen weights with the adapter switched off; for full fine-tuning a second copy, only if something needs it).
    """

    spec: ModelSpec
    model: Decoder
    mesh: Mesh
    tokenizer: Tokenizer
    directory: Path
    frozen: Any | None
    reference: Any | None
    optimizer: optax.GradientTransformation
    sampler: Sampler

    def variables(self, trainable: Any) -> Any:
        """What the Decoder is applied to: {"params"} and, under an adapter, {"lora"}."""
        return {"params": trainable} if self.frozen is None else {"params": self.frozen, "lora": trainable}

    @property
    def plain_reference(self) -> Any:
        """The reference without its switched-off adapter: less arithmetic for the learner's KL."""
        return {"params": self.reference["params"]}


ATTENTION = {"auto": None, "xla": "xla", "cudnn": "cudnn", "splash": None}  # of prefilling; the learner's: attention.py
SCHEDULES = {
    "constant": lambda peak, steps: optax.constant_schedule(peak),
    "linear": lambda peak, steps: optax.linear_schedule(peak, 0.0, steps),
    "cosine": lambda peak, steps: optax.cosine_decay_schedule(peak, steps),
}


def make_optimizer(rl: Any, num_steps: int) -> optax.GradientTransformation:
    """Adam with decoupled weight decay, global norm clipping and a schedule over the run's optimizer steps."""
    total = max(1, num_steps * rl.num_minibatches - rl.warmup_steps)
    schedule = SCHEDULES[rl.schedule](rl.learning_rate, total)
    if rl.warmup_steps:
        warmup = optax.linear_schedule(rl.learning_rate / rl.warmup_steps, rl.learning_rate, max(rl.warmup_steps - 1, 1))
        schedule = optax.join_schedules([warmup, schedule], [rl.warmup_steps])
    clip = optax.clip_by_global_norm(rl.max_grad_norm) if rl.max_grad_norm > 0 else optax.identity()
    adam = optax.adamw(schedule, b1=rl.adam_b1, b2=rl.adam_b2, eps=rl.adam_eps, weight_decay=rl.weight_decay)
    return optax.chain(clip, adam)


def open_model(config: Any) -> tuple[Path, ModelSpec, Tokenizer]:
    """The cheap part of loading: directory, architecture and tokenizer; all files are checked before any weight is read."""
    directory = weights.resolve(config.model.path, config.model.revision)
    spec = read_spec(directory)
    if config.model.max_length > spec.max_positions:
        raise ValueError(
            f"model.max_length is {config.model.max_length}, but {directory} knows positions up to "
            f"{spec.max_positions}; lower model.max_length"
        )
    shapes = abstract_params(Decoder(spec))[0]
    weights.check(directory, shapes)
    adapter_files.load(config.model, shapes)
    tokenizer = Tokenizer(directory, json.loads(config.model.chat_template_arguments))
    if tokenizer.vocab_size > spec.vocab_size:
        raise ValueError(
            f"the tokenizer in {directory} has {tokenizer.vocab_size} tokens, but the model's vocabulary has "
            f"{spec.vocab_size}; they do not belong together"
        )
    return directory, spec, tokenizer


# config.evolution.editor -> the variables of the policy that writes children
EDITORS = {
    "reference": lambda policy, state: policy.reference,
    "current": lambda policy, state: policy.variables(state.trainable),
}


def needs_reference(config: Any) -> bool:
    """Whether anything in this run asks the reference policy."""
    edits = config.method != "rl" and config.evolution.editor == "reference"
    return edits or (config.method in ("espl", "rl") and config.rl.kl_coef > 0)


def make_model(config: Any, spec: ModelSpec, mesh: Mesh) -> Decoder:
    """The Decoder as the learner uses it; refuses a mesh that would not split its weights."""
    rl, projected = config.rl, spec.num_heads * spec.head_dim
    sizes = {"embed": ("width", spec.width), "heads": ("query heads times head width", projected)}
    sharding.check_weights(sizes | {"mlp": ("feed-forward width", spec.mlp_width)}, mesh)
    return Decoder(
        spec=spec,
        dtype=jnp.dtype(config.model.dtype),
        implementation=ATTENTION[config.model.attention],
        remat=config.model.remat,
        scan_layers=config.model.scan_layers,
        lora_scale=rl.lora_alpha / rl.lora_rank if rl.lora_rank else 1.0,
        constrain=lambda x, names: sharding.constrain(x, names, mesh),
        vocab_rows=vocab_rows(rl, spec, mesh),
    )


def vocab_rows(rl: Any, spec: ModelSpec, mesh: Mesh) -> int:
    """Rows of embedding and head. Each device has whole blocks of what tokens are drawn from: nothing of them is sent then.

    Trained tables have as little padding as can be, since they are checkpointed with it.
    """
    return sharding.rounded(spec.vocab_size, "vocab", mesh, unit=drawing.BLOCK if rl.lora_rank else 1)


def make_policy(config: Any, directory: Path, spec: ModelSpec, tokenizer: Tokenizer) -> tuple[Policy, PolicyState]:
    """Loads the weights onto the mesh and makes the state that training starts from."""
    policy, trainable = load_policy(config, directory, spec, tokenizer)
    return policy, init_state(policy, trainable)


def load_policy(config: Any, directory: Path, spec: ModelSpec, tokenizer: Tokenizer) -> tuple[Policy, Any]:
    """The weights on the mesh, and what would be trained, without an optimizer's state.

    With rl.lora_rank > 0 the base is held once in model.weight_dtype; else all weights are trained in float32. The adapter that
    model.adapter names is part of the base, and so of the reference.
    """
    mesh = sharding.make_mesh(**config.mesh)
    rl, model = config.rl, make_model(config, spec, mesh)
    shapes, names = abstract_params(model)
    adapter = adapter_files.load(config.model, shapes)
    load = _loader(directory, shapes, sharding.tree_shardings(names, shapes, mesh), adapter)
    optimizer = make_optimizer(rl, config.num_steps)
    if rl.lora_rank:
        frozen = load(jnp.dtype(config.model.weight_dtype))
        trainable, off = make_adapter(shapes, names, rl.lora_rank, tuple(rl.lora_targets), config.seed, mesh)
        reference = {"params": frozen, "lora": off}
    else:
        frozen, trainable = None, load(jnp.float32)
        reference = {"params": load(jnp.float32)} if needs_reference(config) else None
    sampler = Sampler(
        model.clone(remat="none"), mesh, tokenizer.stop_ids, config.seed, config.sampling, config.model.max_length
    )
    policy = Policy(
        spec=spec, model=model, mesh=mesh, tokenizer=tokenizer, directory=directory, frozen=frozen,
        reference=reference, optimizer=optimizer, sampler=sampler,
    )
    return policy, trainable


def _loader(directory: Path, shapes: Any, shardings: Any, adapter: adapter_files.Adapter | None):
    return lambda dtype: weights.load(directory, shapes, shardings, dtype, adapter)


def make_adapter(
    shapes: Any, names: Any, rank: int, targets: tuple[str, ...], seed: int, mesh: Mesh
) -> tuple[Any, Any]:
    """A fresh adapter, and the same switched off, under their sharding."""
    low_shapes, low_names = lora.abstract(shapes, names, rank, targets)
    shardings = sharding.tree_shardings(low_names, low_shapes, mesh)

    fresh = lora.init(low_shapes, seed)  # its b is zero: switched off already
    return tuple(jax.tree.map(_put, fresh, shardings) for _ in range(2))


def _put(array: np.ndarray, sharding: jax.sharding.Sharding) -> jax.Array:
    """A host array that every process has, each device its part."""
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def init_state(policy: Policy, trainable: Any) -> PolicyState:
    """The state that training starts from."""
    opt_state = jax.jit(policy.optimizer.init, out_shardings=optimizer_shardings(policy, trainable))(trainable)
    updates = sharding.put(np.zeros((), np.int32), sharding.replicated(policy.mesh))
    return PolicyState(trainable=trainable, opt_state=opt_state, updates=updates)


def optimizer_shardings(policy: Policy, trainable: Any) -> Any:
    """Optimizer state is laid out like the weights it belongs to; its scalars are replicated."""
    everywhere, found = sharding.replicated(policy.mesh), []

    def lay_out():
        found.append(
            optax.tree.map_params(
                policy.optimizer,
                lambda _, weight: weight.sharding,
                jax.eval_shape(policy.optimizer.init, trainable),
                trainable,
                transform_non_params=lambda _: everywhere,
            )
        )

    jax.eval_shape(lay_out)  # traced only: optax makes a state of its own on the way, each array of it a program to compile
    return found[0]


def full_weights(policy: Policy, state: PolicyState) -> Any:
    """All weights with any adapter merged in, for saving in the Hugging Face format."""
    if policy.frozen is None:
        return state.trainable
    return lora.merge(policy.frozen, state.trainable, policy.model.lora_scale)
