"""The evidence lower bound and the loss made of it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vaejax.checks import check_callable, check_distribution, check_nonnegative
from vaejax.distributions import standard_normal
from vaejax.objectives import regularizers
from vaejax.objectives.autoencode import autoencode, negative_mean
from vaejax.types import (
    Array,
    ArrayLike,
    Decode,
    Distribution,
    ElboTerms,
    Encode,
    MapSamples,
    Regularizer,
)


def elbo(
    key: Array,
    x: Any,
    encode: Encode,
    decode: Decode,
    prior: Distribution = standard_normal,
    *,
    num_samples: int | None = None,
    beta: ArrayLike = 1.0,
    kl: Callable[[Distribution], Regularizer] = regularizers.kl,
    map_samples: MapSamples = jax.vmap,
) -> ElboTerms:
    """The evidence lower bound on `log p(x)`, per example, in nats.

    `value = 1/K sum_k log p(x|z_k) - beta KL(q(z|x) || p(z))`, `z_k ~ q(z|x)`

    For a Normal posterior `z_k = mu + sigma * eps_k`, so its gradient reaches the encoder.

    Args:
      key: one typed PRNG key.
      x: data, `[*B, *E]`.
      encode: x to q(z|x), any function that returns a distribution whose draws can be differentiated
        (Normal, Laplace, ...; not Bernoulli or Categorical). It comes back in the terms, so under a
        transformation such as `jax.jit` a distribution class of your own must be a pytree.
      decode: z `[*B, *Z]` to p(x|z); it never sees the sample axis.
      prior: p(z), any distribution over `[*Z]`.
      num_samples: K; None draws one sample without an axis for it.
      beta: weight of the KL term in `value`, `[]` or `[*B]`, may be traced. Only `beta <= 1` gives a
        bound on `log p(x)`; the parts are always returned unweighted.
      kl: `vaejax.kl` (closed form) or `vaejax.monte_carlo_kl` (any posterior and prior): a function
        of the prior.
      map_samples: maps the decoder over the sample axis as `jax.vmap` does; see `autoencode`.

    Returns:
      `ElboTerms`, per example.

    Raises:
      TypeError, ValueError: as `autoencode`; a negative beta; a KL without a closed form.

    Source: Kingma and Welling 2014, Auto-Encoding Variational Bayes, equations 3, 7 and 10; for beta,
    Higgins et al. 2017, beta-VAE.

    >>> import jax, jax.numpy as jnp, vaejax
    >>> x = jnp.ones((8, 3))
    >>> terms = elbo(jax.random.key(0), x, lambda x: vaejax.Normal(x, 0.1), lambda z: vaejax.Normal(z, 1.0))
    >>> terms.value.shape, bool(jnp.all(terms.value == terms.log_likelihood - terms.kl))
    ((8,), True)
    """
    check_nonnegative("beta", beta)
    check_callable("kl", kl)
    check_distribution("prior must be", prior)
    penalized = autoencode(key, x, encode, decode, kl(prior), num_samples=num_samples, map_samples=map_samples)
    if jnp.shape(beta) not in ((), penalized.penalty.shape):
        raise ValueError(f"beta must have shape () or {penalized.penalty.shape}; got {jnp.shape(beta)}")
    value = penalized.log_likelihood - beta * penalized.penalty
    return ElboTerms(value, *penalized[1:])


def negative_elbo(
    key: Array,
    x: Any,
    encode: Encode,
    decode: Decode,
    prior: Distribution = standard_normal,
    *,
    num_samples: int | None = None,
    beta: ArrayLike = 1.0,
    kl: Callable[[Distribution], Regularizer] = regularizers.kl,
    map_samples: MapSamples = jax.vmap,
) -> tuple[Array, ElboTerms]:
    """The loss: minus the batch mean of `elbo`, and its terms.

    `loss = 1/B sum_b [ beta KL(q(z|x_b) || p(z)) - 1/K sum_k log p(x_b|z_k) ]`

    Takes the arguments of `elbo`. Made for `jax.value_and_grad(..., has_aux=True)`:

    >>> import jax, jax.numpy as jnp, vaejax
    >>> def loss(params, key, x):
    ...     encode = lambda x: vaejax.Normal(params["w"] * x, 0.1)
    ...     return vaejax.negative_elbo(key, x, encode, lambda z: vaejax.Normal(z, 1.0))
    >>> step = jax.value_and_grad(loss, has_aux=True)
    >>> (value, terms), gradient = step({"w": jnp.ones(3)}, jax.random.key(0), jnp.ones((8, 3)))
    >>> value.shape, gradient["w"].shape
    ((), (3,))
    """
    terms = elbo(key, x, encode, decode, prior, num_samples=num_samples, beta=beta, kl=kl, map_samples=map_samples)
    return negative_mean(terms)
