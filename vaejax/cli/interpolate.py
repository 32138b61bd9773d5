"""Decode the way between two examples: the means of p(x|z) on it, both ends being reconstructions."""

import argparse

import numpy as np

from vaejax.cli.command import Answer, Parser
from vaejax.cli.output import add_output, add_run, open_asked, write
from vaejax.making import interpolate
from vaejax.run import OpenRun


def add_arguments(parser: Parser) -> None:
    """What the command takes."""
    add_run(parser)
    parser.add_argument(
        "--between", action="append", metavar="N,M", help="numbers of two examples; may be repeated (0,1 2,3 ... 10,11)"
    )
    parser.add_argument("--split", default="test", help="train, validation or test (%(default)s)")
    parser.add_argument("--steps", type=int, default=11, help="of each way, with both ends (%(default)s)")
    parser.add_argument("--spherical", action="store_true", help="along the great circle in place of the straight line")
    add_output(parser, "interpolated")


def run(options: argparse.Namespace) -> Answer:
    """Interpolate."""
    opened = open_asked(options)
    pairs = np.array([_pair(each) for each in options.between or _neighbours(opened, options.split)])
    chunks = interpolate(
        opened.experiment,
        opened.params,
        pairs,
        options.steps,
        split=options.split,
        spherical=options.spherical,
        batch_size=options.batch_size,
    )
    way = "great circles" if options.spherical else "straight lines"
    said = f"means of p(x|z) at {options.steps} points of {way} between {len(pairs)} pairs of {options.split} examples"
    count = len(pairs) * options.steps
    return write(opened, options, chunks, count, said, default="interpolated", columns=options.steps)


def _neighbours(opened: OpenRun, split: str) -> list[str]:
    count = len(opened.experiment.dataset.splits[split].examples) if split in opened.experiment.dataset.splits else 12
    return [f"{first},{first + 1}" for first in range(0, min(12, count - 1), 2)]


def _pair(words: str) -> list[int]:
    """`3,17` as the numbers of two examples."""
    numbers = words.split(",")
    if len(numbers) != 2 or not all(number.strip().isdecimal() for number in numbers):
        raise ValueError(f"between must be two numbers of examples such as 3,17; got {words}")
    return [int(number) for number in numbers]
