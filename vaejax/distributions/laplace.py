"""The Laplace distribution: absolute error as a likelihood, or a heavier-tailed latent."""

import math

import jax
import jax.numpy as jnp

from vaejax.checks import check_event_shape, check_positive, check_support
from vaejax.distributions._base import (
    align_ranks,
    at_least_float32,
    check_parameters,
    distribution,
    draw_shape,
    flatten_event,
    is_finite,
    parameter_shape,
    static,
)
from vaejax.types import Array, ArrayLike, Shape


@distribution
class Laplace:
    """Independent Laplace distributions.

    `log p(x) = sum_i [ -|x_i - loc_i| / scale_i - log(2 scale_i) ]`

    Args:
      loc: means, `[*B, *E]`.
      scale: mean absolute deviations, positive, broadcast against `loc` (the standard deviation is
        `sqrt(2) scale`).
      event_ndims: how many trailing axes are one event, whose log-densities are summed.

    >>> import jax.numpy as jnp
    >>> Laplace(jnp.zeros((8, 2)), 0.5).log_prob(jnp.ones((8, 2)))[0].item()
    -4.0
    """

    loc: ArrayLike
    scale: ArrayLike
    event_ndims: int = static(default=1)

    def __post_init__(self) -> None:
        check_parameters("Laplace", self.event_ndims, loc=self.loc, scale=self.scale)
        check_positive("Laplace: scale", self.scale)
        align_ranks(self, loc=0, scale=0)

    @property
    def mean(self) -> Array:
        """The mean, `[*B, *E]`."""
        return jnp.broadcast_to(jnp.asarray(self.loc), parameter_shape(self.loc, self.scale))

    @property
    def variance(self) -> Array:
        """The variance, `[*B, *E]`."""
        (scale,) = at_least_float32(self.scale)
        return jnp.broadcast_to(2 * scale**2, parameter_shape(self.loc, self.scale))

    def support(self, value: Array) -> Array:
        """Elementwise: finite."""
        return is_finite(value)

    def sample(self, key: Array, sample_shape: Shape = ()) -> Array:
        """Draw `[*S, *B, *E]`: `loc + scale * eps`, eps ~ Laplace(0, 1)."""
        parameters = parameter_shape(self.loc, self.scale)
        shape = draw_shape("Laplace", key, sample_shape, parameters, self.event_ndims)
        loc, scale = at_least_float32(self.loc, self.scale)
        return loc + scale * jax.random.laplace(key, shape, loc.dtype)

    def log_prob(self, value: Array) -> Array:
        """Log-density in nats, `[*S, *B]`."""
        check_event_shape("Laplace.log_prob: value", value, parameter_shape(self.loc, self.scale), self.event_ndims)
        check_support("Laplace.log_prob: value", value, self.support, "finite")
        value, loc, scale = flatten_event(self.event_ndims, *at_least_float32(value, self.loc, self.scale))
        # Not abs, whose derivative at 0, where a net with zero-initialised outputs meets black pixels, JAX has as 1.
        distance = (value - loc) * jnp.sign(value - loc)
        return jnp.sum(-distance / scale - jnp.log(scale) - math.log(2.0), axis=-1)
