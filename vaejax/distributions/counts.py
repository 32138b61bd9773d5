"""Likelihoods of counts: the Poisson and, where counts vary more than that, the negative binomial."""

import jax
import jax.numpy as jnp

from vaejax.checks import check_event_shape, check_positive, check_support
from vaejax.distributions._base import (
    LOG_TWO_PI,
    align_ranks,
    at_least_float32,
    check_parameters,
    distribution,
    draw_shape,
    flatten_event,
    is_count,
    nan_outside,
    parameter_shape,
    static,
    sum_event,
)
from vaejax.distributions._closed_form import check_same_event, no_closed_form
from vaejax.distributions._gamma import stirling_error
from vaejax.distributions.bernoulli import softplus
from vaejax.types import Array, ArrayLike, Shape


@distribution
class Poisson:
    """Independent Poisson distributions on 0, 1, 2, ...

    `log p(x) = sum_i [ x_i log_rate_i - exp(log_rate_i) - log x_i! ]`

    computed as a sum of small terms, so that float32 keeps its digits also for counts in the millions.

    Args:
      log_rate: logarithms of the rates, which are the means and the variances, `[*B, *E]`.
      event_ndims: how many trailing axes are one event, whose log-probabilities are summed.

    Source: the arrangement of the terms is that of Loader 2000, Fast and Accurate Computation of Binomial
    Probabilities.

    >>> import jax.numpy as jnp
    >>> Poisson(jnp.zeros((8, 2))).log_prob(jnp.zeros((8, 2)))[0].item()
    -2.0
    """

    log_rate: ArrayLike
    event_ndims: int = static(default=1)

    has_rsample = False
    is_discrete = True

    def __post_init__(self) -> None:
        check_parameters("Poisson", self.event_ndims, log_rate=self.log_rate)

    @property
    def mean(self) -> Array:
        """The rates, `[*B, *E]`."""
        return jnp.exp(*at_least_float32(self.log_rate))

    def kl_divergence(self, other: object) -> Array:
        """`KL(q || p) = sum_i [ r_q (log r_q - log r_p) - r_q + r_p ]` to another Poisson, in nats, `[*B]`."""
        if not isinstance(other, Poisson):
            raise no_closed_form(self, other)
        check_same_event(self, other, self.mean, other.mean)
        log_q, log_p = at_least_float32(self.log_rate, other.log_rate)
        # Rates of 0 have no difference of logarithms: KL(0 || p) = p, KL(q || 0) is infinite.
        none_q, none_p = log_q == -jnp.inf, log_p == -jnp.inf
        difference = jnp.where(none_q | none_p, 0.0, log_q - log_p)
        # In units of the larger rate, so that the exponential of the difference does not overflow. Each side sees
        # only differences of its own sign; at 0, where both agree, one of them has the derivatives.
        above, below = (jnp.where(side, difference, 0.0) for side in (difference > 0, difference <= 0))
        falling = jnp.exp(log_q) * (above + jnp.expm1(-above))
        rising = jnp.exp(log_p) * (below * jnp.exp(below) - jnp.expm1(below))
        divergence = jnp.where(difference > 0, falling, rising)
        divergence = jnp.where(none_p, jnp.inf, divergence)
        return sum_event(jnp.where(none_q, jnp.exp(log_p), divergence), self.event_ndims)

    def support(self, value: Array) -> Array:
        """Elementwise: an integer of at least 0."""
        return is_count(value)

    def sample(self, key: Array, sample_shape: Shape = ()) -> Array:
        """Draw counts `[*S, *B, *E]` as whole floats, which are of any size; NaN of a rate that is NaN."""
        shape = draw_shape("Poisson", key, sample_shape, jnp.shape(self.log_rate), self.event_ndims)
        return _draw_counts(key, self.mean, shape)

    def log_prob(self, value: Array) -> Array:
        """Log-probability in nats, `[*S, *B]`."""
        check_event_shape("Poisson.log_prob: value", value, jnp.shape(self.log_rate), self.event_ndims)
        check_support("Poisson.log_prob: value", value, self.support, "counts (integers of at least 0)")
        value, log_rate = flatten_event(self.event_ndims, *at_least_float32(value, self.log_rate))
        # log p(x) = -x (e^d - 1 - d) - log(2 pi x) / 2 - stirling_error(x), d = log_rate - log x; -rate at 0.
        count = jnp.where(value > 0, value, 1.0)
        positive = -_deviance(count, log_rate - jnp.log(count)) - _half_log(count) - stirling_error(count)
        log_prob = jnp.where(value > 0, positive, -jnp.exp(log_rate))
        return jnp.sum(nan_outside(is_count(value), log_prob), axis=-1)


@distribution
class NegativeBinomial:
    """Independent negative binomial distributions on 0, 1, 2, ...: Poisson with a gamma-distributed rate.

    `log p(x) = sum_i [ log Gamma(x_i + r_i) - log Gamma(r_i) - log x_i!
    - r_i log(1 + exp(l_i)) - x_i log(1 + exp(-l_i)) ]`

    computed as a sum of small terms, so that float32 keeps its digits for large counts and total counts. The
    mean is `r exp(l)` and the variance `mean + mean^2 / r`; as r grows at a given mean it tends to the Poisson.

    Args:
      total_count: r, positive, not necessarily an integer, `[*B, *E]`.
      logits: l, the log-odds of one more count, broadcast against `total_count`.
      event_ndims: how many trailing axes are one event, whose log-probabilities are summed.

    Source: the arrangement of the terms is that of Loader 2000, Fast and Accurate Computation of Binomial
    Probabilities.

    >>> import jax.numpy as jnp
    >>> NegativeBinomial.from_mean(3.0 * jnp.ones((8, 2)), 10.0).log_prob(jnp.ones((8, 2))).shape
    (8,)
    """

    total_count: ArrayLike
    logits: ArrayLike
    event_ndims: int = static(default=1)

    has_rsample = False
    is_discrete = True

    def __post_init__(self) -> None:
        check_parameters("NegativeBinomial", self.event_ndims, total_count=self.total_count, logits=self.logits)
        check_positive("NegativeBinomial: total_count", self.total_count)
        align_ranks(self, total_count=0, logits=0)

    @classmethod
    def from_mean(cls, mean: ArrayLike, dispersion: ArrayLike, event_ndims: int = 1) -> "NegativeBinomial":
        """The one of a given mean, with `dispersion` as its total count: variance `mean + mean^2 / dispersion`.

        The *larger* the dispersion, the closer to the Poisson; some call it the inverse dispersion.
        """
        check_parameters("NegativeBinomial.from_mean", event_ndims, mean=mean, dispersion=dispersion)
        check_positive("NegativeBinomial.from_mean: mean", mean)
        check_positive("NegativeBinomial.from_mean: dispersion", dispersion)
        mean, dispersion = at_least_float32(mean, dispersion)
        return cls(dispersion, jnp.log(mean) - jnp.log(dispersion), event_ndims)

    @property
    def mean(self) -> Array:
        """The mean, `[*B, *E]`."""
        total_count, logits = at_least_float32(self.total_count, self.logits)
        return total_count * jnp.exp(logits)

    def support(self, value: Array) -> Array:
        """Elementwise: an integer of at least 0."""
        return is_count(value)

    def sample(self, key: Array, sample_shape: Shape = ()) -> Array:
        """Draw counts `[*S, *B, *E]` as whole floats: a rate from a gamma, a count from its Poisson."""
        parameters = parameter_shape(self.total_count, self.logits)
        shape = draw_shape("NegativeBinomial", key, sample_shape, parameters, self.event_ndims)
        rate_key, count_key = jax.random.split(key)
        total_count, logits = at_least_float32(self.total_count, self.logits)
        log_rate = jax.random.loggamma(rate_key, total_count, shape, logits.dtype) + logits
        return _draw_counts(count_key, jnp.exp(log_rate), shape)

    def log_prob(self, value: Array) -> Array:
        """Log-probability in nats, `[*S, *B]`."""
        parameters = parameter_shape(self.total_count, self.logits)
        check_event_shape("NegativeBinomial.log_prob: value", value, parameters, self.event_ndims)
        check_support("NegativeBinomial.log_prob: value", value, self.support, "counts (integers of at least 0)")
        arrays = at_least_float32(value, self.total_count, self.logits)
        value, total, logits = flatten_event(self.event_ndims, *arrays)
        count = jnp.where(value > 0, value, 1.0)
        # The r + x trials in which r fail and x succeed: r e^u + x e^v = r + x, so that the two deviances
        # below add up to the logarithm of the ratio, and each is small where the count is near the mean.
        failures = _deviance(total, jnp.log1p(count / total) - softplus(logits))
        successes = _deviance(count, jnp.log1p(total / count) - softplus(-logits))
        rest = stirling_error(total + count) - stirling_error(total) - stirling_error(count)
        positive = rest - failures - successes - _half_log(count) - 0.5 * jnp.log1p(count / total)
        log_prob = jnp.where(value > 0, positive, -total * softplus(logits))
        return jnp.sum(nan_outside(is_count(value), log_prob), axis=-1)


# Above it a Poisson's counts leave 32 bits, and its skewness, 1 / sqrt(rate), is below the rounding of float32.
_LARGEST_RATE = 2.0**30


def _draw_counts(key: Array, rate: Array, shape: Shape) -> Array:
    """Poisson counts as whole floats of the type of the rates: integers of 32 bits would end at 2,147,483,647."""
    count_key, noise_key = jax.random.split(key)
    small = rate < _LARGEST_RATE
    counts = jax.random.poisson(count_key, jnp.where(small, rate, 0.0), shape, jnp.int32).astype(rate.dtype)
    noise = jax.random.normal(noise_key, shape, rate.dtype)
    # Of an infinite rate without its noise, which would be infinity minus infinity.
    spread = jnp.where(jnp.isfinite(rate), jnp.sqrt(rate), 0.0)
    return jnp.where(small, counts, jnp.round(rate + spread * noise))


def _deviance(weight: Array, difference: Array) -> Array:
    """`w (e^d - 1 - d)`, at least 0."""
    return weight * (jnp.expm1(difference) - difference)


def _half_log(count: Array) -> Array:
    """`log(2 pi x) / 2`."""
    return 0.5 * (jnp.log(count) + LOG_TWO_PI)
