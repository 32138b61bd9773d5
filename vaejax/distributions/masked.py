"""The likelihood of what was observed, where part of the data is missing."""

from typing import Any

import jax.numpy as jnp

from vaejax.checks import check_array, check_distribution, check_event_shape, check_support
from vaejax.distributions._base import abstract_draw, distribution, sum_event
from vaejax.distributions.divergences import by_axis
from vaejax.distributions.interop import as_native, trait_of
from vaejax.distributions.mixture import eagerly
from vaejax.types import Array, ArrayLike, Distribution, Shape


@distribution
class Masked:
    """A distribution with independent axes, seen at its observed elements only.

    `log p(x) = sum_i mask_i log p_i(x_i)`

    Missing elements of the value may hold anything, NaN included: neither the log-density nor its
    gradient depends on them. Draws and the mean are those of the base, complete: they impute.

    Args:
      base: a distribution over `[*B, *E]` with independent axes: Normal, Bernoulli, Categorical, a
        `Mixture` per pixel, ... 0 must be in its support or at least harmless to its gradient: it
        stands in for what is missing.
      mask: True (or 1) where the value is observed, False (or 0) where it is missing; it broadcasts to
        `[*B, *E]`. Where it is None, NaN marks what is missing.

    Raises:
      TypeError: a base without independent axes, such as MultivariateNormal.
      ValueError: a mask that does not broadcast to the base, or holds anything but truth values.

    Source: Nazabal, Olmos, Ghahramani and Valera 2020, Handling incomplete heterogeneous data using
    VAEs; Mattei and Frellsen 2019, MIWAE: Deep Generative Modelling and Imputation of Incomplete Data Sets.

    >>> import jax.numpy as jnp
    >>> from vaejax import Laplace
    >>> x, base = jnp.array([0.5, jnp.nan, 0.5]), Laplace(jnp.zeros(3), 0.5)
    >>> Masked(base, ~jnp.isnan(x)).log_prob(x).item(), Masked(base).log_prob(x).item()
    (-2.0, -2.0)
    """

    has_rsample = trait_of("base", "has_rsample")
    is_normalized = trait_of("base", "is_normalized")
    is_discrete = trait_of("base", "is_discrete")
    is_point = trait_of("base", "is_point")
    # How many elements are observed differs by the example.
    is_partial = True

    base: Distribution
    mask: ArrayLike | None = None

    def __post_init__(self) -> None:
        check_distribution("Masked: base must be", self.base)
        object.__setattr__(self, "base", as_native(self.base))
        _elementwise(self.base)
        if self.mask is None:
            return
        check_array("Masked: mask", self.mask)
        check_support("Masked: mask", self.mask, lambda m: (m == 0) | (m == 1), "True or False (observed or missing)")
        shape = abstract_draw(self.base).shape
        _check_mask(jnp.shape(self.mask), shape)
        # One rank for both, so that jax.vmap puts its axis of either in front of all the others.
        missing = (1,) * (len(shape) - jnp.ndim(self.mask))
        object.__setattr__(self, "mask", jnp.reshape(self.mask, missing + jnp.shape(self.mask)))

    @property
    def event_ndims(self) -> int:
        """That of the base."""
        return self.base.event_ndims  # type: ignore[attr-defined]

    @property
    def mean(self) -> Array:
        """The mean of the base, complete, `[*B, *E]`."""
        return self.base.mean  # type: ignore[attr-defined]

    def support(self, value: Array) -> Array:
        """Elementwise: missing, or in the support of the base."""
        return self.base.support(value) | ~_observed(value, self.mask)  # type: ignore[attr-defined]

    def sample(self, key: Array, sample_shape: Shape = ()) -> Array:
        """Draw `[*S, *B, *E]` from the base, complete."""
        return self.base.sample(key, sample_shape)

    def log_prob(self, value: Array) -> Array:
        """Log-density of the observed elements in nats, `[*S, *B]`."""
        check_event_shape("Masked.log_prob: value", value, abstract_draw(self.base).shape, self.event_ndims)
        # Before and after: NaN times 0 is NaN, in the value as in the gradient.
        observed = eagerly(_observed, value, self.mask)
        known = eagerly(lambda v, m: jnp.where(m, v, jnp.zeros((), jnp.result_type(v))), value, observed)
        return sum_event(jnp.where(observed, _elementwise(self.base).log_prob(known), 0.0), self.event_ndims)


def _observed(value: Array, mask: ArrayLike | None) -> Array:
    """Elementwise: whether the value is observed."""
    return ~jnp.isnan(value) if mask is None else jnp.asarray(mask) != 0


def _elementwise(base: Any) -> Any:
    """The same distribution with no event axes, so that its log-density has one number per element."""
    try:
        return by_axis(base)
    except TypeError as error:
        raise TypeError(
            f"Masked: base must have independent axes (Normal, Bernoulli, Categorical, ...); got {_base_name(base)}"
        ) from error


def _base_name(base: Any) -> str:
    """What to call the base in an error: a mixture by its components too."""
    components = getattr(base, "components", None)
    return type(base).__name__ + (f" of {type(components).__name__}" if components is not None else "")


def _check_mask(mask: Shape, base: Shape) -> None:
    """Raise where the mask does not broadcast to the base."""
    try:
        fits = jnp.broadcast_shapes(mask, base) == base
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"Masked: mask must broadcast to the shape of the base, {base}; got shape {mask}")
