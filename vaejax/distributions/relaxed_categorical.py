"""Categorical latents made continuous, so that a gradient passes through their draws."""

import math

import jax
import jax.numpy as jnp

from vaejax.checks import check_array, check_count, check_event_shape, check_positive, check_support
from vaejax.distributions._base import (
    align_ranks,
    as_float,
    at_least_float32,
    broadcast_shapes,
    check_parameters,
    distribution,
    draw_shape,
    static,
    sum_event,
)
from vaejax.distributions._closed_form import no_closed_form
from vaejax.distributions.categorical import Categorical
from vaejax.distributions.divergences import kl_divergence
from vaejax.distributions.interop import as_native
from vaejax.types import Array, ArrayLike, Distribution, Shape


@distribution
class RelaxedCategorical:
    """Independent relaxed one-hot vectors: the Gumbel-softmax or concrete distribution on the simplex.

    `y = softmax((logits + g) / t)`, g standard Gumbel noise, differentiable in the logits l; its density is
    `log p(y) = sum_n [ log (L-1)! + (L-1) log t + sum_k log softmax(l - t log y)_k - sum_k log y_k ]`

    with respect to Lebesgue measure on the first L - 1 coordinates. As the temperature t goes to 0 the draws
    become one-hot and the variance of the gradient grows.

    Args:
      logits: `[*B, N, L]`, normalised here: N vectors of L levels.
      temperature: t, positive, broadcast against `*B`; it may be traced, to be annealed.
      event_ndims: how many trailing axes are one event, the level axis counted; at least 1 (one vector).

    Raises:
      ValueError: shapes that do not fit, or a concrete temperature that is not positive.

    Source: Jang, Gu and Poole 2017, Categorical Reparameterization with Gumbel-Softmax; Maddison, Mnih and
    Teh 2017, The Concrete Distribution, definition 1.

    >>> import jax, jax.numpy as jnp
    >>> q = RelaxedCategorical(jnp.zeros((8, 20, 10)), 0.5)
    >>> q.log_prob(q.sample(jax.random.key(0))).shape
    (8,)
    """

    # kl_divergence is that of the underlying categories, and not of the draws.
    has_exact_kl = False

    logits: ArrayLike
    temperature: ArrayLike
    event_ndims: int = static(default=2)

    def __post_init__(self) -> None:
        check_parameters("RelaxedCategorical", self.event_ndims, logits=self.logits)
        check_count("RelaxedCategorical: event_ndims", self.event_ndims)
        check_array("RelaxedCategorical: temperature", self.temperature)
        check_positive("RelaxedCategorical: temperature", self.temperature)
        shape = jnp.shape(self.logits)
        if len(shape) < self.event_ndims or shape[-1] == 0:
            raise ValueError(
                f"RelaxedCategorical: logits need {self.event_ndims} event axes, the last one of levels; "
                f"got shape {shape}"
            )
        batch = shape[: len(shape) - self.event_ndims]
        broadcast_shapes("RelaxedCategorical", logits=batch, temperature=jnp.shape(self.temperature))
        align_ranks(self, logits=self.event_ndims, temperature=0)

    @property
    def num_levels(self) -> int:
        """L, the number of levels."""
        return jnp.shape(self.logits)[-1]

    @property
    def probabilities(self) -> Array:
        """`softmax(logits)`, `[*B, N, L]`: how likely each level is to be the largest coordinate of a draw."""
        (logits,) = at_least_float32(self.logits)
        return jax.nn.softmax(logits)

    @property
    def mean(self) -> Array:
        """The `probabilities`, `[*B, N, L]`, as the point to decode where one is needed.

        They are the mean of the one-hot variable underneath. The relaxed one's own mean has no closed form
        and differs from them, unless all levels are equally likely or the temperature goes to 0.
        """
        return self.probabilities

    def kl_divergence(self, other: Distribution) -> Array:
        """The divergence of a `Categorical` from the *categoricals underneath*, in nats, `[*B]`.

        The temperature has no part in it: it is not that of the relaxed densities, for which there is no
        closed form (`monte_carlo_kl` to a relaxed prior estimates it), and with relaxed draws in the other
        term their difference is no strict lower bound on the evidence.

        Args:
          other: `Categorical` over `[*B, N]` with L levels; its `event_ndims` does not count the level axis,
            so it is one less than here.

        Source: Jang, Gu and Poole 2017; Maddison, Mnih and Teh 2017, appendix C, for what else may be relaxed.
        """
        prior = as_native(other)
        if not isinstance(prior, Categorical):
            raise no_closed_form(self, other)
        if prior.num_levels != self.num_levels:
            raise ValueError(f"kl_divergence: q has {self.num_levels} levels, p has {prior.num_levels}")
        return kl_divergence(Categorical(self.logits, self.event_ndims - 1), prior)

    def support(self, value: Array) -> Array:
        """Elementwise: positive, and part of a vector that sums to 1."""
        value = as_float(value)
        # Half precision rounds a coordinate near 1 by up to 4e-3.
        return (value > 0) & (abs(value.sum(axis=-1, keepdims=True) - 1.0) < 1e-2)

    def sample(self, key: Array, sample_shape: Shape = ()) -> Array:
        """Draw `[*S, *B, N, L]`, strictly inside the simplex."""
        logits, temperature = self._parameters()
        parameters = jnp.broadcast_shapes(logits.shape, temperature.shape)
        shape = draw_shape("RelaxedCategorical", key, sample_shape, parameters, self.event_ndims)
        noise = jax.random.gumbel(key, shape, logits.dtype)
        draw = jax.nn.softmax((logits + noise) / temperature)
        # Low temperatures underflow. The floor is too small to be seen in a sum, and large enough that its
        # logarithm and the reciprocal in the gradient of the logarithm are finite.
        return jnp.maximum(draw, 8192 * float(jnp.finfo(draw.dtype).tiny))

    def log_prob(self, value: Array) -> Array:
        """Log-density in nats, `[*S, *B]`."""
        logits, temperature = self._parameters()
        shape = jnp.broadcast_shapes(logits.shape, temperature.shape)
        check_event_shape("RelaxedCategorical.log_prob: value", value, shape, self.event_ndims)
        check_support("RelaxedCategorical.log_prob: value", value, self.support, "positive and sum to 1")
        value, logits, temperature = at_least_float32(value, logits, temperature)
        log_value = jnp.log(value)
        terms = jax.nn.log_softmax(logits - temperature * log_value) - log_value
        volume = math.lgamma(self.num_levels) + (self.num_levels - 1) * jnp.log(temperature[..., 0])
        return sum_event(jnp.sum(terms, axis=-1) + volume, self.event_ndims - 1)

    def _parameters(self) -> tuple[Array, Array]:
        """The logits, and the temperature with an axis of size 1 for each event axis."""
        logits, temperature = at_least_float32(self.logits, self.temperature)
        return logits, temperature.reshape(temperature.shape + (1,) * self.event_ndims)
