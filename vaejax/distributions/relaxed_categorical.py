"""Categorical latents made continuous, so that a gradient passes through their draws."""

import math

import jax
import jax.numpy as jnp

from vaejax.checks import check_array, check_count, check_event_shape, check_positive, check_support, namespace_of
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
    sum_event,
)
from vaejax.distributions.categorical import Categorical
from vaejax.types import Array, ArrayLike, Shape


@distribution
class RelaxedCategorical:
    """Independent relaxed one-hot vectors: the Gumbel-softmax or concrete distribution on the simplex.

    `y = softmax((logits + g) / t)`, g standard Gumbel noise, differentiable in the logits l; its density is
    `log p(y) = sum_n [ log (L-1)! + (L-1) log t + sum_k log softmax(l - t log y)_k - sum_k log y_k ]`

    with respect to Lebesgue measure on the first L - 1 coordinates. As the temperature t goes to 0 the draws
    become one-hot and the variance of the gradient grows.

    At low temperatures most coordinates underflow, and the density at such a point is lost: `log_prob` is NaN there
    (`sample_and_log_prob` still knows that of its own draws). Where a density at low temperatures is needed, that of a
    relaxed prior for example, use `log_space=True`: draws and values are then `log y`, `decode` takes `jnp.exp(z)`, and

    `log p(log y) = sum_n [ log (L-1)! + (L-1) log t + sum_k log softmax(l - t log y)_k ]`

    with respect to a measure that cancels in the ratio of two such densities.

    Args:
      logits: `[*B, N, L]`, normalised here: N vectors of L levels.
      temperature: t, positive, broadcast against `*B`; it may be traced, to be annealed.
      event_ndims: how many trailing axes are one event, the level axis counted; at least 1 (one vector).
      log_space: whether draws and values are the logarithms of the vectors.

    Raises:
      ValueError: shapes that do not fit, or a concrete temperature that is not positive.

    Source: Jang, Gu and Poole 2017, Categorical Reparameterization with Gumbel-Softmax; Maddison, Mnih and
    Teh 2017, The Concrete Distribution, definition 1, and appendix C.3 for the logarithms.

    >>> import jax, jax.numpy as jnp
    >>> q = RelaxedCategorical(jnp.zeros((8, 20, 10)), 0.5)
    >>> q.log_prob(q.sample(jax.random.key(0))).shape
    (8,)
    """

    is_singular = True

    logits: ArrayLike
    temperature: ArrayLike
    event_ndims: int = static(default=2)
    log_space: bool = static(default=False)

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
        """The `probabilities`, `[*B, N, L]`, or their logarithms, as the point to decode where one is needed.

        They are the mean of the one-hot variable underneath. The relaxed one's own mean has no closed form
        and differs from them, unless all levels are equally likely or the temperature goes to 0.
        """
        (logits,) = at_least_float32(self.logits)
        return jax.nn.log_softmax(logits) if self.log_space else self.probabilities

    @property
    def categorical(self) -> Categorical:
        """The categoricals underneath, over `[*B, N]`: which coordinate of a draw is the largest."""
        return Categorical(self.logits, self.event_ndims - 1)

    def kl_divergence(self, other: object) -> Array:
        """Not known in closed form: raises `TypeError`."""
        raise TypeError(
            f"kl_divergence: no closed form for RelaxedCategorical to {type(other).__name__}; estimate it with "
            f"monte_carlo_kl to a relaxed prior, or penalise the categoricals underneath with categorical_kl, which "
            f"makes the objective a surrogate and no bound"
        )

    def support(self, value: Array) -> Array:
        """Elementwise: positive, and part of a vector that sums to 1; or the logarithms of one."""
        value = as_float(value)
        total = namespace_of(value).exp(value) if self.log_space else value
        # Half precision rounds a coordinate near 1 by up to 4e-3.
        inside = abs(total.sum(axis=-1, keepdims=True) - 1.0) < 1e-2
        return inside & (value <= 0.01) if self.log_space else inside & (value > 0)

    def sample(self, key: Array, sample_shape: Shape = ()) -> Array:
        """Draw `[*S, *B, N, L]`, strictly inside the simplex, or the logarithms of that."""
        return self._point(self._log_draw(key, sample_shape))

    def sample_and_log_prob(self, key: Array, sample_shape: Shape = ()) -> tuple[Array, Array]:
        """The draw of `sample` and its log-density `[*S, *B]`, right also where the draw underflows."""
        log_draw = self._log_draw(key, sample_shape)
        return self._point(log_draw), self._log_density(log_draw)

    def log_prob(self, value: Array) -> Array:
        """Log-density in nats, `[*S, *B]`; NaN where a coordinate has underflowed."""
        logits, temperature = self._parameters()
        shape = jnp.broadcast_shapes(logits.shape, temperature.shape)
        check_event_shape("RelaxedCategorical.log_prob: value", value, shape, self.event_ndims)
        expected = "logarithms of numbers that sum to 1" if self.log_space else "positive and sum to 1"
        check_support("RelaxedCategorical.log_prob: value", value, self.support, expected)
        (value,) = at_least_float32(value)
        inside = self.support(value)
        if not self.log_space:
            inside = inside & (value > _floor(value))
            value = jnp.log(jnp.where(inside, value, 1.0))
        axes = tuple(range(-self.event_ndims, 0))
        return nan_outside(jnp.all(inside, axis=axes), self._log_density(value))

    def _log_draw(self, key: Array, sample_shape: Shape) -> Array:
        logits, temperature = self._parameters()
        parameters = jnp.broadcast_shapes(logits.shape, temperature.shape)
        shape = draw_shape("RelaxedCategorical", key, sample_shape, parameters, self.event_ndims)
        return jax.nn.log_softmax((logits + jax.random.gumbel(key, shape, logits.dtype)) / temperature)

    def _point(self, log_draw: Array) -> Array:
        """What is drawn, of its logarithm."""
        if self.log_space:
            return log_draw
        # Low temperatures underflow. The floor keeps draws inside the simplex and is too small to be seen in a sum.
        return jnp.maximum(jnp.exp(log_draw), _floor(log_draw))

    def _log_density(self, log_value: Array) -> Array:
        logits, temperature = self._parameters()
        log_value, logits, temperature = at_least_float32(log_value, logits, temperature)
        terms = jax.nn.log_softmax(logits - temperature * log_value)
        if not self.log_space:
            terms = terms - log_value
        volume = math.lgamma(self.num_levels) + (self.num_levels - 1) * jnp.log(temperature[..., 0])
        return sum_event(jnp.sum(terms, axis=-1) + volume, self.event_ndims - 1)

    def _parameters(self) -> tuple[Array, Array]:
        """The logits, and the temperature with an axis of size 1 for each event axis."""
        logits, temperature = at_least_float32(self.logits, self.temperature)
        return logits, temperature.reshape(temperature.shape + (1,) * self.event_ndims)


def _floor(value: Array) -> float:
    """The least coordinate of a draw: large enough that its reciprocal is finite."""
    return 8192 * float(jnp.finfo(value.dtype).tiny)
