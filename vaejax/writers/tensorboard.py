"""Curves and pictures for TensorBoard, through tensorboardX, without TensorFlow."""

import os
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vaejax.checks import check_count
from vaejax.writers._base import Values, require, scalars

PNG_START = b"\x89PNG\r\n\x1a\n"
# The colour type of a PNG file to its number of channels; a palette (3) holds colours.
PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}


class TensorBoard:
    """A folder that TensorBoard shows: the number `name`, and `name/0`, `name/1`, ... for the elements of an array.

    Every report is whole on the disk when `write` returns.

    Args:
      folder: of the event files.
      resume_step: steps that are kept; TensorBoard hides the later ones of the files that are there.

    Raises:
      ValueError: tensorboardX is not installed.

    >>> import tempfile
    >>> writer = TensorBoard(tempfile.mkdtemp())
    >>> writer.write(10, {"loss": 0.5})
    >>> writer.close()
    """

    def __init__(self, folder: str | os.PathLike[str], *, resume_step: int | None = None):
        if resume_step is not None:
            check_count("resume_step", resume_step, minimum=0)
        # Not its SummaryWriter, which writes from a thread: its flush leaves behind what is still queued, and after an
        # error of the disk the queue fills up and the run hangs.
        with _without_torch():
            self._events = require("tensorboardX.event_file_writer")
            self._summary = require("tensorboardX.proto.summary_pb2").Summary
        Path(folder).mkdir(parents=True, exist_ok=True)
        # A name holds the second, and files are read in the order of their names.
        number = len(list(Path(folder).glob("events.out.tfevents.*")))
        self._file = self._events.EventsWriter(str(Path(folder) / "events"), f".{number:04d}")
        if resume_step is not None:
            start = self._events.event_pb2.SessionLog(status="START")
            self._add(int(resume_step) + 1, session_log=start)
        self._file.flush()

    def write(self, step: int, values: Values) -> None:
        """Write one event with all numbers of the report."""
        check_count("step", step, minimum=0)
        each = [self._summary.Value(tag=name, simple_value=value) for name, value in scalars(values).items()]
        self._add(int(step), summary=self._summary(value=each))

    def write_image(self, name: str, path: str | os.PathLike[str], step: int) -> None:
        """Write the picture of a PNG file.

        Raises:
          ValueError: the file is no PNG file.
        """
        content = Path(path).read_bytes()
        if not content.startswith(PNG_START) or len(content) < 26 or content[25] not in PNG_CHANNELS:
            raise ValueError(f"{path} must be a PNG file; it starts with {content[:8].hex() or 'nothing'}")
        width, height = struct.unpack(">II", content[16:24])
        image = self._summary.Image(
            width=width, height=height, colorspace=PNG_CHANNELS[content[25]], encoded_image_string=content
        )
        self._add(int(step), summary=self._summary(value=[self._summary.Value(tag=name, image=image)]))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _add(self, step: int, **content: Any) -> None:
        self._file.write_event(self._events.event_pb2.Event(wall_time=time.time(), step=step, **content))
        self._file.flush()


@contextmanager
def _without_torch() -> Iterator[None]:
    """A context in which torch, which tensorboardX loads where it is there, is not: it takes a second, to no use."""
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["torch"]
