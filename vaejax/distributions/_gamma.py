"""Logarithms of gamma functions whose leading terms cancel: counts and directions need their differences.

`log Gamma(x) = (x - 1/2) log x - x + log(2 pi) / 2 + d(x)` with a small rest d. Where the large terms
are cancelled by hand, single precision keeps its digits up to any argument.
"""

import jax.numpy as jnp
from jax.scipy.special import gammaln

from vaejax.distributions._base import LOG_TWO_PI
from vaejax.types import Array

# From here on the five terms below are exact to rounding in double precision.
SERIES_FROM = 10.0


def stirling_error(x: Array) -> Array:
    """`d(x) = log Gamma(x) - (x - 1/2) log x + x - log(2 pi) / 2`, for x > 0; about `1 / (12 x)`."""
    small = x < SERIES_FROM
    # Each branch sees only arguments at which its gradient is finite.
    near = jnp.where(small, x, 1.0)
    direct = gammaln(near) - (near - 0.5) * jnp.log(near) + near - 0.5 * LOG_TWO_PI
    inverse = 1.0 / jnp.where(small, SERIES_FROM, x)
    square = inverse**2
    series = inverse * (1 / 12 + square * (-1 / 360 + square * (1 / 1260 + square * (-1 / 1680 + square / 1188))))
    return jnp.where(small, direct, series)


def log_gamma_ratio(x: Array, step: Array | float) -> Array:
    """`log Gamma(x + step) - log Gamma(x)` for x > 0 and step >= 0, exact also where x is large."""
    rest = stirling_error(x + step) - stirling_error(x)
    return (x - 0.5) * jnp.log1p(step / x) + step * (jnp.log(x + step) - 1.0) + rest
