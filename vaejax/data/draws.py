"""Uniform draws for the preparation of data, of which each step makes as many as it has pixels."""

import math

import jax
import jax.numpy as jnp
from jax.extend.random import threefry2x32_p

from vaejax.types import Array, Shape

# Of the generator whose words are told apart here.
THREEFRY = "threefry2x32"


def uniform(key: Array, shape: Shape) -> Array:
    """Draws from U[0, 1), multiples of 2^-23, as `jax.random.uniform` makes them but from half as many hashes.

    Each hash of Threefry has two words of 32 bits, of which JAX makes one number; here each is a number of its own.
    Hashes are counted by (row, column), so that rows may be drawn on several devices. Keys of other generators draw as
    JAX does.

    Args:
      key: one typed PRNG key.
      shape: `[*R, N]`.

    Source: Salmon et al. 2011, Parallel random numbers: as easy as 1, 2, 3, for Threefry.
    """
    if jax.random.key_impl(key) != THREEFRY:
        return jax.random.uniform(key, shape)
    *rows, width = shape
    counts = [jax.lax.broadcasted_iota(jnp.uint32, (math.prod(rows), -(-width // 2)), axis) for axis in (0, 1)]
    words = threefry2x32_p.bind(*jax.random.key_data(key), *counts)
    bits = jnp.concatenate(words, axis=1)[:, :width].reshape(shape)
    # The mantissa of a float between 1 and 2.
    return jax.lax.bitcast_convert_type((bits >> 9) | jnp.float32(1).view(jnp.uint32), jnp.float32) - 1.0
