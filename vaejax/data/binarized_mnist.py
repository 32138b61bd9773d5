"""The static binarization of MNIST, on which most published likelihoods are stated."""

import os
import zipfile
import zlib
from pathlib import Path

import numpy as np

from vaejax.data.dataset import Dataset, Split

# How many images each part has.
COUNTS = {"train": 50_000, "valid": 10_000, "test": 10_000}
# What numpy and zipfile raise over damaged bytes, or over an array in place of an archive (TypeError).
DAMAGE = (ValueError, TypeError, KeyError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)


def load_binarized_mnist(folder: str | os.PathLike[str]) -> Dataset:
    """MNIST as Larochelle binarized it once and for all: 50,000 training and 10,000 test images of 0 and 1.

    The validation part is left out of both. The published files have no labels; where there are none, labels are 0.

    Args:
      folder: holds the published files `binarized_mnist_train.amat`, `..._valid.amat` and `..._test.amat`, or one
        `binarized_mnist.npz` with the arrays `train`, `valid` and `test` `[N, 784]`, and perhaps `train_labels` and
        so on; or a folder `binarized_mnist` that does.

    Raises:
      FileNotFoundError: none of these files is there.
      ValueError: a file is damaged or holds something else.

    Source: Salakhutdinov and Murray 2008, On the Quantitative Analysis of Deep Belief Networks; Larochelle and Murray
    2011, The Neural Autoregressive Distribution Estimator, whose authors published the files.
    """
    for parent in (Path(folder), Path(folder) / "binarized_mnist"):
        packed = parent / "binarized_mnist.npz"
        if packed.is_file():
            return _dataset(*(_read_packed(packed, part) for part in ("train", "test")))
        if (parent / "binarized_mnist_train.amat").is_file():
            return _dataset(*(_read_text(parent / f"binarized_mnist_{part}.amat", part) for part in ("train", "test")))
    raise FileNotFoundError(
        f"{folder} holds neither binarized_mnist.npz nor binarized_mnist_train.amat "
        f"(nor does a folder binarized_mnist in it)"
    )


def _dataset(train: Split, test: Split) -> Dataset:
    return Dataset("binarized_mnist", train, test, max_value=1)


def _read_packed(path: Path, part: str) -> Split:
    try:
        # Without pickles an array can hold nothing but numbers. numpy leaves a file open that it finds damaged.
        with path.open("rb") as file, np.load(file) as arrays:
            images = arrays[part]
            labels = arrays.get(f"{part}_labels")
    except DAMAGE as error:
        raise ValueError(f"{path} is damaged or has no array {part}: {error}") from error
    return _checked(path, part, images, labels)


def _read_text(path: Path, part: str) -> Split:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing")
    # 784 digits of 0 or 1 and a space or newline after each.
    digits = np.frombuffer(path.read_bytes().translate(None, b" \r\n"), np.uint8) - ord("0")
    if digits.size != COUNTS[part] * 784:
        raise ValueError(f"{path} must hold {COUNTS[part]} lines of 784 digits 0 or 1; got {digits.size} digits")
    return _checked(path, part, digits.reshape(-1, 784), None)


def _checked(path: Path, part: str, images: np.ndarray, labels: np.ndarray | None) -> Split:
    count = COUNTS[part]
    if images.shape != (count, 784) or not _holds(images, 2):
        raise ValueError(
            f"{path}: {part} must be {count} images of 784 pixels 0 or 1; "
            f"got shape {images.shape}{' with other values' if images.shape == (count, 784) else ''}"
        )
    labels = np.zeros(count, np.uint8) if labels is None else labels
    if labels.shape != (count,) or not _holds(labels, 10):
        raise ValueError(
            f"{path}: {part}_labels must be {count} digits from 0 to 9; "
            f"got shape {labels.shape}{' with other values' if labels.shape == (count,) else ''}"
        )
    return Split(images.astype(np.uint8).reshape(count, 28, 28, 1), labels.astype(np.uint8))


def _holds(array: np.ndarray, levels: int) -> bool:
    """Whether all values are numbers among 0, ..., `levels - 1`."""
    return array.dtype.kind in "buif" and bool(np.isin(array, np.arange(levels)).all())
