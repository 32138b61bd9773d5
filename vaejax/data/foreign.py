"""Arrays of other libraries as those of NumPy, by the protocols that they speak and without importing them."""

from typing import Any

import numpy as np

from vaejax.checks import check_dense, kind_of


def as_numpy(name: str, value: Any) -> Any:
    """What speaks `__array__`, `__array_interface__` or DLPack as a NumPy array, which may share its memory.

    Tensors of PyTorch, frames of pandas and arrays of JAX do; anything else, and arrays of NumPy, are returned as they
    are. Scalars and lists are no arrays.

    Raises:
      TypeError: a sparse matrix, or an array that NumPy cannot read, as one on another device.
    """
    check_dense(name, value)
    if isinstance(value, np.ndarray | np.generic | type):
        return value
    try:
        if hasattr(value, "__array__") or hasattr(value, "__array_interface__"):
            return np.asarray(value)
        return np.from_dlpack(value) if hasattr(value, "__dlpack__") else value
    # Each library raises what it likes.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise TypeError(f"{name} must be an array that NumPy can read; got {kind_of(value)}: {reason}") from error
