"""What a data set is: examples, what their numbers mean, and the splits that papers use."""

import enum
import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from vaejax.data.lazy import Held, Lazy, hold
from vaejax.types import Shape

# Bytes that are hashed at once, so that what is mapped from a file need not fit in memory.
HASHED_AT_ONCE = 2**26


class Meaning(enum.StrEnum):
    """What the numbers of a data set say, which decides about the likelihoods that fit."""

    BINARY = "binary"  # 0 and 1
    INTENSITY = "intensity"  # grey or colour, from 0 to max_value
    COUNTS = "counts"  # 0, 1, 2, ...; max_value is the largest that occurs
    REAL = "real"  # any finite number; max_value is the largest magnitude that occurs


# An array, which may be mapped from a file, or what is indexed like one.
Examples = np.ndarray | Lazy


class Split(NamedTuple):
    """Examples with what is known of each."""

    examples: Examples  # [N, *E]; images are [N, H, W, C]
    labels: np.ndarray | None = None  # [N] integers from 0; -1 has none
    factors: np.ndarray | None = None  # [N, F] integers from 0: the value of each factor it was made of


class Dataset(NamedTuple):
    """Examples as they are stored, with what their numbers mean."""

    name: str
    train: Split
    test: Split
    max_value: float  # of images the intensity of white
    meaning: Meaning = Meaning.INTENSITY
    validation: Split | None = None
    label_names: tuple[str, ...] = ()
    factor_names: tuple[str, ...] = ()
    origin: str = ""  # where it was read from, for a person
    missing: bool = False  # whether NaN marks numbers that are missing

    @property
    def shape(self) -> Shape:
        """The shape of one example: of images height, width and channels."""
        return self.train.examples.shape[1:]

    @property
    def dtype(self) -> np.dtype[Any]:
        """How the numbers are stored."""
        return self.train.examples.dtype

    @property
    def splits(self) -> dict[str, Split]:
        """The splits that there are, by name."""
        all_of_them = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: split for name, split in all_of_them.items() if split is not None}

    @property
    def sha256(self) -> str:
        """Checksum of all that is known of all examples, so that a figure can name the data behind it.

        Of examples that `load` has read or that are `Lazy`, it is that of what they are read from.
        """
        digest = hashlib.sha256()
        for name, split in self.splits.items():
            for field, array in zip(Split._fields, split, strict=True):
                if array is not None:
                    digest.update(f"{name} {field} {array.dtype.str} {array.shape}\n".encode())
                    _hash(digest, array)
        return digest.hexdigest()


def _hash(digest: Any, array: Examples) -> None:
    if isinstance(array, Lazy | Held) and array.fingerprint is not None:
        digest.update(array.fingerprint.encode())
        return
    assert isinstance(array, np.ndarray)
    step = max(1, HASHED_AT_ONCE // max(1, array[:1].nbytes))
    for start in range(0, len(array), step):
        digest.update(np.ascontiguousarray(array[start : start + step]).tobytes())


def hold_out(dataset: Dataset, count: int) -> Dataset:
    """The data set with its last `count` training examples as validation split.

    The splits of papers: of 60,000 digits, 10,000 leave the usual 50,000, and 400 the 59,600 of Burda et al. 2015.

    Raises:
      ValueError: a data set that has a validation split, or too few training examples.

    >>> import numpy as np
    >>> train = Split(np.arange(6).reshape(6, 1))
    >>> whole = Dataset("six", train, train, 5, Meaning.COUNTS)
    >>> {name: len(split.examples) for name, split in hold_out(whole, 2).splits.items()}
    {'train': 4, 'validation': 2, 'test': 6}
    """
    if dataset.validation is not None:
        raise ValueError(f"the data set {dataset.name} has a validation split of its own")
    total = len(dataset.train.examples)
    if not 0 < count < total:
        raise ValueError(f"held out must be from 1 to {total - 1} of the {total} training examples; got {count}")
    return dataset._replace(
        train=slice_split(dataset.train, 0, total - count), validation=slice_split(dataset.train, total - count, total)
    )


def map_splits(function: Callable[[Split], Split], dataset: Dataset) -> Dataset:
    """The data set with each of its splits replaced."""
    validation = dataset.validation and function(dataset.validation)
    return dataset._replace(train=function(dataset.train), validation=validation, test=function(dataset.test))


def slice_split(split: Split, start: int, stop: int) -> Split:
    """The examples of a split from `start` to `stop`; those that are lazy stay so."""
    slices = [None if array is None else _slice(array, start, stop) for array in split]
    return Split(*slices)  # type: ignore[arg-type]


def _slice(array: Any, start: int, stop: int) -> Any:
    if not isinstance(array, Lazy | Held) or array.fingerprint is None:
        return array[start:stop]
    fingerprint = f"{array.fingerprint}[{start}:{stop}]"
    if isinstance(array, Held):
        return hold(array[start:stop], fingerprint)
    shape = (stop - start, *array.shape[1:])
    return Lazy(lambda rows: array.read(rows + start), shape, array.dtype, fingerprint)
