"""Examples that are too many to hold: read when they are asked for."""

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from vaejax.types import Shape


@dataclasses.dataclass(frozen=True, eq=False)
class Lazy:
    """Examples that are read when they are asked for, indexed along their first axis as an array is.

    `lazy[3]` is one example, `lazy[:128]` and `lazy[rows]` are arrays of them, in the order asked for.

    >>> import numpy as np
    >>> squares = Lazy(lambda rows: rows[:, None] ** 2, (10, 1), np.dtype(int), "squares")
    >>> squares[np.array([3, 1])].tolist(), squares[-1].tolist(), len(squares)
    ([[9], [1]], [81], 10)
    """

    read: Callable[[np.ndarray], np.ndarray]  # rows [B] to examples [B, *E]; called by several threads at once
    shape: Shape  # [N, *E]
    dtype: np.dtype[Any]
    fingerprint: str  # differs where the examples do: a checksum of what they are read from

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        """Axes, that of the examples among them."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes that all examples would take."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def __getitem__(self, rows: Any) -> np.ndarray:
        picked = self._numbers(rows)
        examples = np.asarray(self.read(np.atleast_1d(picked)), self.dtype)
        expected = (*np.atleast_1d(picked).shape, *self.shape[1:])
        if examples.shape != expected:
            raise ValueError(f"a reader of examples must return shape {expected}; got {examples.shape}")
        return examples if np.ndim(picked) else examples[0]

    def _numbers(self, rows: Any) -> np.ndarray:
        """The numbers of the examples that an array would be indexed to by `rows`, with its errors."""
        if isinstance(rows, slice):
            return np.arange(*rows.indices(len(self)))
        numbers = np.asarray(rows)
        if numbers.dtype == np.bool_:
            return np.arange(len(self))[numbers]
        numbers = numbers.astype(np.int64) if numbers.size == 0 else numbers
        if numbers.dtype.kind not in "iu" or numbers.ndim > 1:
            raise IndexError(
                f"examples are indexed by integers, slices and arrays of them along one axis; got {rows!r}"
            )
        if numbers.size and not (-len(self) <= numbers.min() and numbers.max() < len(self)):
            found = f"{numbers.min()} to {numbers.max()}"
            raise IndexError(f"numbers of examples must be from {-len(self)} to {len(self) - 1}; got {found}")
        return np.where(numbers < 0, numbers + len(self), numbers)


class Held(np.ndarray):
    """An array of examples that remembers what they were read from; what is made of it is an array like any other."""

    fingerprint: str | None = None


def hold(array: np.ndarray, fingerprint: str) -> np.ndarray:
    """The array with the fingerprint of what it was read from, which it has in common with those examples as `Lazy`.

    So the checksum of a data set does not depend on whether it fits in the memory of a machine.
    """
    held = array.view(Held)
    held.fingerprint = fingerprint
    return held


def read_all(examples: np.ndarray | Lazy, *, num_threads: int = 8, at_once: int = 256) -> np.ndarray:
    """All examples as one array; those that are lazy are read by several threads, a few at once."""
    if not isinstance(examples, Lazy):
        return examples
    everything = np.empty(examples.shape, examples.dtype)

    def read(start: int) -> None:
        everything[start : start + at_once] = examples[start : start + at_once]

    with ThreadPoolExecutor(num_threads) as threads:
        # What is raised in a thread is raised here.
        for _ in threads.map(read, range(0, len(examples), at_once)):
            pass
    return everything
