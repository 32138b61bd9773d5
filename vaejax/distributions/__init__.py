"""What encoders, decoders and priors return: small frozen pytrees with `sample` and `log_prob`.

Event axes are part of each object, so `log_prob` gives one number per example, in nats. All take
parameters that may be traced, compute log-densities in float32 or more, and check concrete values
against their support.
"""

from vaejax.distributions.autoregressive import (
    Autoregressive,
    inverse_autoregressive_flow,
    masked_autoregressive_flow,
    with_context,
)
from vaejax.distributions.bernoulli import Bernoulli, ContinuousBernoulli
from vaejax.distributions.bijectors import Bijector, Chain, ElementwiseAffine, Inverse, Permutation, Reverse
from vaejax.distributions.bounds import bound_log_scale
from vaejax.distributions.categorical import Categorical
from vaejax.distributions.counts import NegativeBinomial, Poisson
from vaejax.distributions.coupling import AffineCoupling, coupling_flow
from vaejax.distributions.delta import Delta
from vaejax.distributions.discretized_logistic import DiscretizedLogistic, discretized_logistic_mixture
from vaejax.distributions.divergences import by_axis, kl_divergence, kl_per_axis
from vaejax.distributions.hamiltonian import HamiltonianPosterior
from vaejax.distributions.hierarchical import Hierarchical, markov_chain
from vaejax.distributions.interop import as_native
from vaejax.distributions.laplace import Laplace
from vaejax.distributions.masked import Masked
from vaejax.distributions.mixture import Mixture, vamp_prior
from vaejax.distributions.multivariate_normal import MultivariateNormal
from vaejax.distributions.normal import (
    Normal,
    OptimalNormal,
    reparameterize,
    sized,
    standard_normal,
)
from vaejax.distributions.planar_radial import Planar, Radial
from vaejax.distributions.relaxed_categorical import RelaxedCategorical
from vaejax.distributions.spherical import PowerSpherical, SphericalUniform
from vaejax.distributions.transformed import Transformed

__all__ = [
    "AffineCoupling",
    "Autoregressive",
    "Bernoulli",
    "Bijector",
    "Categorical",
    "Chain",
    "ContinuousBernoulli",
    "Delta",
    "DiscretizedLogistic",
    "ElementwiseAffine",
    "HamiltonianPosterior",
    "Hierarchical",
    "Inverse",
    "Laplace",
    "Masked",
    "Mixture",
    "MultivariateNormal",
    "NegativeBinomial",
    "Normal",
    "OptimalNormal",
    "Permutation",
    "Planar",
    "Poisson",
    "PowerSpherical",
    "Radial",
    "RelaxedCategorical",
    "Reverse",
    "SphericalUniform",
    "Transformed",
    "as_native",
    "bound_log_scale",
    "by_axis",
    "coupling_flow",
    "discretized_logistic_mixture",
    "inverse_autoregressive_flow",
    "kl_divergence",
    "kl_per_axis",
    "markov_chain",
    "masked_autoregressive_flow",
    "reparameterize",
    "sized",
    "standard_normal",
    "vamp_prior",
    "with_context",
]
