"""How an encoder, a decoder and a prior become one number per example.

There are two generic functions: subtract a penalty on q (`autoencode`, of which `elbo` is the famous case), or reduce
K log-weights (`importance_bound`). `ladder_elbo` is the first for a hierarchy of latents. The rest are what goes into
them: regularizers, bounds, quantized posteriors, and what a discriminator says; `recipes` puts them together.
"""

from vaejax.objectives import recipes
from vaejax.objectives.adversarial import discriminator_loss, fool, permute_axes, prior_ratio, tc_from_discriminator
from vaejax.objectives.aggregate import (
    gaussian_kernel,
    inverse_multiquadratic,
    minibatch_weights,
    mmd_to,
    stratified_weights,
    tc_decomposition,
)
from vaejax.objectives.autoencode import autoencode, negative_mean
from vaejax.objectives.bounds import ciwae_bound, elbo_bound, iwae_bound, miwae_bound, renyi_bound
from vaejax.objectives.codebook import (
    CodebookState,
    CodebookUsage,
    codebook_usage,
    init_codebook,
    init_codebook_from,
    revive_dead_codes,
    update_codebook,
)
from vaejax.objectives.elbo import elbo, negative_elbo
from vaejax.objectives.finite_scalar import finite_scalar_codes, finite_scalar_indices, finite_scalar_quantize
from vaejax.objectives.geco import GecoState, init_geco, update_geco
from vaejax.objectives.importance import importance_bound
from vaejax.objectives.ladder import ladder_elbo, ladder_sample, precision_weighted
from vaejax.objectives.marginal import marginalize_label
from vaejax.objectives.quantization import VectorQuantized, residual_quantize, vector_quantize
from vaejax.objectives.quantization_losses import codebook_loss, commitment_loss
from vaejax.objectives.regularizers import (
    add,
    capacity,
    categorical_kl,
    dip_i,
    dip_ii,
    free_bits,
    jacobian_penalty,
    kl,
    monte_carlo_kl,
    none,
    scale,
)

__all__ = [
    "CodebookState",
    "CodebookUsage",
    "GecoState",
    "VectorQuantized",
    "add",
    "autoencode",
    "capacity",
    "categorical_kl",
    "ciwae_bound",
    "codebook_loss",
    "codebook_usage",
    "commitment_loss",
    "dip_i",
    "dip_ii",
    "discriminator_loss",
    "elbo",
    "elbo_bound",
    "finite_scalar_codes",
    "finite_scalar_indices",
    "finite_scalar_quantize",
    "fool",
    "free_bits",
    "gaussian_kernel",
    "importance_bound",
    "init_codebook",
    "init_codebook_from",
    "init_geco",
    "inverse_multiquadratic",
    "iwae_bound",
    "jacobian_penalty",
    "kl",
    "ladder_elbo",
    "ladder_sample",
    "marginalize_label",
    "minibatch_weights",
    "miwae_bound",
    "mmd_to",
    "monte_carlo_kl",
    "negative_elbo",
    "negative_mean",
    "none",
    "permute_axes",
    "precision_weighted",
    "prior_ratio",
    "recipes",
    "renyi_bound",
    "residual_quantize",
    "revive_dead_codes",
    "scale",
    "stratified_weights",
    "tc_decomposition",
    "tc_from_discriminator",
    "update_codebook",
    "update_geco",
    "vector_quantize",
]
