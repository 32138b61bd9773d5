"""The bound of hierarchical models: several layers of latents, each drawn given those above it."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from vaejax.checks import check_callable, check_count, check_distribution, check_key, check_nonnegative
from vaejax.distributions import Normal, as_native, sized
from vaejax.distributions._base import at_least_float32
from vaejax.objectives import regularizers
from vaejax.objectives.autoencode import check_data, check_terms
from vaejax.objectives.draws import batch_of, draw, remembering
from vaejax.types import Array, ArrayLike, Distribution, LadderTerms, MapSamples, Regularizer

# The latents above a layer, top first, to its prior p(z_l | above).
LayerPrior = Callable[[tuple[Array, ...]], Distribution]
# The latents above a layer and its prior to its posterior q(z_l | above, x).
LayerPosterior = Callable[[tuple[Array, ...], Distribution], Distribution]


def ladder_elbo(
    key: Array,
    x: Any,
    encode: Callable[[Any], Sequence[LayerPosterior]],
    decode: Callable[[tuple[Array, ...]], Distribution],
    priors: Sequence[LayerPrior],
    *,
    num_samples: int | None = None,
    beta: ArrayLike = 1.0,
    free_bits: ArrayLike = 0.0,
    kl: Callable[[Distribution], Regularizer] = regularizers.kl,
    map_samples: MapSamples = jax.vmap,
) -> LadderTerms:
    """The evidence lower bound of a hierarchy, `z_1 -> z_2 -> ... -> z_L -> x`, per example, in nats.

    `value = E_q[log p(x|z_1..L)] - sum_l beta_l max(E_q KL(q(z_l|z_<l, x) || p(z_l|z_<l)), free_bits_l)`

    Layers are given top first. The bottom-up pass is `encode(x)`, run once; the posterior of a layer is then a
    function of the latents above it *and of its prior*, so that what the top-down pass knows can be shared: see
    `precision_weighted`. With one layer this is `elbo`.

    Args:
      key: one typed PRNG key.
      x: data, `[*B, *E]`.
      encode: x to one function per layer, `(above, prior) -> q(z_l | above, x)`.
      decode: all latents, a tuple with the top first, to p(x|z).
      priors: one function per layer, `above -> p(z_l | above)`; `above` is `()` for the top.
      num_samples: K draws of the whole hierarchy; None draws one without an axis for it.
      beta: weight of each layer's divergence in `value`, `[]` or `[L]`; may be traced.
      free_bits: nats of each layer and example that are free, `[]` or `[L]`; 0 leaves the divergence alone, also
        where an estimate of it is negative. May be traced.
      kl: `vaejax.kl` or `vaejax.monte_carlo_kl`, used for every layer.
      map_samples: maps the hierarchy over the sample axis as `jax.vmap` does; see `autoencode`.

    Raises:
      TypeError, ValueError: as `autoencode`; other than one prior for each layer of the encoder.

    Source: Sonderby et al. 2016, Ladder Variational Autoencoders; free bits: Kingma et al. 2016.

    >>> import jax, jax.numpy as jnp, vaejax
    >>> x = jnp.ones((8, 3))
    >>> priors = [lambda above: vaejax.standard_normal, lambda above: vaejax.Normal(above[0], 1.0)]
    >>> encode = lambda x: [lambda above, p: vaejax.Normal(x, 0.5), lambda above, p: vaejax.Normal(x + above[0], 0.5)]
    >>> terms = ladder_elbo(jax.random.key(0), x, encode, lambda z: vaejax.Normal(z[-1], 1.0), priors)
    >>> terms.value.shape, terms.kl_per_layer.shape
    ((8,), (2, 8))
    """
    check_key(key)
    check_data(x)
    for name, function in [("encode", encode), ("decode", decode), ("kl", kl)]:
        check_callable(name, function)
    layers = encode(x)
    _check_layers(layers, priors)
    for name, value in (("beta", beta), ("free_bits", free_bits)):
        check_nonnegative(name, value)
        if jnp.shape(value) not in ((), (len(layers),)):
            raise ValueError(
                f"{name} must have shape () or ({len(layers)},), one for each layer; got {jnp.shape(value)}"
            )

    def single(key: Array) -> tuple[Array, Array, tuple[Distribution, ...], tuple[Array, ...]]:
        # Two keys for each layer, those of elbo where there is one.
        keys = jax.random.split(key, 2 * len(layers))
        above: tuple[Array, ...] = ()
        posteriors: list[Distribution] = []
        divergences: list[Array] = []
        for index, (layer, prior) in enumerate(zip(layers, priors, strict=True)):
            p = prior(above)
            check_distribution("a prior must return", p)
            q = layer(above, p)
            z, log_q = draw(keys[2 * index], q)
            known = remembering(q, z, log_q)
            divergence = jnp.asarray(kl(p)(keys[2 * index + 1], known, z))
            if divergence.shape != batch_of(known, z):
                raise ValueError(
                    f"kl must give one number per example, shape {batch_of(known, z)}, for every layer; got "
                    f"{divergence.shape} (for free bits there is free_bits)"
                )
            # numpyro stores the batch shape, which would be that of one draw where several are mapped.
            posteriors.append(as_native(q))
            divergences.append(divergence)
            above = (*above, z)
        p_x = decode(above)
        check_distribution("decode must return", p_x)
        log_likelihood = p_x.log_prob(x)
        check_terms(x, divergences[0].shape, log_likelihood.shape, divergences[0].shape)
        return log_likelihood, jnp.stack(divergences), tuple(posteriors), above

    if num_samples is None:
        log_likelihood, kl_per_layer, posterior, latents = single(key)
    else:
        check_count("num_samples", num_samples)
        parts = map_samples(single)(jax.random.split(key, num_samples))
        posterior, latents = parts[2:]
        log_likelihood, kl_per_layer = (jnp.mean(part, axis=0) for part in parts[:2])
    per_layer = (-1,) + (1,) * (kl_per_layer.ndim - 1)
    beta, free_bits = (jnp.broadcast_to(value, len(layers)).reshape(per_layer) for value in (beta, free_bits))
    # An estimated divergence may be negative: where nothing is free, it is left as it is.
    relieved = jnp.where(free_bits > 0, jnp.maximum(kl_per_layer, free_bits), kl_per_layer)
    penalty = jnp.sum(beta * relieved, axis=0)
    total = jnp.sum(kl_per_layer, axis=0)
    return LadderTerms(log_likelihood - penalty, log_likelihood, total, posterior, latents, kl_per_layer)


def ladder_sample(
    key: Array, priors: Sequence[LayerPrior], latent_shapes: Sequence[tuple[int, ...]], count: int
) -> tuple[Array, ...]:
    """Draw all latents from the top down, `[count, *Z_l]` each, for the decoder to generate from.

    Args:
      key: one typed PRNG key.
      priors: one function per layer, top first, as for `ladder_elbo`.
      latent_shapes: the event axes of each layer: the top prior may be `standard_normal`, without a size.
      count: how many.

    >>> import jax, vaejax
    >>> priors = [lambda above: vaejax.standard_normal, lambda above: vaejax.Normal(above[0], 1.0)]
    >>> [z.shape for z in ladder_sample(jax.random.key(0), priors, [(2,), (2,)], 5)]
    [(5, 2), (5, 2)]
    """
    check_key(key)
    check_count("count", count)
    if len(priors) != len(latent_shapes):
        raise ValueError(
            f"latent_shapes must have one entry for each of the {len(priors)} priors; got {len(latent_shapes)}"
        )
    above: tuple[Array, ...] = ()
    for layer_key, prior, shape in zip(jax.random.split(key, len(priors)), priors, latent_shapes, strict=True):
        p = sized(prior(above), shape)
        # The top prior is the same for all; one further down comes with a batch of its own.
        z = p.sample(layer_key, () if above else (count,))
        if z.shape != (count, *shape):
            raise ValueError(f"a prior must be over latents of shape {(count, *shape)}; got {z.shape}")
        above = (*above, z)
    return above


def precision_weighted(q: Normal, p: Normal) -> Normal:
    """The product of two Normals, ours or numpyro's: what the bottom-up pass says of a layer, with its prior.

    `1/s^2 = 1/s_q^2 + 1/s_p^2`, `m = s^2 (m_q / s_q^2 + m_p / s_p^2)`

    Raises:
      TypeError: distributions that are not Normal.

    Source: Sonderby et al. 2016, Ladder Variational Autoencoders, equations 17 to 19.
    """
    for name, each in (("q", q), ("p", p)):
        if not isinstance(as_native(each), Normal):
            raise TypeError(f"precision_weighted: {name} must be a Normal; got {type(each).__name__}")
    q, p = as_native(q), as_native(p)  # type: ignore[assignment]
    loc_q, scale_q, loc_p, scale_p = at_least_float32(q.loc, q.scale, p.loc, p.scale)
    precision_q, precision_p = scale_q**-2, scale_p**-2
    variance = 1 / (precision_q + precision_p)
    return Normal(variance * (loc_q * precision_q + loc_p * precision_p), jnp.sqrt(variance), q.event_ndims)


def _check_layers(layers: Any, priors: Any) -> None:
    for name, functions in (("encode must return", layers), ("priors must be", priors)):
        if not isinstance(functions, Sequence) or not functions or not all(callable(each) for each in functions):
            raise TypeError(
                f"ladder_elbo: {name} a sequence of functions, one per layer; got {type(functions).__name__}"
            )
    if len(layers) != len(priors):
        raise ValueError(f"ladder_elbo: there must be a prior for each of the {len(layers)} layers; got {len(priors)}")
