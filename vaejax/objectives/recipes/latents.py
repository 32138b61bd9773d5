"""Richer priors, richer posteriors, other latent spaces."""

from functools import partial
from typing import Any

import jax.numpy as jnp

from vaejax.distributions import (
    Categorical,
    HamiltonianPosterior,
    SphericalUniform,
    standard_normal,
    vamp_prior,
)
from vaejax.distributions.normal import matched
from vaejax.objectives.autoencode import autoencode
from vaejax.objectives.elbo import elbo
from vaejax.objectives.regularizers import categorical_kl, monte_carlo_kl
from vaejax.types import Array, ArrayLike, Decode, Distribution, Encode, Objective


def vamp_vae(pseudo_inputs: Array) -> Objective:
    """The prior a mixture of the encoder's own posteriors at inputs `[C, *E]` that are learned.

    Source: Tomczak and Welling 2018, VAE with a VampPrior.
    """

    def objective(key: Array, x: Any, encode: Encode, decode: Decode, **options: Any) -> Any:
        return learned_prior_vae(vamp_prior(encode, pseudo_inputs))(key, x, encode, decode, **options)

    return objective


def learned_prior_vae(prior: Distribution) -> Objective:
    """Any prior, its parameters learned along: a `Mixture`, a flow (`Transformed`), an autoregressive one.

    Source: Chen et al. 2017, Variational Lossy Autoencoder (flow priors); Dilokthanakul et al. 2016 (mixtures).
    """
    return partial(elbo, prior=prior, kl=monte_carlo_kl)


def flow_vae(prior: Distribution = standard_normal) -> Objective:
    """A posterior without a closed-form divergence; the encoder returns a `Transformed`.

    Source: Rezende and Mohamed 2015, Variational Inference with Normalizing Flows; Kingma et al. 2016 (IAF).
    """
    return partial(elbo, prior=prior, kl=monte_carlo_kl)


def hamiltonian_vae(
    prior: Distribution = standard_normal,
    *,
    step_size: ArrayLike = 0.1,
    num_steps: int = 5,
    inverse_temperature: ArrayLike = 1.0,
) -> Objective:
    """The encoder's draws moved along the gradient of `log p(x, z)` before they are used.

    `terms.posterior` is the encoder's, from which they start.

    Source: Caterini, Doucet and Sejdinovic 2018, Hamiltonian Variational Auto-Encoder.
    """

    def objective(key: Array, x: Any, encode: Encode, decode: Decode, **options: Any) -> Any:
        def moved(x: Any) -> Distribution:
            q = encode(x)
            log_joint = lambda z: decode(z).log_prob(x) + matched(prior, q).log_prob(z)
            return HamiltonianPosterior(q, log_joint, step_size, num_steps, inverse_temperature)

        terms = elbo(key, x, moved, decode, prior, kl=monte_carlo_kl, **options)
        # The moved posterior holds the decoder as it is traced here, and could not be used outside.
        return terms._replace(posterior=terms.posterior.base)  # type: ignore[attr-defined]

    return objective


def hyperspherical_vae(latent_size: int) -> Objective:
    """Latents on the unit sphere; the encoder returns a `PowerSpherical`.

    Source: Davidson et al. 2018, Hyperspherical Variational Auto-Encoders; De Cao and Aziz 2020 for the family.
    """
    return partial(elbo, prior=SphericalUniform(latent_size))


def gumbel_vae(num_variables: int, num_levels: int) -> Objective:
    """Categorical latents, relaxed; the encoder returns a `RelaxedCategorical` over `[N, L]`.

    A surrogate and no bound: the penalty is the divergence of the categoricals underneath.

    Source: Jang, Gu and Poole 2017; Maddison, Mnih and Teh 2017.
    """
    return partial(autoencode, regularizer=categorical_kl(Categorical(jnp.zeros((num_variables, num_levels)))))
