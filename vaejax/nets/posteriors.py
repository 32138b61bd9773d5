"""Heads for posteriors beyond the diagonal Normal: flows, full covariances, directions and relaxed categories."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from vaejax import distributions
from vaejax.checks import check_array, check_count, check_positive
from vaejax.distributions import (
    Bijector,
    Chain,
    MultivariateNormal,
    Normal,
    Planar,
    PowerSpherical,
    Radial,
    RelaxedCategorical,
    Transformed,
    bound_log_scale,
    inverse_autoregressive_flow,
    with_context,
)
from vaejax.distributions.bounds import Bound, bounded
from vaejax.nets.heads import Head
from vaejax.types import Array, ArrayLike, Distribution, Params, Shape


def full_normal(size: int, bound: Bound | None = bound_log_scale) -> Head:
    """A Normal with a full covariance over `size` latents: a mean and a row of the Cholesky factor each.

    The diagonal of the factor is `exp(bound(raw))`, and what is below it is taken as it is.
    """
    check_count("full_normal: size", size)

    def distribution(_: Params, raw: Array, event_ndims: int) -> Distribution:
        if raw.shape[-2] != size:
            raise ValueError(f"full_normal: size must be the number of latents, {raw.shape[-2]}; got {size}")
        rows = raw[..., 1:]
        diagonal = jnp.exp(bounded(jnp.diagonal(rows, axis1=-2, axis2=-1), bound))
        identity = jnp.eye(size, dtype=diagonal.dtype)
        return MultivariateNormal(raw[..., 0], jnp.tril(rows, -1) + diagonal[..., None] * identity)

    return Head(1 + size, distribution)


def planar_flow(num_layers: int = 4, bound: Bound | None = bound_log_scale) -> Head:
    """A Normal moved by planar flows, whose parameters the encoder puts out for each x.

    Source: Rezende and Mohamed 2015, Variational Inference with Normalizing Flows.
    """
    check_count("planar_flow: num_layers", num_layers)

    def layer(raw: Array) -> Planar:
        # A bias for each latent comes out; their mean is the one there is.
        return Planar(raw[..., 0], raw[..., 1], jnp.mean(raw[..., 2], axis=-1))

    return _moved_normal(3, num_layers, layer, bound)


def radial_flow(num_layers: int = 4, bound: Bound | None = bound_log_scale) -> Head:
    """A Normal moved by radial flows, whose parameters the encoder puts out for each x.

    Source: Rezende and Mohamed 2015, Variational Inference with Normalizing Flows.
    """
    check_count("radial_flow: num_layers", num_layers)

    def layer(raw: Array) -> Radial:
        return Radial(raw[..., 0], jnp.mean(raw[..., 1], axis=-1), jnp.mean(raw[..., 2], axis=-1))

    return _moved_normal(3, num_layers, layer, bound)


def autoregressive_flow(num_layers: int = 2, hidden_size: int = 64, bound: Bound | None = bound_log_scale) -> Head:
    """A Normal moved by inverse autoregressive flows, which see a context that the encoder puts out for each x.

    The nets of the flow are parameters of the head; it starts as the Normal itself.

    Source: Kingma et al. 2016, Improved Variational Inference with Inverse Autoregressive Flow.
    """
    sizes = _counts("autoregressive_flow", num_layers=num_layers, hidden_size=hidden_size)
    return _moved_with_context(
        lambda key, size: inverse_autoregressive_flow(key, size, context_size=size, **sizes), bound
    )


def coupling_flow(num_layers: int = 4, hidden_size: int = 64, bound: Bound | None = bound_log_scale) -> Head:
    """As `autoregressive_flow`, by affine couplings: as fast backwards as forwards, as path gradients need it.

    Source: Dinh, Sohl-Dickstein and Bengio 2017, Density estimation using Real NVP; for the context Kingma et al.
    2016.
    """
    sizes = _counts("coupling_flow", num_layers=num_layers, hidden_size=hidden_size)
    return _moved_with_context(
        lambda key, size: distributions.coupling_flow(key, size, context_size=size, **sizes), bound
    )


def power_spherical() -> Head:
    """A direction on the unit sphere and one concentration, for the hyperspherical autoencoder.

    Source: De Cao and Aziz 2020, The Power Spherical Distribution.
    """

    def distribution(_: Params, raw: Array, event_ndims: int) -> Distribution:
        # From 1 on, so that the encoder says something about the direction from the start.
        concentration = 1.0 + jax.nn.softplus(jnp.sum(raw[..., 1], axis=-1))
        return PowerSpherical(raw[..., 0], concentration)

    return Head(2, distribution)


def relaxed_categorical(temperature: ArrayLike = 0.5) -> Head:
    """Relaxed one-hot vectors, for latents of shape `(N, L)` (see `make_model`): N variables of L levels, a logit each.

    Source: Jang, Gu and Poole 2017, Categorical Reparameterization with Gumbel-Softmax.
    """
    check_array("relaxed_categorical: temperature", temperature)
    check_positive("relaxed_categorical: temperature", temperature)
    return Head(1, lambda _, raw, event_ndims: RelaxedCategorical(raw[..., 0], temperature, event_ndims))


def _moved_normal(channels: int, num_layers: int, layer: Callable[[Array], Bijector], bound: Bound | None) -> Head:
    def distribution(_: Params, raw: Array, event_ndims: int) -> Distribution:
        base = Normal.from_log_scale(raw[..., 0], raw[..., 1], event_ndims, bound)
        starts = range(2, 2 + channels * num_layers, channels)
        return Transformed(base, Chain(tuple(layer(raw[..., start : start + channels]) for start in starts)))

    return Head(2 + channels * num_layers, distribution)


def _moved_with_context(make_flow: Callable[[Array, int], Chain], bound: Bound | None) -> Head:
    def init(key: Array, event_shape: Shape) -> Params:
        (size,) = event_shape
        return {"flow": make_flow(key, size)}

    def distribution(params: Params, raw: Array, event_ndims: int) -> Distribution:
        base = Normal.from_log_scale(raw[..., 0], raw[..., 1], event_ndims, bound)
        return Transformed(base, with_context(params["flow"], raw[..., 2]))

    return Head(3, distribution, init)


def _counts(owner: str, **counts: int) -> dict[str, int]:
    for name, value in counts.items():
        check_count(f"{owner}: {name}", value)
    return counts
