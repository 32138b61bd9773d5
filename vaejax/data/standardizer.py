"""Real numbers of any unit as numbers near 0 of spread 1, which nets and likelihoods of scale 1 are made for."""

from functools import reduce
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from vaejax.checks import check_array, check_count
from vaejax.data.dataset import Examples
from vaejax.types import Array, ArrayLike

# Numbers that are in memory together in double precision.
NUMBERS_AT_ONCE = 2**22


class Standardizer(NamedTuple):
    """The mean and the scale of each element of an example.

    It is a `prepare` of an experiment: `(key, examples)` to examples of mean 0 and variance 1; the key is not used.
    """

    mean: np.ndarray  # [*E] float32
    scale: np.ndarray  # [*E] float32, positive

    def __call__(self, key: Array | None, examples: ArrayLike) -> Array:
        """`(examples - mean) / scale`, `[*B, *E]` float32; NaN stays NaN."""
        del key
        return (jnp.asarray(examples, jnp.float32) - self.mean) / self.scale

    def inverse(self, x: ArrayLike) -> Array:
        """`mean + scale x`, `[*B, *E]`: standardized numbers in the units of the data."""
        return self.mean + self.scale * jnp.asarray(x, jnp.float32)


def standardize(examples: Examples, num_examples: int | None = None) -> Standardizer:
    """Fit the mean and the standard deviation of each element to training examples `[N, *E]`.

    `mean_i = 1/N sum_n x_ni`, `scale_i^2 = 1/N sum_n (x_ni - mean_i)^2`, over the numbers that are not missing (NaN).
    An element that is the same in all examples keeps its scale: 1. Give the training split alone, so that nothing of
    the test set is in the model. Examples that are mapped or `Lazy` are read a part at a time.

    A model of standardized data reports nats of these; `nets.heads.standardized` keeps x and its nats in their units.

    Args:
      examples: of the training split, as they are stored.
      num_examples: how many of the first are used; all where None.

    Raises:
      TypeError: no array of numbers.

    >>> import numpy as np
    >>> fitted = standardize(np.array([[1.0, -200.0, 7.0], [3.0, 2775.0, 7.0]]))
    >>> fitted.mean.tolist(), fitted.scale.tolist()
    ([2.0, 1287.5, 7.0], [1.0, 1487.5, 1.0])
    >>> fitted(None, np.array([3.0, -200.0, 8.0])).tolist()
    [1.0, -1.0, 1.0]
    """
    check_array("standardize: examples", examples)
    if num_examples is not None:
        check_count("standardize: num_examples", num_examples)
    total = len(examples) if num_examples is None else min(num_examples, len(examples))
    size = max(1, NUMBERS_AT_ONCE // max(1, int(np.prod(examples.shape[1:]))))
    parts = (_moments(np.asarray(examples[start : min(start + size, total)])) for start in range(0, total, size))
    found = reduce(_merge, parts)
    deviation = np.sqrt(found.squares / np.maximum(found.number, 1)).astype(np.float32)
    mean, kind = found.mean.astype(np.float32), np.finfo(np.float32)
    # Rounding leaves a constant a deviation, which float32 does not tell from 0.
    varies = deviation > np.maximum(kind.eps * np.abs(mean), kind.tiny)
    return Standardizer(mean, np.where(varies, deviation, np.float32(1)))


class _Moments(NamedTuple):
    """What is known of the numbers that are there, of each element `[*E]` in double precision."""

    number: np.ndarray
    mean: np.ndarray
    squares: np.ndarray  # of the differences from the mean, in all


def _moments(part: np.ndarray) -> _Moments:
    part = part.astype(np.float64)
    known = ~np.isnan(part)
    count = known.sum(axis=0)
    mean = np.sum(part, axis=0, where=known) / np.maximum(count, 1)
    squares = np.sum((part - mean) ** 2, axis=0, where=known)
    return _Moments(count, mean, squares)


def _merge(a: _Moments, b: _Moments) -> _Moments:
    """Those of two parts together (Chan, Golub and LeVeque 1983): about the means, so that no digits cancel."""
    count = a.number + b.number
    share, apart = b.number / np.maximum(count, 1), b.mean - a.mean
    squares = a.squares + b.squares + apart**2 * a.number * share
    return _Moments(count, a.mean + apart * share, squares)
