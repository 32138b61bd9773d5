"""Decode the way between two examples: the means of p(x|z) on it, both ends being reconstructions."""

import argparse
from typing import TYPE_CHECKING

import numpy as np

from vaejax.cli.choice import add_split
from vaejax.cli.command import Answer, Parser, counted
from vaejax.cli.output import Made, add_output, add_run, open_asked, place_of, write
from vaejax.cli.values import MAX_STEPS, check_numbers, integer, pair
from vaejax.making import interpolate

if TYPE_CHECKING:
    from vaejax.run import OpenRun

MADE = Made("interpolated")
# Of neighbours, where no pairs are named.
USUAL_PAIRS = 6


def add_arguments(parser: Parser) -> None:
    """What the command takes."""
    add_run(parser)
    parser.add_argument(
        "--between",
        action="append",
        type=pair,
        metavar="N,M",
        help="numbers of two examples; may be repeated (0,1 2,3 ... 10,11)",
    )
    add_split(parser)
    parser.add_argument(
        "--steps", type=integer(2, MAX_STEPS), default=11, help="of each way, with both ends (%(default)s)"
    )
    parser.add_argument("--spherical", action="store_true", help="along the great circle in place of the straight line")
    add_output(parser, MADE)


def run(options: argparse.Namespace) -> Answer:
    """Interpolate."""
    opened = open_asked(options, MADE)
    pairs = _pairs(options, opened)
    place = place_of(opened, options, MADE, len(pairs) * options.steps, options.steps)
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
    between = f"{counted(len(pairs), 'pair')} of {options.split} examples"
    return write(place, chunks, f"means of p(x|z) at {options.steps} points of {way} between {between}")


def _pairs(options: argparse.Namespace, opened: "OpenRun") -> np.ndarray:
    """The numbers of the examples, `[P, 2]`; of an unknown split it is said later which there are."""
    splits = opened.experiment.dataset.splits
    total = len(splits[options.split].examples) if options.split in splits else 2 * USUAL_PAIRS
    if options.between is None:
        return np.arange(2 * max(1, min(USUAL_PAIRS, total // 2))).reshape(-1, 2)
    pairs = np.array(options.between)
    if options.split in splits:
        check_numbers("between", pairs.ravel(), total, options.split)
    return pairs
