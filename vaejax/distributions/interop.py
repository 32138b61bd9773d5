"""numpyro's distributions seen as ours, where a closed form needs to know what they are.

Sampling and log-densities need no adapter, since the calling convention is the same. numpyro is not
imported: its objects are known by the names of their classes.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vaejax.checks import is_concrete
from vaejax.distributions.bernoulli import Bernoulli
from vaejax.distributions.categorical import Categorical
from vaejax.distributions.delta import Delta
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
    # A point with a density of its own has no counterpart.
    "Delta": lambda d, event_ndims: d if _is_known(d.log_density) else Delta(d.v, event_ndims + d.event_dim),
    "MultivariateNormal": lambda d, event_ndims: MultivariateNormal(d.loc, d.scale_tril),
}


def _is_known(log_density: Any) -> bool:
    """Whether the log-density is known to be another than 0, that of a bare point."""
    return is_concrete(log_density) and bool(np.any(log_density))


def as_native(distribution: Distribution) -> Distribution:
    """Our counterpart of a numpyro distribution; anything else as it is, out of what is wrapped around it."""
    distribution = getattr(distribution, "__wrapped__", distribution)
    base: Any = distribution
    event_ndims, batch_shape = 0, None
    while _is_numpyro(base) and type(base).__name__ in ("Independent", "ExpandedDistribution"):
        if type(base).__name__ == "Independent":
            event_ndims += base.reinterpreted_batch_ndims
        elif batch_shape is None:
            batch_shape = base.batch_shape
        base = base.base_dist
    name = type(base).__name__
    if not _is_numpyro(base) or name not in _COUNTERPARTS or (name == "MultivariateNormal" and event_ndims):
        return distribution
    native = _COUNTERPARTS[name](base, event_ndims)
    if batch_shape is None:
        return native
    own_axes = len(base.batch_shape)
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, batch_shape + jnp.shape(leaf)[own_axes:]), native)


# What is assumed of a distribution that does not say whether it has these traits; see `vaejax.types.Distribution`.
_TRAITS = {
    "has_rsample": True,
    "is_normalized": True,
    "is_discrete": False,
    "is_partial": False,
    "is_point": False,
    "is_singular": False,
}


def has_trait(distribution: Any, name: str) -> bool:
    """Whether a distribution, ours or numpyro's, has one of the traits that `vaejax.types.Distribution` lists."""
    native = as_native(distribution)
    if name == "is_singular" and type(getattr(native, "support", None)).__name__ in _SURFACES:
        return True
    return bool(getattr(native, name, _TRAITS[name]))


# numpyro's supports of fewer dimensions than their vectors have axes.
_SURFACES = ("_Simplex", "_Sphere")


def trait_of(part: str, name: str) -> Any:
    """A trait that a distribution has where that one of its fields has it, as a property."""
    return property(lambda self: has_trait(getattr(self, part), name), doc=f"Whether `{part}` has it.")


def _is_numpyro(distribution: Any) -> bool:
    return type(distribution).__module__.partition(".")[0] == "numpyro"
