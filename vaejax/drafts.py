"""Files and folders that are there whole or not at all: written beside their place, and moved to it in the end."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vaejax.durable import named, to_disk

__all__ = ["check_free", "check_writable", "draft_of", "named"]

# Of a folder that is there: whether it may be replaced, so that no other one is lost.
IsReplaceable = Callable[[Path], bool]
# What a folder must have room for to be written.
TRIED = bytes(2**16)


@contextmanager
def draft_of(target: Path, *, overwrite: bool = False, is_replaceable: IsReplaceable | None = None) -> Iterator[Path]:
    """A path to write a file or a folder to, which becomes `target` when the block ends.

    Where the block fails or is interrupted, nothing of it is left, and what was there before stays. Folders above are
    made.

    Args:
      target: the file or folder.
      overwrite: whether it may be there, and is replaced.
      is_replaceable: of a folder, whether one that is there may be replaced; None for a file.

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


def check_free(target: Path, overwrite: bool, is_replaceable: IsReplaceable | None = None) -> None:
    """Raise `FileExistsError` where something is in the way of a file, or of a folder with `is_replaceable`.

    An empty folder is in the way of a file alone. A file above the target is in the way of all, `NotADirectoryError`.
    """
    above = next((each for each in target.parents if each.exists()), None)
    if above is not None and not above.is_dir():
        raise NotADirectoryError(f"{target} cannot be written: {above} is a file and no folder")
    if not target.exists() or (is_replaceable and target.is_dir() and not any(target.iterdir())):
        return
    kind = "folder" if target.is_dir() else "file"
    may_be = target.is_file() if is_replaceable is None else target.is_dir() and is_replaceable(target)
    if not may_be:
        raise FileExistsError(f"{target} exists and is something else, which is never replaced: name another {kind}")
    if not overwrite:
        raise FileExistsError(f"{target} exists: name another {kind} or --overwrite")


def check_writable(folder: Path) -> None:
    """Raise `OSError` where a folder takes no file, which is found out before work is done whose outcome it is for."""
    try:
        with tempfile.NamedTemporaryFile(suffix=".draft", dir=folder) as file:
            file.write(TRIED)
            file.flush()
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from error


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
