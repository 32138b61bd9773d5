"""Normal distributions with independent axes: with given scales, and with the best one for the data."""

import dataclasses
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp

from vaejax.checks import check_count, check_event_shape, check_positive, check_support
from vaejax.distributions._base import (
    LOG_TWO_PI,
    align_ranks,
    at_least_float32,
    check_parameters,
    distribution,
    draw_shape,
    event_ndims_of,
    flatten_event,
    is_finite,
    parameter_shape,
    static,
)
from vaejax.distributions.bounds import Bound, bound_log_scale, bounded
from vaejax.types import Array, ArrayLike, Distribution, Shape


def reparameterize(key: Array, loc: ArrayLike, scale: ArrayLike, sample_shape: Shape = ()) -> Array:
    """Draw from a Normal as a differentiable function of its parameters.

    `z = loc + scale * eps`, `eps ~ N(0, I)`.

    Args:
      key: one typed PRNG key.
      loc: means, `[*B, *E]`.
      scale: standard deviations (not variances), positive, broadcast against `loc`.
      sample_shape: `*S`, the leading axes of independent draws.

    Returns:
      `[*S, *B, *E]`, in float32 or more.

    Source: Kingma and Welling 2014, Auto-Encoding Variational Bayes, section 2.4.

    >>> import jax, jax.numpy as jnp
    >>> reparameterize(jax.random.key(0), jnp.zeros((8, 2)), 0.5, (3,)).shape
    (3, 8, 2)
    """
    shape = draw_shape("reparameterize", key, sample_shape, parameter_shape(loc, scale), 0)
    loc, scale = at_least_float32(loc, scale)
    return loc + scale * jax.random.normal(key, shape, loc.dtype)


@distribution
class Normal:
    """Independent Normals, `N(loc, scale^2)` on each axis.

    `log p(x) = sum_i [ -(x_i - loc_i)^2 / (2 scale_i^2) - log scale_i - log(2 pi) / 2 ]`

    Args:
      loc: means, `[*B, *E]`.
      scale: standard deviations, positive, broadcast against `loc`.
      event_ndims: how many trailing axes are one event, whose log-densities are summed.

    Raises:
      TypeError: a parameter that is no array.
      ValueError: shapes that do not broadcast, or a concrete scale that is not positive (a
        log-variance in its place, say).

    >>> import jax.numpy as jnp
    >>> Normal(jnp.zeros((8, 2)), 1.0).log_prob(jnp.ones((8, 2))).shape
    (8,)
    """

    loc: ArrayLike
    scale: ArrayLike
    event_ndims: int = static(default=1)

    def __post_init__(self) -> None:
        check_parameters("Normal", self.event_ndims, loc=self.loc, scale=self.scale)
        check_positive("Normal: scale", self.scale, " (for a log-variance: Normal.from_log_variance)")
        align_ranks(self, loc=0, scale=0)

    @classmethod
    def from_log_scale(
        cls, loc: ArrayLike, log_scale: ArrayLike, event_ndims: int = 1, bound: Bound | None = bound_log_scale
    ) -> "Normal":
        """`Normal(loc, exp(bound(log_scale)))`; `bound=None` takes the log-scale as it is."""
        check_parameters("Normal.from_log_scale", event_ndims, loc=loc, log_scale=log_scale)
        return cls(loc, jnp.exp(bounded(log_scale, bound)), event_ndims)

    @classmethod
    def from_log_variance(
        cls, loc: ArrayLike, log_variance: ArrayLike, event_ndims: int = 1, bound: Bound | None = bound_log_scale
    ) -> "Normal":
        """`Normal(loc, exp(bound(log_variance / 2)))`, for nets that put out a log-variance."""
        check_parameters("Normal.from_log_variance", event_ndims, loc=loc, log_variance=log_variance)
        (raw,) = at_least_float32(log_variance)
        return cls.from_log_scale(loc, raw / 2, event_ndims, bound)

    @property
    def mean(self) -> Array:
        """The mean, `[*B, *E]`."""
        return jnp.broadcast_to(jnp.asarray(self.loc), parameter_shape(self.loc, self.scale))

    @property
    def variance(self) -> Array:
        """The variance, `[*B, *E]`."""
        (scale,) = at_least_float32(self.scale)
        return jnp.broadcast_to(scale**2, parameter_shape(self.loc, self.scale))

    def expand(self, shape: Shape) -> "Normal":
        """The same distribution with `loc` and `scale` broadcast to `shape`, `[*B, *E]`."""
        loc, scale = at_least_float32(self.loc, self.scale)
        return dataclasses.replace(self, loc=jnp.broadcast_to(loc, shape), scale=jnp.broadcast_to(scale, shape))

    def support(self, value: Array) -> Array:
        """Elementwise: finite."""
        return is_finite(value)

    def sample(self, key: Array, sample_shape: Shape = ()) -> Array:
        """Draw `[*S, *B, *E]` by `reparameterize`."""
        draw_shape("Normal", key, sample_shape, parameter_shape(self.loc, self.scale), self.event_ndims)
        return reparameterize(key, self.loc, self.scale, sample_shape)

    def sample_and_log_prob(self, key: Array, sample_shape: Shape = ()) -> tuple[Array, Array]:
        """The draw of `sample` and its log-density `[*S, *B]`, which its noise has at hand.

        `log p(loc + scale eps) = sum_i [ -eps_i^2 / 2 - log scale_i - log(2 pi) / 2 ]`. Its gradient to the parameters
        is that of `log_prob` at the draw, where all that comes by way of the draw cancels.
        """
        shape = draw_shape("Normal", key, sample_shape, parameter_shape(self.loc, self.scale), self.event_ndims)
        loc, scale = at_least_float32(self.loc, self.scale)
        noise = jax.random.normal(key, shape, loc.dtype)
        eps, log_scale = flatten_event(self.event_ndims, noise, jnp.log(scale))
        return loc + scale * noise, jnp.sum(-0.5 * eps**2 - log_scale - 0.5 * LOG_TWO_PI, axis=-1)

    def log_prob(self, value: Array) -> Array:
        """Log-density in nats, `[*S, *B]`."""
        check_event_shape("Normal.log_prob: value", value, parameter_shape(self.loc, self.scale), self.event_ndims)
        check_support("Normal.log_prob: value", value, self.support, "finite")
        arrays = at_least_float32(value, self.loc, self.scale)
        value, loc, scale = flatten_event(self.event_ndims, *arrays)
        standardized = (value - loc) / scale
        return jnp.sum(-0.5 * standardized**2 - jnp.log(scale) - 0.5 * LOG_TWO_PI, axis=-1)


# N(0, I) on latents of any shape: it takes that of the value or the posterior that it meets. Its
# parameters are Python numbers, since an array made on import would start a JAX backend.
# `standard_normal.expand((latent_size,))` fixes one, which sampling needs.
standard_normal = Normal(0.0, 1.0)


def sized(distribution: Distribution, event_shape: Shape) -> Distribution:
    """`distribution` over events of the given shape, where it is a Normal like `standard_normal` that takes any."""
    if not _takes_any(distribution):
        return distribution
    return dataclasses.replace(distribution, event_ndims=len(event_shape)).expand(event_shape)


def matched(prior: Distribution, q: Distribution) -> Distribution:
    """`prior` with the event axes of `q`, where it is a Normal like `standard_normal` that takes any."""
    return dataclasses.replace(prior, event_ndims=event_ndims_of(q)) if _takes_any(prior) else prior


def _takes_any(distribution: Any) -> TypeGuard[Normal]:
    """Whether a distribution is a Normal of vectors that has no shape of its own."""
    return isinstance(distribution, Normal) and distribution.event_ndims == 1 and jnp.ndim(distribution.mean) == 0


@distribution
class OptimalNormal:
    """A Normal whose one scale per event is the best for the value it is asked about.

    `log_prob(x) = max_s sum_i log N(x_i; loc_i, s^2) = -D/2 (log(2 pi s*^2) + 1)`,
    `s*^2 = 1/D sum_i (x_i - loc_i)^2`, the mean squared error.

    It is a training objective, not a density: since the scale follows the value it does not integrate
    to one, its figures must not be compared with likelihoods, and it cannot be sampled. `fit` gives
    the Normal that belongs to given data. Departs from the paper, which shares one scale over the
    batch: here it is one per example, so that an example's value does not depend on its neighbours.

    Args:
      loc: means, `[*B, *E]`.
      event_ndims: how many trailing axes are one event; at least 1.
      min_scale: the scale never falls below it, so that a perfect reconstruction stays finite.

    Source: Rybkin, Daniilidis and Levine 2021, Simple and Effective VAE Training with Calibrated
    Decoders, section 3.

    >>> import jax.numpy as jnp
    >>> OptimalNormal(jnp.zeros((8, 4))).fit(2.0 * jnp.ones((8, 4))).scale.shape
    (8, 1)
    """

    has_rsample = False
    is_normalized = False

    loc: ArrayLike
    event_ndims: int = static(default=1)
    min_scale: float = static(default=1e-3)

    def __post_init__(self) -> None:
        check_parameters("OptimalNormal", self.event_ndims, loc=self.loc)
        check_count("OptimalNormal: event_ndims", self.event_ndims)
        check_positive("OptimalNormal: min_scale", self.min_scale)

    @property
    def mean(self) -> Array:
        """The mean, `[*B, *E]`."""
        return jnp.asarray(self.loc)

    def support(self, value: Array) -> Array:
        """Elementwise: finite."""
        return is_finite(value)

    def fit(self, value: Array) -> Normal:
        """The Normal with the maximum-likelihood scale for `value`, one per event."""
        check_event_shape("OptimalNormal.fit: value", value, jnp.shape(self.loc), self.event_ndims)
        check_support("OptimalNormal.fit: value", value, self.support, "finite")
        value, loc = at_least_float32(value, self.loc)
        axes = tuple(range(-self.event_ndims, 0))
        variance = jnp.mean((value - loc) ** 2, axis=axes, keepdims=True)
        return Normal(loc, jnp.sqrt(jnp.maximum(variance, self.min_scale**2)), self.event_ndims)

    def sample(self, key: Array, sample_shape: Shape = ()) -> Array:
        """Not possible: raises `TypeError`."""
        raise TypeError("OptimalNormal.sample: its scale follows the data; draw from OptimalNormal.fit(x) instead")

    def log_prob(self, value: Array) -> Array:
        """The profile log-likelihood in nats, `[*S, *B]`."""
        return self.fit(value).log_prob(value)
