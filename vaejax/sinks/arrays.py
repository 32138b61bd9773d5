"""Files of arrays as numpy saves them, which grow as rows come."""

import io
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vaejax.types import Shape

# Arrays of as many rows, by name.
Chunk = Mapping[str, np.ndarray]


class Kind(NamedTuple):
    """What is done with each chunk, and in the end."""

    write: Callable[[Chunk], None]
    finish: Callable[[], None]


def npy(target: Path, draft: Path, **_: Any) -> Kind:
    """One array."""
    array = _Array(target, draft)

    def write(arrays: Chunk) -> None:
        array.append(only(target, arrays))

    return Kind(write, array.finish)


def npz(target: Path, draft: Path, **_: Any) -> Kind:
    """Several arrays."""
    parts: dict[str, _Array] = {}

    def write(arrays: Chunk) -> None:
        if parts and parts.keys() != arrays.keys():
            raise ValueError(f"{target}: every chunk must have {', '.join(parts)}; got {', '.join(arrays)}")
        for name, rows in arrays.items():
            # Numbered, since a name may be one that no file can have.
            parts.setdefault(name, _Array(target, draft.with_name(f"{len(parts)}.npy"))).append(rows)

    def finish() -> None:
        with zipfile.ZipFile(draft, "w", allowZip64=True) as archive:
            for name, part in parts.items():
                part.finish()
                with part.path.open("rb") as source, archive.open(f"{name}.npy", "w", force_zip64=True) as copy:
                    shutil.copyfileobj(source, copy, 2**20)
                part.path.unlink()

    return Kind(write, finish)


def only(target: Path, arrays: Chunk) -> np.ndarray:
    """The array of a chunk that has one."""
    if len(arrays) > 1:
        raise ValueError(f"{target} holds one array: name one of {', '.join(arrays)}, or a file that ends in .npz")
    return next(iter(arrays.values()))


class _Array:
    """A file of one array as numpy saves it, which grows."""

    def __init__(self, target: Path, path: Path):
        self.target, self.path, self.count = target, path, 0
        self.kind: tuple[np.dtype[Any], Shape] | None = None

    def append(self, rows: np.ndarray) -> None:
        if rows.dtype.kind not in "biufc":
            raise TypeError(f"{self.target}: arrays must hold numbers; got {rows.dtype}")
        kind = rows.dtype, rows.shape[1:]
        if self.kind is None:
            self.kind = kind
            self.path.write_bytes(self._header())
        if self.kind != kind:
            raise ValueError(f"{self.target}: rows must be of {self.kind[0]} and shape {self.kind[1]}; got {kind}")
        # Opened for every chunk, so that no handle is left behind by whatever goes wrong between them.
        with self.path.open("ab") as file:
            file.write(np.ascontiguousarray(rows).data)
        self.count += len(rows)

    def finish(self) -> None:
        """Write the number of rows into the header, which has room for it."""
        with self.path.open("r+b") as file:
            file.write(self._header())

    def _header(self) -> bytes:
        assert self.kind is not None
        file = io.BytesIO()
        about = {
            "descr": np.lib.format.dtype_to_descr(self.kind[0]),
            "fortran_order": False,
            "shape": (self.count, *self.kind[1]),
        }
        np.lib.format.write_array_header_1_0(file, about)
        return file.getvalue()
