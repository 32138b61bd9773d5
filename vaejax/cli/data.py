"""Say what a data set is, and draw a sheet of it.

NAME is a data set that vaejax knows, any of tensorflow-datasets by its name, an .npz or .npy file, or a folder of
images or of four IDX files.
"""

import argparse
import re
from pathlib import Path

from vaejax import data
from vaejax.cli.command import Answer, Parser
from vaejax.cli.platform import check_platform
from vaejax.cli.values import integer
from vaejax.drafts import check_free, draft_of, named
from vaejax.feed import describe_feed
from vaejax.settings import Running


def add_arguments(parser: Parser) -> None:
    """What the command takes."""
    parser.add_argument("name", metavar="NAME", help=f"a path, or one of {', '.join(data.names())}, ...")
    parser.add_argument("--folder", help="where the files are; by default the environment variable VAEJAX_DATA")
    parser.add_argument("--size", type=integer(1), help="resize images to a square of so many pixels")
    parser.add_argument("--crop", type=integer(1), help="before that, cut out a centred square of so many pixels")
    parser.add_argument(
        "--meaning", choices=[each.value for each in data.Meaning], help="of files of arrays: what their numbers say"
    )
    parser.add_argument("--max-value", type=float, help="of files of arrays: the intensity of white")
    parser.add_argument("--axes", help="of .npz and .npy files: a letter for each axis (N, H, W, C, ...), such as NCHW")
    parser.add_argument("--output", type=Path, help="of the contact sheet; runs/data/NAME.png by default")
    parser.add_argument("--overwrite", action="store_true", help="also where there is such a file")


def run(options: argparse.Namespace) -> Answer:
    """Describe and draw."""
    check_platform()
    size = None if options.size is None else (options.size, options.size)
    path = options.output
    if path is not None and path.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise ValueError(f"output must end in .png, .pdf or .svg; got {path}")
    if path is not None:
        check_free(path, options.overwrite)
    # Matplotlib comes with it, which no help should wait for.
    from vaejax.data_report import contact_sheet, describe  # noqa: PLC0415

    meaning = None if options.meaning is None else data.Meaning(options.meaning)
    numbers = {"meaning": meaning, "max_value": options.max_value, "axes": options.axes}
    dataset = data.load(options.name, options.folder, size=size, crop=options.crop, **numbers)
    text = f"{describe(dataset)}\n  feed       {describe_feed(dataset, Running())}"
    content = {
        "name": dataset.name,
        "shape": dataset.shape,
        "dtype": str(dataset.dtype),
        "meaning": str(dataset.meaning),
        "max_value": dataset.max_value,
        "missing": dataset.missing,
        "examples": {name: len(split.examples) for name, split in dataset.splits.items()},
        "label_names": list(dataset.label_names),
        "factor_names": list(dataset.factor_names),
        "sha256": dataset.sha256,
    }
    sheet = contact_sheet(dataset)
    if sheet is None:
        return Answer(f"{text}\nno contact sheet: these are no images", content)
    # The sheet that is drawn by default may be drawn again.
    overwrite = options.overwrite or path is None
    path = path or Path("runs") / "data" / f"{re.sub(r'[^A-Za-z0-9_-]+', '_', dataset.name)}.png"
    with draft_of(path, overwrite=overwrite) as draft, named(path):
        sheet.savefig(draft)
    return Answer(f"{text}\ncontact sheet: {path}", content | {"contact_sheet": path})
