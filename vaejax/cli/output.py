"""What the commands share that make something of a run: where it goes, and how much at once."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vaejax.checks import check_count
from vaejax.cli.command import Answer, Parser, check_platform
from vaejax.making import BATCH_SIZE, Chunk
from vaejax.outcome import shades_of
from vaejax.progress import step_progress
from vaejax.report.figures import is_image
from vaejax.run import OpenRun, open_run
from vaejax.sinks import open_sink


def add_run(parser: Parser) -> None:
    """The run."""
    parser.add_argument("run", metavar="RUN", help="a run folder")


def add_output(parser: Parser, name: str, *, is_arrays: bool = False) -> None:
    """Where it goes, by the ending of a path."""
    kinds = ".npy or .npz" if is_arrays else ".png is one sheet, .npy or .npz arrays, a folder a picture for each"
    default = f"{name}.npz" if is_arrays else f"{name}.png, or {name}.npz of what are no images,"
    parser.add_argument("--output", help=f"{kinds}; {default} in the run folder where it is not given")
    parser.add_argument("--overwrite", action="store_true", help="also where there is such a file")
    parser.add_argument(
        "--batch-size", type=int, default=BATCH_SIZE, help="made at once; changes nothing (%(default)s)"
    )


def add_mean_or_draw(parser: Parser, mean: str, draw: str) -> None:
    """Which of the two is made; what is answered says it too."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--mean", action="store_true", help=f"{mean} (what is made where neither is asked for)")
    group.add_argument("--draw", action="store_true", help=draw)


def open_asked(options: argparse.Namespace) -> OpenRun:
    """The run that is asked for."""
    check_platform()
    check_count("batch-size", options.batch_size)
    return open_run(options.run)


def write(
    opened: OpenRun,
    options: argparse.Namespace,
    chunks: Iterator[Chunk],
    count: int,
    said: str,
    *,
    default: str,
    pictured: Sequence[str] = ("x",),
    columns: int | None = None,
) -> Answer:
    """Write chunks as they come, and say what and where.

    Args:
      opened: the run.
      options: of the command.
      chunks: what is made.
      count: how many rows in all.
      said: what they are, in words.
      default: the name of the file.
      pictured: of the arrays, those that pictures show side by side.
      columns: of a sheet.
    """
    images = is_image(opened.experiment.dataset.shape)
    path = options.output or str(opened.folder / f"{default}{'.png' if images and pictured else '.npz'}")
    is_picture = Path(path).suffix.lower() not in (".npy", ".npz")
    names: Any = list(pictured) if is_picture or path.endswith(".npy") else None
    shades = shades_of(opened.experiment)[:2] if images and pictured else None
    with (
        open_sink(path, names=names, shades=shades, columns=columns, overwrite=options.overwrite) as sink,
        step_progress(default, count) as advance,
    ):
        for chunk in chunks:
            sink.write(chunk)
            advance(len(next(iter(chunk.values()))))
    return Answer(f"{said}\n{sink.path}", {"what": said, "count": count, "path": sink.path})
