"""What the latents are used for."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from vaejax.distributions import as_native, kl_divergence, standard_normal
from vaejax.types import Array, Distribution


def kl_per_axis(q: Distribution, prior: Distribution = standard_normal) -> Array:
    """The closed-form divergence of each latent axis by itself, in nats, `[*B, *Z]`.

    Its sum over the axes is `kl_divergence(q, prior)`; an axis that stays at 0 is not used.

    Raises:
      TypeError: the axes of q or of the prior are not independent, or the pair has no closed form.

    >>> import jax.numpy as jnp, vaejax
    >>> q = vaejax.Normal(jnp.array([[0.0, 2.0]]), 1.0)
    >>> kl_per_axis(q).tolist()
    [[0.0, 2.0]]
    """
    return kl_divergence(_axis_by_axis(q), _axis_by_axis(prior))


def active_units(means: Array, threshold: float = 0.01) -> Array:
    """How many latents vary with the data: axes with `Var_x(E_q[z_i]) > threshold`, `[]` int32.

    Args:
      means: posterior means of many examples, `[N, *Z]`.
      threshold: the customary 0.01.

    Source: Burda, Grosse and Salakhutdinov 2015, Importance Weighted Autoencoders, section 5.2.

    >>> import jax.numpy as jnp
    >>> active_units(jnp.array([[0.0, 5.0], [0.0, -5.0]])).item()
    1
    """
    return jnp.sum(jnp.var(means, axis=0) > threshold)


def _axis_by_axis(distribution: Distribution) -> Distribution:
    native: Any = as_native(distribution)
    if not dataclasses.is_dataclass(native) or "event_ndims" not in {f.name for f in dataclasses.fields(native)}:
        raise TypeError(f"kl_per_axis: the axes of {type(distribution).__name__} are not known to be independent")
    return dataclasses.replace(native, event_ndims=0)  # type: ignore[return-value, type-var]
