"""Supervised training: python -m espl_jax.sft --config=experiments/NAME_sft.py --workdir=DIR [--config.field=value ...].

Conversations in, minus the log-probability of the assistant's replies as the loss; model, sharding, learner, checkpoints and
records are those of a run (train.py). A killed run that is started again ends with the same weights. At the end DIR/adapter is
an adapter in PEFT's format, which a run starts from by `model.adapter=DIR`; where all weights are trained (rl.lora_rank=0)
DIR/model is a Hugging Face directory, for `model.path`. More in docs/sft.md.
"""

import dataclasses
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from espl_jax import config as configs
from espl_jax import main
from espl_jax.demonstrations import DEMONSTRATIONS, Demonstration, load, to_row
from espl_jax.evolution.population import root_population
from espl_jax.policy import adapter_files, weights
from espl_jax.policy.batch import Row
from espl_jax.policy.chat import Tokenizer
from espl_jax.policy.model import Decoder, abstract_params
from espl_jax.policy.state import Policy, PolicyState, full_weights, make_policy, open_model
from espl_jax.policy.supervised import Scorer, loss_of, make_scorer
from espl_jax.policy.update import Learner, make_learner
from espl_jax.records.logbook import Logbook, enable_compilation_cache
from espl_jax.structs import Genome, RunState
from espl_jax.tasks.splits import batch_at
from espl_jax.train import Step

# What supervised training is, in the fields of a run; the same in the saved configuration.
SETTINGS = {"method": "rl", "rl.loss": "log_likelihood", "rl.ratio": "untempered", "rl.kl_coef": 0.0, "rl.num_minibatches": 1}


@dataclasses.dataclass(frozen=True)
class Lesson:
    """A conversation and its tokens."""

    demonstration: Demonstration
    row: Row


@dataclasses.dataclass(frozen=True)
class Sft:
    """What stays fixed while a run goes on."""

    config: ConfigDict
    policy: Policy
    learn: Learner
    score: Scorer
    train: tuple[Lesson, ...]
    validation: tuple[Lesson, ...]
    logbook: Logbook


def run(config: ConfigDict, workdir: str | Path) -> RunState:
    """Trains to config.num_steps in `workdir`, going on where an earlier run in it stopped, and saves what it has learned."""
    config = resolve(config)
    enable_compilation_cache(config.records.compilation_cache)
    with Logbook(config, workdir, shows_prompts=False) as logbook:
        run, state = set_up(config, logbook)
        with jax.transfer_guard("disallow"):
            if logbook.fresh:
                logbook.commit(before_training(run, state))
            while state.step < config.num_steps:
                step = iterate(run, state)
                logbook.commit(step)
                state = step.state
        logbook.finish(state)
        save(run, state.policy)
    return state


def resolve(config: ConfigDict) -> ConfigDict:
    """A locked copy of `config` with what supervised training sets; raises ConfigError when it cannot run."""
    config = ConfigDict(config.to_dict())
    config.update_from_flattened_dict(SETTINGS)
    return configs.resolve(config)


def set_up(config: ConfigDict, logbook: Logbook) -> tuple[Sft, RunState]:
    """Reads the conversations, loads the model and makes, or restores, the state; refusals come before weights are read."""
    directory, spec, tokenizer = open_model(config)
    train, validation = (lessons(config, tokenizer, found) for found in load(config))
    policy, policy_state = make_policy(config, directory, spec, tokenizer)
    learn = make_learner(policy, policy_state, config)
    score = make_scorer(policy, config)
    nobody = root_population(Genome("principles"), config.evolution)  # a run without prompts has the empty one
    state = logbook.restore(RunState(step=0, policy=policy_state, population=nobody, counters={}))
    return Sft(config, policy, learn, score, train, validation, logbook), state


def lessons(config: ConfigDict, tokenizer: Tokenizer, found: list[Demonstration]) -> tuple[Lesson, ...]:
    """Conversations with their tokens. Raises ConfigError for one that the model has no room for."""
    made = tuple(Lesson(one, to_row(tokenizer, one.messages, config.tools.max_result_tokens)) for one in found)
    for lesson in made:
        size = len(lesson.row.context) + len(lesson.row.completion.tokens)
        if size > config.model.max_length:
            raise configs.ConfigError(
                f"sft.data={config.sft.data} has a conversation of {size} tokens ({lesson.demonstration.id}), more than "
                f"model.max_length={config.model.max_length}; raise it, or leave the conversation out"
            )
    return made


def iterate(run: Sft, state: RunState) -> Step:
    """One optimizer step over the conversations that (seed, step) say."""
    config, step = run.config, state.step + 1
    batch = batch_at(run.train, step - 1, config.sft.batch_size, config.seed)
    with run.logbook.phase("update"):
        run.logbook.wait_for_copies()  # the new weights take the place of the old, which may still be being saved
        rng = np.random.default_rng((config.seed, step))
        policy_state, norms, collected = run.learn(state.policy, [lesson.row for lesson in batch], rng)
        loss, tokens = loss_of(collected)
    metrics = {
        "sft/loss": loss,
        "sft/tokens": float(tokens),
        "sft/grad_norm": float(jax.device_get(norms[0])),
        "sft/epoch": step * config.sft.batch_size / len(run.train),
    }
    counters = {**state.counters, "sft/tokens": state.counters.get("sft/tokens", 0.0) + tokens}
    state = RunState(step, policy_state, state.population, counters)
    if config.evaluation.every and (step % config.evaluation.every == 0 or step == config.num_steps):
        metrics |= hold_out(run, state.policy)
    return Step(state, metrics, {"batch.json": {"demonstrations": [lesson.demonstration.id for lesson in batch]}})


def hold_out(run: Sft, state: PolicyState) -> dict[str, float]:
    """The loss on the conversations that are held out."""
    if not run.validation:
        return {}
    with run.logbook.phase("evaluate"):
        return {"sft/validation_loss": run.score(state.trainable, [lesson.row for lesson in run.validation])[0]}


def before_training(run: Sft, state: RunState) -> Step:
    """Step 0: the held-out loss, and the conversations themselves where they were generated."""
    if run.config.sft.data not in DEMONSTRATIONS:
        return Step(state, hold_out(run, state.policy), {})
    splits = {"train": run.train, "validation": run.validation}
    rows = [{"split": name, **one.demonstration.to_json()} for name, split in splits.items() for one in split]
    return Step(state, hold_out(run, state.policy), {"demonstrations.jsonl": rows})


def save(run: Sft, state: PolicyState) -> Path:
    """Writes DIR/adapter, which adds to the model without model.adapter, or DIR/model; returns it. All hosts must call."""
    config, policy, workdir = run.config, run.policy, run.logbook.workdir
    if policy.frozen is None:
        folder = workdir / adapter_files.MODEL_FOLDER
        weights.save(folder, policy.spec, full_weights(policy, state), policy.directory, np.float32)
        return folder
    folder, base = workdir / adapter_files.FOLDER, adapter_files.base_name(config.model.path)
    adapter = adapter_files.from_tree(state.trainable, config.rl.lora_alpha, base)
    earlier = adapter_files.load(config.model, abstract_params(Decoder(policy.spec))[0])
    adapter = adapter_files.combined(earlier, adapter) if earlier is not None else adapter
    if jax.process_index() == 0:
        adapter_files.save(folder, adapter, config.sft.adapter_dtype)
    return folder


if __name__ == "__main__":
    main.cli(run)
