"""How heavy the tail of importance weights is, which says whether their mean can be trusted."""

import math

import jax
import jax.numpy as jnp

from vaejax.checks import check_array, check_count
from vaejax.types import Array

# A fit to fewer is not worth its name.
MIN_TAIL = 5
# Nats by which the rounding of log-densities in float32 makes equal weights differ, and far below what matters.
LEVEL = 1e-3


def pareto_k(tail: Array, cutoff: Array) -> Array:
    """The shape k of the generalised Pareto law that fits the largest weights, `[*B]`: Pareto k-hat.

    Weights above the cutoff u are taken to exceed it by y with `P(y > t) = (1 + k t / s)^(-1/k)`. Moments of the
    weights above the order 1/k do not exist: from k = 0.5 on the variance is infinite and standard errors mean
    little, and from 1 on the mean itself. Above 0.7 (`pareto_threshold`) the log of the mean weight is unreliable:
    the samples miss what carries the mean, the figure is most likely too low, and more samples hardly help.

    The estimator is that of Zhang and Stephens, a posterior mean over a grid, drawn by the weight of ten
    observations towards 0.5.

    Args:
      tail: the M largest log-weights, in any order, `[M, *B]`; M is `tail_length(K)` for K weights.
      cutoff: the log-weight next to them, `[*B]`; those that equal it do not count.

    Returns:
      `[*B]`. NaN where fewer than five log-weights exceed the cutoff, and where one is NaN or infinite; -inf where
      none exceeds it by 0.001 nats, since weights that are all equal, but for rounding, have no tail.

    Raises:
      TypeError, ValueError: no arrays, or a cutoff that does not have the shape of one entry of the tail.

    Source: Vehtari, Simpson, Gelman, Yao and Gabry 2024, Pareto Smoothed Importance Sampling; for the estimator,
    Zhang and Stephens 2009, A New and Efficient Estimation Method for the Generalized Pareto Distribution.

    >>> import jax, jax.numpy as jnp
    >>> exceedance = jax.random.uniform(jax.random.key(0), (20_000,)) ** -0.8 - 1  # generalised Pareto, k = 0.8
    >>> round(pareto_k(jnp.log1p(exceedance), jnp.zeros(())).item(), 1)
    0.8
    """
    check_array("pareto_k: tail", tail)
    check_array("pareto_k: cutoff", cutoff)
    if jnp.ndim(tail) == 0 or jnp.shape(tail)[1:] != jnp.shape(cutoff):
        raise ValueError(
            f"pareto_k: tail must have shape [M, *B] where cutoff has [*B]; got {jnp.shape(tail)} and "
            f"{jnp.shape(cutoff)}"
        )
    tail, cutoff = jnp.sort(jnp.asarray(tail), axis=0), jnp.asarray(cutoff)
    if len(tail) < MIN_TAIL:
        return jnp.full(cutoff.shape, jnp.nan)
    exceeds = tail > cutoff
    count = jnp.sum(exceeds, axis=0)
    # log(w - u), which neither over- nor underflows whatever the weights are relative to.
    excess = jnp.where(exceeds, tail + jnp.log(-jnp.expm1(cutoff - tail)), -jnp.inf)
    known = jnp.all(tail < jnp.inf, axis=0) & (cutoff < jnp.inf)
    fitted = jnp.where(known & (count >= MIN_TAIL), _fit(excess, count), jnp.nan)
    return jnp.where(known & (tail[-1] - cutoff < LEVEL) & jnp.isfinite(cutoff), -jnp.inf, fitted)


def tail_length(num_samples: int) -> int:
    """M, how many of K weights are taken for the tail: `min(K / 5, 3 sqrt(K))`, rounded up.

    >>> tail_length(5000)
    213
    """
    check_count("num_samples", num_samples)
    return math.ceil(min(num_samples / 5, 3 * math.sqrt(num_samples)))


def pareto_threshold(num_samples: int) -> float:
    """Up to which k the mean of K weights can be trusted: `min(1 - 1 / log10(K), 0.7)`.

    Raises:
      ValueError: K below 2.

    Source: Vehtari et al. 2024, Pareto Smoothed Importance Sampling, section 3.2.4.

    >>> pareto_threshold(100), pareto_threshold(5000)
    (0.5, 0.7)
    """
    check_count("num_samples", num_samples, minimum=2)
    return min(1 - 1 / math.log10(num_samples), 0.7)


def _fit(excess: Array, count: Array) -> Array:
    """k of the sorted log-exceedances `[M, *B]`, of which the last `count` `[*B]` are larger than -inf.

    With `b = -k / s`, `k = mean log(1 - b y)`. The grid is `b = 1 / y_max - a / y_quartile` with positive a, so that
    `1 - b y = (1 - y / y_max) + a y / y_quartile` is a sum of two positive numbers.
    """
    largest = excess[-1]
    place = len(excess) - count + jnp.floor(count / 4 + 0.5).astype(count.dtype) - 1
    quartile = jnp.take_along_axis(excess, jnp.clip(place, 0, len(excess) - 1)[None], axis=0)[0]

    def shape_at(a: Array) -> Array:
        scaled = excess - quartile
        close = jnp.log1p(a * jnp.exp(scaled) - jnp.exp(excess - largest))
        logs = jnp.where(scaled > 50.0, jnp.log(a) + scaled, close)
        return jnp.sum(jnp.where(excess > -jnp.inf, logs, 0.0), axis=0) / count

    def score(a: Array) -> Array:
        k = shape_at(a)
        ratio = (a - jnp.exp(quartile - largest)) / k
        # At the exponential law, k = 0, this is 0 / 0; the neighbours on the grid do for it.
        return jnp.where(ratio > 0, count * (jnp.log(jnp.where(ratio > 0, ratio, 1.0)) - k - 1), -jnp.inf)

    size = 30 + math.isqrt(len(excess))
    grid = (jnp.sqrt(size / (jnp.arange(size, dtype=excess.dtype) + 0.5)) - 1) / 3
    # One point after the other: together they would take as much memory as many tails.
    weights = jax.nn.softmax(jax.lax.map(score, grid), axis=0)
    k = shape_at(jnp.tensordot(grid, weights, axes=(0, 0), precision="highest"))
    return (count * k + 5.0) / (count + 10.0)
