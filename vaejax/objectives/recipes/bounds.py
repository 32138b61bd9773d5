"""Bounds of several samples, and path gradients."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax

from vaejax.distributions import standard_normal
from vaejax.objectives.bounds import ciwae_bound, elbo_bound, iwae_bound, miwae_bound, renyi_bound
from vaejax.objectives.importance import importance_bound
from vaejax.types import Array, ArrayLike, Distribution, Objective, Params


def iwae(prior: Distribution = standard_normal, *, num_samples: int, path_gradient: bool = False) -> Objective:
    """The importance-weighted autoencoder.

    Source: Burda, Grosse and Salakhutdinov 2015, Importance Weighted Autoencoders.
    """
    return partial(
        importance_bound, prior=prior, num_samples=num_samples, bound=iwae_bound(), path_gradient=path_gradient
    )


def dreg(prior: Distribution = standard_normal, *, num_samples: int) -> Objective:
    """The importance-weighted autoencoder with the doubly reparameterized gradient.

    Source: Tucker et al. 2019, Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives.
    """
    return iwae(prior, num_samples=num_samples, path_gradient=True)


def sticking_the_landing(prior: Distribution = standard_normal, *, num_samples: int = 1) -> Objective:
    """The evidence lower bound with the path gradient, whose noise vanishes where q is the posterior.

    Source: Roeder, Wu and Duvenaud 2017, Sticking the Landing.
    """
    return partial(importance_bound, prior=prior, num_samples=num_samples, bound=elbo_bound(), path_gradient=True)


def miwae(prior: Distribution = standard_normal, *, num_samples: int, groups: int) -> Objective:
    """The mean of several importance-weighted bounds.

    Source: Rainforth et al. 2018, Tighter Variational Bounds are Not Necessarily Better.
    """
    return partial(importance_bound, prior=prior, num_samples=num_samples, bound=miwae_bound(groups))


def ciwae(prior: Distribution = standard_normal, *, num_samples: int, beta: ArrayLike = 0.5) -> Objective:
    """The evidence lower bound and the importance-weighted one, mixed.

    Source: Rainforth et al. 2018, Tighter Variational Bounds are Not Necessarily Better.
    """
    return partial(importance_bound, prior=prior, num_samples=num_samples, bound=ciwae_bound(beta))


def piwae(prior: Distribution = standard_normal, *, num_samples: int, groups: int) -> Callable[..., tuple[Any, Any]]:
    """Each net its own bound: the decoder learns by the importance-weighted one, the encoder by `groups` of them.

    Returns:
      `(params, key, x, encode, decode)` to two terms, whose values are both maximised: the first has no gradient
      to the encoder, the second none to the decoder or the prior. encode and decode take params first, as those
      of `vaejax.nets` do, because a decoder can only be frozen where its parameters are seen. Both share their draws.

    Source: Rainforth et al. 2018, Tighter Variational Bounds are Not Necessarily Better.
    """

    def objective(params: Params, key: Array, x: Any, encode: Any, decode: Any, **options: Any) -> tuple[Any, Any]:
        frozen, frozen_prior = jax.lax.stop_gradient((params, prior))
        of_decoder = iwae(prior, num_samples=num_samples)
        of_encoder = miwae(frozen_prior, num_samples=num_samples, groups=groups)
        return (
            of_decoder(key, x, partial(encode, frozen), partial(decode, params), **options),
            of_encoder(jax.random.clone(key), x, partial(encode, params), partial(decode, frozen), **options),
        )

    return objective


def renyi_vae(prior: Distribution = standard_normal, *, num_samples: int, alpha: ArrayLike = 0.5) -> Objective:
    """The variational Renyi bound.

    Source: Li and Turner 2016, Renyi Divergence Variational Inference.
    """
    return partial(importance_bound, prior=prior, num_samples=num_samples, bound=renyi_bound(alpha))
