"""Likelihoods of pixels in {0, 1} and in [0, 1], both given by logits."""

import jax
import jax.numpy as jnp

from vaejax.checks import check_event_shape, check_support
from vaejax.distributions._base import (
    at_least_float32,
    check_parameters,
    distribution,
    draw_shape,
    flatten_event,
    nan_outside,
    static,
)
from vaejax.types import Array, ArrayLike, Shape


@jax.custom_jvp
def softplus(logits: Array) -> Array:
    """`log(1 + exp(l))`, stable for every l, with the sigmoid as its derivative.

    The derivative is given because automatic differentiation of the stable form is slower and has a
    wrong second derivative at 0, where a net with zero-initialised outputs starts.
    """
    return jnp.maximum(logits, 0.0) + jnp.log1p(jnp.exp(-jnp.abs(logits)))


@softplus.defjvp
def _softplus_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (logits,), (tangent,) = primals, tangents
    return softplus(logits), jax.nn.sigmoid(logits) * tangent


# How often an event is folded in two before a logarithm is taken.
FOLDS = 4


@jax.custom_jvp
def _sum_log_prob(value: Array, logits: Array) -> Array:
    """`sum_i [x_i l_i - log(1 + exp(l_i))]` over the last axis, with `x - sigmoid(l)` as its derivative.

    `sum_i log(1 + e_i) = log prod_i (1 + e_i)`, `e = exp(-|l|)`: a logarithm of up to 16 factors in place of as many
    logarithms. Adding elements one half of the axis to the other leaves one loop with no array of its size in between.
    """
    linear, excess = jnp.broadcast_arrays(value * logits - jnp.maximum(logits, 0.0), jnp.exp(-jnp.abs(logits)))
    for _ in range(FOLDS):
        if linear.shape[-1] % 2:
            break
        linear = jnp.add(*jnp.split(linear, 2, axis=-1))
        first, second = jnp.split(excess, 2, axis=-1)
        # (1 + a) (1 + b) - 1, in which no small a is lost.
        excess = first + second + first * second
    return jnp.sum(linear - jnp.log1p(excess), axis=-1)


@_sum_log_prob.defjvp
def _sum_log_prob_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (value, logits), (value_tangent, logits_tangent) = primals, tangents
    change = value_tangent * logits + (value - jax.nn.sigmoid(logits)) * logits_tangent
    return _sum_log_prob(value, logits), jnp.sum(change, axis=-1)


@distribution
class Bernoulli:
    """Independent Bernoullis with success probability `sigmoid(logits)`, on {0, 1}.

    `log p(x) = sum_i [ x_i l_i - log(1 + exp(l_i)) ]`, finite with its gradient for every finite logit.

    Grey pixels are no Bernoulli data: binarize them, or use `ContinuousBernoulli`, `Normal` or
    `Categorical`. A concrete value outside {0, 1} raises `ValueError`.

    Args:
      logits: `[*B, *E]`.
      event_ndims: how many trailing axes are one event, whose log-probabilities are summed.

    >>> import jax.numpy as jnp
    >>> Bernoulli(jnp.zeros((8, 784))).log_prob(jnp.ones((8, 784))).shape
    (8,)
    """

    has_rsample = False
    is_discrete = True

    logits: ArrayLike
    event_ndims: int = static(default=1)

    def __post_init__(self) -> None:
        check_parameters("Bernoulli", self.event_ndims, logits=self.logits)

    @property
    def mean(self) -> Array:
        """The success probabilities, `[*B, *E]`."""
        return jax.nn.sigmoid(*at_least_float32(self.logits))

    def support(self, value: Array) -> Array:
        """Elementwise: 0 or 1."""
        return (value == 0) | (value == 1)

    def sample(self, key: Array, sample_shape: Shape = ()) -> Array:
        """Draw `[*S, *B, *E]`, zeros and ones as floats."""
        shape = draw_shape("Bernoulli", key, sample_shape, jnp.shape(self.logits), self.event_ndims)
        return jax.random.bernoulli(key, self.mean, shape).astype(self.mean.dtype)

    def log_prob(self, value: Array) -> Array:
        """Log-probability in nats, `[*S, *B]`."""
        check_event_shape("Bernoulli.log_prob: value", value, jnp.shape(self.logits), self.event_ndims)
        check_support("Bernoulli.log_prob: value", value, self.support, "0 or 1 (binarize grey data first)")
        value, logits = flatten_event(self.event_ndims, *at_least_float32(value, self.logits))
        return nan_outside(jnp.all(self.support(value), axis=-1), _sum_log_prob(value, logits))


# Below this distance from 0 the closed forms of the continuous Bernoulli lose their digits to
# cancellation, and their Taylor series are exact to rounding.
SERIES_BELOW = 0.5


def log_partition(logits: Array) -> Array:
    """`A(l) = log((exp(l) - 1) / l)`, so that `exp(x l - A(l))` integrates to 1 on [0, 1]."""
    near_zero = jnp.abs(logits) < SERIES_BELOW
    # Each branch sees only arguments at which its gradient is finite: `where` would spread a NaN.
    far = jnp.where(near_zero, 1.0, jnp.abs(logits))
    closed = jnp.maximum(logits, 0.0) + jnp.log(-jnp.expm1(-far) / far)
    half = jnp.where(near_zero, logits, 0.0) / 2.0
    square = half**2
    # log(sinh(h) / h) by its Taylor series.
    even = square * (1 / 6 + square * (-1 / 180 + square * (1 / 2835 + square * (-1 / 37800 + square / 467775))))
    return jnp.where(near_zero, half + even, closed)


@distribution
class ContinuousBernoulli:
    """Independent continuous Bernoullis on [0, 1]: the likelihood that grey pixels should have.

    `log p(x) = sum_i [ x_i l_i - A(l_i) ]`, `A(l) = log((exp(l) - 1) / l)`, the normalised form of the
    Bernoulli formula on grey data; `A` is computed without cancellation around `l = 0`.

    Args:
      logits: natural parameters, `[*B, *E]`. The mean is not their sigmoid: see `mean`.
      event_ndims: how many trailing axes are one event, whose log-densities are summed.

    Source: Loaiza-Ganem and Cunningham 2019, The continuous Bernoulli: fixing a pervasive error in
    variational autoencoders.

    >>> import jax.numpy as jnp
    >>> ContinuousBernoulli(jnp.zeros((1, 5))).log_prob(0.3 * jnp.ones((1, 5))).item()
    0.0
    """

    logits: ArrayLike
    event_ndims: int = static(default=1)

    def __post_init__(self) -> None:
        check_parameters("ContinuousBernoulli", self.event_ndims, logits=self.logits)

    @property
    def mean(self) -> Array:
        """`A'(l) = 1 / (1 - exp(-l)) - 1 / l`, one half at 0."""
        (logits,) = at_least_float32(self.logits)
        near_zero = jnp.abs(logits) < SERIES_BELOW
        # Far from 0, 1 / (1 - exp(-l)) as sigmoid(l) / tanh(l / 2), which overflows at neither end.
        far = jnp.where(near_zero, 1.0, logits)
        small = jnp.where(near_zero, logits, 0.0)
        square = small**2
        last = 1 / 47900160 - square * (691 / 1307674368000)
        odd = -1 / 720 + square * (1 / 30240 + square * (-1 / 1209600 + square * last))
        series = 0.5 + small * (1 / 12 + square * odd)
        return jnp.where(near_zero, series, jax.nn.sigmoid(far) / jnp.tanh(far / 2) - 1 / far)

    def support(self, value: Array) -> Array:
        """Elementwise: in [0, 1]."""
        return (value >= 0) & (value <= 1)

    def sample(self, key: Array, sample_shape: Shape = ()) -> Array:
        """Draw `[*S, *B, *E]` by the inverse of the distribution function, differentiable in the logits."""
        shape = draw_shape("ContinuousBernoulli", key, sample_shape, jnp.shape(self.logits), self.event_ndims)
        (logits,) = at_least_float32(self.logits)
        uniform = jax.random.uniform(key, shape, logits.dtype)
        near_zero = jnp.abs(logits) < 0.05
        # For l < 0 the inverse is log1p(u expm1(l)) / l; l > 0 is its mirror image.
        far = -jnp.where(near_zero, 1.0, jnp.abs(logits))
        falling = jnp.log1p(uniform * jnp.expm1(far)) / far
        closed = jnp.where(logits > 0, 1.0 - falling, falling)
        small = jnp.where(near_zero, logits, 0.0)
        spread = uniform * (1 - uniform)
        series = uniform + small * spread * (0.5 + small * (1 - 2 * uniform) / 6 + small**2 * (1 - 6 * spread) / 24)
        return jnp.clip(jnp.where(near_zero, series, closed), 0.0, 1.0)

    def log_prob(self, value: Array) -> Array:
        """Log-density in nats, `[*S, *B]`."""
        check_event_shape("ContinuousBernoulli.log_prob: value", value, jnp.shape(self.logits), self.event_ndims)
        check_support("ContinuousBernoulli.log_prob: value", value, self.support, "in [0, 1] (rescale the data)")
        value, logits = flatten_event(self.event_ndims, *at_least_float32(value, self.logits))
        inside = jnp.all(self.support(value), axis=-1)
        return nan_outside(inside, jnp.sum(value * logits - log_partition(logits), axis=-1))
