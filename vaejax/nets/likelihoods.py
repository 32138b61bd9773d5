"""Heads for counts and for levels: Poisson, negative binomial and discretized logistics."""

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


def poisson(bound: Bound | None = bound_log_scale) -> Head:
    """Counts: the logarithm of a rate each."""
    return Head(
        1, lambda _, raw, event_ndims: Poisson(bounded(raw[..., 0], bound), event_ndims), standardize=_log_counts
    )


def negative_binomial(initial_dispersion: ArrayLike = 1.0, bound: Bound | None = bound_log_scale) -> Head:
    """Counts that spread more than a Poisson's: log-mean from the net, one dispersion per element learned along.

    Source: Lopez et al. 2018, Deep Generative Modeling for Single-cell Transcriptomics, whose likelihood it is.
    """
    check_array("negative_binomial: initial_dispersion", initial_dispersion)
    check_positive("negative_binomial: initial_dispersion", initial_dispersion)

    def init(key: Array, event_shape: Shape) -> Params:
        return {"log_dispersion": jnp.full(event_shape, jnp.log(initial_dispersion))}

    def distribution(params: Params, raw: Array, event_ndims: int) -> Distribution:
        mean, dispersion = (jnp.exp(bounded(each, bound)) for each in (raw[..., 0], params["log_dispersion"]))
        return NegativeBinomial.from_mean(mean, dispersion, event_ndims)

    return Head(1, distribution, init, _log_counts)


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
        centre = centre + jnp.linspace(-1.0, 1.0, 2 * num_components + 1)[1::2]
        scale = half * jnp.exp(bounded(log_scale, bound))
        return discretized_logistic_mixture(logits, half * (1 + centre), scale, num_levels, event_ndims)

    return Head(3 * num_components, distribution, standardize=lambda x: _unit(x, num_levels))


def _log_counts(x: Array) -> Array:
    """Counts may be of any size; a net sees their logarithms."""
    return jnp.log1p(jnp.asarray(x, jnp.float32))


def _unit(x: Array, num_levels: int) -> Array:
    return jnp.asarray(x, jnp.float32) / (num_levels - 1)
