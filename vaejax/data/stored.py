"""How numbers from outside are kept."""

from typing import Any

import jax.numpy as jnp
import numpy as np


def stored_dtype(name: str, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type that numbers are kept as: none of more bits than JAX has by default.

    Raises:
      TypeError: they are no real numbers.
    """
    if dtype == np.bool_:
        return np.dtype(np.uint8)
    if jnp.issubdtype(dtype, jnp.floating):
        return np.dtype(np.float32)
    if dtype.kind not in "iu":
        raise TypeError(f"{name} must hold real numbers; got dtype {dtype}")
    return np.dtype(np.int32) if dtype.itemsize > 4 or dtype == np.uint32 else dtype.newbyteorder("=")


def convert(name: str, array: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """The array in that type, itself where it has it.

    Raises:
      ValueError: integers that do not fit.
    """
    if dtype.kind == "i" and array.dtype != dtype and array.size:
        low, high = array.min(), array.max()
        if low < np.iinfo(dtype).min or high > np.iinfo(dtype).max:
            raise ValueError(f"{name} must fit into 32-bit integers; got values from {low} to {high}")
    # What becomes infinite is refused with what was.
    with np.errstate(over="ignore"):
        return array.astype(dtype, copy=False)
