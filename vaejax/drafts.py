"""Files and folders that are there whole or not at all: written beside their place, and moved to it in the end."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vaejax.durable import to_disk


@contextmanager
def draft_of(
    target: Path, *, overwrite: bool = False, is_replaceable: Callable[[Path], bool] = Path.is_file
) -> Iterator[Path]:
    """A path to write a file or a folder to, which becomes `target` when the block ends.

    Where the block fails or is interrupted, nothing of it is left, and what was there before stays. Folders above are
    made.

    Args:
      target: the file or folder.
      overwrite: whether it may be there, and is replaced.
      is_replaceable: whether what is there may be; so that no other folder is lost.

    Raises:
      FileExistsError: something is in the way.
      OSError: it cannot be written; of what fails in the block itself, `named` names the path.
    """
    check_free(target, overwrite, is_replaceable)
    with named(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        room = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".draft", dir=target.parent))
    try:
        draft = room / target.name
        yield draft
        # It took time to write, and another may have been faster.
        check_free(target, overwrite, is_replaceable)
        with named(target):
            _move(draft, target, room / "before")
    finally:
        shutil.rmtree(room, ignore_errors=True)


def check_free(target: Path, overwrite: bool, is_replaceable: Callable[[Path], bool] = Path.is_file) -> None:
    """Raise `FileExistsError` where something is in the way of a file or a folder; an empty folder is not."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    kind = "folder" if target.is_dir() else "file"
    if not is_replaceable(target):
        raise FileExistsError(f"{target} exists and is something else, which is never replaced: name another {kind}")
    if not overwrite:
        raise FileExistsError(f"{target} exists: name another {kind} or --overwrite")


@contextmanager
def named(target: Path) -> Iterator[None]:
    """Have an `OSError` of the draft name what was to be written, as a full disk does not."""
    try:
        yield
    except OSError as error:
        if error.errno is None or not (error.filename is None or f".{target.name}." in str(error.filename)):
            raise
        raise OSError(error.errno, error.strerror, str(target)) from error


def _move(draft: Path, target: Path, before: Path) -> None:
    """Put the draft in its place; a folder that is there goes to `before`, since a folder cannot replace one."""
    to_disk(draft)
    if not target.is_dir():
        draft.replace(target)
    else:
        target.rename(before)
        try:
            draft.rename(target)
        except BaseException:
            before.rename(target)
            raise
    to_disk(target.parent)
