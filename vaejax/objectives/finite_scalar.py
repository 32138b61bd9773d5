"""Finite scalar quantization: a codebook that is a grid, with nothing to learn in it."""

import math
from typing import Any

import jax.numpy as jnp

from vaejax.checks import check_array, check_count, check_support
from vaejax.distributions._base import at_least_float32
from vaejax.objectives.quantization import straight_through
from vaejax.types import Array


def finite_scalar_quantize(z: Array, levels: tuple[int, ...]) -> Array:
    """Bound each axis and round it to one of its levels, passing the gradient straight through.

    `(2 round((L - 1) (tanh(z) + 1) / 2) - (L - 1)) / (L - 1)`, with the gradient of `tanh(z)`

    The L levels of an axis lie evenly from -1 to 1, both among them. So an even number of them leaves
    out 0, where the paper's leaves out 1; for an odd number they are the paper's. As a posterior it is
    a point, `Delta(finite_scalar_quantize(z, levels))`, and needs no loss of its own.

    Args:
      z: `[*B, D]`.
      levels: how many levels each of the D axes has, at least 2.

    Returns:
      `[*B, D]` in [-1, 1], in float32 or more.

    Raises:
      TypeError, ValueError: levels that are no integers of at least 2, or not as many as axes.

    Source: Mentzer, Minnen, Agustsson and Tschannen 2023, Finite Scalar Quantization: VQ-VAE Made
    Simple, section 3.1.

    >>> import jax.numpy as jnp
    >>> finite_scalar_quantize(jnp.array([[0.1, -9.0], [0.6, 0.1]]), (3, 2)).tolist()
    [[0.0, -1.0], [1.0, 1.0]]
    """
    _check_levels("finite_scalar_quantize", levels)
    _check_vectors("finite_scalar_quantize: z", z, levels)
    (z,) = at_least_float32(z)
    bounded = jnp.tanh(z)
    return straight_through(_values(_digits(bounded, levels), levels), bounded)


def finite_scalar_indices(quantized: Array, levels: tuple[int, ...]) -> Array:
    """The number of each vector of levels: `[*B, D]` in [-1, 1] to `[*B]` int32 in [0, prod(levels)).

    `sum_i k_i prod_{j<i} L_j`, `k_i` the level of axis i counted from 0: the first axis changes fastest.

    Raises:
      TypeError, ValueError: as `finite_scalar_quantize`, concrete values outside [-1, 1], or more
        vectors than int32 can count.

    >>> import jax.numpy as jnp
    >>> finite_scalar_indices(jnp.array([[-1.0, -1.0], [0.0, 1.0]]), (3, 2)).tolist()
    [0, 4]
    """
    _check_countable("finite_scalar_indices", levels)
    _check_vectors("finite_scalar_indices: quantized", quantized, levels)
    (quantized,) = at_least_float32(quantized)
    # A compiler may multiply by a reciprocal where it should divide, which can leave [-1, 1] by a rounding.
    inside = lambda value: jnp.abs(value) <= 1.0 + 1e-5
    check_support("finite_scalar_indices: quantized", quantized, inside, "in [-1, 1] (finite_scalar_quantize)")
    digits = _digits(quantized, levels).astype(jnp.int32)
    return jnp.sum(digits * jnp.array(_place_values(levels), jnp.int32), axis=-1, dtype=jnp.int32)


def finite_scalar_codes(indices: Array, levels: tuple[int, ...]) -> Array:
    """The vectors of levels of the given numbers, `[*B]` to `[*B, D]`: the inverse of `finite_scalar_indices`.

    Raises:
      TypeError, ValueError: as `finite_scalar_indices`, or concrete indices outside [0, prod(levels)).

    >>> import jax.numpy as jnp
    >>> finite_scalar_codes(jnp.array([0, 4]), (3, 2)).tolist()
    [[-1.0, -1.0], [0.0, 1.0]]
    """
    _check_countable("finite_scalar_codes", levels)
    check_array("finite_scalar_codes: indices", indices)
    indices, count = jnp.asarray(indices), math.prod(levels)
    if not jnp.issubdtype(indices.dtype, jnp.integer):
        raise TypeError(f"finite_scalar_codes: indices must be integers; got dtype {indices.dtype}")
    inside = lambda value: (value >= 0) & (value < count)
    check_support("finite_scalar_codes: indices", indices, inside, f"from 0 to {count - 1}")
    places, sizes = (jnp.array(each, jnp.int32) for each in (_place_values(levels), levels))
    (digits,) = at_least_float32(indices.astype(jnp.int32)[..., None] // places % sizes)
    return _values(digits, levels)


def _digits(bounded: Array, levels: tuple[int, ...]) -> Array:
    """Values in [-1, 1] to the number of the nearest level of each axis, from 0, as floats."""
    return jnp.round((bounded + 1.0) / 2.0 * (jnp.array(levels, bounded.dtype) - 1.0))


def _values(digits: Array, levels: tuple[int, ...]) -> Array:
    """The inverse of `_digits`; the levels at both sides of 0 are exact opposites."""
    last = jnp.array(levels, digits.dtype) - 1.0
    return (2.0 * digits - last) / last


def _place_values(levels: tuple[int, ...]) -> list[int]:
    return [math.prod(levels[:axis]) for axis in range(len(levels))]


def _check_levels(owner: str, levels: Any) -> None:
    if not isinstance(levels, tuple) or not levels:
        raise TypeError(f"{owner}: levels must be a tuple of integers such as (8, 5, 5); got {levels!r}")
    for axis, count in enumerate(levels):
        check_count(f"{owner}: levels[{axis}]", count, minimum=2)


def _check_countable(owner: str, levels: Any) -> None:
    _check_levels(owner, levels)
    if math.prod(levels) > 2**31:
        raise ValueError(f"{owner}: levels must give at most 2**31 vectors, as int32 counts; got {levels}")


def _check_vectors(name: str, value: Any, levels: tuple[int, ...]) -> None:
    check_array(name, value)
    if jnp.shape(value)[-1:] != (len(levels),):
        raise ValueError(
            f"{name} must have a last axis of {len(levels)}, one for each of {levels}; got {jnp.shape(value)}"
        )
