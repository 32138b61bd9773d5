"""The 1,797 handwritten digits that scikit-learn carries as a file."""

import gzip
import hashlib
import importlib.util
import io
from pathlib import Path

import numpy as np

from vaejax.data.dataset import Dataset, Split

SHA256 = "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22"
TEST_SIZE = 360


def load_digits() -> Dataset:
    """The handwritten digits of scikit-learn: 8x8 images with intensities 0 to 16.

    1,437 train and 360 test images, split by a fixed permutation. Only the file inside the installed
    package is read; scikit-learn itself is not imported.

    Source: Alpaydin and Kaynak 1998, Optical Recognition of Handwritten Digits, UCI Machine Learning
    Repository (its test set of 13 writers).

    Raises:
      FileNotFoundError: scikit-learn is not installed, or without its data.
      ValueError: the file is not the known one.
    """
    table = np.loadtxt(io.BytesIO(gzip.decompress(_read_file())), delimiter=",", dtype=np.uint8)
    images, labels = table[:, :-1].reshape(-1, 8, 8, 1), table[:, -1]
    # The generator behind RandomState is frozen: this permutation is the same in every NumPy.
    order = np.random.RandomState(0).permutation(len(images))
    train, test = order[:-TEST_SIZE], order[-TEST_SIZE:]
    return Dataset(
        "digits",
        Split(images[train], labels[train]),
        Split(images[test], labels[test]),
        max_value=16,
        label_names=tuple("0123456789"),
        origin="a file of scikit-learn",
    )


def _read_file() -> bytes:
    # Finding a top-level package does not import it.
    package = importlib.util.find_spec("sklearn")
    path = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz" if package and package.origin else None
    if path is None or not path.is_file():
        raise FileNotFoundError("the digits are a file inside scikit-learn: pip install scikit-learn")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise ValueError(f"{path} is not the known digits file: its checksum differs (reinstall scikit-learn)")
    return content
