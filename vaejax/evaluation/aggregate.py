"""The aggregate posterior `q(z) = 1/N sum_n q(z|x_n)` of a data set: its density, its information, its moments."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vaejax.checks import check_array, check_count, check_distribution, check_key
from vaejax.distributions import MultivariateNormal, as_native, standard_normal
from vaejax.distributions._base import abstract_draw, at_least_float32, event_ndims_of
from vaejax.distributions.interop import has_trait
from vaejax.distributions.normal import matched
from vaejax.evaluation.metrics import Estimate, estimate
from vaejax.types import Array, Distribution, Shape

# The mutual information says little about more than N examples where it is this close to its limit.
SATURATED = 0.9


class Information(NamedTuple):
    """Where the divergence from the prior goes, in nats; `rate = mutual_information + aggregate_kl`."""

    rate: Estimate  # E_n KL(q(z|x_n) || p(z))
    mutual_information: Estimate  # I(z; n) = E_n KL(q(z|x_n) || q(z)), what z tells about the example
    aggregate_kl: Estimate  # KL(q(z) || p(z)), how far the codes as a whole are from the prior
    limit: Array  # [] ln N, which the mutual information cannot exceed

    @property
    def is_saturated(self) -> Array:
        """Whether the mutual information is above 90% of ln N: that of a larger set may be any number above it."""
        return self.mutual_information.mean > SATURATED * self.limit


class Moments(NamedTuple):
    """Mean and standard deviation of each latent axis."""

    mean: Array  # [*Z]
    standard_deviation: Array  # [*Z]


def aggregate_log_density(z: Array, q: Distribution, *, chunk_size: int = 256) -> Array:
    """The log-density of the aggregate posterior at given latents, in nats, `[B]`.

    `log q(z_b) = log 1/N sum_n q(z_b|x_n)`

    It takes B N log-densities, `chunk_size^2` of them at once, or N where that is more. The posteriors are never taken
    apart: the axes of their parameters that belong to the examples cannot be told from the shapes.

    Args:
      z: latents, `[B, *Z]`.
      q: the posteriors of N examples as one distribution of batch shape `[N]`.
      chunk_size: the square root of how many log-densities to compute at once.

    Raises:
      TypeError: a posterior without a density (Delta), or whose density is known for its own draws only.
      ValueError: posteriors with more or fewer batch axes than one; latents of another shape than theirs.

    >>> import jax.numpy as jnp, vaejax
    >>> far_apart = vaejax.Normal(jnp.array([[-100.0], [100.0]]), 1.0)
    >>> log_density = aggregate_log_density(jnp.array([[100.0]]), far_apart)
    >>> half = vaejax.standard_normal.log_prob(jnp.zeros((1, 1))) - jnp.log(2)
    >>> bool(jnp.allclose(log_density, half))
    True
    """
    shape = _check_posteriors("aggregate_log_density", q)
    check_array("aggregate_log_density: z", z)
    check_count("aggregate_log_density: chunk_size", chunk_size)
    if jnp.ndim(z) != len(shape) or jnp.shape(z)[1:] != shape[1:]:
        expected = ", ".join(map(str, ("B", *shape[1:])))
        raise ValueError(f"aggregate_log_density: z must have shape [{expected}]; got {jnp.shape(z)}")
    posteriors = as_native(q)

    def log_total(single: Array) -> Array:
        (each,) = at_least_float32(posteriors.log_prob(jnp.broadcast_to(single, shape)))
        return jax.nn.logsumexp(each)

    count = max(1, min(len(z), chunk_size * chunk_size // shape[0]))
    return jax.lax.map(log_total, jnp.asarray(z), batch_size=count) - jnp.log(shape[0])


def information(
    key: Array, q: Distribution, prior: Distribution = standard_normal, *, num_samples: int = 1, chunk_size: int = 256
) -> Information:
    """The divergence from the prior as what the latents tell about the example, and what they waste.

    `E_n KL(q(z|x_n) || p(z)) = I(z; n) + KL(q(z) || p(z))`, each estimated from the same draws, so the identity holds
    to rounding. The mutual information is between z and the index n of one of these N examples: it is at most ln N,
    and where it comes near (`is_saturated`), more examples are needed to see how much there is. A collapsed posterior
    has none. The error is that of the mean over the examples, without that of having these N of them in `q(z)`.

    Args:
      key: one typed PRNG key.
      q: the posteriors of N examples as one distribution of batch shape `[N]`.
      prior: p(z), any distribution with a log-density.
      num_samples: draws per example. The time grows with N^2 times it.
      chunk_size: as in `aggregate_log_density`.

    Raises:
      TypeError: a posterior without a density (Delta), or whose density is known for its own draws only.
      ValueError: fewer than 2 posteriors; a prior over latents of another shape.

    Source: Hoffman and Johnson 2016, ELBO surgery: yet another way to carve up the variational evidence lower bound.

    >>> import jax, jax.numpy as jnp, vaejax
    >>> told_apart = vaejax.Normal(100.0 * jnp.arange(8.0)[:, None], 1.0)
    >>> found = information(jax.random.key(0), told_apart)
    >>> round(found.mutual_information.mean.item(), 4), round(found.limit.item(), 4), bool(found.is_saturated)
    (2.0794, 2.0794, True)
    """
    check_key(key)
    check_count("information: num_samples", num_samples)
    check_distribution("information: prior must be", prior)
    count = _check_posteriors("information", q)[0]
    check_count("information: the number of posteriors", count, minimum=2)
    z = q.sample(key, (num_samples,))
    log_q, log_prior = q.log_prob(z), matched(prior, q).log_prob(z)
    if log_prior.shape != log_q.shape:
        raise ValueError(
            f"information: prior must give one log-density per latent of shape {z.shape[2:]}, {log_q.shape} in all; "
            f"got {log_prior.shape}"
        )
    flat = aggregate_log_density(z.reshape(-1, *z.shape[2:]), q, chunk_size=chunk_size)
    log_aggregate = flat.reshape(log_q.shape)
    over_examples = lambda values: estimate(jnp.mean(values, axis=0))
    return Information(
        rate=over_examples(log_q - log_prior),
        mutual_information=over_examples(log_q - log_aggregate),
        aggregate_kl=over_examples(log_aggregate - log_prior),
        limit=jnp.log(count),
    )


def aggregate_moments(q: Distribution) -> Moments:
    """Mean and standard deviation of each axis of the aggregate posterior, to compare with the prior's 0 and 1.

    `E[z] = E_n[m_n]` and `Var[z] = E_n[s_n^2] + Var_n[m_n]`, the law of total variance

    Args:
      q: the posteriors of N examples as one distribution of batch shape `[N]`, with `mean` and `variance`.

    Raises:
      TypeError: posteriors whose mean and variance are not known.

    >>> import jax.numpy as jnp, vaejax
    >>> moments = aggregate_moments(vaejax.Normal(jnp.array([[-3.0], [3.0]]), 4.0))
    >>> moments.mean.tolist(), moments.standard_deviation.tolist()
    ([0.0], [5.0])
    """
    native: Any = as_native(q)
    means = getattr(native, "mean", None)
    # A diagonal is all that is wanted of a full covariance.
    variances = (
        jnp.sum(jnp.tril(native.scale_tril) ** 2, axis=-1)
        if isinstance(native, MultivariateNormal)
        else getattr(native, "variance", None)
    )
    if means is None or variances is None:
        raise TypeError(f"aggregate_moments: q must have a mean and a variance, as Normal has; got {type(q).__name__}")
    means, variances = at_least_float32(means, variances)
    return Moments(jnp.mean(means, axis=0), jnp.sqrt(jnp.mean(variances, axis=0) + jnp.var(means, axis=0)))


def _check_posteriors(owner: str, q: Any) -> Shape:
    """The shape `[N, *Z]` of one draw of each; raises unless they are a batch of distributions with a density."""
    check_distribution(f"{owner}: q must be", q)
    native = as_native(q)
    if has_trait(native, "is_point"):
        raise TypeError(
            f"{owner}: the posterior {type(native).__name__} is a point and has no density; the information of a "
            f"deterministic autoencoder has no bound"
        )
    shape, ndims = abstract_draw(native).shape, event_ndims_of(native)
    if len(shape) != ndims + 1:
        raise ValueError(
            f"{owner}: q must have one batch axis, the examples; got draws of shape {shape} with {ndims} event axes"
        )
    return shape
