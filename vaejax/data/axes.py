"""Which axis of an array is which: put in order where it is said, guessed and warned of where it is not."""

import warnings
from typing import Any

import numpy as np

from vaejax.checks import is_image
from vaejax.data.dataset import Dataset, Examples
from vaejax.data.lazy import Lazy
from vaejax.types import Shape

# Where they come, after all other axes.
IMAGE_AXES = "HWC"
# Grey, grey with transparency, red green blue, and these with transparency.
MAX_CHANNELS = 4
# The lesser side of an array that is rather a series than an image, and by how much the greater one exceeds it.
SHORT, LONG, VERY_LONG = 16, 2, 4
# Of smaller squares it is chance that there are as many examples as rows.
LEAST_SQUARE = 8


def understood(dataset: Dataset) -> str:
    """What the training examples were taken for, in words.

    >>> from vaejax.data import load
    >>> understood(load("digits"))
    '1,437 images of 8 x 8 x 1'
    """
    shape, count = dataset.shape, f"{len(dataset.train.examples):,}"
    if len(shape) == 1:
        return f"{count} vectors of {shape[0]:,} {'number' if shape[0] == 1 else 'numbers'}"
    sizes = " x ".join(str(size) for size in shape)
    return f"{count} {'images' if is_image(shape) else 'arrays'} of {sizes}"


def check_axes(axes: Any) -> str:
    """The letters of the axes in capitals.

    Raises:
      TypeError: no string.
      ValueError: other signs than letters, a letter twice, or no N.
    """
    if not isinstance(axes, str):
        raise TypeError(f'axes must be a string such as "NCHW"; got {type(axes).__name__} {axes!r}')
    letters = axes.upper()
    if not (letters.isascii() and letters.isalpha()) or len(set(letters)) < len(letters) or "N" not in letters:
        raise ValueError(f"axes must be different letters, N (the examples) among them; got {axes!r}")
    return letters


def arrange(part: str, array: Examples, axes: str | None) -> Examples:
    """An array with the axis of its examples first and those of images last, with a channel axis where these lack it.

    An array in memory or mapped becomes a view of itself, and `Lazy` examples stay lazy. Without `axes`, the order is
    `[N, ...]`, and three axes are grey images.

    Raises:
      ValueError: another number of letters than of axes, or `Lazy` examples whose first axis is not N.
    """
    letters = axes or ("NHW" if array.ndim == 3 else "")
    if axes is not None and len(axes) != array.ndim:
        raise ValueError(f"axes must name the {array.ndim} axes of {part}, of shape {array.shape}; got {axes!r}")
    others = [letter for letter in letters if letter not in f"N{IMAGE_AXES}"]
    order = [*(letters and "N"), *others, *(letter for letter in IMAGE_AXES if letter in letters)]
    places = [letters.index(letter) for letter in order] or list(range(array.ndim))
    shape = tuple(array.shape[place] for place in places)
    if "C" not in letters and {"H", "W"} <= set(letters):
        shape = (*shape, 1)
    if places == sorted(places) and shape == array.shape:
        return array
    return _lazily(part, array, places, shape) if isinstance(array, Lazy) else array.transpose(places).reshape(shape)


def _lazily(part: str, array: Lazy, places: list[int], shape: Shape) -> Lazy:
    if places[0]:
        raise ValueError(f"axes must begin with N for {part}, which is read example by example; got N at {places[0]}")
    read = lambda rows: np.asarray(array.read(rows)).transpose(places).reshape(len(rows), *shape[1:])
    order = "" if places == sorted(places) else f" axes {places}"
    return Lazy(read, shape, array.dtype, f"{array.fingerprint}{order}")


def warn_of_layout(name: str, shape: Shape) -> None:
    """Warn where an array `[N, ...]` of unknown axes is likelier laid out in another way than it is taken for."""
    rules = _rules_of_three(*shape) if len(shape) == 3 else _rules_of_four(*shape) if len(shape) == 4 else []
    likely = next((rule[1:] for rule in rules if rule[0]), None)
    if likely is None:
        return
    axes, what = likely
    taken, usual = ("grey images", "NHW") if len(shape) == 3 else (f"images with {shape[3]} channels", "NHWC")
    warnings.warn(
        f"{name}: an array of shape {shape} is taken for {shape[0]:,} {taken} of {shape[1]} x {shape[2]}; if it holds "
        f'{what}, say axes="{axes}" (--axes {axes}) or reorder it with np.moveaxis; if not, say axes="{usual}"',
        stacklevel=3,
    )


# Whether an array is likely laid out in a way, the axes that it then has, and what it then holds.
Rule = tuple[bool, str, str]


def _rules_of_three(first: int, height: int, width: int) -> list[Rule]:
    least, most = sorted((height, width))
    long = most > VERY_LONG * least or (least <= SHORT and most > LONG * least)
    return [
        (LEAST_SQUARE <= first == height < width, "HWN", f"{width:,} grey images along the last axis"),
        (long, "NTC", "series or tables, [N, T, C]"),
    ]


def _rules_of_four(first: int, height: int, width: int, channels: int) -> list[Rule]:
    if channels <= MAX_CHANNELS:
        return []
    square = width == channels
    return [
        (height <= MAX_CHANNELS, "NCHW", f"images of {height} channels, channels first"),
        (first == height and width <= MAX_CHANNELS, "HWCN", f"{channels:,} images along the last axis"),
        (square and height == width, "NDHW", "volumes"),
        (square and first * VERY_LONG < height, "TNHW", f"{height:,} sequences of {first} images"),
        (square, "NTHW", f"sequences of {height} images"),
        (True, "NXYZ", "arrays of another kind"),
    ]
