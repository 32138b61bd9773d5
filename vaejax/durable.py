"""Files that outlive a crash: whole or as they were before, and on the disk when a call returns."""

import os
from pathlib import Path


def write_durably(path: Path, content: bytes) -> None:
    """Write a file so that after any crash it is there whole, or as it was before."""
    draft = path.with_name(f".{path.name}.draft")
    draft.write_bytes(content)
    to_disk(draft)
    draft.replace(path)
    to_disk(path.parent)


def to_disk(path: Path) -> None:
    """Wait until the disk has what is in a file, or which files are in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
