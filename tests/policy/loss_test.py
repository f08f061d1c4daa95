"""Losses by hand, and their chunked gradient against a plain implementation that holds all logits."""

import dataclasses
import functools
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from espl_jax.policy import batch as batching
from espl_jax.policy import lora
from espl_jax.policy.attention import make_layout
from espl_jax.policy.batch import Row
from espl_jax.policy.loss import LOSSES, batch_loss, clip_fraction
from espl_jax.policy.model import Decoder, ModelSpec, abstract_params
from espl_jax.policy.sharding import make_mesh
from espl_jax.structs import Completion
from tests.tiny import random_params

V, CHUNK = 331, 8
SPEC = ModelSpec(
    vocab_size=V, width=32, num_layers=1, num_heads=4, num_kv_heads=2, head_dim=8, mlp_width=48, rope_theta=1e4,
    rope_scaling=None, norm_eps=1e-6, tied_head=True, qkv_bias=True, qk_norm=False, max_positions=512,
)  # fmt: skip
MODEL = Decoder(SPEC)
PARAMS = random_params(SPEC, 0)
OTHER = random_params(SPEC, 1)  # a reference that differs


class Settings(SimpleNamespace):
    __hash__ = object.__hash__


def settings(**changes):
    """A stand-in for config.rl."""
    base = dict(
        loss="importance_sampling", ratio="tempered", kl_coef=0.0, head_chunk=CHUNK, clip_low=0.2, clip_high=0.3,
        cispo_max=4.0,
    )  # fmt: skip
    return Settings(**(base | changes))


# -- token losses by hand --------------------------------------------------------------------------------------------

RATIOS = np.array([[0.5, 1.0, 1.2, 2.0, 6.0]], np.float32)


def losses_and_gradients(name, advantage):
    """Each token's loss, and its derivative by the log-probability."""
    log_ratio, advantage = jnp.log(RATIOS), jnp.full((1, 1), advantage)

    def total(x):
        return LOSSES[name](x, advantage, settings()).sum()

    return np.asarray(LOSSES[name](log_ratio, advantage, settings()))[0], np.asarray(jax.grad(total)(log_ratio))[0]


def test_importance_sampling_by_hand():
    loss, gradient = losses_and_gradients("importance_sampling", 2.0)
    np.testing.assert_allclose(loss, [-1, -2, -2.4, -4, -12], rtol=1e-6)
    np.testing.assert_allclose(gradient, loss, rtol=1e-6)


def test_ppo_by_hand():
    """Clipped to [0.8, 1.3], always to the pessimistic side."""
    loss, gradient = losses_and_gradients("ppo", 2.0)
    np.testing.assert_allclose(loss, [-1, -2, -2.4, -2.6, -2.6], rtol=1e-6)
    np.testing.assert_allclose(gradient, [-1, -2, -2.4, 0, 0], rtol=1e-6)
    loss, gradient = losses_and_gradients("ppo", -2.0)
    np.testing.assert_allclose(loss, [1.6, 2, 2.4, 4, 12], rtol=1e-6)
    np.testing.assert_allclose(gradient, [0, 2, 2.4, 4, 12], rtol=1e-6)


@pytest.mark.parametrize("advantage", [2.0, -2.0])
def test_cispo_by_hand(advantage):
    """The ratio, clipped to 4, weighs the gradient of log p and has none of its own."""
    loss, gradient = losses_and_gradients("cispo", advantage)
    clipped = np.array([0.5, 1.0, 1.2, 2.0, 4.0])
    np.testing.assert_allclose(loss, -clipped * advantage * np.log(RATIOS[0]), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(gradient, -clipped * advantage, rtol=1e-6)


@pytest.mark.parametrize("loss, share", [("importance_sampling", 0.0), ("ppo", 0.6), ("cispo", 0.2)])
def test_clip_fraction_counts_ratios_outside_the_range(loss, share):
    assert clip_fraction(np.log(RATIOS), settings(loss=loss)) == pytest.approx(share)


def packed(rows, weights, ratio, budget=256):
    """All rows as micro-batches on one device."""
    layout = make_layout("xla", "float32", make_mesh(1, 1, 1, jax.devices()[:1]))
    return batching.micro_batches(rows, weights, 1, budget, ratio, layout)


def of_row(stat, batch, row):
    """What a statistic [1, M] says of each token of a row, which is known by its advantage."""
    mine = (batch.advantage[0] == np.float32(row.advantage)) & (batch.weight[0] > 0)
    return np.asarray(stat)[0][mine]


# -- a plain reference -------------------------------------------------------------------------------------------------


def make_rows(count=5, temperature=0.7, seed=0):
    """Rows of random tokens whose sampler log-probabilities are near a flat distribution's, all three different."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        n = int(rng.integers(9, 17))
        shift = rng.uniform(-0.5, 0.5, (3, n)).astype(np.float32) - math.log(V)
        completion = Completion(i, rng.integers(0, V, n).astype(np.int32), shift[0], shift[1], shift[2], "length")
        rows.append(Row(rng.integers(0, V, int(rng.integers(1, 9))), completion, float(rng.normal()), temperature))
    return rows


@jax.jit
def plain_logprobs(params, tokens_BL, temperature):
    """Log-probabilities of all tokens at all positions, at once."""
    hidden, _ = MODEL.apply({"params": params}, tokens_BL, np.broadcast_to(np.arange(32), tokens_BL.shape))
    return jax.nn.log_softmax(MODEL.apply({"params": params}, hidden, method="logits") / temperature, axis=-1)


def written(params, rows, temperature):
    """For each row the log-probabilities [T, V] where its completion stands."""
    tokens = np.zeros((8, 32), np.int32)
    for b, row in enumerate(rows):
        both = np.concatenate([row.context, row.completion.tokens])
        tokens[b, : len(both)] = both
    logp = plain_logprobs(params, tokens, temperature)
    logp = logp if isinstance(logp, jax.core.Tracer) else np.asarray(logp)
    ends = [(len(row.context), len(row.context) + len(row.completion.tokens)) for row in rows]
    return [logp[b, start - 1 : end - 1] for b, (start, end) in enumerate(ends)]


def chosen(logp, row):
    return logp[np.arange(len(row.completion.tokens)), row.completion.tokens]


def with_tools(rows, seed=1):
    """The rows as conversations: some tokens in the middle of each were not drawn by the policy."""
    rng, made = np.random.default_rng(seed), []
    for row in rows:
        own = rng.random(len(row.completion.tokens)) < 0.6
        own[[0, -1]] = True
        columns = {name: getattr(row.completion, name) * own for name in ("behavior", "tempered", "untempered")}
        made.append(row.replace(completion=dataclasses.replace(row.completion, own=own, **columns)))
    return made


def plain_loss(params, rows, weights, rl):
    """The loss written down naively."""
    temperature = 1.0 if rl.ratio == "untempered" else rows[0].temperature
    ours, theirs = written(params, rows, temperature), written(OTHER, rows, temperature)
    total = 0.0
    for row, weight, here, there in zip(rows, weights, ours, theirs):
        logp, denominator = chosen(here, row), getattr(row.completion, rl.ratio)
        ratio = jnp.exp(logp - denominator)
        if rl.loss == "importance_sampling":
            token = -ratio * row.advantage
        elif rl.loss == "ppo":
            clipped = jnp.where(ratio < 0.8, 0.8, jnp.where(ratio > 1.3, 1.3, ratio))
            token = jnp.maximum(-ratio * row.advantage, -clipped * row.advantage)
        else:
            token = -jax.lax.stop_gradient(jnp.where(ratio > 4, 4.0, ratio)) * row.advantage * (logp - denominator)
        ahead = chosen(there, row) - logp
        own = np.ones(len(logp)) if row.completion.own is None else row.completion.own
        total = total + weight * (own * (token + rl.kl_coef * (jnp.exp(ahead) - 1 - ahead))).sum()
    return total


@functools.cache
def chunked(**changes):
    """(params, batch) -> ((loss, stats), gradient)."""
    rl = settings(**changes)
    reference = {"params": OTHER} if rl.kl_coef else None

    def loss(params, batch):
        return batch_loss(MODEL, {"params": params}, reference, batch, rl)

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def assert_near(ours, expected, tolerance=1e-5):
    """Each leaf within `tolerance` of the largest entry of the whole tree."""
    ours, expected = (jax.tree.map(np.asarray, tree) for tree in (ours, expected))
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected)):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * largest)


KINDS = {
    "importance_sampling": dict(),
    "ppo": dict(loss="ppo", ratio="behavior", kl_coef=0.3),
    "cispo": dict(loss="cispo", ratio="untempered"),
    "tools": dict(loss="ppo", ratio="behavior", kl_coef=0.3),
}


def weighted_rows(kind):
    """(make_rows(), as conversations for "tools", and the weights of their tokens, all alike)"""
    rows = with_tools(make_rows()) if kind == "tools" else make_rows()
    return rows, batching.token_weights(rows, "token", 20)


@pytest.fixture(scope="module")
def plain():
    """Value and gradient of each kind's plain loss."""

    def losses(params):
        values = {name: plain_loss(params, *weighted_rows(name), settings(**changes)) for name, changes in KINDS.items()}
        return values, values

    gradients, values = jax.jit(jax.jacrev(losses, has_aux=True))(PARAMS)
    return values, gradients


@pytest.mark.parametrize("kind", KINDS)
def test_the_chunked_loss_and_its_gradient_are_those_of_a_plain_implementation(kind, plain):
    (batch,) = packed(*weighted_rows(kind), settings(**KINDS[kind]).ratio)
    (loss, stats), gradient = chunked(**KINDS[kind])(PARAMS, batch)
    np.testing.assert_allclose(loss, plain[0][kind], rtol=1e-5)
    np.testing.assert_allclose(stats.loss.sum(), plain[0][kind], rtol=1e-5)
    assert_near(gradient, plain[1][kind])


def test_tokens_of_tools_are_seen_and_carry_no_loss():
    """Other ones change what follows them, and no target; statistics are of own tokens alone."""
    rows, weights = weighted_rows("tools")
    counts = [row.completion.own.sum() for row in rows]
    assert weights == [1 / sum(counts)] * 5 and sum(counts) < sum(len(row.completion.tokens) for row in rows)
    (batch,) = packed(rows, weights, "behavior")
    (loss, stats), _ = chunked(**KINDS["tools"])(PARAMS, batch)
    assert [of_row(stats.gap, batch, row).shape for row in rows] == [(count,) for count in counts]
    tokens = np.where(rows[0].completion.own, rows[0].completion.tokens, 7)
    others = [rows[0].replace(completion=dataclasses.replace(rows[0].completion, tokens=tokens)), *rows[1:]]
    (changed,) = packed(others, weights, "behavior")
    assert np.array_equal(changed.targets, batch.targets)
    assert abs(chunked(**KINDS["tools"])(PARAMS, changed)[0][0] - loss) > 1e-4


def test_statistics_of_each_token():
    rows = make_rows()
    (batch,) = packed(rows, [1.0] * 5, "behavior")
    (_, stats), _ = chunked(**KINDS["ppo"])(PARAMS, batch)
    ours, theirs = written(PARAMS, rows, 0.7), written(OTHER, rows, 0.7)
    for b, row in enumerate(rows):
        logp, there = chosen(ours[b], row), chosen(theirs[b], row)
        np.testing.assert_allclose(of_row(stats.log_ratio, batch, row), logp - row.completion.behavior, atol=1e-5)
        np.testing.assert_allclose(of_row(stats.gap, batch, row), logp - row.completion.tempered, atol=1e-5)
        ahead = there - logp
        np.testing.assert_allclose(of_row(stats.kl, batch, row), np.exp(ahead) - ahead - 1, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(of_row(stats.entropy, batch, row), -(np.exp(ours[b]) * ours[b]).sum(-1), rtol=1e-5)
    padding = batch.weight == 0
    assert not any(np.asarray(getattr(stats, name))[padding].any() for name in ("log_ratio", "gap", "kl", "loss"))


def test_gradients_of_micro_batches_add_up_to_that_of_one_batch():
    rows = make_rows(24)
    weights = batching.token_weights(rows, "sequence", 20)
    (batch,) = packed(rows, weights, "tempered", budget=512)
    (one_loss, _), one = chunked()(PARAMS, batch)
    parts = [chunked()(PARAMS, part) for part in packed(rows, weights, "tempered", budget=128)]
    assert len(parts) > 2
    np.testing.assert_allclose(sum(loss for (loss, _), _ in parts), one_loss, rtol=1e-5)
    assert_near(jax.tree.map(lambda *leaves: sum(map(np.asarray, leaves)), *[part for _, part in parts]), one)


def test_aggregations_by_hand():
    """With ratios of 1 a token's loss is minus its advantage: mean over tokens, over sequences, by a fixed length."""
    rows = make_rows(3)
    lengths, advantages = [len(row.completion.tokens) for row in rows], [row.advantage for row in rows]
    tokens_times_advantage = sum(n * a for n, a in zip(lengths, advantages))
    expected = {
        "token": -tokens_times_advantage / sum(lengths),
        "sequence": -sum(advantages) / 3,
        "constant": -tokens_times_advantage / (3 * 20),
    }
    for aggregation, value in expected.items():
        (batch,) = packed(rows, batching.token_weights(rows, aggregation, 20), "tempered")
        (_, stats), _ = chunked()(PARAMS, batch)
        on_policy = batch.replace(denominator=np.asarray(batch.denominator + stats.log_ratio))
        (loss, stats), _ = chunked()(PARAMS, on_policy)
        assert np.abs(stats.log_ratio).max() < 1e-5
        np.testing.assert_allclose(loss, value, rtol=1e-4, atol=1e-6)


def test_the_kl_of_a_fresh_adapter_is_exactly_0_and_so_is_its_gradient():
    shapes, _ = lora.abstract(*abstract_params(MODEL), 2, ("q", "down"))
    adapter = lora.init(shapes, 0)
    (batch,) = packed(make_rows(), [1.0] * 5, "tempered")
    silent = batch.replace(advantage=np.zeros_like(batch.advantage))

    def loss(adapter):
        variables = {"params": PARAMS, "lora": adapter}
        return batch_loss(MODEL, variables, {"params": PARAMS}, silent, settings(kl_coef=1.0))

    (value, stats), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(adapter)
    assert value == 0 and not np.asarray(stats.kl).any()
    assert max(np.abs(np.asarray(leaf)).max() for leaf in jax.tree.leaves(gradient)) < 1e-5  # a rounding of 1e-7 a token


def test_temperature_0_is_trained_as_temperature_1():
    rows = make_rows(2, temperature=0.0)
    (batch,) = packed(rows, [1.0] * 2, "tempered")
    (_, stats), _ = chunked()(PARAMS, batch)
    logp = chosen(written(PARAMS, rows, 1.0)[0], rows[0])
    np.testing.assert_allclose(of_row(stats.gap, batch, rows[0]), logp - rows[0].completion.tempered, atol=1e-5)


# -- memory ------------------------------------------------------------------------------------------------------------


def shapes_in(jaxpr):
    """Shapes of all values of a jaxpr and of the jaxprs in it."""

    def opaque(value):
        return hasattr(value, "eqns") or hasattr(value, "jaxpr")

    for equation in jaxpr.eqns:
        yield from (variable.aval.shape for variable in equation.outvars)
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=opaque):
            if opaque(value):
                yield from shapes_in(getattr(value, "jaxpr", value))


def most_rows_of_logits(function, *arguments):
    """The largest number of rows of any value in the gradient's program whose last dimension is the vocabulary."""
    jaxpr = jax.make_jaxpr(jax.grad(function))(*arguments).jaxpr
    return max(math.prod(shape[:-1]) for shape in shapes_in(jaxpr) if shape[-1:] == (V,))


def test_no_array_of_batch_by_length_by_vocabulary_is_ever_made():
    rl, rows = settings(ratio="behavior", kl_coef=0.1), make_rows(8)
    (batch,) = packed(rows, [1.0] * 8, rl.ratio)
    assert batch.targets.shape == (1, 128)

    def loss(params):
        return batch_loss(MODEL, {"params": params}, {"params": OTHER}, batch, rl)[0]

    assert most_rows_of_logits(loss, PARAMS) == CHUNK
    plain = most_rows_of_logits(lambda params: plain_loss(params, rows, [1.0] * 8, rl), PARAMS)
    assert plain == 8 * 32, "the walk sees logits where there are some"
