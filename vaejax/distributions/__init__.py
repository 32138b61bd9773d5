"""What encoders, decoders and priors return: small frozen pytrees with `sample` and `log_prob`.

Event axes are part of each object, so `log_prob` gives one number per example, in nats. All take
parameters that may be traced, compute log-densities in float32 or more, and check concrete values
against their support.
"""

from vaejax.distributions.bernoulli import Bernoulli, ContinuousBernoulli
from vaejax.distributions.bounds import bound_log_scale
from vaejax.distributions.categorical import Categorical
from vaejax.distributions.delta import Delta
from vaejax.distributions.divergences import kl_divergence
from vaejax.distributions.interop import as_native
from vaejax.distributions.laplace import Laplace
from vaejax.distributions.multivariate_normal import MultivariateNormal
from vaejax.distributions.normal import (
    Normal,
    OptimalNormal,
    reparameterize,
    standard_normal,
)

__all__ = [
    "Bernoulli",
    "Categorical",
    "ContinuousBernoulli",
    "Delta",
    "Laplace",
    "MultivariateNormal",
    "Normal",
    "OptimalNormal",
    "as_native",
    "bound_log_scale",
    "kl_divergence",
    "reparameterize",
    "standard_normal",
]
