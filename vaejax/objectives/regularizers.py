"""Penalties on the posterior: functions `(key, q, z)` to `[*B]` in nats, lower is better."""

import jax.numpy as jnp

from vaejax.distributions import kl_divergence, standard_normal
from vaejax.types import Array, Distribution, Regularizer


def none(key: Array, q: Distribution, z: Array) -> Array:
    """No penalty: the plain autoencoder."""
    del key, q, z
    return jnp.zeros(())


def kl(prior: Distribution = standard_normal) -> Regularizer:
    """The closed-form divergence, `KL(q(z|x) || p(z))`.

    Raises (when it is used):
      TypeError: the pair has no closed form; `monte_carlo_kl` estimates it.
    """

    def closed_form(key: Array, q: Distribution, z: Array) -> Array:
        del key, z
        return kl_divergence(q, prior)

    return closed_form


def monte_carlo_kl(prior: Distribution = standard_normal) -> Regularizer:
    """The unbiased estimate of the divergence from the draws themselves, for any posterior and prior.

    `log q(z|x) - log p(z)`, `z ~ q(z|x)`; with several samples their mean. It can be negative, and
    at `q = p(z|x)` it makes every draw of the bound equal to `log p(x)`.
    """

    def estimate(key: Array, q: Distribution, z: Array) -> Array:
        del key
        return q.log_prob(z) - prior.log_prob(z)

    return estimate
