"""Bounds on `log p(x)` made of K log-weights: each a reduction and the path gradient that belongs to it.

With `log w_k = log p(x|z_k) + log p(z_k) - log q(z_k|x)` and `z_k ~ q(z|x)`, every bound here is a function of
the log-weights `[K, *B]` alone, which `importance_bound` hands to it. A new one is a `Bound` of two functions.
"""

import jax.numpy as jnp
import numpy as np

from vaejax.checks import check_count, check_scalar, is_concrete
from vaejax.distributions._base import log_sum_exp
from vaejax.types import Array, ArrayLike, Bound


def elbo_bound() -> Bound:
    """The mean log-weight, `1/K sum_k log w_k`: the evidence lower bound with a Monte-Carlo KL.

    Its path gradient is "sticking the landing": exactly zero at `q = p(z|x)`.

    Source: Roeder, Wu and Duvenaud 2017, Sticking the Landing.
    """
    return Bound(lambda log_weights: jnp.mean(log_weights, axis=0), jnp.ones_like)


def iwae_bound() -> Bound:
    """The log of the mean weight, `log 1/K sum_k w_k`: tighter than the ELBO, and more so the larger K.

    Its path gradient is the doubly reparameterized one, whose signal-to-noise ratio does not fall with K.

    Source: Burda, Grosse and Salakhutdinov 2015, Importance Weighted Autoencoders; for the gradient,
    Tucker et al. 2019, Doubly Reparameterized Gradient Estimators.
    """
    return Bound(_log_mean_exp, _shares)


def miwae_bound(groups: int) -> Bound:
    """The mean of `groups` importance-weighted bounds of `K / groups` samples each.

    `1/M sum_m log 1/L sum_l w_ml`, `K = M L`; `M = 1` is `iwae_bound`, `M = K` is `elbo_bound`.

    Raises (when it is used):
      ValueError: K is no multiple of `groups`.

    Source: Rainforth et al. 2018, Tighter Variational Bounds are Not Necessarily Better, section 5.
    """
    check_count("miwae_bound: groups", groups)

    def grouped(log_weights: Array) -> Array:
        """`[K, *B]` to `[M, L, *B]`."""
        num_samples = log_weights.shape[0]
        if num_samples % groups:
            raise ValueError(f"miwae_bound: num_samples must be a multiple of groups={groups}; got {num_samples}")
        return log_weights.reshape(groups, num_samples // groups, *log_weights.shape[1:])

    def path_scale(log_weights: Array) -> Array:
        return _shares(grouped(log_weights), axis=1).reshape(log_weights.shape)

    return Bound(lambda log_weights: jnp.mean(_log_mean_exp(grouped(log_weights), axis=1), axis=0), path_scale)


def ciwae_bound(beta: ArrayLike) -> Bound:
    """`beta ELBO + (1 - beta) IWAE`, both of the same K samples; beta from 0 to 1, may be traced.

    Source: Rainforth et al. 2018, Tighter Variational Bounds are Not Necessarily Better, section 5.
    """
    check_scalar("ciwae_bound: beta", beta)
    if is_concrete(beta) and not np.all((np.asarray(beta) >= 0) & (np.asarray(beta) <= 1)):
        raise ValueError(f"ciwae_bound: beta must be between 0 (IWAE) and 1 (ELBO); got {beta}")

    def reduce(log_weights: Array) -> Array:
        weight = jnp.asarray(beta, log_weights.dtype)
        return _times(weight, jnp.mean(log_weights, axis=0)) + _times(1 - weight, _log_mean_exp(log_weights))

    def path_scale(log_weights: Array) -> Array:
        # By linearity c_k path_scale_k is that of the two bounds, weighted; a weight that underflows has no path.
        weights = _shares(log_weights)
        rest = 1 - jnp.asarray(beta, log_weights.dtype)
        uniform = (1 - rest) / log_weights.shape[0]
        cotangent = uniform + rest * weights
        positive = cotangent > 0
        return jnp.where(positive, (uniform + rest * weights**2) / jnp.where(positive, cotangent, 1.0), 0.0)

    return Bound(reduce, path_scale)


def renyi_bound(alpha: ArrayLike) -> Bound:
    """The variational Renyi bound, `1 / (1 - alpha) log 1/K sum_k w_k^(1 - alpha)`; alpha may be traced.

    `alpha = 0` is `iwae_bound`, `alpha -> 1` is `elbo_bound`. In expectation it is a lower bound on `log p(x)` for
    alpha from 0 on; for negative alpha it may lie above.

    Source: Li and Turner 2016, Renyi Divergence Variational Inference; its path gradient by the argument
    of Tucker et al. 2019.
    """
    check_scalar("renyi_bound: alpha", alpha)
    if is_concrete(alpha) and not np.all(np.isfinite(alpha)):
        raise ValueError(f"renyi_bound: alpha must be finite; got {alpha}")

    def reduce(log_weights: Array) -> Array:
        power = 1 - jnp.asarray(alpha, log_weights.dtype)
        has_zero = jnp.any(log_weights == -jnp.inf, axis=0)
        positive = _renyi_mean(power, jnp.where(has_zero, 0.0, log_weights))
        # A weight of zero counts as zero for alpha below 1, and makes every other mean minus infinity.
        safe = jnp.where(power > _NEAR_ONE, power, 1.0)
        with_zero = _log_mean_exp(safe * jnp.where(has_zero, log_weights, 0.0)) / safe
        return jnp.where(has_zero, jnp.where(power > _NEAR_ONE, with_zero, -jnp.inf), positive)

    def path_scale(log_weights: Array) -> Array:
        power = 1 - jnp.asarray(alpha, log_weights.dtype)
        return 1 - power + power * _shares(jnp.where(log_weights > -jnp.inf, power * log_weights, -jnp.inf))

    return Bound(reduce, path_scale)


# How close to 1 alpha may be before the formula, there 0/0, gives way to its series.
_NEAR_ONE = 1e-4


def _renyi_mean(power: Array, log_weights: Array) -> Array:
    """`1/power log 1/K sum_k w_k^power` of weights that are positive."""
    # Around power 0 the logarithms cancel far earlier than the formula fails.
    mean = jnp.mean(log_weights, axis=0)
    near_one = jnp.abs(power) < _NEAR_ONE
    safe = jnp.where(near_one, 1.0, power)
    series = power / 2 * jnp.var(log_weights, axis=0)
    tempered = safe * (log_weights - mean)
    small = jnp.max(jnp.abs(tempered), axis=0) < 1.0
    close = jnp.log1p(jnp.mean(jnp.expm1(jnp.where(small, tempered, 0.0)), axis=0)) / safe
    return mean + jnp.where(near_one, series, jnp.where(small, close, _log_mean_exp(tempered) / safe))


def _shares(log_weights: Array, axis: int = 0) -> Array:
    """`w_k / sum_j w_j`; zero where all weights are."""
    total = jnp.expand_dims(log_sum_exp(log_weights, axis), axis)
    return jnp.where(total > -jnp.inf, jnp.exp(log_weights - jnp.where(total > -jnp.inf, total, 0.0)), 0.0)


def _times(weight: Array, value: Array) -> Array:
    """`weight * value`, where a weight of 0 leaves nothing of an infinite value."""
    return jnp.where(weight == 0, 0.0, weight * jnp.where(weight == 0, 0.0, value))


def _log_mean_exp(array: Array, axis: int = 0) -> Array:
    return log_sum_exp(array, axis) - jnp.log(array.shape[axis])
