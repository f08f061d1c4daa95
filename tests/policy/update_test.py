"""One RL update on a tiny model: what it changes, what it leaves, and what it reports."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from espl_jax.policy import update as updates
from espl_jax.policy import weights
from espl_jax.policy.advantages import advantages, with_signal
from espl_jax.policy.hf_config import read_spec
from espl_jax.policy.loss import TokenStats
from espl_jax.policy.state import make_policy, open_model
from espl_jax.policy.update import make_updater, update_metrics
from espl_jax.structs import Grade, Problem, Request, Rollouts
from experiments import base
from tests.tiny import random_params

# 1 prompt x 3 problems x 4 samples; the middle problem tells nothing
REWARDS_PQG = np.float32([[[1, 0, 0, 1], [1, 1, 1, 1], [0, 0, 1, 0]]])
ADVANTAGES = advantages(REWARDS_PQG, "prompt", normalize_std=False)
KEEP = with_signal(ADVANTAGES)
RNG = np.random.default_rng


@pytest.fixture(scope="module")
def config(tiny_qwen3, tmp_path_factory):
    """A model of one layer: compiling is what takes time here."""
    directory = tmp_path_factory.mktemp("one") / "layer"
    spec = dataclasses.replace(read_spec(tiny_qwen3), num_layers=1)
    weights.save(directory, spec, random_params(spec, 0), tiny_qwen3, np.float32)
    config = base.get_config()
    config.model.update(path=str(directory), dtype="float32", weight_dtype="float32", max_length=64)
    config.sampling.update(temperature=0.7, top_p=0.9, max_new_tokens=12, batch_size=12)
    config.rl.update(lora_rank=4, lora_alpha=8.0, learning_rate=3e-3, micro_batch_tokens=128, head_chunk=12)
    return config


def changed(config, **rl):
    config = config.copy_and_resolve_references()
    config.rl.update(rl)
    return config


def make(config):
    return make_policy(config, *open_model(config))


@pytest.fixture(scope="module")
def rollouts(config):
    """Really sampled, from the weights that every test starts from."""
    policy, state = make(config)
    contexts = [np.arange(5 + q, 12 + 2 * q, dtype=np.int32) for q in range(3)]
    requests = [
        Request((q, g), contexts[q], (1, 1, 0, q, g), 12, config.sampling.temperature, config.sampling.top_p)
        for q in range(3)
        for g in range(4)
    ]
    completions = policy.sampler(policy.variables(state.trainable), requests)
    return Rollouts(
        prompt_ids=(0,), problems=tuple(Problem(str(q), f"question {q}", "") for q in range(3)),
        context_tokens=(tuple(contexts),), completions=tuple(completions), texts=("",) * 12,
        grades=(Grade(0.0),) * 12, rewards_PQG=REWARDS_PQG,
    )  # fmt: skip


@pytest.fixture(scope="module")
def log_likelihood(config):
    """(variables, rollouts) -> sum of log p of each completion, [problems, samples]; written apart from the learner."""
    model = make(config)[0].model

    @jax.jit
    def sums(variables, tokens_BL, written_BL):
        hidden, _ = model.apply(variables, tokens_BL, jnp.broadcast_to(jnp.arange(64), tokens_BL.shape))
        logp = jax.nn.log_softmax(model.apply(variables, hidden, method="logits"), axis=-1)
        chosen = jnp.take_along_axis(logp[:, :-1], tokens_BL[:, 1:, None], axis=-1)[..., 0]
        return jnp.sum(chosen * written_BL[:, 1:], axis=1)

    def apply(variables, rollouts):
        tokens, written = np.zeros((12, 64), np.int32), np.zeros((12, 64), np.float32)
        for b, completion in enumerate(rollouts.completions):
            both = np.concatenate([rollouts.context_tokens[0][b // 4], completion.tokens])
            tokens[b, : len(both)] = both
            written[b, len(both) - len(completion.tokens) : len(both)] = 1
        return np.asarray(sums(variables, tokens, written)).reshape(3, 4)

    return apply


def copied(tree):
    return jax.tree.map(np.array, tree)


def learner(policy, state, config):
    """An update that waits for its metrics."""
    update = make_updater(policy, state, config)

    def waiting(*arguments):
        state, learned = update(*arguments)
        return state, learned()

    return waiting


def assert_equal(ours, expected):
    jax.tree.map(np.testing.assert_array_equal, ours, expected)


@pytest.mark.parametrize("lora_rank", [4, 0], ids=["lora", "full"])
def test_an_update_makes_what_was_rewarded_more_likely(config, rollouts, log_likelihood, lora_rank):
    config = changed(config, lora_rank=lora_rank)
    config.model.remat = "layer" if lora_rank else "none"
    policy, state = make(config)
    before = log_likelihood(policy.variables(state.trainable), rollouts)
    start, frozen, reference = copied(state.trainable), copied(policy.frozen), copied(policy.reference)
    update = learner(policy, state, config)

    state, first = update(state, rollouts, ADVANTAGES, KEEP, RNG(0))
    moved = jax.tree.map(lambda a, b: np.abs(np.asarray(a) - b).max(), state.trainable, start)
    assert max(jax.tree.leaves(moved)) == pytest.approx(3e-3, rel=1e-2), "Adam's first step is the learning rate"
    assert_equal(policy.frozen, frozen)
    assert_equal(policy.reference, reference)
    assert int(state.updates) == 1

    lengths = np.array([len(c.tokens) for c in rollouts.completions]).reshape(3, 4)
    used = lengths[[0, 2]]
    assert first["train/trajectories_used"] == 8 and first["policy/updates"] == 1
    assert first["tokens/trained"] == used.sum()
    assert first["policy/loss"] == pytest.approx(-(ADVANTAGES[0, [0, 2]] * used).sum() / used.sum(), abs=1e-5)
    assert first["policy/ratio"] == pytest.approx(1, abs=1e-5)
    assert first["policy/ratio_p99"] == pytest.approx(1, abs=1e-4)
    assert 0 < first["policy/logprob_gap"] <= first["policy/logprob_gap_max"] < 1e-4
    assert 0 < first["policy/entropy"] < np.log(300) and first["policy/grad_norm"] > 0
    assert first["policy/kl"] == 0 and first["policy/clip_fraction"] == 0

    state, second = update(state, rollouts, ADVANTAGES, KEEP, RNG(0))
    state, third = update(state, rollouts, ADVANTAGES, KEEP, RNG(0))
    assert first["policy/loss"] > second["policy/loss"] > third["policy/loss"]
    assert second["policy/logprob_gap"] > 1e-4, "the sampler's weights are no longer the trainer's"
    change = log_likelihood(policy.variables(state.trainable), rollouts) - before
    assert (ADVANTAGES[0] * change)[[0, 2]].sum() > 0.1
    assert change[REWARDS_PQG[0] == 1][[0, 1]].min() > 0 > change[2, [0, 1, 3]].mean()


def test_no_signal_changes_nothing_and_says_so(config, rollouts):
    policy, state = make(config)
    before = copied((state.trainable, state.opt_state, state.updates))
    update = learner(policy, state, config)
    after, metrics = update(state, rollouts, np.zeros_like(ADVANTAGES), np.zeros_like(KEEP), RNG(0))
    assert metrics == {"train/trajectories_used": 0.0, "policy/updates": 0.0}
    assert_equal((after.trainable, after.opt_state, after.updates), before)


def test_minibatches_with_kl_and_the_behavior_ratio(config, rollouts):
    """Two optimizer steps: the gap (still to the tempered policy) is measured before the first."""
    config = changed(config, num_minibatches=2, kl_coef=0.5, loss="ppo", ratio="behavior", learning_rate=3e-2)
    policy, state = make(config)
    update = learner(policy, state, config)
    state, metrics = update(state, rollouts, ADVANTAGES, KEEP, RNG(0))
    assert metrics["policy/updates"] == 2 and int(state.updates) == 2
    assert metrics["policy/logprob_gap_max"] < 1e-4
    assert metrics["policy/kl"] > 1e-3 and metrics["policy/clip_fraction"] > 0
    again, same = update(make(config)[1], rollouts, ADVANTAGES, KEEP, RNG(0))
    assert same == metrics
    assert_equal(again.trainable, state.trainable)
    _, other = update(make(config)[1], rollouts, ADVANTAGES, KEEP, RNG(1))
    assert other["policy/loss"] != metrics["policy/loss"], "another shuffle"


def test_metrics_by_hand():
    """Two minibatches, padding everywhere; the gap looks at the first alone."""

    def stats(value, gap):
        grid = np.full((1, 3), 99.0)
        grid[0, : len(value)] = value
        gaps = np.full((1, 3), 99.0)
        gaps[0, : len(gap)] = gap
        loss = np.zeros((1, 3))
        loss[0, : len(value)] = value
        return TokenStats(log_ratio=np.log(np.abs(grid)), entropy=grid, kl=2 * grid, gap=gaps, loss=loss)

    mask = np.array([[True, True, False]])
    collected = [
        [(mask, stats([1.0, 2.0], [0.1, -0.3])), (mask, stats([3.0, 1.0], [0.0, 0.0]))],
        [(np.array([[True, False, False]]), stats([8.0], [50.0]))],
    ]
    rl = SimpleNamespace(loss="ppo", clip_low=0.2, clip_high=1.5)
    ours = update_metrics([3.0, 5.0], collected, rows=[None] * 3, rl=rl)
    expected = {
        "train/trajectories_used": 3, "policy/updates": 2, "policy/loss": (7 + 8) / 2, "policy/grad_norm": 4,
        "policy/ratio": 3, "policy/ratio_p99": np.quantile([1, 2, 3, 1, 8], 0.99), "policy/logprob_gap": 0.1,
        "policy/logprob_gap_max": 0.3, "policy/entropy": 3, "policy/kl": 6, "policy/clip_fraction": 2 / 5,
        "tokens/trained": 5,
    }  # fmt: skip
    assert ours == pytest.approx(expected)


def test_a_gap_above_the_threshold_is_warned_of(monkeypatch):
    said = []
    monkeypatch.setattr(updates.logging, "warning", lambda text, *values: said.append(text % values))
    for gap in (0.01, 0.0101):
        updates.warn_of_gap({"policy/logprob_gap": gap, "policy/logprob_gap_max": 0.5}, 0.01)
    updates.warn_of_gap({"train/trajectories_used": 0.0}, 0.01)
    assert len(said) == 1 and "differ by 0.01 nats a token on average (largest 0.5)" in said[0]
