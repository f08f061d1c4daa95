"""Drawing one token a row from logits: temperature, exact top-p, inverse CDF from one uniform number, log-probabilities.

No sort and no noise over the vocabulary. The nucleus (Holtzman et al. 2020) is {token: weight >= threshold}; the threshold is
found by a bracketed search that interpolates the mass above it, which is smooth in the threshold's logarithm: 6 to 13 passes,
the flatter the more, where bisection of a float32 takes 31. The token is where the two-level cumulative sum of what is left
passes u. Temperature and top-p are traced values, one a row; what no row asks for is not computed. One float32 uniform number
resolves probabilities to about 1e-7.
"""

import flax.struct
import jax
import jax.numpy as jnp

Array = jax.Array
BLOCK = 128  # tokens per block of the two-level cumulative sum; divides the vocabularies of SmolLM2, Llama 3 and Qwen


@flax.struct.dataclass
class Draw:
    """tokens: int32 [B]; three log-probabilities of them, float32 [B] (see structs.Completion)."""

    tokens: Array
    behavior: Array
    tempered: Array
    untempered: Array


def draw(logits_BV: Array, uniforms_B: Array, temperature_B: Array, top_p_B: Array) -> Draw:
    """One token a row. uniforms in [0, 1); temperature 0 takes the most likely token (behavior log-probability 0)."""
    logits_BV = logits_BV.astype(jnp.float32)
    greedy_B = temperature_B == 0
    scale_B = jnp.where(greedy_B, 1.0, temperature_B)
    highest_B = jnp.max(logits_BV, axis=-1)
    weights_BV = jnp.exp((logits_BV - highest_B[:, None]) / scale_B[:, None])
    total_B = jnp.sum(weights_BV, axis=-1)
    untempered_total_B = jax.lax.cond(
        jnp.all(scale_B == 1),
        lambda: total_B,
        lambda: jnp.sum(jnp.exp(logits_BV - highest_B[:, None]), axis=-1),
    )
    threshold_B = jax.lax.cond(
        jnp.any(top_p_B < 1), lambda: nucleus_threshold(weights_BV, total_B, top_p_B), lambda: jnp.zeros_like(total_B)
    )
    drawn_B, mass_B = inverse_cdf(weights_BV, threshold_B, uniforms_B)
    tokens_B = jax.lax.cond(
        jnp.any(greedy_B),
        lambda: jnp.where(greedy_B, jnp.argmax(logits_BV, axis=-1).astype(jnp.int32), drawn_B),
        lambda: drawn_B,
    )
    below_B = _pick(logits_BV, tokens_B) - highest_B
    tempered_B = below_B / scale_B - jnp.log(total_B)
    return Draw(
        tokens=tokens_B,
        behavior=jnp.where(greedy_B, 0.0, below_B / scale_B - jnp.log(mass_B)),
        tempered=tempered_B,
        untempered=below_B - jnp.log(untempered_total_B),
    )


def nucleus_threshold(weights_BV: Array, total_B: Array, top_p_B: Array) -> Array:
    """The largest t with sum(weights >= t) >= top_p * total, float32 [B]; 0 for rows with top_p 1.

    What is as likely as the nucleus's least likely token belongs to it. The search keeps a bracket [low, high) with enough mass
    above low and too little above high, and ends a row when at most one weight can lie in it. Guesses interpolate the mass over
    log t (regula falsi with Illinois weights: an end that stays counts half); every eighth halves the bracket's bit patterns,
    which are ordered like the numbers, so that it always ends.
    """
    goal_B = top_p_B * total_B

    def mass_from(t_B):
        return jnp.sum(jnp.where(weights_BV >= t_B[:, None], weights_BV, 0.0), axis=-1)

    def unresolved(bracket):
        several_B = bracket.above_low - bracket.above_high >= 1.5 * bracket.low
        return (top_p_B < 1) & several_B & (_bits(bracket.high) - _bits(bracket.low) > 1)

    def narrow(carry):
        n, old = carry
        moving_B = unresolved(old)
        middle_B = _guess(n, old)
        above_B = mass_from(middle_B)
        enough_B = above_B >= goal_B
        up_B, down_B = moving_B & enough_B, moving_B & ~enough_B
        new = _Bracket(
            low=jnp.where(up_B, middle_B, old.low),
            high=jnp.where(down_B, middle_B, old.high),
            above_low=jnp.where(up_B, above_B, old.above_low),
            above_high=jnp.where(down_B, above_B, old.above_high),
            excess=jnp.where(up_B, above_B - goal_B, jnp.where(down_B & (old.side < 0), old.excess / 2, old.excess)),
            lack=jnp.where(down_B, goal_B - above_B, jnp.where(up_B & (old.side > 0), old.lack / 2, old.lack)),
            side=jnp.where(enough_B, 1, -1),
        )
        return n + 1, new

    zeros_B = jnp.zeros_like(total_B)
    above_all_B = jax.lax.bitcast_convert_type(_bits(jnp.max(weights_BV, axis=-1)) + 1, jnp.float32)
    start = _Bracket(
        low=zeros_B, high=above_all_B, above_low=total_B, above_high=zeros_B, excess=total_B - goal_B, lack=goal_B,
        side=jnp.zeros(total_B.shape, jnp.int32),
    )
    _, found = jax.lax.while_loop(lambda carry: jnp.any(unresolved(carry[1])), narrow, (0, start))
    return found.low


@flax.struct.dataclass
class _Bracket:
    """Where a row's threshold lies, all [B]: the mass above both ends, how far each is from the goal (Illinois-weighted), and
    which end moved last (1: low, -1: high)."""

    low: Array
    high: Array
    above_low: Array
    above_high: Array
    excess: Array
    lack: Array
    side: Array


def _guess(n: Array, bracket: _Bracket) -> Array:
    """The next threshold to try, strictly inside the bracket."""
    low_B, high_B = bracket.low, bracket.high
    weights_inside_B = (bracket.above_low - bracket.above_high) / jnp.maximum(low_B, 1e-37)
    edge_B = jnp.minimum(1.5 / jnp.maximum(weights_inside_B, 1.0), 0.5)  # past at least one weight
    share_B = jnp.clip(bracket.excess / jnp.maximum(bracket.excess + bracket.lack, 1e-30), edge_B, 1 - edge_B)
    smooth_B = jnp.where(low_B > 0, low_B * (high_B / jnp.maximum(low_B, 1e-37)) ** share_B, high_B / 16)
    halved_B = _bits(low_B) + (_bits(high_B) - _bits(low_B)) // 2
    bits_B = jnp.where(n % 8 == 7, halved_B, jnp.clip(_bits(smooth_B), _bits(low_B) + 1, _bits(high_B) - 1))
    return jax.lax.bitcast_convert_type(bits_B, jnp.float32)


def _bits(x: Array) -> Array:
    return jax.lax.bitcast_convert_type(x, jnp.int32)


def inverse_cdf(weights_BV: Array, threshold_B: Array, uniforms_B: Array) -> tuple[Array, Array]:
    """The token of each row at which the cumulative weight passes uniform * mass; and the mass, float32 [B].

    Weights below the row's threshold count as 0; a token of weight 0 is never drawn.
    """
    B, V = weights_BV.shape
    kept_BV = jnp.where(weights_BV >= threshold_B[:, None], weights_BV, 0.0)
    blocks_BNW = jnp.pad(kept_BV, ((0, 0), (0, -V % BLOCK))).reshape(B, -1, BLOCK)
    sums_BN = blocks_BNW.sum(axis=-1)
    ends_BN = jnp.cumsum(sums_BN, axis=-1)
    total_B = ends_BN[:, -1]
    target_B = uniforms_B * total_B
    block_B = _first_above(sums_BN, ends_BN, target_B)
    before_B = jnp.where(block_B > 0, _pick(ends_BN, jnp.maximum(block_B - 1, 0)), 0.0)
    inside_BW = jnp.take_along_axis(blocks_BNW, block_B[:, None, None], axis=1)[:, 0]
    offset_B = _first_above(inside_BW, jnp.cumsum(inside_BW, axis=-1), target_B - before_B)
    return (block_B * BLOCK + offset_B).astype(jnp.int32), total_B


def _first_above(weights_BN: Array, ends_BN: Array, target_B: Array) -> Array:
    """The first index with weight whose cumulative end exceeds the target; where rounding leaves none, the last end.

    A parallel cumulative sum may move by a rounding error, either way, where nothing is added: hence the weights.
    """
    above_BN = (weights_BN > 0) & (ends_BN > target_B[:, None])
    last_B = jnp.argmax(jnp.where(weights_BN > 0, ends_BN, -1.0), axis=-1)  # the first at the highest end
    return jnp.where(above_BN.any(axis=-1), jnp.argmax(above_BN, axis=-1), last_B)


def _pick(values_BN: Array, index_B: Array) -> Array:
    return jnp.take_along_axis(values_BN, index_B[:, None], axis=-1)[:, 0]


def uniforms(keys_B: Array, positions_B: Array) -> Array:
    """One number in [0, 1) a row, from the row's own key and the position of the token to draw."""
    return jax.vmap(lambda key, position: jax.random.uniform(jax.random.fold_in(key, position)))(keys_B, positions_B)


def row_keys(seed_key: Array, counters_BC: Array) -> Array:
    """A key a row from the run's key and the row's counter words, uint32 [B, C]."""

    def fold(key, words_C):
        return jax.lax.scan(lambda key, word: (jax.random.fold_in(key, word), None), key, words_C)[0]

    return jax.vmap(fold, in_axes=(None, 0))(seed_key, counters_BC)
