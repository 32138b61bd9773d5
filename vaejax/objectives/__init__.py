"""Two ways to turn an encoder, a decoder and a prior into one number per example, and what penalises them."""

from vaejax.objectives.autoencode import autoencode, negative_mean
from vaejax.objectives.elbo import elbo, negative_elbo
from vaejax.objectives.regularizers import kl, monte_carlo_kl, none

__all__ = ["autoencode", "elbo", "kl", "monte_carlo_kl", "negative_elbo", "negative_mean", "none"]
