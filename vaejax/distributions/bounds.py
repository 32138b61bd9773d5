"""The bound that keeps a scale away from overflow."""

from collections.abc import Callable

import jax.numpy as jnp

from vaejax.distributions._base import at_least_float32
from vaejax.types import Array, ArrayLike

# What a `bound=` argument takes; None stands for no bound.
Bound = Callable[[Array], Array]


def bound_log_scale(log_scale: ArrayLike, limit: float = 10.0) -> Array:
    """Bound a log-scale: the identity on `[-limit, limit]`, logarithmic growth beyond.

    `f(s) = s` for `|s| <= limit`, else `sign(s) (limit + log(1 + |s| - limit))`.

    A net's raw output can be anything; `exp` of 89 is infinite in float32, and a clip has no gradient
    with which to come back. This bound is exact where scales are sensible (`exp(-10) = 4.5e-5` to
    `exp(10) = 2.2e4`), monotone, once continuously differentiable, and its gradient never vanishes:
    a raw output of 1e4 becomes 19.2. Pass `bound=None` where a distribution or a head takes a bound
    to switch it off, or any other function to replace it.

    Args:
      log_scale: raw log-scales, any shape.
      limit: half the width of the interval that is left alone, in nats.

    Returns:
      The bounded log-scales, in float32 or more.

    >>> bound_log_scale(2.5).item(), round(bound_log_scale(1e4).item(), 1)
    (2.5, 19.2)
    """
    (raw,) = at_least_float32(log_scale)
    # The inner clip keeps log1p's argument at or above 0, so that no gradient is NaN.
    excess = jnp.maximum(jnp.abs(raw) - limit, 0.0)
    return jnp.where(excess > 0, jnp.sign(raw) * (limit + jnp.log1p(excess)), raw)


def bounded(log_scale: ArrayLike, bound: Bound | None) -> Array:
    """`bound(log_scale)`, or `log_scale` itself where `bound` is None; in float32 or more."""
    (raw,) = at_least_float32(log_scale)
    return raw if bound is None else bound(raw)
