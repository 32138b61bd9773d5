"""Heads for counts and for levels: Poisson, negative binomial and discretized logistics."""

from functools import partial

import jax.numpy as jnp

from vaejax.checks import check_array, check_count, check_positive
from vaejax.distributions import (
    DiscretizedLogistic,
    NegativeBinomial,
    Poisson,
    bound_log_scale,
    discretized_logistic_mixture,
)
from vaejax.distributions.bounds import Bound, bounded
from vaejax.nets.heads import Head
from vaejax.types import Array, ArrayLike, Distribution, Params, Shape


def poisson(bound: Bound | None = bound_log_scale, *, initial_mean: ArrayLike = 1.0) -> Head:
    """Counts: the logarithm of a rate each, `log rate = log initial_mean + bound(raw)`.

    Args:
      bound: of the net's share of the log-rate.
      initial_mean: the rates at outputs of 0, `[*E]`: the means of the training data where counts are large, to which
        the net then sees them relative.

    Raises:
      ValueError: a mean that is not positive.
    """
    log_mean = _log_mean("poisson", initial_mean)

    def distribution(_: Params, raw: Array, event_ndims: int) -> Distribution:
        return Poisson(log_mean + bounded(raw[..., 0], bound), event_ndims)

    return Head(1, distribution, standardize=partial(_log_counts, log_mean))


def negative_binomial(
    initial_dispersion: ArrayLike = 1.0, bound: Bound | None = bound_log_scale, *, initial_mean: ArrayLike = 1.0
) -> Head:
    """Counts that spread more than a Poisson's: log-mean from the net, one dispersion per element learned along.

    `log mean = log initial_mean + bound(raw)`

    Args:
      initial_dispersion: where the learned dispersion starts, `[*E]`; see `NegativeBinomial.from_mean`.
      bound: of the net's share of the log-mean, and of the log-dispersion.
      initial_mean: the means at outputs of 0, `[*E]`: those of the training data where counts are large, to which the
        net then sees them relative.

    Raises:
      ValueError: a dispersion or a mean that is not positive.

    Source: Lopez et al. 2018, Deep Generative Modeling for Single-cell Transcriptomics, whose likelihood it is.
    """
    check_array("negative_binomial: initial_dispersion", initial_dispersion)
    check_positive("negative_binomial: initial_dispersion", initial_dispersion)

    log_mean = _log_mean("negative_binomial", initial_mean)

    def init(key: Array, event_shape: Shape) -> Params:
        return {"log_dispersion": jnp.full(event_shape, jnp.log(initial_dispersion), jnp.float32)}

    def distribution(params: Params, raw: Array, event_ndims: int) -> Distribution:
        mean, dispersion = (bounded(each, bound) for each in (raw[..., 0], params["log_dispersion"]))
        return NegativeBinomial.from_mean(jnp.exp(log_mean + mean), jnp.exp(dispersion), event_ndims)

    return Head(1, distribution, init, partial(_log_counts, log_mean))


def discretized_logistic(num_levels: int = 256, bound: Bound | None = bound_log_scale) -> Head:
    """Levels from 0 to `num_levels - 1`: centre and log-scale of a logistic each, in units of half the range.

    Source: Kingma et al. 2016, Improved Variational Inference with Inverse Autoregressive Flow.
    """
    check_count("discretized_logistic: num_levels", num_levels, minimum=2)
    half = (num_levels - 1) / 2

    def distribution(_: Params, raw: Array, event_ndims: int) -> Distribution:
        scale = half * jnp.exp(bounded(raw[..., 1], bound))
        return DiscretizedLogistic(half * (1 + raw[..., 0]), scale, num_levels, event_ndims)

    return Head(2, distribution, standardize=lambda x: _unit(x, num_levels))


def logistic_mixture(num_levels: int = 256, num_components: int = 5, bound: Bound | None = bound_log_scale) -> Head:
    """Levels from 0 to `num_levels - 1`: a mixture of discretized logistics for each element.

    Source: Salimans et al. 2017, PixelCNN++.
    """
    check_count("logistic_mixture: num_levels", num_levels, minimum=2)
    check_count("logistic_mixture: num_components", num_components)
    half = (num_levels - 1) / 2

    def distribution(_: Params, raw: Array, event_ndims: int) -> Distribution:
        logits, centre, log_scale = jnp.split(raw, 3, axis=-1)
        # Spread over the range at the start, since components at one place would stay there together.
        centre = centre + jnp.linspace(-1.0, 1.0, 2 * num_components + 1, dtype=jnp.float32)[1::2]
        scale = half * jnp.exp(bounded(log_scale, bound))
        return discretized_logistic_mixture(logits, half * (1 + centre), scale, num_levels, event_ndims)

    return Head(3 * num_components, distribution, standardize=lambda x: _unit(x, num_levels))


def _log_mean(owner: str, initial_mean: ArrayLike) -> Array:
    check_array(f"{owner}: initial_mean", initial_mean)
    check_positive(f"{owner}: initial_mean", initial_mean)
    return jnp.log(jnp.asarray(initial_mean, jnp.float32))


def _log_counts(log_mean: Array, x: Array) -> Array:
    """Counts may be of any size; a net sees their logarithms, those of large ones by that of their mean."""
    return jnp.log1p(jnp.asarray(x, jnp.float32)) - jnp.maximum(log_mean, 0.0)


def _unit(x: Array, num_levels: int) -> Array:
    return jnp.asarray(x, jnp.float32) / (num_levels - 1)
