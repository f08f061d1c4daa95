"""Drawing a token: the nucleus against a sort, the draw against sums in float64, frequencies against probabilities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espl_jax.policy import drawing

draw = jax.jit(drawing.draw)
inverse_cdf = jax.jit(lambda weights, u: drawing.inverse_cdf(weights, jnp.zeros(len(u)), u))
uniforms = jax.jit(drawing.uniforms)
row_keys = jax.jit(drawing.row_keys)



@jax.jit
def keep_nucleus(probs, top_p):
    """probs with everything outside the nucleus set to 0."""
    threshold = drawing.nucleus_threshold(probs, jnp.sum(probs, axis=-1), top_p)
    return jnp.where(probs >= threshold[:, None], probs, 0.0)


V = 300
ONE = np.float32(1 - 2**-24)  # the largest float32 below 1


def sorted_nucleus(probs, top_p):
    """Which tokens the nucleus holds, by sorting: those as likely as the one at which the sum reaches top_p."""
    if top_p >= 1:
        return np.ones(len(probs), bool)
    ranked = np.sort(probs.astype(np.float64))[::-1]
    last = np.searchsorted(np.cumsum(ranked), top_p)  # the first index whose sum is at least top_p
    return probs >= ranked[min(last, len(ranked) - 1)]


def random_probs(rng, rows):
    """Rows of every kind: flat, ordinary, peaked, with many ties, with tokens of probability 0."""
    scale = rng.choice([0.0, 0.01, 1.0, 5.0, 40.0], size=(rows, 1))
    logits = scale * rng.standard_normal((rows, V))
    tied = rng.random((rows, 1)) < 0.4
    logits = np.where(tied, np.round(logits * 2) / 2, logits)
    logits[rng.random((rows, V)) < 0.1] = -np.inf
    return np.asarray(jax.nn.softmax(jnp.asarray(logits, jnp.float32), axis=-1))


@pytest.mark.parametrize("seed", range(4))
def test_the_nucleus_is_that_of_a_sort(seed):
    rng = np.random.default_rng(seed)
    probs = random_probs(rng, 256)
    top_p = rng.choice([1e-6, 0.01, 0.3, 0.5, 0.9, 0.95, 0.999, 1 - 1e-6, 1.0], size=256).astype(np.float32)
    ours = np.asarray(keep_nucleus(probs, top_p))
    exact = 0
    for row, p, kept in zip(probs, top_p, ours):
        inside = kept > 0
        np.testing.assert_array_equal(kept[inside], row[inside])
        # Within 1e-6 of the boundary the order of a float32 sum decides: anything between the two nuclei is right.
        smaller, larger = sorted_nucleus(row, p - 1e-6), sorted_nucleus(row, min(p + 1e-6, 1))
        assert (inside >= smaller * (row > 0)).all() and (inside <= larger).all()
        assert row[inside].min() > row[~inside].max(initial=0), "a token as likely as a member is left out"
        exact += (smaller == larger).all()
    assert exact > 150


def test_the_nucleus_at_exact_sums():
    """Sums of powers of two are exact, so the boundary is too."""
    probs = np.tile(np.float32([0.125, 0.5, 0.125, 0.25, 0]), (7, 1))
    top_p = np.float32([1e-30, 0.5, 0.5 + 1e-7, 0.75, 0.75 + 1e-7, 0.875, 1])
    kept = np.asarray(keep_nucleus(probs, top_p)) > 0
    two, four = [False, True, False, True, False], [True, True, True, True, False]
    one = [False, True, False, False, False]
    assert kept.tolist() == [one, one, two, two, four, four, four]


def test_the_nucleus_of_equal_tokens_is_all_of_them():
    probs = np.full((3, V), 1 / V, np.float32)
    assert (np.asarray(keep_nucleus(probs, np.float32([1e-6, 0.5, 0.999]))) > 0).all()


def check_draw(weights, uniform, token):
    """That cumulative sums in float64 agree, up to float32 rounding, and that the token has weight."""
    assert weights[token] > 0, f"token {token} has weight 0"
    ends = np.cumsum(weights.astype(np.float64))
    target, slack = float(uniform) * ends[-1], 1e-6 * ends[-1]
    before = ends[token - 1] if token else 0.0
    assert before - slack <= target <= ends[token] + slack


weight = st.floats(2.0**-60, 2.0**20, width=32) | st.just(0.0)
fraction = st.sampled_from([0.0, float(ONE), 0.5]) | st.floats(0, float(ONE), width=32)


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 599), weight), min_size=1, max_size=40), fraction)
def test_a_token_without_weight_is_never_drawn(entries, uniform):
    weights = np.zeros(600, np.float32)
    for index, value in entries:
        weights[index] = value
    if not weights.any():
        weights[entries[0][0]] = 1.0
    token, total = inverse_cdf(weights[None], np.float32([uniform]))
    check_draw(weights, uniform, int(token[0]))
    np.testing.assert_allclose(total[0], weights.sum(dtype=np.float64), rtol=1e-5)


def test_tokens_without_weight_at_both_ends_are_never_drawn():
    weights = np.zeros((4, 1000), np.float32)
    weights[:, 301], weights[:, 700] = 0.25, 0.75
    tokens, _ = inverse_cdf(weights, np.float32([0, 0.2499, 0.25, ONE]))
    assert tokens.tolist() == [301, 301, 700, 700]


def test_a_token_without_weight_is_not_drawn_from_a_large_vocabulary():
    """A parallel cumulative sum over many blocks moves by a rounding error even where nothing is added."""
    blocks, rows = 594, 128  # as many as Qwen's vocabulary has
    rng = np.random.default_rng(0)
    for _ in range(3):
        weights = np.zeros(blocks * drawing.BLOCK, np.float32)
        weights[rng.choice(len(weights), 200, replace=False)] = rng.exponential(size=200)
        ends = np.asarray(jnp.cumsum(jnp.asarray(weights.reshape(blocks, -1).sum(axis=-1))))
        edges = np.maximum(ends[rng.integers(0, blocks, rows)].astype(np.float64) / ends[-1], 1e-6).astype(np.float32)
        for ulps in (-1, 0, 1):
            u = np.minimum((edges.view(np.int32) + ulps).view(np.float32), ONE)
            tokens, _ = inverse_cdf(np.broadcast_to(weights, (rows, len(weights))), u)
            assert (weights[np.asarray(tokens)] > 0).all()
            check_draw(weights, u[0], int(tokens[0]))


def test_log_probabilities_by_hand():
    """(4, 2, 1, 1) / 8, squared by temperature 1/2: (16, 4, 1, 1) / 22, of which top-p 0.9 keeps the first two."""
    logits = np.log(np.tile(np.float32([0.5, 0.25, 0.125, 0.125]), (5, 1))) + 3
    u, temperature, top_p = np.float32([[0.79, 0.81, 0.6, ONE, 0.3], [0.5, 0.5, 1, 0.5, 0], [0.9, 0.9, 1, 1, 0.5]])
    one = draw(logits, u, temperature, top_p)
    assert one.tokens.tolist() == [0, 1, 1, 3, 0]
    np.testing.assert_allclose(one.behavior, np.log([16 / 20, 4 / 20, 1 / 4, 1 / 22, 1]), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(one.tempered, np.log([16 / 22, 4 / 22, 1 / 4, 1 / 22, 1 / 2]), rtol=1e-5)
    np.testing.assert_allclose(one.untempered, np.log([1 / 2, 1 / 4, 1 / 4, 1 / 8, 1 / 2]), rtol=1e-5)
    assert one.behavior[4] == 0 and one.tokens.dtype == jnp.int32 and one.behavior.dtype == jnp.float32


def test_temperature_0_takes_the_most_likely_token_whatever_u_and_top_p():
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((64, V)).astype(np.float32)
    for top_p in (0.1, 1.0):
        one = draw(logits, rng.random(64, np.float32), np.zeros(64, np.float32), np.full(64, top_p, np.float32))
        np.testing.assert_array_equal(one.tokens, logits.argmax(axis=-1))
        assert not np.asarray(one.behavior).any()
        np.testing.assert_array_equal(one.tempered, one.untempered)


def test_a_row_does_not_depend_on_the_settings_of_the_others():
    """Temperature and top-p are a row's own: mixed in one batch they give what each gives alone."""
    rng = np.random.default_rng(1)
    logits, u = 3 * rng.standard_normal((64, V)).astype(np.float32), rng.random(64, np.float32)
    temperature = rng.choice([0, 0.3, 1, 2], 64).astype(np.float32)
    top_p = rng.choice([0.2, 0.9, 1], 64).astype(np.float32)
    mixed = draw(logits, u, temperature, top_p)
    for p in (0.2, 0.9, 1):
        alone = draw(logits, u, temperature, np.full(64, p, np.float32))
        rows = top_p == np.float32(p)
        for ours, expected in zip(jax.tree.leaves(mixed), jax.tree.leaves(alone)):
            np.testing.assert_array_equal(np.asarray(ours)[rows], np.asarray(expected)[rows])


@pytest.mark.parametrize("temperature, top_p", [(1.0, 1.0), (0.7, 0.9), (1.5, 0.6)])
def test_frequencies_are_the_probabilities(temperature, top_p):
    """Chi-square at five standard deviations, with the sampler's own uniform numbers."""
    count, vocabulary = 20_000, 20
    logits = 1.5 * np.random.default_rng(2).standard_normal(vocabulary)
    probs = np.exp(logits / temperature) / np.exp(logits / temperature).sum()
    probs = np.where(sorted_nucleus(probs, top_p), probs, 0)
    probs /= probs.sum()
    counters = np.zeros((count, 5), np.uint32)
    counters[:, 4] = np.arange(count)
    u = uniforms(row_keys(jax.random.key(3), counters), np.full(count, 7, np.int32))
    rows = np.broadcast_to(logits.astype(np.float32), (count, vocabulary))
    one = draw(rows, u, np.full(count, temperature, np.float32), np.full(count, top_p, np.float32))
    seen = np.bincount(np.asarray(one.tokens), minlength=vocabulary)
    inside = probs > 0
    assert not seen[~inside].any()
    expected = count * probs[inside]
    chi_square, freedom = ((seen[inside] - expected) ** 2 / expected).sum(), inside.sum() - 1
    assert chi_square < freedom + 5 * np.sqrt(2 * freedom)
    np.testing.assert_allclose(one.behavior, np.log(probs[np.asarray(one.tokens)]), atol=1e-5)


def test_uniform_numbers_depend_on_seed_counter_and_position_alone():
    key = jax.random.key(0)
    counters = np.random.default_rng(0).integers(0, 2**32, (6, 5), dtype=np.uint32)
    positions = np.arange(6, dtype=np.int32)
    ours = np.asarray(uniforms(row_keys(key, counters), positions))
    assert ((0 <= ours) & (ours < 1)).all()
    order = np.array([4, 2, 0])
    elsewhere = np.asarray(uniforms(row_keys(key, counters[order]), positions[order]))
    np.testing.assert_array_equal(elsewhere, ours[order])
    for changed in (
        uniforms(row_keys(jax.random.key(1), counters), positions),
        uniforms(row_keys(key, counters), positions + 1),
        uniforms(row_keys(key, counters[:, ::-1]), positions),
        *(uniforms(row_keys(key, counters + np.eye(5, dtype=np.uint32)[word]), positions) for word in range(5)),
    ):
        assert (np.asarray(changed) != ours).all()
