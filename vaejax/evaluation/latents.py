"""What the latents are used for."""

import jax.numpy as jnp

from vaejax.types import Array

# Burda et al. 2015.
ACTIVE_VARIANCE = 0.01


def active_units(means: Array, threshold: float = ACTIVE_VARIANCE) -> Array:
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
