"""The IDX format, and MNIST in its four original files."""

import gzip
import math
import os
import zlib
from pathlib import Path

import numpy as np

from vaejax.data.dataset import Dataset, Split

UNSIGNED_BYTE = 0x08
# A header can claim any size; nothing of this kind is larger.
MAX_BYTES = 2**31

FILES = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
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


def load_mnist(folder: str | os.PathLike[str]) -> Dataset:
    """MNIST from its four IDX files, gzipped or not: 60,000 train and 10,000 test images of 28x28.

    Args:
      folder: where the files are, or a folder that holds them in a folder `mnist`.

    Source: LeCun, Cortes and Burges, The MNIST database of handwritten digits.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: a file is damaged, or its shape is not MNIST's.
    """
    root = Path(folder)
    root = root / "mnist" if (root / "mnist").is_dir() else root
    arrays = {name: read_idx(_find(root, file)) for name, file in FILES.items()}
    for split, count in [("train", 60_000), ("test", 10_000)]:
        _check_shape(root, FILES[f"{split}_images"], arrays[f"{split}_images"], (count, 28, 28))
        _check_shape(root, FILES[f"{split}_labels"], arrays[f"{split}_labels"], (count,))
    train = Split(arrays["train_images"][..., None], arrays["train_labels"])
    test = Split(arrays["test_images"][..., None], arrays["test_labels"])
    return Dataset("mnist", train, test, max_value=255)


def _find(root: Path, file: str) -> Path:
    for path in (root / f"{file}.gz", root / file):
        if path.is_file():
            return path
    raise FileNotFoundError(f"{root / file}[.gz] is missing: MNIST needs its four IDX files in one folder")


def _check_shape(root: Path, file: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise ValueError(f"{root / file} must have shape {shape} to be MNIST; got {array.shape}")
