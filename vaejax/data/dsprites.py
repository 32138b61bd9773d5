"""dSprites: shapes whose factors are known."""

import hashlib
import math
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vaejax.data.dataset import Dataset, Meaning, Split, slice_split
from vaejax.data.files import read_npz
from vaejax.types import Shape


class _Known(NamedTuple):
    """What a file is known to hold."""

    name: str
    counts: Shape  # values of each factor; the color of the original has one
    sha256: str | None


FACTORS = ("shape", "scale", "orientation", "position_x", "position_y")
SIZE = 64
# By file, the first that is there.
FILES = {
    "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz": _Known("dsprites", (1, 3, 6, 40, 32, 32), None),
    "dsprites_downsampled.npz": _Known(
        "dsprites_downsampled",
        (3, 6, 10, 16, 16),
        "8a632f70c0dbd279dd771854981a3de945b2448eddbd9b2af59fb83e8728f871",
    ),
}


def load_dsprites(folder: str | os.PathLike[str]) -> Dataset:
    """dSprites: squares, ellipses and hearts of 64x64 pixels 0 or 1, an image for every combination of five factors.

    737,280 images, which take 3 GB of memory, or a 16th of them, 46,080 in 189 MB. A tenth, by a fixed permutation, is
    the test split. There are no labels; `factors` are the classes of the file, without the one color of the original.
    Not all images differ: its first and last orientation are the same angle, and squares are symmetric.

    Args:
      folder: holds `dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz`, the original, or `dsprites_downsampled.npz`; or a
        folder `dsprites` that does. Only `imgs` and `latents_classes` are read; `metadata`, a pickle, never is.

    Raises:
      FileNotFoundError: neither file is there.
      ValueError: a file is damaged or holds something else.

    Source: Matthey et al. 2017, dSprites: Disentanglement testing Sprites dataset,
    https://github.com/google-deepmind/dsprites-dataset.
    """
    for parent in (Path(folder), Path(folder) / "dsprites"):
        for file, known in FILES.items():
            if (parent / file).is_file():
                return _load(parent / file, known)
    raise FileNotFoundError(
        f"{folder} holds neither {' nor '.join(FILES)} (nor does a folder dsprites in it); "
        f"the first is at https://github.com/google-deepmind/dsprites-dataset"
    )


def _load(path: Path, known: _Known) -> Dataset:
    _check_sha256(path, known)
    # The small array first: the large one is not read where this one is wrong.
    factors = _factors(path, known.counts, read_npz(path, ["latents_classes"])["latents_classes"])
    images = _images(path, known.counts, read_npz(path, ["imgs"])["imgs"])
    count = len(images)
    # The generator behind RandomState is frozen: this permutation is the same in every NumPy.
    order = np.random.RandomState(0).permutation(count)
    _reorder(images, order)
    whole = Split(images[..., None], factors=factors[order])
    start = count - count // 10
    return Dataset(
        known.name,
        slice_split(whole, 0, start),
        slice_split(whole, start, count),
        max_value=1,
        meaning=Meaning.BINARY,
        factor_names=FACTORS,
        origin=str(path),
    )


def _check_sha256(path: Path, known: _Known) -> None:
    if known.sha256 is None:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != known.sha256:
        raise ValueError(f"{path} must have the sha256 {known.sha256}; got {found}: it is altered or truncated")


def _factors(path: Path, counts: Shape, classes: np.ndarray) -> np.ndarray:
    """The factors `[N, 5]` uint8, known to be every combination exactly once."""
    expected = (math.prod(counts), len(counts))
    if classes.shape != expected or classes.dtype.kind not in "iu":
        raise ValueError(
            f"{path}: latents_classes must be integers of shape {expected}; got {classes.dtype} of {classes.shape}"
        )
    inside = bool(np.all((classes >= 0) & (classes < np.array(counts))))
    if not inside or np.bincount(np.ravel_multi_index(tuple(classes.T), counts)).max() > 1:
        raise ValueError(f"{path}: latents_classes must hold each combination of {counts} classes exactly once")
    return classes[:, -len(FACTORS) :].astype(np.uint8)


def _images(path: Path, counts: Shape, images: np.ndarray) -> np.ndarray:
    expected = (math.prod(counts), SIZE, SIZE)
    if images.shape != expected or images.dtype != np.uint8:
        raise ValueError(f"{path}: imgs must be uint8 of shape {expected}; got {images.dtype} of {images.shape}")
    if images.max() > 1:
        raise ValueError(f"{path}: imgs must be 0 or 1; got values up to {images.max()}")
    return images


def _reorder(images: np.ndarray, order: np.ndarray) -> None:
    """`images[:] = images[order]` in place: a second copy of them may not fit in memory."""
    sources = order.tolist()
    for start in range(len(sources)):
        if sources[start] == start:
            continue
        place, first = start, images[start].copy()
        # Once around the cycle; a place that is done becomes its own source.
        while (source := sources[place]) != start:
            images[place] = images[source]
            sources[place], place = place, source
        images[place] = first
        sources[place] = place
