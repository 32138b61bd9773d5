"""The static binarization of MNIST, on which most published likelihoods are stated."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vaejax.data.dataset import Dataset, Meaning, Split
from vaejax.data.files import npz_keys, read_npz

# How many images each part has.
COUNTS = {"train": 50_000, "valid": 10_000, "test": 10_000}


def load_binarized_mnist(folder: str | os.PathLike[str]) -> Dataset:
    """MNIST as Larochelle binarized it once and for all: 50,000 images of 0 and 1, 10,000 to validate, 10,000 to test.

    The published files have no labels.

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
            return _dataset(packed, {part: _read_packed(packed, part) for part in COUNTS})
        if (parent / "binarized_mnist_train.amat").is_file():
            return read_binarized_text({part: parent / f"binarized_mnist_{part}.amat" for part in COUNTS})
    raise FileNotFoundError(
        f"{folder} holds neither binarized_mnist.npz nor binarized_mnist_train.amat "
        f"(nor does a folder binarized_mnist in it)"
    )


def read_binarized_text(files: Mapping[str, str | os.PathLike[str]]) -> Dataset:
    """The static binarization of MNIST from the files `train`, `valid` and `test` as they were published.

    Raises:
      FileNotFoundError: one of them is missing.
      ValueError: one of them is damaged or holds something else.
    """
    parts = {part: _read_text(Path(files[part]), part) for part in COUNTS}
    return _dataset(Path(files["train"]).parent, parts)


def _dataset(path: Path, parts: dict[str, Split]) -> Dataset:
    train, validation, test = (parts[part] for part in ("train", "valid", "test"))
    return Dataset("binarized_mnist", train, test, 1, meaning=Meaning.BINARY, validation=validation, origin=str(path))


def _read_packed(path: Path, part: str) -> Split:
    labels = f"{part}_labels"
    arrays = read_npz(path, [part, labels] if labels in npz_keys(path) else [part])
    return _checked(path, part, arrays[part], arrays.get(labels))


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
    images = images.astype(np.uint8).reshape(count, 28, 28, 1)
    if labels is None:
        return Split(images)
    if labels.shape != (count,) or not _holds(labels, 10):
        raise ValueError(
            f"{path}: {part}_labels must be {count} digits from 0 to 9; "
            f"got shape {labels.shape}{' with other values' if labels.shape == (count,) else ''}"
        )
    return Split(images, labels.astype(np.uint8))


def _holds(array: np.ndarray, levels: int) -> bool:
    """Whether all values are among 0, ..., `levels - 1`."""
    if array.dtype.kind in "bu":
        return bool(array.max(initial=0) < levels)
    return bool(np.isin(array, np.arange(levels)).all())
