"""Penalties on the posterior: functions `(key, q, z)` to `[*B]` in nats, lower is better.

A penalty that needs all examples of a batch at once says so where it is given one alone. Penalties combine by
`add` and `scale`; one of your own is any function of these three arguments.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from vaejax.checks import check_callable, check_count, check_scalar, check_weight
from vaejax.distributions import Categorical, by_axis, kl_divergence, kl_per_axis, standard_normal
from vaejax.distributions._base import at_least_float32
from vaejax.distributions.normal import matched
from vaejax.objectives.draws import batch_of, check_density
from vaejax.types import Array, ArrayLike, Decode, Distribution, Regularizer, Shape


def none(key: Array, q: Distribution, z: Array) -> Array:
    """No penalty: the plain autoencoder."""
    del key, q, z
    return jnp.zeros(())


def kl(prior: Distribution = standard_normal) -> Regularizer:
    """The closed-form divergence, `KL(q(z|x) || p(z))`.

    Raises (when it is used):
      TypeError: the pair has no closed form; `monte_carlo_kl` estimates it.
    """

    def closed_form(key: Array, q: Distribution, z: Array) -> Array:
        del key, z
        return kl_divergence(q, prior)

    return closed_form


def monte_carlo_kl(prior: Distribution = standard_normal) -> Regularizer:
    """The unbiased estimate of the divergence from the draws themselves, for any posterior and prior.

    `log q(z|x) - log p(z)`, `z ~ q(z|x)`; with several samples their mean. It can be negative, and
    at `q = p(z|x)` it makes every draw of the bound equal to `log p(x)`.

    Raises (when it is used):
      TypeError: a posterior without a density, such as `Delta`.
    """

    def estimate(key: Array, q: Distribution, z: Array) -> Array:
        del key
        check_density("monte_carlo_kl", q)
        return q.log_prob(z) - matched(prior, q).log_prob(z)

    return estimate


def categorical_kl(prior: Distribution) -> Regularizer:
    """The divergence of the categoricals underneath a `RelaxedCategorical` posterior, a surrogate.

    It is not that of the relaxed draws that are decoded, so log-likelihood minus this penalty is no bound on
    `log p(x)`: at low temperatures it can lie above.

    Args:
      prior: a `Categorical` over `[*B, N]`, or numpyro's.

    Raises (when it is used):
      TypeError: another posterior.

    Source: Jang, Gu and Poole 2017, Categorical Reparameterization with Gumbel-Softmax; Maddison, Mnih and Teh 2017,
    appendix C, for what else may be relaxed.
    """

    def underneath(key: Array, q: Distribution, z: Array) -> Array:
        del key, z
        categorical = getattr(q, "categorical", None)
        if not isinstance(categorical, Categorical):
            raise TypeError(f"categorical_kl: the posterior must be a RelaxedCategorical; got {type(q).__name__}")
        return kl_divergence(categorical, prior)

    return underneath


def add(*regularizers: Regularizer) -> Regularizer:
    """The sum of penalties, each with a key of its own."""
    for each in regularizers:
        check_callable("add: regularizers", each)

    def total(key: Array, q: Distribution, z: Array) -> Array:
        keys = jax.random.split(key, len(regularizers))
        penalties = [jnp.asarray(each(k, q, z)) for k, each in zip(keys, regularizers, strict=True)]
        return sum(penalties, start=jnp.zeros(()))

    return total


def scale(weight: ArrayLike, regularizer: Regularizer) -> Regularizer:
    """A penalty times a weight, one number, which may be negative or traced."""
    check_scalar("scale: weight", weight)
    check_callable("scale: regularizer", regularizer)
    return lambda key, q, z: jnp.asarray(weight * regularizer(key, q, z))


def free_bits(
    prior: Distribution = standard_normal, threshold: ArrayLike = 0.5, *, axiswise: bool = True, batchwise: bool = True
) -> Regularizer:
    """The closed-form divergence with no reward for going below a threshold, so that latents stay in use.

    `sum_i max(threshold, mean_b KL_i(x_b))` over the latent axes i. Where not `axiswise`, one maximum is taken
    for the whole latent; where not `batchwise`, one for each example instead of the batch mean.

    Args:
      prior: p(z); where `axiswise`, its axes and those of q must be independent.
      threshold: nats that are free, per axis where `axiswise` and per example otherwise; may be traced.
      axiswise: take the maximum axis by axis, as the paper does.
      batchwise: take it of the batch mean, as the paper does: `[]`. It then couples the batch.

    Source: Kingma et al. 2016, Improved Variational Inference with Inverse Autoregressive Flow, appendix C.8.
    """
    check_weight("free_bits: threshold", threshold)
    divergence = kl_per_axis if axiswise else kl_divergence

    def penalty(key: Array, q: Distribution, z: Array) -> Array:
        del key
        divergences = divergence(q, prior)
        batch = batch_of(q, z)
        latent_axes = tuple(range(len(batch), divergences.ndim))
        if not batchwise:
            return jnp.sum(jnp.maximum(divergences, threshold), axis=latent_axes)
        check_batch("free_bits", batch, minimum=1, instead=" or set batchwise=False")
        return jnp.sum(jnp.maximum(jnp.mean(divergences, axis=0), threshold))

    return penalty


def capacity(
    regularizer: Regularizer, target: ArrayLike, weight: ArrayLike = 1000.0, *, batchwise: bool = True
) -> Regularizer:
    """Hold a penalty at a target in place of at zero: `weight |mean_b penalty_b - target|`.

    Args:
      regularizer: usually `kl(prior)`.
      target: in nats, raised during training; may be traced.
      weight: of the deviation.
      batchwise: hold the batch mean there, as the implementations of the paper do: `[]`; otherwise each
        example, as its formula has it.

    Source: Burgess et al. 2018, Understanding Disentangling in beta-VAE, equation 8.
    """
    check_callable("capacity: regularizer", regularizer)
    for name, value in (("capacity: target", target), ("capacity: weight", weight)):
        check_weight(name, value)

    def penalty(key: Array, q: Distribution, z: Array) -> Array:
        each = jnp.asarray(regularizer(key, q, z))
        if batchwise:
            check_batch("capacity", batch_of(q, z), minimum=1, instead=" or set batchwise=False")
            each = jnp.mean(each)
        # At the target the derivative is 0; that of abs, as JAX has it, is 1.
        return jnp.asarray(weight * (each - target) * jnp.sign(each - target))

    return penalty


def dip_i(off_diagonal: ArrayLike = 10.0, diagonal: ArrayLike = 100.0) -> Regularizer:
    """Decorrelate the posterior means over the batch (DIP-VAE I).

    `off_diagonal sum_{i != j} C_ij^2 + diagonal sum_i (C_ii - 1)^2`, `C = Cov_b[E_q z]`, one number `[]` in all.

    Source: Kumar, Sattigeri and Balakrishnan 2018, Variational Inference of Disentangled Latent Concepts.
    """
    return _dip("dip_i", off_diagonal, diagonal, lambda q: jnp.zeros(()))


def dip_ii(off_diagonal: ArrayLike = 10.0, diagonal: ArrayLike = 10.0) -> Regularizer:
    """Decorrelate the aggregate posterior (DIP-VAE II): as `dip_i` with `C = Cov_b[E_q z] + E_b[Cov_q z]`.

    Raises (when it is used):
      TypeError: the axes of the posterior are not independent, or it has no `variance`.

    Source: as `dip_i`.
    """
    return _dip("dip_ii", off_diagonal, diagonal, _mean_variance)


def jacobian_penalty(decode: Decode, *, num_projections: int = 1) -> Regularizer:
    """The squared norm of the decoder's derivative, `|d E[x|z] / d z|_F^2`, estimated without bias.

    `1/P sum_p |J v_p|^2`, `v_p ~ N(0, I)`: a directional derivative each, whatever the size of x. It keeps
    a deterministic decoder smooth.

    Args:
      decode: z to p(x|z) with a `mean`, the decoder of the objective.
      num_projections: P, more for less noise.

    Source: Ghosh et al. 2020, From Variational to Deterministic Autoencoders, equation 7 (there one half of it);
    the estimate is Hutchinson's.
    """
    check_callable("jacobian_penalty: decode", decode)
    check_count("jacobian_penalty: num_projections", num_projections)

    def penalty(key: Array, q: Distribution, z: Array) -> Array:
        batch_ndims = len(batch_of(q, z))

        def projected(direction: Array) -> Array:
            _, change = jax.jvp(lambda z: decode(z).mean, (z,), (direction,))  # type: ignore[attr-defined]
            return jnp.sum(change**2, axis=tuple(range(batch_ndims, change.ndim)))

        directions = jax.random.normal(key, (num_projections, *z.shape), z.dtype)
        return jnp.mean(jax.vmap(projected)(directions), axis=0)

    return penalty


def check_batch(name: str, batch: Shape, minimum: int = 2, instead: str = "") -> None:
    """Raise where a penalty on a batch as a whole is called with less: for one example, or under `jax.vmap`."""
    if len(batch) != 1 or batch[0] < minimum:
        raise ValueError(
            f"{name} couples the examples of a batch, so it must be called with one batch axis of at least {minimum}; "
            f"got batch shape {batch} (call the objective on the whole batch, not example by example{instead})"
        )


def _dip(
    name: str, off_diagonal: ArrayLike, diagonal: ArrayLike, own_variance: Callable[[Distribution], Array]
) -> Regularizer:
    for weight, value in (("off_diagonal", off_diagonal), ("diagonal", diagonal)):
        check_weight(f"{name}: {weight}", value)

    def penalty(key: Array, q: Distribution, z: Array) -> Array:
        del key
        check_batch(name, batch_of(q, z))
        (means,) = at_least_float32(q.mean.reshape(z.shape[0], -1))  # type: ignore[attr-defined]
        centred = means - jnp.mean(means, axis=0)
        covariance = jnp.matmul(centred.T, centred, precision="highest") / len(means)
        variances = jnp.diagonal(covariance)
        rest = jnp.sum(covariance**2) - jnp.sum(variances**2)
        deviation = jnp.sum((variances + own_variance(q) - 1.0) ** 2)
        return jnp.asarray(off_diagonal * rest + diagonal * deviation)

    return penalty


def _mean_variance(q: Distribution) -> Array:
    """`E_b[Var_q z]` of each axis, flattened; the axes of q are independent, so its covariance has no other part."""
    variance = getattr(by_axis(q), "variance", None)
    if variance is None:
        raise TypeError(f"dip_ii: the posterior must have a variance, as Normal has; got {type(q).__name__}")
    return jnp.mean(variance.reshape(variance.shape[0], -1), axis=0)
