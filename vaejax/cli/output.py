"""What the commands share that make something of a run: where it goes, and how much at once."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vaejax.checks import is_image
from vaejax.cli.command import Answer, Parser, say
from vaejax.cli.platform import check_platform
from vaejax.cli.values import MAX_SEED, integer
from vaejax.making import BATCH_SIZE, Chunk
from vaejax.outcome import shades_of
from vaejax.progress import step_progress
from vaejax.sinks import check_room, check_sink, ending_of, open_sink

if TYPE_CHECKING:
    from vaejax.run import OpenRun


class Made(NamedTuple):
    """What a command makes."""

    name: str  # of the file by default
    pictured: tuple[str, ...] = ("x",)  # the arrays that a sheet shows side by side; none where there are no pictures
    alone: str = "x"  # the array of a file or a folder that holds one

    def endings(self) -> str:
        """What the path of the output says, for the help."""
        if not self.pictured:
            return f"an .npz file; {self.name}.npz in the run folder by default"
        return (
            f".png is one sheet, a folder (ending in /) a picture of each {self.alone}, .npz all arrays, .npy "
            f"{self.alone} alone; by default {self.name}.png in the run folder, or .npz of what are no images"
        )


class Place(NamedTuple):
    """Where something goes, as `open_sink` takes it."""

    path: str
    names: Sequence[str] | None
    shades: tuple[float, float] | None
    columns: int | None
    overwrite: bool
    label: str  # of the progress
    total: int  # how many rows


def add_run(parser: Parser) -> None:
    """The run."""
    parser.add_argument("run", metavar="RUN", help="a run folder")


def add_output(parser: Parser, made: Made) -> None:
    """Where it goes, by the ending of a path."""
    parser.add_argument("--output", help=made.endings())
    parser.add_argument("--overwrite", action="store_true", help="also where there is such a file")
    parser.add_argument(
        "--batch-size", type=integer(1), default=BATCH_SIZE, help="made at once; changes nothing (%(default)s)"
    )


def add_seed(parser: Parser, of: str) -> None:
    """The seed."""
    parser.add_argument("--seed", type=integer(0, MAX_SEED), default=0, help=f"of {of} (%(default)s)")


def add_mean_or_draw(parser: Parser, mean: str, draw: str) -> None:
    """Which of the two is made; what is answered says it too."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--mean", action="store_true", help=f"{mean} (what is made where neither is asked for)")
    group.add_argument("--draw", action="store_true", help=draw)


def open_asked(options: argparse.Namespace, made: Made) -> "OpenRun":
    """The run that is asked for, after what can be said against the output without it."""
    path = options.output
    if not made.pictured:
        if path is not None and not path.lower().endswith(".npz"):
            raise ValueError(f"output must end in .npz, since {made.name} are several arrays; got {path}")
        path = path or str(Path(options.run) / f"{made.name}.npz")
    if path is not None:
        check_sink(path, overwrite=options.overwrite)
    return open_run(options.run)


def open_run(folder: str) -> "OpenRun":
    """A run, said to be read."""
    check_platform()
    say(f"reading {folder}")
    # Matplotlib comes with it, which no help should wait for.
    from vaejax import run  # noqa: PLC0415

    return run.open_run(folder)


def place_of(
    opened: "OpenRun", options: argparse.Namespace, made: Made, count: int, columns: int | None = None
) -> Place:
    """Where so many rows go, with so many in a row of a sheet; what has no room there is refused."""
    shape = opened.experiment.dataset.shape
    images = bool(made.pictured) and is_image(shape)
    path = options.output or str(opened.folder / f"{made.name}{'.png' if images else '.npz'}")
    check_sink(path, overwrite=options.overwrite)
    names = {".png": made.pictured, ".npz": None}.get(ending_of(path), (made.alone,))
    if images and ending_of(path) == ".png":
        check_room(Path(path), count * len(made.pictured), shape)
    shades = shades_of(opened.experiment)[:2] if images else None
    return Place(path, names, shades, columns, options.overwrite, made.name, count)


def write(place: Place, chunks: Iterator[Chunk], said: str, more: Mapping[str, Any] | None = None) -> Answer:
    """Write chunks as they come, and say what they are and where; `more` is for scripts."""
    how = {"names": place.names, "shades": place.shades, "columns": place.columns, "overwrite": place.overwrite}
    with open_sink(place.path, **how) as sink, step_progress(place.label, place.total) as advance:  # type: ignore[arg-type]
        for chunk in chunks:
            sink.write(chunk)
            advance(len(next(iter(chunk.values()))))
    return Answer(f"{said}\n{sink.path}", {"what": said, "count": place.total, "path": sink.path, **(more or {})})
