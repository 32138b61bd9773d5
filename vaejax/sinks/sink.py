"""Where chunks of arrays go, by the ending of a path."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vaejax.checks import check_count
from vaejax.drafts import check_free, draft_of, named
from vaejax.sinks.arrays import Chunk, Kind, npy, npz
from vaejax.sinks.pictures import folder, is_image_folder, sheet

# By the ending of a path; none is that of a folder.
KINDS: dict[str, Callable[..., Kind]] = {".npy": npy, ".npz": npz, ".png": sheet, "": folder}


class Sink(NamedTuple):
    """What takes chunks."""

    path: Path
    write: Callable[[Chunk], None]


def ending_of(path: str | os.PathLike[str]) -> str:
    """What a path ends in, `.npy`, `.npz` or `.png`; an empty string where it is a folder.

    >>> ending_of("x.PNG"), ending_of("images/"), ending_of("images.v2/")
    ('.png', '', '')

    Raises:
      ValueError: another ending.
    """
    is_folder = str(path).endswith(("/", os.sep))
    ending = "" if is_folder else Path(path).suffix.lower()
    if ending not in KINDS or not Path(path).name:
        raise ValueError(f"{path} must end in .npy, .npz or .png, or be a folder, ending in {os.sep}; got {ending!r}")
    return ending


def check_sink(path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Raise what `open_sink` would, as far as the path alone decides it: before work is done for it.

    Raises:
      FileExistsError: something is in the way.
      ValueError: an unknown ending.
    """
    check_free(Path(path), overwrite, _is_replaceable(ending_of(path)))


@contextmanager
def open_sink(
    path: str | os.PathLike[str],
    *,
    names: Sequence[str] | None = None,
    shades: tuple[float, float] | None = None,
    columns: int | None = None,
    overwrite: bool = False,
) -> Iterator[Sink]:
    """A context whose `write` takes chunks, dicts of arrays of as many rows, the same names every time.

    The ending decides: `.npy` is one array, `.npz` several, `.png` one sheet of all images, up to 4,096, row by row
    and those of one example side by side; a folder (no ending, or a slash at the end) has `000000.png` and so on. Both
    kinds of arrays are written as they come, so that memory does not grow. The path is there when the context ends
    without an error, and not before.

    Args:
      path: of the file or the folder; folders above it are made.
      names: of the arrays that are written; all that come where None.
      shades: the numbers that are shown as black and white; those beyond are clipped. None for what are no images.
      columns: examples in a row of the sheet; where None, as many as make it about square.
      overwrite: whether a file, or a folder of such images, may be replaced.

    Raises:
      FileExistsError: something is in the way.
      ValueError: an unknown ending, or arrays that the kind cannot hold.
      OSError: it cannot be written; the path is named.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> with open_sink(f"{folder.name}/codes.npy", names=["z"]) as sink:
    ...     for start in (0, 2):
    ...         sink.write({"z": np.arange(start, start + 2), "x": np.zeros(2)})
    >>> np.load(sink.path).tolist()
    [0, 1, 2, 3]
    >>> folder.cleanup()
    """
    target, ending = Path(path), ending_of(path)
    if ending in (".png", ""):
        _check_shades(target, shades)
    if columns is not None:
        check_count("columns", columns)
    with draft_of(target, overwrite=overwrite, is_replaceable=_is_replaceable(ending)) as draft:
        kind = KINDS[ending](target, draft, shades=shades, columns=columns)
        written: list[int] = []

        def write(chunk: Chunk) -> None:
            arrays = _select(target, chunk, names)
            with named(target):
                kind.write(arrays)
            written.append(1)

        yield Sink(target, write)
        if not written:
            raise ValueError(f"{target}: nothing came that could be written to it")
        with named(target):
            kind.finish()


def _is_replaceable(ending: str) -> Callable[[Path], bool] | None:
    """Of a folder, whether one that is there may be replaced; None for a file."""
    return is_image_folder if ending == "" else None


def _select(target: Path, chunk: Chunk, names: Sequence[str] | None) -> dict[str, np.ndarray]:
    """The arrays that are written, all of as many rows."""
    missing = [name for name in names or () if name not in chunk]
    if missing:
        raise ValueError(f"{target}: names must be among {', '.join(chunk)}; got {missing[0]}")
    arrays = {name: np.asarray(chunk[name]) for name in names or chunk}
    counts = {len(array) if array.ndim else 0 for array in arrays.values()}
    if len(counts) != 1 or 0 in counts:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise ValueError(f"{target}: a chunk must have arrays of as many rows, at least one; got {shapes or 'none'}")
    return arrays


def _check_shades(target: Path, shades: Any) -> None:
    if shades is None:
        raise ValueError(f"{target}: pictures are made of images, which these are not: name an .npz or .npy file")
    if len(shades) != 2 or not np.isfinite(shades).all() or shades[0] == shades[1]:
        raise ValueError(f"shades must be two numbers, black and white; got {shades}")
