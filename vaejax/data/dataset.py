"""What a data set is, and the ways from its bytes to what a likelihood is about."""

import hashlib
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vaejax.checks import check_key, check_support
from vaejax.types import Array, ArrayLike, Shape


class Split(NamedTuple):
    """Images and their labels, in memory."""

    images: np.ndarray  # [N, H, W, C] uint8
    labels: np.ndarray  # [N] uint8


class Dataset(NamedTuple):
    """Images as they are stored, with what their numbers mean."""

    name: str
    train: Split
    test: Split
    max_value: int  # the intensity of white: images hold 0 to max_value

    @property
    def shape(self) -> Shape:
        """Height, width and channels of one image."""
        return self.train.images.shape[1:]

    @property
    def sha256(self) -> str:
        """Checksum of all images and labels, so that a figure can name the data behind it."""
        digest = hashlib.sha256()
        for array in (*self.train, *self.test):
            digest.update(array.tobytes())
        return digest.hexdigest()


def to_unit(images: ArrayLike, max_value: int) -> Array:
    """Intensities as floats in [0, 1]: grey data, for Normal and continuous Bernoulli likelihoods."""
    return jnp.asarray(images, jnp.float32) / max_value


def binarize(key: Array, images: ArrayLike, max_value: int) -> Array:
    """Draw each pixel as 0 or 1 with its intensity as the probability, afresh for each key.

    `x ~ Bernoulli(image / max_value)`: data for a Bernoulli likelihood. A key per step gives dynamic
    binarization, one fixed key a test set that stays the same.

    Raises:
      TypeError: a key that is no typed key.
      ValueError: a concrete intensity that is NaN or outside 0 to `max_value`.

    Source: Salakhutdinov and Murray 2008; drawn afresh at each use, Burda et al. 2015.

    >>> import jax, jax.numpy as jnp
    >>> binarize(jax.random.key(0), jnp.array([0, 255, 0, 255], jnp.uint8), 255).tolist()
    [0.0, 1.0, 0.0, 1.0]
    """
    check_key(key)
    in_range = f"intensities from 0 to max_value={max_value}"
    check_support("binarize: images", images, lambda value: (value >= 0) & (value <= max_value), in_range)
    # One axis for the pixels of an image: elementwise loops over small axes are slow on a CPU.
    shape = jnp.shape(images)
    intensity = to_unit(jnp.reshape(images, (*shape[:1], math.prod(shape[1:]))), max_value)
    # A uniform draw is in [0, 1), so black is never 1 and white always is.
    return (jax.random.uniform(key, intensity.shape) < intensity).astype(jnp.float32).reshape(shape)
