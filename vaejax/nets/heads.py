"""Heads: what turns a net's raw outputs into a distribution.

The same heads serve at both ends: a likelihood over data is the head of a decoder, a posterior over
latents the head of an encoder. A new one needs no class: a head says
how many raw outputs it wants per element, how they become a distribution, what parameters of its own
it has (a learned scale, say), and how a net should see data of its kind.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from vaejax.checks import check_array, check_count, check_positive
from vaejax.distributions import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    Delta,
    Masked,
    Normal,
    OptimalNormal,
    bound_log_scale,
)
from vaejax.distributions.bounds import Bound
from vaejax.types import Array, ArrayLike, Distribution, Params, Shape


def _no_parameters(key: Array, event_shape: Shape) -> Params:
    return {}


def _as_float(x: Array) -> Array:
    return jnp.asarray(x).astype(jnp.promote_types(jnp.result_type(x), jnp.float32))


class Head(NamedTuple):
    """Raw outputs `[*B, *E, channels]` to a distribution over `[*B, *E]`."""

    channels: int  # raw outputs per element of the event
    distribution: Callable[[Params, Array, int], Distribution]  # (own parameters, raw, event_ndims)
    init: Callable[[Array, Shape], Params] = _no_parameters  # key and event shape to the head's own parameters
    standardize: Callable[[Array], Array] = _as_float  # data of this kind as floats for a net


def bernoulli() -> Head:
    """Pixels in {0, 1}: one logit each."""
    return Head(1, lambda _, raw, event_ndims: Bernoulli(raw[..., 0], event_ndims))


def continuous_bernoulli() -> Head:
    """Pixels in [0, 1]: one natural parameter each."""
    return Head(1, lambda _, raw, event_ndims: ContinuousBernoulli(raw[..., 0], event_ndims))


def categorical(num_levels: int = 256) -> Head:
    """Integer pixels from 0 to `num_levels - 1`: a logit per level."""
    check_count("categorical: num_levels", num_levels, minimum=2)
    return Head(
        num_levels,
        lambda _, raw, event_ndims: Categorical(raw, event_ndims),
        standardize=lambda x: _as_float(x) / (num_levels - 1),
    )


def normal(scale: ArrayLike = 1.0) -> Head:
    """Real data with a fixed standard deviation: half the squared error over `scale^2`, and a constant.

    The scale is in the units of the data, and decides how much a reconstruction is worth. One that is wider than the
    data makes the posterior collapse, as 1 does on data in [0, 1], and no warm-up of beta helps: learn it, with
    `learned_normal`. One that is far narrower makes losses that nothing trains: see `standardized`.
    """
    check_array("normal: scale", scale)
    check_positive("normal: scale", scale)
    return Head(1, lambda _, raw, event_ndims: Normal(raw[..., 0], scale, event_ndims))


def learned_normal(initial_scale: ArrayLike = 1.0, bound: Bound | None = bound_log_scale) -> Head:
    """Real data with one standard deviation for all of it, learned along with the net: the usual choice.

    It starts at `initial_scale`, in the units of the data; for those of another spread than about 1 see `standardized`.

    Source: Rybkin, Daniilidis and Levine 2021 (sigma-VAE).
    """
    return _normal_with_parameter(initial_scale, bound, lambda event_shape: ())


def per_dimension_normal(initial_scale: ArrayLike = 1.0, bound: Bound | None = bound_log_scale) -> Head:
    """Real data with one learned standard deviation per element of the event, the same for all examples."""
    return _normal_with_parameter(initial_scale, bound, lambda event_shape: event_shape)


def predicted_normal(bound: Bound | None = bound_log_scale) -> Head:
    """Mean and log-scale from the net: the usual posterior, and a likelihood with a scale per example."""
    return Head(2, lambda _, raw, event_ndims: Normal.from_log_scale(raw[..., 0], raw[..., 1], event_ndims, bound))


def optimal_normal(min_scale: float = 1e-3) -> Head:
    """Real data with the closed-form best standard deviation of each example; see `OptimalNormal`."""
    return Head(1, lambda _, raw, event_ndims: OptimalNormal(raw[..., 0], event_ndims, min_scale))


def standardized(head: Head, mean: ArrayLike, scale: ArrayLike) -> Head:
    """Real data in units of their own, for a head of Normals that is made for a mean of 0 and a spread of 1.

    `x = mean + scale y`, where the head gives p(y|z) and the net sees y: `Normal(mean + scale loc, scale sigma)`.

    So log p(x|z) and all nats are those of x: the Jacobian, `-sum_i log scale_i`, is in them.

    Args:
      head: such as `learned_normal()`.
      mean: of the training data, `[*E]`.
      scale: their standard deviation, `[*E]`; both as `vaejax.data.standardize` fits them.

    Raises:
      TypeError: a head that gives another distribution than a `Normal`.
      ValueError: a scale that is not positive.

    >>> import jax.numpy as jnp
    >>> head = standardized(normal(), jnp.array([10.0, -3.0]), jnp.array([2.0, 500.0]))
    >>> head.distribution({}, jnp.ones((2, 1)), 1).mean.tolist(), head.standardize(jnp.array([8.0, 497.0])).tolist()
    ([12.0, 497.0], [-1.0, 1.0])
    """
    for name, value in (("mean", mean), ("scale", scale)):
        check_array(f"standardized: {name}", value)
    check_positive("standardized: scale", scale)

    def distribution(params: Params, raw: Array, event_ndims: int) -> Distribution:
        y = head.distribution(params, raw, event_ndims)
        if not isinstance(y, Normal):
            raise TypeError(f"standardized: head must give a Normal; got {type(y).__name__}")
        return Normal(mean + scale * jnp.asarray(y.loc), scale * jnp.asarray(y.scale), event_ndims)

    return head._replace(
        distribution=distribution, standardize=lambda x: head.standardize((_as_float(x) - mean) / scale)
    )


def with_missing(head: Head) -> Head:
    """A head for data in which NaN marks what is missing: the likelihood is that of what is observed, `Masked`.

    The net sees 0 where something is missing, which is the mean of data that are `standardized`.

    >>> import jax.numpy as jnp
    >>> p = with_missing(normal()).distribution({}, jnp.zeros((2, 1)), 1)
    >>> p.log_prob(jnp.array([1.0, jnp.nan])) == Normal(jnp.zeros(1), 1.0).log_prob(jnp.ones(1))
    Array(True, dtype=bool)
    """
    return head._replace(
        distribution=lambda params, raw, event_ndims: Masked(head.distribution(params, raw, event_ndims)),
        standardize=lambda x: jnp.where(jnp.isnan(x), 0.0, head.standardize(x)),
    )


def delta() -> Head:
    """A point: the posterior of the deterministic autoencoder."""
    return Head(1, lambda _, raw, event_ndims: Delta(raw[..., 0], event_ndims))


def _normal_with_parameter(
    initial_scale: ArrayLike, bound: Bound | None, parameter_shape: Callable[[Shape], Shape]
) -> Head:
    check_array("initial_scale", initial_scale)
    check_positive("initial_scale", initial_scale)

    def init(key: Array, event_shape: Shape) -> Params:
        return {"log_scale": jnp.full(parameter_shape(event_shape), jnp.log(initial_scale), jnp.float32)}

    def distribution(params: Params, raw: Array, event_ndims: int) -> Distribution:
        return Normal.from_log_scale(raw[..., 0], params["log_scale"], event_ndims, bound)

    return Head(1, distribution, init)
