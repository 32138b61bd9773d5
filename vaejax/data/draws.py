"""Uniform draws for the preparation of data, of which each step makes as many as it has pixels."""

import jax
import jax.numpy as jnp

from vaejax.types import Array, Shape

# The generator of which a key is the two words of a hash.
THREEFRY = "threefry2x32"


def uniform(key: Array, shape: Shape) -> Array:
    """Draws from U[0, 1), multiples of 2^-23, as `jax.random.uniform` makes them but from half as many hashes.

    Each hash of Threefry has two words of 32 bits, of which JAX makes one number, or a new key. Here they are taken as
    the latter and are two numbers. Keys of other generators draw as JAX does.

    Args:
      key: one typed PRNG key.
      shape: `[*R, N]`.

    Source: Salmon et al. 2011, Parallel random numbers: as easy as 1, 2, 3, for Threefry.
    """
    if jax.random.key_impl(key) != THREEFRY:
        return jax.random.uniform(key, shape)
    *rows, width = shape
    words = jax.random.key_data(jax.random.split(key, (*rows, -(-width // 2))))
    # One word of each hash and then the other: side by side they would have to be moved.
    bits = jnp.concatenate([words[..., 0], words[..., 1]], axis=-1)[..., :width]
    # The mantissa of a float between 1 and 2.
    return jax.lax.bitcast_convert_type((bits >> 9) | jnp.float32(1).view(jnp.uint32), jnp.float32) - 1.0
