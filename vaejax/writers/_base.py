"""What the writers share: the numbers of a report, packages that may be missing."""

import importlib
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from vaejax.checks import check_array

# What a report holds, by name.
Values = Mapping[str, np.ndarray | float]


class Writer(Protocol):
    """Takes the numbers of a run, one report after the other.

    Optional: `write_image(name, path, step)`, which takes a PNG file; `sync()`, after which all that was written is on
    the disk.
    """

    def write(self, step: int, values: Values) -> None:
        """Take the report of a step: numbers and arrays by name."""

    def close(self) -> None:
        """Take no more."""


def arrays(values: Values) -> dict[str, np.ndarray]:
    """The values as arrays: integers and truth values as they are, the rest in double precision.

    Raises:
      ValueError, TypeError: a value is called step, or holds no real numbers.
    """
    if "step" in values:
        raise ValueError("values must not hold a step: it is an argument of its own")
    result = {}
    for name, value in values.items():
        check_array(f"values[{name!r}]", value)
        array = np.asarray(value)
        if np.iscomplexobj(array):
            raise TypeError(f"values[{name!r}] must hold real numbers; got dtype {array.dtype}")
        result[name] = array if array.dtype.kind in "biu" else array.astype(np.float64)
    return result


def scalars(values: Values) -> dict[str, float]:
    """The values as single numbers: an array becomes `name/0`, `name/1`, ..., a matrix `name/0/0`, ...

    >>> scalars({"loss": 0.5, "kl": np.array([1.0, 2.0])})
    {'loss': 0.5, 'kl/0': 1.0, 'kl/1': 2.0}
    """
    return {
        "/".join([name, *map(str, index)]): float(array[index])
        for name, array in arrays(values).items()
        for index in np.ndindex(array.shape)
    }


def require(name: str) -> Any:
    """Import a module of a package that may be missing.

    Raises:
      ValueError: it is; the line says how to install it.
    """
    package = name.partition(".")[0]
    try:
        importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:  # it is there, and something that it needs is not
            raise
        raise ValueError(f"{package} is not installed: pip install {package}") from error
    return importlib.import_module(name)
