"""Distributions on the unit sphere, for latents that are directions."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from vaejax.checks import (
    check_array,
    check_count,
    check_event_shape,
    check_nonnegative,
    check_support,
    is_concrete,
    namespace_of,
)
from vaejax.distributions._base import (
    align_ranks,
    as_float,
    at_least_float32,
    broadcast_shapes,
    check_parameters,
    distribution,
    draw_shape,
    nan_outside,
    static,
)
from vaejax.distributions._closed_form import no_closed_form
from vaejax.distributions._gamma import log_gamma_ratio
from vaejax.distributions.bernoulli import softplus
from vaejax.types import Array, ArrayLike, Shape


@distribution
class SphericalUniform:
    """The uniform distribution on the unit sphere of R^D, with respect to its surface measure.

    `log p(x) = -log(2 pi^(D/2) / Gamma(D/2))`

    Args:
      size: D, the length of the vectors, at least 2 (a circle).

    >>> import jax
    >>> SphericalUniform(3).sample(jax.random.key(0), (8,)).shape
    (8, 3)
    """

    is_singular = True

    size: int = static(default=dataclasses.MISSING)

    def __post_init__(self) -> None:
        check_count("SphericalUniform: size", self.size, minimum=2)

    @property
    def event_ndims(self) -> int:
        """A vector is one event."""
        return 1

    @property
    def mean(self) -> Array:
        """The mean, `[D]`: the origin."""
        return jnp.zeros(self.size)

    @property
    def log_area(self) -> float:
        """The logarithm of the sphere's surface."""
        return math.log(2.0) + self.size / 2 * math.log(math.pi) - math.lgamma(self.size / 2)

    def support(self, value: Array) -> Array:
        """Elementwise: part of a unit vector."""
        return _is_unit(value)

    def sample(self, key: Array, sample_shape: Shape = ()) -> Array:
        """Draw `[*S, D]`: normalised Normals."""
        shape = draw_shape("SphericalUniform", key, sample_shape, (self.size,), 1)
        return unit_vector(jax.random.normal(key, shape))

    def log_prob(self, value: Array) -> Array:
        """Log-density in nats, `[*S]`."""
        check_event_shape("SphericalUniform.log_prob: value", value, (self.size,), 1)
        check_support("SphericalUniform.log_prob: value", value, self.support, "unit vectors")
        (value,) = at_least_float32(value)
        return nan_outside(_is_unit(value)[..., 0], jnp.full(value.shape[:-1], -self.log_area, value.dtype))


@distribution
class PowerSpherical:
    """The power spherical distribution: directions around a mean direction, with exact and cheap draws.

    `log p(x) = k log(1 + loc . x) - log N`, `N = 2^(a + b) pi^b Gamma(a) / Gamma(a + b)`, `b = (D - 1) / 2`,
    `a = b + k`, with respect to the sphere's surface measure

    It stands in for the von Mises-Fisher distribution, whose draws need rejection.

    Args:
      loc: mean directions, `[*B, D]`, D at least 2; scaled to length 1 here, so that a net's output may
        be given as it is. Where a traced one is 0, the last axis takes its place, without gradient.
      concentration: k, `[*B]`, at least 0; at 0 the distribution is uniform.

    Raises:
      ValueError: shapes that do not fit, a concrete concentration below 0 or a concrete loc of length 0.

    Source: De Cao and Aziz 2020, The Power Spherical distribution.

    >>> import jax.numpy as jnp
    >>> PowerSpherical(jnp.ones((8, 3)), 5.0 * jnp.ones(8)).kl_divergence(SphericalUniform(3)).shape
    (8,)
    """

    is_singular = True

    loc: ArrayLike
    concentration: ArrayLike

    def __post_init__(self) -> None:
        check_parameters("PowerSpherical", 1, loc=self.loc)
        check_array("PowerSpherical: concentration", self.concentration)
        shape = jnp.shape(self.loc)
        if len(shape) == 0 or shape[-1] < 2:
            raise ValueError(f"PowerSpherical: loc must be vectors of length 2 or more; got shape {shape}")
        if is_concrete(self.loc) and not np.all(np.any(np.asarray(self.loc) != 0, axis=-1)):
            raise ValueError("PowerSpherical: loc must be no zero vector; got one")
        check_nonnegative("PowerSpherical: concentration", self.concentration)
        broadcast_shapes("PowerSpherical", loc=shape[:-1], concentration=jnp.shape(self.concentration))
        align_ranks(self, loc=1, concentration=0)

    @property
    def event_ndims(self) -> int:
        """A vector is one event."""
        return 1

    @property
    def size(self) -> int:
        """D, the length of the vectors."""
        return jnp.shape(self.loc)[-1]

    @property
    def batch_shape(self) -> Shape:
        """`*B`, what the batch axes of `loc` and `concentration` broadcast to."""
        return jnp.broadcast_shapes(jnp.shape(self.loc)[:-1], jnp.shape(self.concentration))

    @property
    def mean(self) -> Array:
        """The mean, `[*B, D]`: `k / (k + D - 1) loc`, inside the sphere."""
        loc, concentration = at_least_float32(self.loc, self.concentration)
        return (concentration / (concentration + self.size - 1))[..., None] * unit_vector(loc)

    @property
    def entropy(self) -> Array:
        """The differential entropy in nats, `[*B]`: `log N - k (log 2 + psi(a) - psi(a + b))`."""
        beta = (self.size - 1) / 2
        (concentration,) = at_least_float32(self.concentration)
        alpha = beta + concentration
        # The derivative of the ratio keeps the digits that a difference of two digammas loses.
        _, slope = jax.jvp(lambda a: log_gamma_ratio(a, beta), (alpha,), (jnp.ones_like(alpha),))
        return jnp.broadcast_to(concentration * slope - self._log_peak(concentration), self.batch_shape)

    def kl_divergence(self, other: object) -> Array:
        """The divergence of a `SphericalUniform` from it, `[*B]`: the uniform's entropy less its own."""
        if not isinstance(other, SphericalUniform):
            raise no_closed_form(self, other)
        if other.size != self.size:
            raise ValueError(f"kl_divergence: q has vectors of length {self.size}, p of length {other.size}")
        return other.log_area - self.entropy

    def support(self, value: Array) -> Array:
        """Elementwise: part of a unit vector."""
        return _is_unit(value)

    def sample(self, key: Array, sample_shape: Shape = ()) -> Array:
        """Draw `[*S, *B, D]`, differentiable in `loc` and `concentration`.

        `z ~ Beta(a, b)` gives the height `2 z - 1` along an axis, a uniform direction the rest, and a
        reflection takes the axis to `loc`.
        """
        shape = draw_shape("PowerSpherical", key, sample_shape, (*self.batch_shape, self.size), 1)
        alpha_key, beta_key, tangent_key = jax.random.split(key, 3)
        loc, concentration = at_least_float32(self.loc, self.concentration)
        beta = (self.size - 1) / 2
        # z / (1 - z) is a ratio of gammas; with its logarithm l the height is tanh(l / 2), and the distance
        # from the axis 1 / cosh(l / 2), which has digits and a gradient also where the height is 1.
        log_ratio = jax.random.loggamma(alpha_key, beta + concentration, shape[:-1], loc.dtype)
        log_ratio -= jax.random.loggamma(beta_key, beta, shape[:-1], loc.dtype)
        distance = 2.0 * jnp.exp(-0.5 * (softplus(log_ratio) + softplus(-log_ratio)))
        first = jnp.arange(self.size) == 0
        tangent = unit_vector(jnp.where(first, 0.0, jax.random.normal(tangent_key, shape, loc.dtype)))
        return _reflect(jnp.tanh(0.5 * log_ratio)[..., None], distance[..., None] * tangent, unit_vector(loc))

    def log_prob(self, value: Array) -> Array:
        """Log-density in nats, `[*S, *B]`."""
        check_event_shape("PowerSpherical.log_prob: value", value, (*self.batch_shape, self.size), 1)
        check_support("PowerSpherical.log_prob: value", value, self.support, "unit vectors")
        value, loc, concentration = at_least_float32(value, self.loc, self.concentration)
        # (1 - loc . x) / 2 from the difference of the vectors, which is exact where they are close.
        away = 0.25 * jnp.sum((value - unit_vector(loc)) ** 2, axis=-1)
        # At the antipode the density is 0, and 1 where the concentration is 0: its logarithm stays finite.
        nearness = jnp.log1p(-jnp.minimum(away, 1.0 - float(jnp.finfo(away.dtype).eps)))
        return nan_outside(_is_unit(value)[..., 0], concentration * nearness + self._log_peak(concentration))

    def _log_peak(self, concentration: Array) -> Array:
        """The log-density at `loc`: `k log 2 - log N`."""
        beta = (self.size - 1) / 2
        return log_gamma_ratio(beta + concentration, beta) - 2 * beta * math.log(2.0) - beta * math.log(math.pi)


def unit_vector(vector: Array) -> Array:
    """The vectors `[..., D]` scaled to length 1; the last axis, without gradient, in place of 0."""
    # Scaled by the largest entry first: squares of small numbers underflow. Direction, and with it the
    # gradient, does not depend on that scale.
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(vector), axis=-1, keepdims=True))
    last = (jnp.arange(vector.shape[-1]) == vector.shape[-1] - 1).astype(vector.dtype)
    scaled = jnp.where(largest > 0, vector / jnp.where(largest > 0, largest, 1.0), last)
    return scaled / jnp.sqrt(jnp.sum(scaled**2, axis=-1, keepdims=True))


def _reflect(height: Array, rest: Array, loc: Array) -> Array:
    """`height loc + R rest`: a reflection takes the first axis to `loc`, and `rest`, whose first entry is 0, along.

    `loc` is reached from whichever of plus and minus the first axis is farther away, so that the normal of
    the mirror, `loc + sign e_1`, is never short: a draw is smooth in `loc` also where `loc` is the first axis.
    """
    first = jnp.arange(loc.shape[-1]) == 0
    sign = jnp.where(loc[..., :1] >= 0, 1.0, -1.0)
    start = jnp.where(first, -sign * height, rest)
    normal = loc + jnp.where(first, sign, 0.0)
    # |normal|^2 / 2 = 1 + |loc_1|
    # The larger factor comes first: of `normal * start`, with one normal for many draws, jaxlib 0.10.2
    # compiles the sum for the CPU to wrong numbers from the 32769th draw on.
    along = jnp.sum(start * normal, axis=-1, keepdims=True) / (1.0 + jnp.abs(loc[..., :1]))
    return start - along * normal


def _is_unit(value: Array) -> Array:
    """Elementwise: part of a vector of length 1, up to the rounding of half precision."""
    value = as_float(value)
    unit = abs((value**2).sum(axis=-1, keepdims=True) - 1.0) < 1e-2
    return namespace_of(value).broadcast_to(unit, value.shape)
