"""Supervised training on a tiny model: what is learned from, its loss by hand, resume, and runs that start from the result."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from espl_jax import config as configs
from espl_jax import fingerprint, sft, train
from espl_jax.demonstrations import to_row
from espl_jax.policy import adapter_files, weights
from espl_jax.policy.hf_config import read_spec
from espl_jax.policy.state import make_policy, open_model
from espl_jax.policy.supervised import make_scorer
from espl_jax.records import metrics as metric_files
from espl_jax.structs import Message
from tests.tiny import random_params
from tests.tiny_run import tiny_config

SUMS = [(a, b) for a in range(2, 6) for b in range(3, 6)]


@pytest.fixture(scope="module")
def model(tiny_qwen3, tmp_path_factory):
    """A model of one layer: compiling is what takes time here."""
    directory = tmp_path_factory.mktemp("one") / "layer"
    spec = dataclasses.replace(read_spec(tiny_qwen3), num_layers=1)
    weights.save(directory, spec, random_params(spec, 0), tiny_qwen3, np.float32)
    return directory


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """12 conversations of two replies each."""
    path = tmp_path_factory.mktemp("data") / "sums.jsonl"
    path.write_text("".join(json.dumps({"messages": turns(a, b)}) + "\n" for a, b in SUMS), encoding="utf-8")
    return path


def turns(a, b):
    said = [("system", "Add."), ("user", f"{a} and {b}?"), ("assistant", f"add {a} {b}"), ("tool", f"the sum is {a + b}"),
            ("assistant", f"answer {a + b}")]  # fmt: skip
    return [{"role": role, "content": content} for role, content in said]


def sft_config(model, data, **changes) -> ConfigDict:
    values = {"num_steps": 6, "sft.data": str(data), "sft.num_validation": 2, "sft.batch_size": 4, "evaluation.every": 3,
              "rl.learning_rate": 3e-3, "model.max_length": 256, "task.name": "toy"}  # fmt: skip
    return tiny_config(model, **(values | changes))


@pytest.fixture(scope="module")
def undisturbed(model, data, tmp_path_factory):
    """The work directory of a finished run."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    sft.run(sft_config(model, data), workdir)
    return workdir


def test_the_loss_of_two_turns_by_hand(model, data):
    """Each reply is scored token by token from the whole conversation before it, by the model itself without packing."""
    config = sft.resolve(sft_config(model, data))
    policy, state = make_policy(config, *open_model(config))
    tokenizer = policy.tokenizer
    text = ["<|im_start|>system\nAdd.<|im_end|>\n<|im_start|>user\n2 and 3?<|im_end|>\n<|im_start|>assistant\n", "add 2 3",
            "\n<|im_start|>tool\nthe sum is 5<|im_end|>\n<|im_start|>assistant\n", "answer 5"]  # fmt: skip
    control = tokenizer._control_ids  # noqa: SLF001  spelled out here, so that no code of the learner's side is used

    def encoded(piece):
        ids = []
        for part in piece.replace("<|", "\0<|").replace("|>", "|>\0").split("\0"):
            ids += [control[part]] if part in control else list(tokenizer.encode(part))
        return ids

    context, first, between, second = map(encoded, text)
    end = control["<|im_end|>"]
    tokens = [*context, *first, end, *between, *second, end]
    own = [False] * len(context) + [True] * (len(first) + 1) + [False] * len(between) + [True] * (len(second) + 1)

    row = to_row(tokenizer, [Message(**turn) for turn in turns(2, 3)], 500)
    assert [*row.context, *row.completion.tokens] == tokens
    assert [False] * len(row.context) + list(row.completion.own) == own
    variables = policy.variables(state.trainable)
    hidden, _ = policy.model.apply(variables, jnp.asarray([tokens]), jnp.arange(len(tokens))[None])
    logp = jax.nn.log_softmax(policy.model.apply(variables, hidden, method="logits"), axis=-1)[0]
    by_hand = [float(logp[i - 1, tokens[i]]) for i in range(len(tokens)) if own[i]]
    loss, count = make_scorer(policy, config)(state.trainable, [row])
    assert count == len(by_hand) == len(first) + len(second) + 2
    assert loss == pytest.approx(-np.mean(by_hand), abs=1e-5)


def test_a_killed_and_resumed_run_equals_an_undisturbed_one(model, data, tmp_path, monkeypatch, undisturbed):
    steps, iterate = [], sft.iterate

    def dies(run, state):
        if state.step == 4 and not steps:
            steps.append(state.step)
            raise KeyboardInterrupt
        return iterate(run, state)

    monkeypatch.setattr(sft, "iterate", dies)
    config = sft_config(model, data, **{"records.checkpoint_every": 2})
    with pytest.raises(KeyboardInterrupt):
        sft.run(config, tmp_path)
    assert not (tmp_path / "adapter").exists()
    sft.run(config, tmp_path)
    assert fingerprint.fingerprint(tmp_path) == fingerprint.fingerprint(undisturbed)
    ours, theirs = (adapter_files.read(folder).factors for folder in (tmp_path, undisturbed))
    for name, pair in theirs.items():
        jax.tree.map(np.testing.assert_array_equal, ours[name], pair)


def test_the_loss_falls_on_what_is_learned_and_on_what_is_held_out(undisturbed):
    rows = metric_files.read(undisturbed)
    losses = [row["sft/loss"] for row in rows[1:]]
    held_out = [row["sft/validation_loss"] for row in rows if "sft/validation_loss" in row]
    assert losses[-1] < losses[0] - 0.5 and held_out[-1] < held_out[0] - 0.5 and len(held_out) == 3
    assert rows[-1]["sft/epoch"] == pytest.approx(6 * 4 / 10)
    batch = json.loads((undisturbed / "steps" / "000001" / "batch.json").read_text())["demonstrations"]
    assert len(set(batch)) == 4


def test_a_run_starts_from_it(model, data, tmp_path, undisturbed):
    """As base and reference; another supervised run on top of it saves the sum of both."""
    config = sft.resolve(sft_config(model, data, **{"model.adapter": str(undisturbed)}))
    policy, state = make_policy(config, *open_model(config))
    rows = [to_row(policy.tokenizer, [Message(**turn) for turn in turns(2, 3)], 500)]
    learned = fresh_loss(model, data, rows) - make_scorer(policy, config)(state.trainable, rows)[0]
    assert learned > 0.5
    np.testing.assert_array_equal(  # frozen and reference are the same
        policy.frozen["layers_0"]["mlp"]["up"]["kernel"], policy.reference["params"]["layers_0"]["mlp"]["up"]["kernel"]
    )
    sft.run(sft_config(model, data, **{"model.adapter": str(undisturbed), "num_steps": 1}), tmp_path)
    assert adapter_files.read(tmp_path).rank == 8
    again = sft.resolve(sft_config(model, data, **{"model.adapter": str(tmp_path)}))
    policy, state = make_policy(again, *open_model(again))
    resumed = metric_files.read(tmp_path)[-1]["sft/validation_loss"]
    held_out = [one.row for one in sft.lessons(again, policy.tokenizer, sft.load(again)[1])]
    assert make_scorer(policy, again)(state.trainable, held_out)[0] == pytest.approx(resumed, abs=1e-5)


def fresh_loss(model, data, rows):
    config = sft.resolve(sft_config(model, data))
    policy, state = make_policy(config, *open_model(config))
    return make_scorer(policy, config)(state.trainable, rows)[0]


def test_all_weights_become_a_model_directory(model, data, tmp_path):
    config = sft_config(model, data, **{"rl.lora_rank": 0, "num_steps": 2, "sft.num_validation": 0})
    state = sft.run(config, tmp_path)
    with pytest.raises(ValueError, match=f"use model.path={tmp_path / 'model'}"):
        open_model(sft_config(model, data, **{"model.adapter": str(tmp_path)}))
    config = sft_config(tmp_path / "model", data, **{"rl.lora_rank": 0})
    _, loaded = make_policy(config, *open_model(config))
    jax.tree.map(np.testing.assert_array_equal, loaded.trainable, state.policy.trainable)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"sft.data": "serch"}, "did you mean 'search'"),
        ({"sft.data": "no/such.jsonl"}, "no/such.jsonl"),
        ({"sft.batch_size": 11}, "sft.batch_size=11"),
        ({"sft.num_validation": 12}, "sft.num_validation=12"),
        ({"sft.batch_size": 0}, "sft.batch_size is 0"),
        ({"model.max_length": 30}, "model.max_length=30"),
        ({"model.adapter": "nowhere"}, "model.adapter is 'nowhere'"),
        ({"sft.data": "search"}, "task.name is 'toy'"),
    ],
)
def test_a_mistake_stops_with_one_sentence(model, data, tmp_path, changes, named):
    small = {"sampling.max_new_tokens": 4, "evaluation.max_new_tokens": 4, "evolution.max_new_tokens": 4}
    with pytest.raises((ValueError, OSError), match=named) as error:
        sft.run(sft_config(model, data, **(small | changes)), tmp_path)
    assert "\n" not in str(error.value)


def test_what_supervised_training_sets_is_in_the_configuration(model, data):
    config = sft.resolve(sft_config(model, data, **{"rl.kl_coef": 0.1}))
    assert (config.rl.loss, config.rl.ratio, config.rl.kl_coef, config.method) == ("log_likelihood", "untempered", 0.0, "rl")
    assert config.is_locked


def test_the_policy_gradient_with_this_loss_is_reinforce(model):
    """Named in a run's config it needs no other field."""
    configs.check(tiny_config(model, **{"task.name": "toy", "rl.loss": "log_likelihood"}))
    assert train.run is not sft.run
