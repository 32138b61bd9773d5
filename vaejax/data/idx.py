"""The IDX format, and the data sets that are published in four such files."""

import gzip
import hashlib
import math
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vaejax.data.arrays import from_arrays
from vaejax.data.dataset import Dataset, Meaning, Split

UNSIGNED_BYTE = 0x08
# A header can claim any size; nothing of this kind is larger.
MAX_BYTES = 2**31

FILES = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}


class KnownSet(NamedTuple):
    """A data set that is published as these four files."""

    url: str
    label_names: tuple[str, ...]
    sha256: tuple[str, ...] = ()  # of the files in the order of FILES, not gzipped; empty where not known


KNOWN = {
    "mnist": KnownSet(
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        tuple("0123456789"),
        (
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
    "fashion_mnist": KnownSet(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"),
        (
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
    ),
    "kmnist": KnownSet(
        "http://codh.rois.ac.jp/kmnist/dataset/kmnist/",
        ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    ),
}


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """Read an IDX file of unsigned bytes, gzipped where its name ends in `.gz`.

    The header is two zero bytes, the element type, the number of axes, and each axis as a big-endian
    32-bit integer; the elements follow.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is truncated, has another format, or another size than its header says.
    """
    path = Path(path)
    open_file = gzip.open if path.suffix == ".gz" else open
    try:
        with open_file(path, "rb") as file:
            magic = file.read(4)
            if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] != UNSIGNED_BYTE:
                raise ValueError(f"{path} is no IDX file of unsigned bytes: it starts with {magic.hex() or 'nothing'}")
            header = file.read(4 * magic[3])
            shape = tuple(int(size) for size in np.frombuffer(header, ">u4"))
            size = math.prod(shape)
            if len(shape) != magic[3] or size > MAX_BYTES:
                raise ValueError(f"{path} has a damaged header: shape {shape}")
            # One byte more than there should be, to notice a file that is too long.
            content = file.read(size + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is truncated or damaged: {error}") from error
    if len(content) != size:
        found = "more" if len(content) > size else len(content)
        raise ValueError(f"{path} must hold {size} bytes for its shape {shape}; got {found}")
    return np.frombuffer(content, np.uint8).reshape(shape)


def load_idx(
    folder: str | os.PathLike[str],
    name: str | None = None,
    *,
    meaning: Meaning | None = None,
    max_value: float | None = None,
) -> Dataset:
    """Images and labels in four IDX files with the names of MNIST's, gzipped or not.

    Args:
      folder: where the files are, or a folder that holds them in a folder of that name.
      name: of the data set, that of the folder where None; what is called `mnist`, `fashion_mnist` or `kmnist` must
        have 60,000 and 10,000 images of 28x28, and the first two the published checksums.
      meaning: what the numbers of another set say, as of `from_arrays`.
      max_value: likewise.

    Source: LeCun, Cortes and Burges, The MNIST database of handwritten digits; Xiao et al. 2017, Fashion-MNIST;
    Clanuwat et al. 2018, Deep Learning for Classical Japanese Literature (Kuzushiji-MNIST).

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: a file is damaged, or is not what its name says.
    """
    root = Path(folder)
    if name is not None and has_idx_files(root / name):
        root = root / name
    paths = {part: _find(root, file) for part, file in FILES.items()}
    known = KNOWN.get(name or "")
    return read_idx_set(paths, name or root.resolve().name, known, meaning=meaning, max_value=max_value)


def has_idx_files(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder has one of the four files, so that the others are expected there too."""
    return any((Path(folder) / f"{file}{end}").is_file() for file in FILES.values() for end in ("", ".gz"))


def read_idx_set(paths: Mapping[str, Path], name: str, known: KnownSet | None, **numbers: Any) -> Dataset:
    """The data set in files by the names of their parts, as `FILES` has them; a known one must be what it says."""
    arrays = {part: read_idx(paths[part]) for part in FILES}
    if known:
        for part, expected in zip(FILES, known.sha256, strict=bool(known.sha256)):
            if _checksum(arrays[part]) != expected:
                raise ValueError(
                    f"{paths[part]} is not the published file of {name}: its checksum differs (get it again; a set of "
                    "your own is read by the path of its folder)"
                )
    train, test = (_split(paths, arrays, split, known, count) for split, count in COUNTS.items())
    origin = str(paths["train_images"].parent)
    if known:
        return Dataset(name, train, test, max_value=255, label_names=known.label_names, origin=origin)
    try:
        return from_arrays(train, test, name=name, origin=origin, **numbers)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{origin}: {error}") from error


# Of the published sets.
COUNTS = {"train": 60_000, "test": 10_000}


def _split(
    paths: Mapping[str, Path], arrays: Mapping[str, np.ndarray], split: str, known: KnownSet | None, count: int
) -> Split:
    images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
    path = paths[f"{split}_images"]
    if images.ndim != 3 or not len(images) or images[0].size == 0:
        raise ValueError(f"{path} must hold images [N, H, W], at least one; got shape {images.shape}")
    if known and images.shape != (count, 28, 28):
        raise ValueError(f"{path} must have shape {(count, 28, 28)}; got {images.shape}")
    if labels.shape != images.shape[:1]:
        raise ValueError(
            f"{paths[f'{split}_labels']} must hold a label of each of the {len(images)} images of "
            f"{path.name}; got shape {labels.shape}"
        )
    return Split(images[..., None], labels)


def _checksum(array: np.ndarray) -> str:
    """The sha256 of an array as an IDX file."""
    header = bytes([0, 0, UNSIGNED_BYTE, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return hashlib.sha256(header + array.tobytes()).hexdigest()


def _find(root: Path, file: str) -> Path:
    for path in (root / f"{file}.gz", root / file):
        if path.is_file():
            return path
    raise FileNotFoundError(f"{root / file}[.gz] is missing: the four IDX files must be in one folder")
