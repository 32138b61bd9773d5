"""Closed-form Kullback-Leibler divergences."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vaejax.checks import check_event_shape
from vaejax.distributions._base import at_least_float32, sum_event
from vaejax.distributions._closed_form import no_closed_form
from vaejax.distributions.bernoulli import Bernoulli, ContinuousBernoulli, log_partition, softplus
from vaejax.distributions.categorical import Categorical
from vaejax.distributions.delta import Delta
from vaejax.distributions.interop import as_native
from vaejax.distributions.laplace import Laplace
from vaejax.distributions.multivariate_normal import MultivariateNormal, solve_factor
from vaejax.distributions.normal import Normal, matched, standard_normal
from vaejax.types import Array, Distribution


def kl_divergence(q: Distribution, p: Distribution) -> Array:
    """The divergence of `p` from `q` in closed form, in nats, `[*B]`.

    `KL(q || p) = E_q[log q(z) - log p(z)]`, at least 0, and 0 only where they are the same. For
    diagonal Normals, per axis, `log(s_p / s_q) + (s_q^2 + (m_q - m_p)^2) / (2 s_p^2) - 1/2`.

    Known pairs: Normal and Laplace to each other and to themselves, MultivariateNormal and Normal to
    each other, Bernoulli, ContinuousBernoulli and Categorical to themselves, and Delta to anything, where
    it is `-log p(z)`. numpyro's counterparts count as ours. A distribution of your own takes part by
    a method `kl_divergence(other)`.

    Raises:
      TypeError: no closed form is known; `monte_carlo_kl` estimates it instead.
      ValueError: the two disagree in their event axes.

    Source: for the Normal, Kingma and Welling 2014, appendix B.

    >>> import jax.numpy as jnp
    >>> kl_divergence(Normal(jnp.ones((8, 2)), 1.0), Normal(0.0, 1.0))[0].item()
    1.0
    """
    if callable(getattr(q, "kl_divergence", None)):
        return q.kl_divergence(p)  # type: ignore[attr-defined]
    q = as_native(q)
    p = matched(as_native(p), q)
    ndims_q, ndims_p = (getattr(d, "event_ndims", None) for d in (q, p))
    if None not in (ndims_q, ndims_p) and ndims_q != ndims_p:
        raise ValueError(f"kl_divergence: q and p must have the same number of event axes; got {ndims_q} and {ndims_p}")
    if isinstance(q, Delta):
        return -p.log_prob(q.mean)
    closed_form = _CLOSED_FORMS.get((type(q), type(p)))
    if closed_form is None:
        raise no_closed_form(q, p)
    check_event_shape("kl_divergence: q", q.mean, jnp.shape(p.mean), q.event_ndims)  # type: ignore[attr-defined]
    return closed_form(q, p)


def kl_per_axis(q: Distribution, p: Distribution = standard_normal) -> Array:
    """The closed-form divergence of each latent axis by itself, in nats, `[*B, *Z]`.

    Its sum over the axes is `kl_divergence(q, p)`; an axis that stays at 0 is not used.

    Raises:
      TypeError: the axes of q or of p are not independent, or the pair has no closed form.

    >>> import jax.numpy as jnp
    >>> kl_per_axis(Normal(jnp.array([[0.0, 2.0]]), 1.0), Normal(0.0, 1.0)).tolist()
    [[0.0, 2.0]]
    """
    return kl_divergence(by_axis(q), by_axis(p))


def by_axis(distribution: Distribution) -> Distribution:
    """The same distribution with no event axes, so that each axis has a log-density of its own.

    Raises:
      TypeError: its axes are not known to be independent.
    """
    native: Any = as_native(distribution)
    problem = f"the axes of {type(native).__name__} are not known to be independent, so none has a density of its own"
    if not dataclasses.is_dataclass(native) or "event_ndims" not in {f.name for f in dataclasses.fields(native)}:
        raise TypeError(problem)
    try:
        return dataclasses.replace(native, event_ndims=0)  # type: ignore[return-value, type-var]
    except ValueError as error:
        # A mixture of vectors, say, whose components' axes belong together.
        raise TypeError(problem) from error


def _normal_normal(q: Normal, p: Normal) -> Array:
    loc_q, scale_q, loc_p, scale_p = at_least_float32(q.loc, q.scale, p.loc, p.scale)
    ratio = scale_q / scale_p
    shift = (loc_q - loc_p) / scale_p
    return sum_event(0.5 * (ratio**2 + shift**2 - 1.0) - jnp.log(ratio), q.event_ndims)


def _laplace_laplace(q: Laplace, p: Laplace) -> Array:
    loc_q, scale_q, loc_p, scale_p = at_least_float32(q.loc, q.scale, p.loc, p.scale)
    ratio = scale_q / scale_p
    distance = jnp.abs(loc_q - loc_p)
    # E_q |z - loc_p| = distance + scale_q exp(-distance / scale_q)
    mean_deviation = distance / scale_p + ratio * jnp.exp(-distance / scale_q)
    return sum_event(mean_deviation - 1.0 - jnp.log(ratio), q.event_ndims)


def _laplace_normal(q: Laplace, p: Normal) -> Array:
    loc_q, scale_q, loc_p, scale_p = at_least_float32(q.loc, q.scale, p.loc, p.scale)
    ratio = scale_q / scale_p
    shift = (loc_q - loc_p) / scale_p
    constant = 0.5 * math.log(math.pi / 2.0) - 1.0
    return sum_event(ratio**2 + 0.5 * shift**2 - jnp.log(ratio) + constant, q.event_ndims)


def _normal_laplace(q: Normal, p: Laplace) -> Array:
    loc_q, scale_q, loc_p, scale_p = at_least_float32(q.loc, q.scale, p.loc, p.scale)
    shift = (loc_q - loc_p) / scale_q
    # E_q |z - loc_p| is the mean of a folded Normal.
    folded = math.sqrt(2 / math.pi) * jnp.exp(-0.5 * shift**2) + shift * jax.lax.erf(shift / math.sqrt(2.0))
    ratio = scale_q / scale_p
    constant = 0.5 * math.log(2.0 / math.pi) - 0.5
    return sum_event(ratio * folded - jnp.log(ratio) + constant, q.event_ndims)


def _bernoulli_bernoulli(q: Bernoulli, p: Bernoulli) -> Array:
    logits_q, logits_p = at_least_float32(q.logits, p.logits)
    mean = jax.nn.sigmoid(logits_q)
    return sum_event(mean * (logits_q - logits_p) - softplus(logits_q) + softplus(logits_p), q.event_ndims)


def _continuous_bernoulli(q: ContinuousBernoulli, p: ContinuousBernoulli) -> Array:
    logits_q, logits_p = at_least_float32(q.logits, p.logits)
    normalizers = log_partition(logits_p) - log_partition(logits_q)
    return sum_event(q.mean * (logits_q - logits_p) + normalizers, q.event_ndims)


def _categorical_categorical(q: Categorical, p: Categorical) -> Array:
    if q.num_levels != p.num_levels:
        raise ValueError(f"kl_divergence: q has {q.num_levels} levels, p has {p.num_levels}")
    logits_q, logits_p = at_least_float32(q.logits, p.logits)
    log_q, log_p = jax.nn.log_softmax(logits_q), jax.nn.log_softmax(logits_p)
    # A level that q never takes costs nothing, though a logarithm of it is minus infinity.
    possible = jnp.exp(log_q) > 0
    difference = jnp.where(possible, log_q, 0.0) - jnp.where(possible, log_p, 0.0)
    return sum_event(jnp.sum(jnp.exp(log_q) * difference, axis=-1), q.event_ndims)


def _multivariate_normal(q: MultivariateNormal, p: MultivariateNormal) -> Array:
    loc_q, factor_q, loc_p, factor_p = at_least_float32(q.loc, q.scale_tril, p.loc, p.scale_tril)
    # L_q gets an axis for each batch axis of p, so that its columns, moved to the front, meet none of them.
    batch_ndims = max(len(q.batch_shape), len(p.batch_shape))
    factor_q = factor_q.reshape((1,) * (batch_ndims + 2 - factor_q.ndim) + factor_q.shape)
    columns = jnp.moveaxis(jnp.tril(factor_q), -1, 0)
    spread = jnp.sum(solve_factor(factor_p, columns) ** 2, axis=(0, -1))
    distance = jnp.sum(solve_factor(factor_p, loc_q - loc_p) ** 2, axis=-1)
    return p.log_determinant - q.log_determinant + 0.5 * (spread + distance - loc_q.shape[-1])


def _full_covariance(diagonal: Normal, size: int) -> MultivariateNormal:
    wide = diagonal.expand(jnp.broadcast_shapes(jnp.shape(diagonal.mean), (size,)))
    scale = jnp.asarray(wide.scale)
    return MultivariateNormal(wide.loc, scale[..., None] * jnp.eye(size, dtype=scale.dtype))


def _multivariate_normal_normal(q: MultivariateNormal, p: Normal) -> Array:
    return _multivariate_normal(q, _full_covariance(p, jnp.shape(q.loc)[-1]))


def _normal_multivariate_normal(q: Normal, p: MultivariateNormal) -> Array:
    return _multivariate_normal(_full_covariance(q, jnp.shape(p.loc)[-1]), p)


_CLOSED_FORMS: dict[tuple[type, type], Callable[[Any, Any], Array]] = {
    (Normal, Normal): _normal_normal,
    (Normal, Laplace): _normal_laplace,
    (Laplace, Laplace): _laplace_laplace,
    (Laplace, Normal): _laplace_normal,
    (Bernoulli, Bernoulli): _bernoulli_bernoulli,
    (ContinuousBernoulli, ContinuousBernoulli): _continuous_bernoulli,
    (Categorical, Categorical): _categorical_categorical,
    (MultivariateNormal, MultivariateNormal): _multivariate_normal,
    (MultivariateNormal, Normal): _multivariate_normal_normal,
    (Normal, MultivariateNormal): _normal_multivariate_normal,
}
