"""Files that outlive a crash: whole or as they were before, and on the disk when a call returns."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_durably(path: Path, content: bytes) -> None:
    """Write a file so that after any crash it is there whole, or as it was before.

    Raises:
      OSError: it cannot be written; the path is named.
    """
    # A name of its own, since another process may write the same file.
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.draft")
    with named(path):
        try:
            draft.write_bytes(content)
            to_disk(draft)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        to_disk(path.parent)


@contextmanager
def named(target: Path) -> Iterator[None]:
    """Have an `OSError` of the draft name what was to be written, as a full disk does not."""
    try:
        yield
    except OSError as error:
        if error.errno is None or not (error.filename is None or f".{target.name}." in str(error.filename)):
            raise
        raise OSError(error.errno, error.strerror, str(target)) from error


def to_disk(path: Path) -> None:
    """Wait until the disk has what is in a file, or which files are in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
