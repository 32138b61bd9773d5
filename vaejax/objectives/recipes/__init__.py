"""The published methods, each one expression of the building blocks.

A recipe takes what the method lets one choose, which may be traced (`beta=schedule(step)`), and returns an objective: a
function `(key, x, encode, decode)` to the terms whose `value` is maximised, which also takes the `num_samples` and
`map_samples` of the generic function behind it. It is what the paper's method is called, and no more: whoever wants
another combination writes that expression.

>>> import jax, jax.numpy as jnp, vaejax
>>> x = jnp.ones((8, 3))
>>> objective = vaejax.recipes.beta_tc_vae(dataset_size=100)
>>> terms = objective(jax.random.key(0), x, lambda x: vaejax.Normal(x, 0.5), lambda z: vaejax.Normal(z, 1.0))
>>> loss, terms = vaejax.negative_mean(terms)
"""

from vaejax.objectives.recipes.bounds import ciwae, dreg, iwae, miwae, piwae, renyi_vae, sticking_the_landing
from vaejax.objectives.recipes.codes import ema_vq_vae, fsq_autoencoder, residual_vq_vae, vq_vae
from vaejax.objectives.recipes.latents import (
    flow_vae,
    gumbel_vae,
    hamiltonian_vae,
    hyperspherical_vae,
    learned_prior_vae,
    vamp_vae,
)
from vaejax.objectives.recipes.penalties import (
    adversarial_autoencoder,
    autoencoder,
    beta_tc_vae,
    beta_vae,
    capacity_vae,
    dip_vae_i,
    dip_vae_ii,
    factor_vae,
    free_bits_vae,
    geco,
    info_vae,
    rae_gp,
    rae_l2,
    vae,
    vae_gan,
    wae_mmd,
)
from vaejax.objectives.recipes.structured import conditional_vae, ladder_vae, missing_data_vae, semi_supervised_vae

__all__ = [
    "adversarial_autoencoder",
    "autoencoder",
    "beta_tc_vae",
    "beta_vae",
    "capacity_vae",
    "ciwae",
    "conditional_vae",
    "dip_vae_i",
    "dip_vae_ii",
    "dreg",
    "ema_vq_vae",
    "factor_vae",
    "flow_vae",
    "free_bits_vae",
    "fsq_autoencoder",
    "geco",
    "gumbel_vae",
    "hamiltonian_vae",
    "hyperspherical_vae",
    "info_vae",
    "iwae",
    "ladder_vae",
    "learned_prior_vae",
    "missing_data_vae",
    "miwae",
    "piwae",
    "rae_gp",
    "rae_l2",
    "renyi_vae",
    "residual_vq_vae",
    "semi_supervised_vae",
    "sticking_the_landing",
    "vae",
    "vae_gan",
    "vamp_vae",
    "vq_vae",
    "wae_mmd",
]
