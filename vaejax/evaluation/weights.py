"""The sums that K log-weights leave behind, taken a chunk at a time and safe from overflow."""

from typing import NamedTuple

import jax.numpy as jnp

from vaejax.types import Array, Shape


class WeightSums(NamedTuple):
    """Sums over log-weights, relative to the largest so far."""

    number: Array  # [] K, how many
    largest: Array  # [*B] max_k log w_k
    weights: Array  # [*B] sum_k w_k / max w
    squares: Array  # [*B] sum_k (w_k / max w)^2
    logs: Array  # [*B] sum_k log w_k - max log w


def no_weights(shape: Shape, dtype: jnp.dtype) -> WeightSums:
    """The sums of nothing, for examples `*B`."""
    zeros = jnp.zeros(shape, dtype)
    return WeightSums(jnp.zeros((), jnp.int32), jnp.full(shape, -jnp.inf, dtype), zeros, zeros, zeros)


def add_weights(sums: WeightSums, log_weights: Array, counted: Array | None = None) -> WeightSums:
    """The sums with `log_weights` `[C, *B]` added to them, or those that are `counted` `[C]`."""
    counted = jnp.ones(len(log_weights), bool) if counted is None else counted
    number = jnp.sum(counted, dtype=sums.number.dtype)
    counted = counted.reshape(-1, *[1] * (log_weights.ndim - 1))
    largest = jnp.maximum(sums.largest, jnp.max(jnp.where(counted, log_weights, -jnp.inf), axis=0))
    shift = _finite(largest)
    fade, relative = jnp.exp(sums.largest - shift), log_weights - shift
    weights = jnp.exp(jnp.where(counted, relative, -jnp.inf))
    # What was summed relative to the old maximum; of nothing, whose maximum is -inf, there is nothing to shift.
    moved = jnp.where(sums.number > 0, sums.number * (sums.largest - shift), 0.0)
    return WeightSums(
        sums.number + number,
        largest,
        sums.weights * fade + jnp.sum(weights, axis=0),
        sums.squares * fade**2 + jnp.sum(weights**2, axis=0),
        sums.logs + moved + jnp.sum(jnp.where(counted, relative, 0.0), axis=0),
    )


def log_mean_weight(sums: WeightSums) -> Array:
    """`log 1/K sum_k w_k`, `[*B]`; -inf where all weights are zero, NaN where one is not known."""
    return _finite(sums.largest) + jnp.log(sums.weights) - jnp.log(sums.number)


def mean_log_weight(sums: WeightSums) -> Array:
    """`1/K sum_k log w_k`, `[*B]`."""
    return _finite(sums.largest) + sums.logs / sums.number


def log_mean_error(sums: WeightSums) -> Array:
    """The standard error of `log_mean_weight` by the delta method, `sd(w) / (sqrt(K) mean(w))`, `[*B]`.

    NaN of a single weight, and where all weights are zero.
    """
    excess = jnp.maximum(sums.number * sums.squares / sums.weights**2 - 1, 0.0)
    return jnp.sqrt(excess / (sums.number - 1))


def effective_sample_size(sums: WeightSums) -> Array:
    """`(sum_k w_k)^2 / sum_k w_k^2`, `[*B]`: from 1, where one weight has it all, to K, where all are equal."""
    return sums.weights**2 / sums.squares


def _finite(largest: Array) -> Array:
    """What log-weights are taken relative to: infinity minus infinity would be NaN."""
    return jnp.where(jnp.isfinite(largest), largest, 0.0)
