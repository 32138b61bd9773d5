"""Several writers as one, of which only the record can end a run."""

import contextlib
import os
import sys
from collections.abc import Callable

from vaejax.writers._base import Values, Writer
from vaejax.writers.json_lines import JsonLines


class Several:
    """Writes to all of some writers.

    An error of `JsonLines` is raised, after the others have written: a run without its record is none. Another
    writer's error is said on stderr, and that writer gets nothing more.

    >>> Several().write(0, {"loss": 0.5})
    """

    def __init__(self, *writers: Writer):
        self._writers, self._left_out = list(writers), list[Writer]()

    def write(self, step: int, values: Values) -> None:
        """Write the report to all."""
        self._each(lambda writer: writer.write(step, values))

    def write_image(self, name: str, path: str | os.PathLike[str], step: int) -> None:
        """Write the picture of a PNG file to those that take pictures."""
        self._each(lambda writer: getattr(writer, "write_image", lambda *_: None)(name, path, step))

    def sync(self) -> None:
        """Wait until the disk has what was written, of those that can say so."""
        self._each(lambda writer: getattr(writer, "sync", lambda: None)())

    def close(self) -> None:
        """Close all, also those that were left out."""
        for writer in self._left_out:
            with contextlib.suppress(Exception):
                writer.close()
        self._left_out = []
        self._each(lambda writer: writer.close())

    def _each(self, call: Callable[[Writer], None]) -> None:
        failure = None
        for writer in tuple(self._writers):
            try:
                call(writer)
            except Exception as error:  # whatever a tracker raises
                if isinstance(writer, JsonLines):
                    failure = error
                else:
                    self._leave_out(writer, error)
        if failure is not None:
            raise failure

    def _leave_out(self, writer: Writer, error: Exception) -> None:
        self._writers.remove(writer)
        self._left_out.append(writer)
        reason = " ".join([f"{type(error).__name__}:", *str(error).splitlines()[:1]])
        print(f"{type(writer).__name__} gets nothing more of this run: {reason}", file=sys.stderr, flush=True)
