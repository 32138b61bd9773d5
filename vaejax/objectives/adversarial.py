"""Penalties from a discriminator, and the discriminator's own loss.

A discriminator is a function of points to logits `[B]`: the log-odds that a point is of the first kind and not of
the second. A game of two players stays one loss and one pure step: the sum of both terms, in which each stops the
gradient of the other (the penalty gets the discriminator with its parameters behind `jax.lax.stop_gradient`, and
`discriminator_loss` stops the points). `optax.partition` gives each player an optimizer.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from vaejax.checks import check_callable, check_key
from vaejax.distributions._base import at_least_float32
from vaejax.types import Array, Distribution, Regularizer

# Points [B, *Z] to logits [B].
Discriminate = Callable[[Array], Array]


def tc_from_discriminator(discriminate: Discriminate) -> Regularizer:
    """The total correlation by a density ratio, `log q(z) - log prod_i q(z_i)`, `[B]`.

    Args:
      discriminate: log-odds that z was drawn from q(z) and not from the product of its marginals, which
        `permute_axes` draws from.

    Source: Kim and Mnih 2018, Disentangling by Factorising, equation 3.
    """
    return _logits_of("tc_from_discriminator", discriminate)


def prior_ratio(discriminate: Discriminate) -> Regularizer:
    """The divergence of the aggregate posterior from the prior by a density ratio, `log q(z) - log p(z)`, `[B]`.

    Args:
      discriminate: log-odds that z was drawn from q(z) and not from the prior.

    Departs from the papers in the generator's loss: they minimise `log(1 + exp(logit))` (see `fool`), which has
    the same optimum; the logit itself estimates `KL(q(z) || p(z))`, in nats.

    Source: Makhzani et al. 2016, Adversarial Autoencoders; Tolstikhin et al. 2018, Wasserstein Auto-Encoders;
    Mescheder et al. 2017, Adversarial Variational Bayes, for the ratio.
    """
    return _logits_of("prior_ratio", discriminate)


def fool(discriminate: Discriminate) -> Regularizer:
    """The generator's loss of a GAN without saturation, `-log sigmoid(-logit)`, `[B]`.

    Args:
      discriminate: log-odds that z is of the kind that is generated.

    Source: Goodfellow et al. 2014, Generative Adversarial Nets, section 3.
    """
    check_callable("fool: discriminate", discriminate)
    return lambda key, q, z: jax.nn.softplus(discriminate(z))


def discriminator_loss(discriminate: Discriminate, first: Array, second: Array) -> Array:
    """The cross-entropy of telling `first` from `second`, `[]`; no gradient reaches the points.

    `mean log(1 + exp(-d(first))) + mean log(1 + exp(d(second)))`; at its minimum `d = log p_first - log p_second`.
    """
    check_callable("discriminator_loss: discriminate", discriminate)
    first, second = jax.lax.stop_gradient((first, second))
    of_first, of_second = at_least_float32(discriminate(first), discriminate(second))
    return jnp.mean(jax.nn.softplus(-of_first)) + jnp.mean(jax.nn.softplus(of_second))


def permute_axes(key: Array, z: Array) -> Array:
    """Shuffle each latent axis over the batch by itself: draws of `prod_i q(z_i)` from draws of q(z), `[B, *Z]`.

    The first axis is the batch: fold the sample axis of `num_samples=K` into it first, for draws of one example
    shuffled among themselves are no draws of the product.

    Raises:
      ValueError: a single example, which cannot be shuffled.

    Source: Kim and Mnih 2018, Disentangling by Factorising, algorithm 1.
    """
    check_key(key)
    if z.ndim < 2 or z.shape[0] < 2:
        raise ValueError(f"permute_axes: z must have a batch axis of at least 2 and latent axes; got shape {z.shape}")
    return jax.random.permutation(key, z, axis=0, independent=True)


def _logits_of(name: str, discriminate: Discriminate) -> Regularizer:
    check_callable(f"{name}: discriminate", discriminate)

    def penalty(key: Array, q: Distribution, z: Array) -> Array:
        del key, q
        return discriminate(z)

    return penalty
