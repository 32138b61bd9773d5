"""From the numbers of a data set to what a likelihood is about: pure functions of a key and examples.

Images are `[*B, H, W, C]`, with any leading axes. Where there is a key, each image of a batch has draws of its own.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vaejax.checks import check_array, check_count, check_key, check_positive, check_support, is_concrete
from vaejax.data.draws import uniform
from vaejax.types import Array, ArrayLike

# Height and width, known when a program is traced.
Size = tuple[int, int]


def to_unit(images: ArrayLike, max_value: ArrayLike) -> Array:
    """Intensities as floats in [0, 1]: grey data, for Normal and continuous Bernoulli likelihoods."""
    _check_max_value(max_value)
    return jnp.asarray(images, jnp.float32) / max_value


def binarize(key: Array, images: ArrayLike, max_value: ArrayLike) -> Array:
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
    intensity = to_unit(_flat(images), max_value)
    # A uniform draw is in [0, 1), so black is never 1 and white always is.
    drawn = (uniform(key, intensity.shape) < intensity).astype(jnp.float32)
    return drawn.reshape(jnp.shape(images))


def threshold(images: ArrayLike, max_value: ArrayLike, at: ArrayLike = 0.5) -> Array:
    """1 where an intensity is above `at * max_value`, 0 where it is below or equal to it.

    Binary data without a draw, on which nats are others than on those of `binarize`.

    Raises:
      ValueError: a concrete `max_value` that is not positive, `at` outside [0, 1), or an intensity that is NaN.

    >>> import jax.numpy as jnp
    >>> threshold(jnp.array([0, 7, 8, 9, 16], jnp.uint8), 16).tolist()
    [0.0, 0.0, 0.0, 1.0, 1.0]
    """
    check_array("images", images)
    check_array("at", at)
    _check_max_value(max_value)
    check_support("at", at, lambda value: (value >= 0) & (value < 1), "at least 0 and below 1")
    check_support("images", images, lambda value: ~jnp.isnan(value), "numbers")
    # A product, since the quotient of two whole numbers may be rounded to either side of `at`.
    return (jnp.asarray(images, jnp.float32) > at * max_value).astype(jnp.float32)


def dequantize(key: Array, images: ArrayLike, max_value: ArrayLike) -> Array:
    """Spread each level evenly over its share of [0, 1): `(x + u) / L`, u ~ U[0, 1), of `L = max_value + 1` levels.

    For densities, which have no upper bound on data of levels. With D numbers in an example,

    `E_u ln p((x + u) / L) - D ln L <= ln P(x)`, where `P(x) = E_u p((x + u) / L) / L^D`

    is what the density p says of levels. So the nats of a model of dequantized data, less `D ln L`, are a lower bound
    of the nats of levels and may be compared with those of a categorical likelihood.

    Raises:
      TypeError: a key that is no typed key.
      ValueError: a concrete image with other values than 0, 1, ..., `max_value`.

    Source: Uria, Murray and Larochelle 2013, RNADE; the bound, Theis, van den Oord and Bethge 2016, A note on the
    evaluation of generative models.

    >>> import jax, jax.numpy as jnp
    >>> x = dequantize(jax.random.key(0), jnp.array([0, 1, 2, 3], jnp.uint8), 3)
    >>> jnp.floor(4 * x).tolist()
    [0.0, 1.0, 2.0, 3.0]
    """
    check_key(key)
    check_array("images", images)
    _check_max_value(max_value)
    inside = lambda value: (value >= 0) & (value <= max_value) & (value == jnp.floor(value))
    check_support("images", images, inside, f"whole numbers from 0 to max_value={max_value}")
    levels = jnp.asarray(_flat(images), jnp.float32)
    count = jnp.asarray(max_value, jnp.float32) + 1
    spread = (levels + uniform(key, levels.shape)) / count
    # The sum of a level and a draw close to 1 is rounded up to the next level.
    below = jnp.nextafter((levels + 1) / count, jnp.zeros_like(levels))
    return jnp.minimum(spread, below).reshape(jnp.shape(images))


def resize(images: ArrayLike, size: Size) -> Array:
    """Images of another height and width, float32, in the range of each image and channel.

    A triangle as kernel: linear interpolation where images grow, and stretched by the factor where they shrink, so
    that each pixel counts (antialiasing).

    >>> import jax.numpy as jnp
    >>> resize(jnp.array([0, 8]).reshape(1, 2, 1), (1, 4)).ravel().tolist()
    [0.0, 2.0, 6.0, 8.0]
    """
    height, width = _check_images("resize", images, size)
    images = jnp.asarray(images, jnp.float32)
    shape = (*images.shape[:-3], height, width, images.shape[-1])
    resized = jax.image.resize(images, shape, "linear")
    # The weights of a pixel sum to 1 up to rounding.
    bounds = (function(images, axis=(-3, -2), keepdims=True) for function in (jnp.min, jnp.max))
    return jnp.clip(resized, *bounds)


def pad(images: ArrayLike, size: Size, value: ArrayLike = 0) -> Array:
    """Images with `value` around them, in the centre; of an odd remainder the greater half is below and to the right.

    Raises:
      ValueError: a size below that of the images, or a value that their dtype does not have.

    >>> import jax.numpy as jnp
    >>> pad(jnp.array([[[1], [2]]]), (1, 5)).ravel().tolist()
    [0, 1, 2, 0, 0]
    """
    size = _check_images("pad", images, size)
    images = jnp.asarray(images)
    old = images.shape[-3:-1]
    if size[0] < old[0] or size[1] < old[1]:
        raise ValueError(f"pad: size must be at least {old}, that of the images; got {size}")
    _check_value(value, images.dtype)
    before = [(new - each) // 2 for new, each in zip(size, old, strict=True)]
    sides = [(first, new - each - first) for first, new, each in zip(before, size, old, strict=True)]
    widths = [(0, 0)] * (images.ndim - 3) + [*sides, (0, 0)]
    return jnp.pad(images, widths, constant_values=jnp.asarray(value, images.dtype))


def center_crop(images: ArrayLike, size: Size) -> Array:
    """The window in the centre; of an odd remainder the greater half is lost below and to the right.

    So it takes away what `pad` puts around images.

    Raises:
      ValueError: a size above that of the images.

    >>> import jax.numpy as jnp
    >>> center_crop(jnp.arange(5).reshape(1, 5, 1), (1, 2)).ravel().tolist()
    [1, 2]
    """
    height, width = _check_crop("center_crop", images, size)
    images = jnp.asarray(images)
    top, left = ((old - new) // 2 for old, new in zip(images.shape[-3:-1], (height, width), strict=True))
    return images[..., top : top + height, left : left + width, :]


def random_crop(key: Array, images: ArrayLike, size: Size) -> Array:
    """A window of each image, at a place drawn evenly from all that there are, for each image its own.

    Raises:
      TypeError: a key that is no typed key.
      ValueError: a size above that of the images.

    >>> import jax, jax.numpy as jnp
    >>> random_crop(jax.random.key(0), jnp.zeros((10, 32, 32, 3), jnp.uint8), (28, 28)).shape
    (10, 28, 28, 3)
    """
    check_key(key)
    height, width = _check_crop("random_crop", images, size)
    images = jnp.asarray(images)
    *batch, old_height, old_width, channels = images.shape
    top_key, left_key = jax.random.split(key)
    count = math.prod(batch)
    top = jax.random.randint(top_key, (count,), 0, old_height - height + 1)
    left = jax.random.randint(left_key, (count,), 0, old_width - width + 1)
    window = lambda image, top, left: jax.lax.dynamic_slice(image, (top, left, 0), (height, width, channels))
    windows = jax.vmap(window)(images.reshape(count, *images.shape[-3:]), top, left)
    return windows.reshape(*batch, height, width, channels)


def random_flip(key: Array, images: ArrayLike) -> Array:
    """Each image with left and right exchanged or as it is, with probability 1/2.

    Raises:
      TypeError: a key that is no typed key.

    >>> import jax, jax.numpy as jnp
    >>> images = jnp.tile(jnp.array([1, 2]).reshape(1, 2, 1), (9, 1, 1, 1))
    >>> {tuple(row) for row in random_flip(jax.random.key(0), images)[:, 0, :, 0].tolist()} == {(1, 2), (2, 1)}
    True
    """
    check_key(key)
    _check_rank("random_flip", images)
    images = jnp.asarray(images)
    flipped = jax.random.bernoulli(key, shape=(*images.shape[:-3], 1, 1, 1))
    return jnp.where(flipped, images[..., ::-1, :], images)


def _flat(images: ArrayLike) -> Array:
    """One axis for the pixels of an image: elementwise loops over small axes are slow on a CPU."""
    shape = jnp.shape(images)
    return jnp.reshape(images, (*shape[:1], math.prod(shape[1:])))


def _check_max_value(max_value: Any) -> None:
    check_array("max_value", max_value)
    check_positive("max_value", max_value)


def _check_rank(owner: str, images: Any) -> None:
    check_array(f"{owner}: images", images)
    shape = jnp.shape(images)
    if len(shape) < 3 or 0 in shape[-3:]:
        raise ValueError(f"{owner}: images must be [..., height, width, channels], none of them 0; got shape {shape}")


def _check_images(owner: str, images: Any, size: Any) -> Size:
    _check_rank(owner, images)
    if not isinstance(size, tuple | list) or len(size) != 2:
        raise TypeError(f"{owner}: size must be (height, width); got {size!r}")
    check_count(f"{owner}: height of size", size[0])
    check_count(f"{owner}: width of size", size[1])
    return int(size[0]), int(size[1])


def _check_crop(owner: str, images: Any, size: Any) -> Size:
    height, width = _check_images(owner, images, size)
    old = jnp.shape(images)[-3:-1]
    if height > old[0] or width > old[1]:
        raise ValueError(f"{owner}: size must be at most {old}, that of the images; got {(height, width)}")
    return height, width


def _check_value(value: Any, dtype: np.dtype[Any]) -> None:
    check_array("pad: value", value)
    if jnp.shape(value) != ():
        raise ValueError(f"pad: value must be one number; got shape {jnp.shape(value)}")
    if not is_concrete(value) or not jnp.issubdtype(dtype, jnp.integer):
        return
    if not (jnp.iinfo(dtype).min <= value <= jnp.iinfo(dtype).max and value == int(value)):
        raise ValueError(f"pad: value must be a whole number that {dtype} has; got {value}")
