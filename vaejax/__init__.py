"""vaejax: autoencoders and variational autoencoders as pure functions in JAX.

Your encoder and your decoder are just functions; `vaejax.elbo` turns any two of them into a
per-example bound in nats. This flat namespace is the mathematics and loads nothing but JAX; the
other rooms are imported by name: `from vaejax import data, nets, training, evaluation, report`.
"""

from vaejax import distributions, objectives, testing, types
from vaejax.distributions import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    Delta,
    Laplace,
    MultivariateNormal,
    Normal,
    OptimalNormal,
    bound_log_scale,
    kl_divergence,
    reparameterize,
    standard_normal,
)
from vaejax.objectives import autoencode, elbo, kl, monte_carlo_kl, negative_elbo, negative_mean, none
from vaejax.types import AutoencodeTerms, ElboTerms

__version__ = "0.1.0"

__all__ = [
    "AutoencodeTerms",
    "Bernoulli",
    "Categorical",
    "ContinuousBernoulli",
    "Delta",
    "ElboTerms",
    "Laplace",
    "MultivariateNormal",
    "Normal",
    "OptimalNormal",
    "autoencode",
    "bound_log_scale",
    "distributions",
    "elbo",
    "kl",
    "kl_divergence",
    "monte_carlo_kl",
    "negative_elbo",
    "negative_mean",
    "none",
    "objectives",
    "reparameterize",
    "standard_normal",
    "testing",
    "types",
]
