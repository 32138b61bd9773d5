"""Arrays in npz archives and npy files, looked at before anything is read, and data sets of them."""

import difflib
import os
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from vaejax.data.arrays import from_arrays
from vaejax.data.dataset import Dataset, Meaning, Split
from vaejax.data.npy_header import MAGIC, Header, check_size, read_header
from vaejax.data.npz_names import choose_arrays, list_keys

# An archive can claim any size. The largest in use, dSprites, takes 3 GB; larger arrays belong into npy files,
# which are mapped.
MAX_BYTES = 2**32
READ_AT_ONCE = 2**20
# What zipfile raises over damaged bytes (RuntimeError over a password).
DAMAGE = (ValueError, KeyError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)


def read_npz(path: str | os.PathLike[str], keys: Sequence[str], *, texts: bool = False) -> dict[str, np.ndarray]:
    """Read arrays of numbers from an npz archive, and nothing else that is in it.

    Nothing is read before the header of an array is known to be one of numbers and to agree with the size that the
    archive says. Arrays of objects, which are pickled, are refused.

    Args:
      path: the archive, compressed or not.
      keys: the names of the arrays.
      texts: whether they may hold strings of a fixed width too, as labels do.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no archive, is damaged, lacks an array (the message names those that there are), or has one
        that holds no numbers or more than 4 GiB of them.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "numbers.npz"
    >>> np.savez(path, odd=np.array([1, 3]), even=np.array([2, 4]))
    >>> read_npz(path, ["even"])["even"].tolist()
    [2, 4]
    """
    with _open(path) as file, _archive(path, file) as archive:
        _check_keys(path, _keys(archive), keys)
        return {key: _read_member(path, archive, key, texts) for key in keys}


def npz_keys(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """The names of the arrays in an npz archive, sorted; none of them is read.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no archive, or is damaged.
    """
    with _open(path) as file, _archive(path, file) as archive:
        return _keys(archive)


def read_npy(path: str | os.PathLike[str], *, texts: bool = False) -> np.ndarray:
    """The array of numbers in an npy file, mapped: what is looked at is read, and it cannot be written to.

    Args:
      path: the file.
      texts: whether it may hold strings of a fixed width too, as labels do.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no npy file, holds no numbers, or is shorter or longer than its header says.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "numbers.npy"
    >>> np.save(path, np.arange(6).reshape(3, 2))
    >>> read_npy(path)[1].tolist()
    [2, 3]
    """
    with _open(path) as file:
        header = read_header(str(path), file, texts=texts)
        check_size(str(path), header, os.fstat(file.fileno()).st_size)
        return np.memmap(file, header.dtype, "r", header.start, header.shape, header.order)


def load_npz(
    path: str | os.PathLike[str],
    *,
    meaning: Meaning | None = None,
    max_value: float | None = None,
    axes: str | None = None,
) -> Dataset:
    """A data set of the arrays in an npz archive.

    Its examples are the one array that there is, or are called `train`, `x_train`, `train_x`, `train_images`,
    `images_train`, `train_data` or so, `x`, `images`, `imgs` or `data`; their labels `y_train`, `train_labels`,
    `targets_train` or so, `y`, `labels` or `targets`. Those of the other splits, if there are any, have `test`, or
    `validation`, `valid`, `val` or `dev`, in place of `train`. Capitals and underscores do not matter. Without a test
    split one is drawn, as `from_arrays` does.

    Other arrays are left out, but not one whose name has `test`, `val`, `label` or `target` in it.

    Args:
      path: the archive.
      meaning: what the numbers say, as in `from_arrays`.
      max_value: the intensity of white, as in `from_arrays`.
      axes: a letter for each axis of the examples, as in `from_arrays`.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: what `read_npz` and `from_arrays` refuse, no array of examples, two that may be it, or one that
        may be of a test split or of labels and has no name of these.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "some.npz"
    >>> np.savez(path, images=np.zeros((10, 4, 4), bool), labels=np.arange(10))
    >>> dataset = load_npz(path)
    >>> dataset.shape, dataset.meaning.name, len(dataset.train.labels), len(dataset.test.labels)
    ((4, 4, 1), 'BINARY', 9, 1)
    """
    chosen = choose_arrays(path, npz_keys(path))
    arrays = read_npz(path, [examples for examples, _ in chosen.values()])
    splits = {split: Split(arrays[examples], _read_labels(path, key)) for split, (examples, key) in chosen.items()}
    return _dataset(path, splits, meaning=meaning, max_value=max_value, axes=axes)


def load_npy(
    path: str | os.PathLike[str],
    *,
    meaning: Meaning | None = None,
    max_value: float | None = None,
    axes: str | None = None,
) -> Dataset:
    """A data set of the array in an npy file, which is mapped, so that it may be larger than the memory.

    Labels are read from a file beside it, of `faces.npy` from `faces_labels.npy`, where there is one. The test split
    is drawn as `from_arrays` does.

    Args:
      path: the file.
      meaning: what the numbers say, as in `from_arrays`.
      max_value: the intensity of white, as in `from_arrays`.
      axes: a letter for each axis of the examples, as in `from_arrays`.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: what `read_npy` and `from_arrays` refuse.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "counts.npy"
    >>> np.save(path, np.arange(20).reshape(10, 2))
    >>> dataset = load_npy(path)
    >>> dataset.shape, dataset.meaning.name, dataset.max_value, len(dataset.train.examples)
    ((2,), 'COUNTS', 19, 9)
    """
    path = Path(path)
    beside = path.with_name(f"{path.stem}_labels.npy")
    labels = np.array(read_npy(beside, texts=True)) if beside.is_file() else None
    return _dataset(path, {"train": Split(read_npy(path), labels)}, meaning=meaning, max_value=max_value, axes=axes)


def _dataset(path: str | os.PathLike[str], splits: dict[str, Split], **options: Any) -> Dataset:
    try:
        return from_arrays(**splits, name=Path(path).stem, origin=str(path), **options)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def _read_labels(path: str | os.PathLike[str], key: str | None) -> np.ndarray | None:
    return None if key is None else read_npz(path, [key], texts=True)[key]


def _open(path: str | os.PathLike[str]) -> IO[bytes]:
    # A named pipe would be waited for.
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is missing, or is no file")
    return open(path, "rb")


def _archive(path: str | os.PathLike[str], file: IO[bytes]) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except DAMAGE as error:
        file.seek(0)
        what = "is one bare array (load_npy reads it)" if file.read(6) == MAGIC else f"is truncated or damaged: {error}"
        raise ValueError(f"{path} must be an npz archive; it {what}") from error


def _keys(archive: zipfile.ZipFile) -> tuple[str, ...]:
    return tuple(sorted({name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")}))


def _check_keys(path: str | os.PathLike[str], there: Sequence[str], keys: Sequence[str]) -> None:
    for key in keys:
        if key not in there:
            near = difflib.get_close_matches(key, there, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ValueError(f"{path} has no array {key}{hint}; got {list_keys(there)}")


def _read_member(path: str | os.PathLike[str], archive: zipfile.ZipFile, key: str, texts: bool) -> np.ndarray:
    where = f"{path}: {key}"
    info = archive.getinfo(f"{key}.npy")
    # Of no other compression it is known how much can come of a byte; numpy uses no other.
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{where} must be stored or deflated; got compression {info.compress_type}")
    try:
        with archive.open(info) as file:
            header = read_header(where, file, texts=texts)
            check_size(where, header, info.file_size)
            if header.nbytes > MAX_BYTES:
                raise ValueError(f"{where} must be at most {MAX_BYTES} bytes; got {header.nbytes} (save it as an npy)")
            return _read_numbers(where, header, file)
    except DAMAGE as error:
        raise error if str(error).startswith(where) else ValueError(f"{where} is damaged: {error}") from error


def _read_numbers(where: str, header: Header, file: IO[bytes]) -> np.ndarray:
    # Filled piece by piece: the memory is the array's, and what a truncated file only claims is never touched.
    content = np.empty(header.nbytes, np.uint8)
    for start in range(0, header.nbytes, READ_AT_ONCE):
        expected = min(READ_AT_ONCE, header.nbytes - start)
        piece = file.read(expected)
        if len(piece) != expected:
            raise ValueError(f"{where} is truncated: it must hold {header.nbytes} bytes; got {start + len(piece)}")
        content[start : start + expected] = np.frombuffer(piece, np.uint8)
    return content.view(header.dtype).reshape(header.shape, order=header.order)
