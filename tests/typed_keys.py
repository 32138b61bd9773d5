"""Typed PRNG keys among the leaves of a tree, for comparisons."""

import jax
import numpy as np


def as_numbers(tree):
    """The tree with NumPy arrays as leaves: typed keys become their integers, which can be compared."""
    is_key = lambda leaf: isinstance(leaf, jax.Array) and jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.tree.map(lambda leaf: np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf), tree)
