"""numpyro's distributions seen as ours, where a closed form needs to know what they are.

Sampling and log-densities need no adapter, since the calling convention is the same. numpyro is not
imported: its objects are known by the names of their classes.
"""

from collections.abc import Callable
from typing import Any

from vaejax.distributions.bernoulli import Bernoulli
from vaejax.distributions.categorical import Categorical
from vaejax.distributions.laplace import Laplace
from vaejax.distributions.multivariate_normal import MultivariateNormal
from vaejax.distributions.normal import Normal
from vaejax.types import Distribution

_COUNTERPARTS: dict[str, Callable[[Any, int], Distribution]] = {
    "Normal": lambda d, event_ndims: Normal(d.loc, d.scale, event_ndims),
    "Laplace": lambda d, event_ndims: Laplace(d.loc, d.scale, event_ndims),
    "BernoulliLogits": lambda d, event_ndims: Bernoulli(d.logits, event_ndims),
    "BernoulliProbs": lambda d, event_ndims: Bernoulli(d.logits, event_ndims),
    "CategoricalLogits": lambda d, event_ndims: Categorical(d.logits, event_ndims),
    "CategoricalProbs": lambda d, event_ndims: Categorical(d.logits, event_ndims),
    "MultivariateNormal": lambda d, event_ndims: MultivariateNormal(d.loc, d.scale_tril),
}


def as_native(distribution: Distribution) -> Distribution:
    """Our counterpart of a numpyro distribution; anything else as it is."""
    base: Any = distribution
    event_ndims = 0
    while type(base).__name__ == "Independent" and _is_numpyro(base):
        event_ndims += base.reinterpreted_batch_ndims
        base = base.base_dist
    if _is_numpyro(base) and type(base).__name__ in _COUNTERPARTS:
        return _COUNTERPARTS[type(base).__name__](base, event_ndims)
    return distribution


def _is_numpyro(distribution: Any) -> bool:
    return type(distribution).__module__.partition(".")[0] == "numpyro"
