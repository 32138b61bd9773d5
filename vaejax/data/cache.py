"""Arrays that took time to make, kept as files and mapped when they are wanted again."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from vaejax.data.files import read_npy
from vaejax.durable import to_disk, write_durably

INDEX = "index.json"
# What a process that was killed left behind goes when it is this old, in seconds.
STALE = 24 * 3600

Arrays = Mapping[str, np.ndarray]


def cache_folder() -> Path:
    """Where arrays are kept: `VAEJAX_CACHE`, else `vaejax` in `XDG_CACHE_HOME`, else `~/.cache/vaejax`."""
    if os.environ.get("VAEJAX_CACHE"):
        return Path(os.path.expanduser(os.environ["VAEJAX_CACHE"]))
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(home) / "vaejax"


def cached(
    name: str, made_from: str, make: Callable[[], Arrays], folder: str | os.PathLike[str] | None = None
) -> Arrays:
    """The arrays that `make()` returns, read from files where they were made before, and mapped.

    Each entry is a folder that appears whole or not at all, so that no process reads what another is writing. What is
    missing, truncated or altered is made again, with a warning where bytes differ from what was written. Where nothing
    can be written, the arrays stay in memory, also with a warning.

    Args:
      name: begins the name of the entry, for a person.
      made_from: differs where the arrays would: it says what they are made from, and how.
      make: called where there is no good entry; its keys are words.
      folder: where entries are kept, in place of `cache_folder()`.

    >>> root = tempfile.mkdtemp()
    >>> cached("odd", "v1", lambda: {"numbers": np.array([1, 3])}, root)["numbers"].tolist()
    [1, 3]
    >>> cached("odd", "v1", lambda: {}, root)["numbers"].tolist()  # as it was made before
    [1, 3]
    """
    root = cache_folder() if folder is None else Path(folder)
    key = hashlib.sha256(made_from.encode()).hexdigest()
    entry = root / f"{re.sub(r'[^a-zA-Z0-9_.-]+', '-', name)}-{key[:16]}"
    arrays = _open(entry, key)
    if arrays is None:
        if entry.exists():
            _discard(entry)
        arrays = make()
        try:
            _write(root, entry, key, arrays)
        except OSError as error:
            warnings.warn(f"{entry} cannot be kept, so it is made again next time: {error}", stacklevel=2)
            return arrays
        # Another process may have been faster: then its files are the ones that are mapped.
        arrays = _open(entry, key) or arrays
    return arrays


def _open(entry: Path, key: str) -> Arrays | None:
    try:
        index = json.loads((entry / INDEX).read_bytes())
        if index["made_from"] != key:
            return None
        arrays = {name: read_npy(entry / f"{name}.npy") for name in index["arrays"]}
        altered = [name for name, array in arrays.items() if _describe(array) != index["arrays"][name]]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        altered = [f"({error})"]
    if altered:
        warnings.warn(f"{entry} is damaged, so it is made again: {', '.join(altered)}", stacklevel=3)
        return None
    return arrays


def _describe(array: np.ndarray) -> dict[str, object]:
    digest = hashlib.sha256(np.ascontiguousarray(array).data)
    return {"shape": list(array.shape), "dtype": array.dtype.str, "sha256": digest.hexdigest()}


def _write(root: Path, entry: Path, key: str, arrays: Arrays) -> None:
    root.mkdir(parents=True, exist_ok=True)
    sweep(root)
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=root))
    try:
        for name, array in arrays.items():
            np.save(draft / f"{name}.npy", np.ascontiguousarray(array))
            to_disk(draft / f"{name}.npy")
        index = {"made_from": key, "arrays": {name: _describe(array) for name, array in arrays.items()}}
        write_durably(draft / INDEX, json.dumps(index, indent=1).encode())
        try:
            draft.rename(entry)
        except OSError:
            # A process that was faster has put the same there.
            if not entry.is_dir():
                raise
        to_disk(root)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _discard(entry: Path) -> None:
    """Take a damaged entry away at once; whoever has its files mapped keeps them."""
    with contextlib.suppress(OSError):
        draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=entry.parent))
        entry.rename(draft / "damaged")
        shutil.rmtree(draft, ignore_errors=True)


def sweep(root: Path, pattern: str = ".draft-*") -> None:
    """Take away the folders of a pattern that processes which were killed have left behind."""
    for draft in root.glob(pattern):
        try:
            old = time.time() - draft.stat().st_mtime > STALE
        except OSError:
            continue  # its process has just finished
        if old:
            shutil.rmtree(draft, ignore_errors=True)
