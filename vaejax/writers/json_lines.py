"""The record of a run: a file with a line of JSON per report."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vaejax.checks import check_count
from vaejax.durable import to_disk, write_durably
from vaejax.strict_json import dump_json
from vaejax.writers._base import Values, arrays


class JsonLines:
    """A file with a line `{"step": step, **values}` per report, which has left the process when `write` returns.

    After `sync` the lines are also on the disk, where no loss of power takes them.

    Arrays are lists. NaN and infinities, which JSON does not have, are null.

    Args:
      path: of the file; without `resume_step` it must not exist.
      resume_step: steps that are kept. Lines of later ones and an unfinished last line are dropped, in a new file
        that takes the place of the old one whole.

    Raises:
      FileExistsError: the file exists and `resume_step` is not given.
      ValueError: a line of the file is damaged; it names file and line.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "metrics.jsonl"
    >>> writer = JsonLines(path)
    >>> writer.write(10, {"loss": 0.5, "kl_per_axis": np.array([1.0, np.nan])})
    >>> writer.write(20, {"loss": 0.25})
    >>> writer.close()
    >>> JsonLines(path, resume_step=10).close()
    >>> read_json_lines(path)
    [{'step': 10, 'loss': 0.5, 'kl_per_axis': [1.0, None]}]
    """

    def __init__(self, path: str | os.PathLike[str], *, resume_step: int | None = None):
        path = Path(path)
        if resume_step is not None:
            check_count("resume_step", resume_step, minimum=0)
            if path.exists():
                kept = [line for line, record in _records(path) if record["step"] <= resume_step]
                write_durably(path, b"".join(line + b"\n" for line in kept))
        elif path.exists():
            raise FileExistsError(f"{path} exists: give resume_step to go on with it")
        self._file = path.open("ab")
        to_disk(path.parent)

    def write(self, step: int, values: Values) -> None:
        """Append a line."""
        check_count("step", step, minimum=0)
        record = {"step": int(step)} | {name: array.tolist() for name, array in arrays(values).items()}
        self._file.write(dump_json(record).encode() + b"\n")
        self._file.flush()

    def sync(self) -> None:
        """Wait until the disk has all lines."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_json_lines(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The reports in a file of `JsonLines`, without an unfinished last line.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: a line is damaged; it names file and line.
    """
    return [record for _, record in _records(Path(path))]


def _records(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """The lines of a file and what they hold, without an unfinished last one."""
    *lines, last = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        try:
            yield line, _parse(line)
        except ValueError as error:
            raise ValueError(f"{path} is damaged in line {number}: {error}") from error
    with contextlib.suppress(ValueError):
        yield last, _parse(last)


def _parse(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line.decode())
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(record, dict) or type(record.get("step")) is not int:
        raise ValueError("it must be an object with an integer step")
    return record
