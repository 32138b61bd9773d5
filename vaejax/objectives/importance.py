"""Bounds made of K log-weights, and their path gradients."""

from typing import Any

import jax
import jax.numpy as jnp

from vaejax.checks import check_callable, check_count, check_distribution, check_key, is_array
from vaejax.distributions import standard_normal
from vaejax.distributions.normal import matched
from vaejax.objectives.autoencode import check_data, check_terms
from vaejax.objectives.bounds import iwae_bound
from vaejax.objectives.draws import check_density, draw
from vaejax.types import Array, Bound, Decode, Distribution, Encode, ImportanceTerms, MapSamples


def importance_bound(
    key: Array,
    x: Any,
    encode: Encode,
    decode: Decode,
    prior: Distribution = standard_normal,
    *,
    num_samples: int,
    bound: Bound | None = None,
    path_gradient: bool = False,
    map_samples: MapSamples = jax.vmap,
) -> ImportanceTerms:
    """A bound on `log p(x)` from K weighted samples, per example, in nats.

    `value = bound(log w_1, ..., log w_K)`, `log w_k = log p(x|z_k) + log p(z_k) - log q(z_k|x)`, `z_k ~ q(z|x)`

    With `num_samples=1` every bound is one draw of the evidence lower bound, and for one key the number
    that `elbo(..., kl=monte_carlo_kl)` gives.

    Args:
      key: one typed PRNG key.
      x: data, `[*B, *E]`.
      encode: x to q(z|x), which must have a density.
      decode: z `[*B, *Z]` to p(x|z); it never sees the sample axis.
      prior: p(z), any distribution over `[*Z]`.
      num_samples: K.
      bound: `elbo_bound()`, `iwae_bound()` (where None), `miwae_bound(groups)`, `ciwae_bound(beta)`,
        `renyi_bound(alpha)`, or a `Bound` of your own.
      path_gradient: take the gradient to the parameters of q along the paths z_k alone: those inside
        log q(z_k|x), whose contribution is noise around zero, are frozen, and what reaches z_k is multiplied by
        the bound's `path_scale`. The values are the same, the gradient has the same mean and less noise the
        better q is. `value` and `log_weights` then carry it, `latents` their own gradient, and
        `log_likelihood` and `kl` none. Only reverse-mode gradients are defined.
      map_samples: maps the decoder over the sample axis as `jax.vmap` does; see `autoencode`.

    Returns:
      `ImportanceTerms`, per example.

    Raises:
      TypeError: a posterior without a density (Delta) or whose draws cannot be differentiated.
      ValueError: K below 1 or one that the bound cannot group; a path gradient for a bound that has none;
        what `autoencode` refuses.

    Source: Burda, Grosse and Salakhutdinov 2015; for the path gradient, Tucker et al. 2019.

    >>> import jax, jax.numpy as jnp, vaejax
    >>> x = jnp.ones((8, 3))
    >>> encode, decode = lambda x: vaejax.Normal(x, 0.5), lambda z: vaejax.Normal(z, 1.0)
    >>> terms = importance_bound(jax.random.key(0), x, encode, decode, num_samples=5)
    >>> terms.value.shape, terms.log_weights.shape, bool(jnp.all(terms.value >= terms.log_weights.mean(0)))
    ((8,), (5, 8), True)
    """
    check_key(key)
    check_data(x)
    for name, function in [("encode", encode), ("decode", decode)]:
        check_callable(name, function)
    check_distribution("prior must be", prior)
    check_count("num_samples", num_samples)
    bound = iwae_bound() if bound is None else bound
    check_bound(bound, path_gradient)
    # The key is split as autoencode splits it, so that one key gives both the same draws.
    sample_key, _ = jax.random.split(key)

    q = encode(x)
    check_density("importance_bound", q)
    prior = matched(prior, q)
    z, log_q = draw(sample_key, q, (num_samples,))
    density, path = q, z
    if path_gradient:
        check_frozen(q)
        density, log_q = jax.lax.stop_gradient(q), None
        batch = jax.eval_shape(density.log_prob, z).shape
        path, channel = _enter_path(z, jnp.zeros(batch, z.dtype))

    def single(z: Array, log_q: Array | None) -> tuple[Array, Array]:
        p = decode(z)
        check_distribution("decode must return", p)
        log_q = density.log_prob(z) if log_q is None else log_q
        log_likelihood, divergence = p.log_prob(x), log_q - prior.log_prob(z)
        check_terms(x, log_q.shape, log_likelihood.shape, divergence.shape)
        return log_likelihood, divergence

    log_likelihoods, divergences = map_samples(single)(path, log_q)
    log_weights = log_likelihoods - divergences
    if path_gradient and bound.path_scale is not None:
        scale = jax.lax.stop_gradient(bound.path_scale(log_weights))
        log_weights = _leave_path(log_weights, channel, scale.astype(channel.dtype))
    parts = jnp.mean(log_likelihoods, axis=0), jnp.mean(divergences, axis=0)
    if path_gradient:
        # What reaches z along the path is meant for the log-weights alone.
        parts = jax.lax.stop_gradient(parts)
    return ImportanceTerms(bound.reduce(log_weights), *parts, q, z, log_weights)


def check_bound(bound: Any, path_gradient: bool) -> None:
    """Raise unless `bound` is a bound, and one with a path gradient where that is wanted."""
    if not isinstance(bound, Bound):
        raise TypeError(f"bound must be a Bound such as vaejax.iwae_bound(); got {type(bound).__name__}")
    if path_gradient and bound.path_scale is None:
        raise ValueError(
            "path_gradient: this bound has none (its path_scale is None); use path_gradient=False, or derive "
            "path_scale for it as vaejax.types.Bound says"
        )


def check_frozen(q: Any) -> None:
    """Raise where the parameters of q are out of reach."""
    if any(leaf is q for leaf in jax.tree.leaves(q)):
        raise TypeError(
            f"path_gradient: the posterior {type(q).__name__} must be a pytree, so that its parameters can be frozen "
            f"(jax.tree_util.register_dataclass)"
        )
    hidden = [leaf for leaf in jax.tree.leaves(q) if not is_array(leaf)]
    if hidden:
        raise TypeError(
            f"path_gradient: the posterior {type(q).__name__} holds a {type(hidden[0]).__name__}, whose parameters "
            f"cannot be frozen; make a function of parameters jax.tree_util.Partial(function, params)"
        )


# The path gradient wants each z_k's cotangent multiplied by a number that is known only after the decoder and
# the prior have seen z_k, and the decoder's own parameters, which a closure hides, left alone. So a channel is
# laid from z_k to the log-weights: on the way back it carries the number to where the cotangent passes.


@jax.custom_vjp
def _enter_path(z: Array, channel: Array) -> tuple[Array, Array]:
    """z `[K, *B, *Z]` and the channel `[K, *B]`, unchanged."""
    return z, channel


def _enter_forward(z: Array, channel: Array) -> tuple[tuple[Array, Array], None]:
    return (z, channel), None


def _enter_backward(_: None, cotangents: tuple[Array, Array]) -> tuple[Array, Array]:
    of_z, scale = cotangents
    return of_z * scale.reshape(scale.shape + (1,) * (of_z.ndim - scale.ndim)), jnp.zeros_like(scale)


_enter_path.defvjp(_enter_forward, _enter_backward)


@jax.custom_vjp
def _leave_path(log_weights: Array, channel: Array, scale: Array) -> Array:
    """The log-weights, unchanged; on the way back `scale` is sent through the channel."""
    del channel, scale
    return log_weights


def _leave_forward(log_weights: Array, channel: Array, scale: Array) -> tuple[Array, Array]:
    del channel
    return log_weights, scale


def _leave_backward(scale: Array, cotangent: Array) -> tuple[Array, Array, Array]:
    return cotangent, scale, jnp.zeros_like(scale)


_leave_path.defvjp(_leave_forward, _leave_backward)
