"""Decode one latent after the other from low to high, the others being held: a row for each, the means of p(x|z)."""

import argparse

import numpy as np

from vaejax.cli.command import Answer, Parser
from vaejax.cli.output import Made, add_output, add_run, open_asked, place_of, write
from vaejax.cli.values import MAX_STEPS, check_numbers, integer, numbers
from vaejax.making import Codes, check_axes, check_live, check_range, live_axes, read_codes, traverse

MADE = Made("traversed")


def add_arguments(parser: Parser) -> None:
    """What the command takes."""
    add_run(parser)
    parser.add_argument(
        "--axes", type=numbers("latents"), metavar="I,J-K,...", help="latents from 0 on; by default all that tell of x"
    )
    parser.add_argument(
        "--dead", action="store_true", help="also latents that tell nothing of x, where --axes names them"
    )
    parser.add_argument(
        "--start", type=integer(0), metavar="N", help="hold the others at the code of test example N, not at the median"
    )
    for side, percentile in (("low", "1st"), ("high", "99th")):
        which = "first" if side == "low" else "last"
        text = f"the {which} value; by default the {percentile} percentile of each latent's test codes"
        parser.add_argument(f"--{side}", type=float, help=text)
    parser.add_argument("--steps", type=integer(2, MAX_STEPS), default=11, help="values of each latent (%(default)s)")
    add_output(parser, MADE)


def run(options: argparse.Namespace) -> Answer:
    """Traverse."""
    check_range(options.low, options.high)
    opened = open_asked(options, MADE)
    if options.start is not None:
        check_numbers("start", np.array([options.start]), len(opened.experiment.dataset.test.examples), "test")
    codes = read_codes(opened.experiment, opened.params)
    axes = _axes(options, codes)
    place = place_of(opened, options, MADE, len(axes) * options.steps, options.steps)
    chunks = traverse(
        opened.experiment,
        opened.params,
        axes=axes,
        start=options.start,
        low=options.low,
        high=options.high,
        num_steps=options.steps,
        batch_size=options.batch_size,
        codes=codes,
    )
    held = "the median code" if options.start is None else f"the code of test example {options.start}"
    rows = ", ".join(f"z[{axis}]" for axis in axes)
    return write(place, chunks, f"means of p(x|z), {rows} {_ends(options)} in a row each, the others at {held}")


def _ends(options: argparse.Namespace) -> str:
    low, high = options.low, options.high
    first = "the 1st percentile" if low is None else f"{low:g}"
    last = "the 99th percentile" if high is None else f"{high:g}"
    return f"from {first} to {last}" + (" of its test codes" if low is None or high is None else "")


def _axes(options: argparse.Namespace, codes: Codes) -> list[int]:
    """The latents that are asked for; one that is dead would be a row of the same picture."""
    if options.axes is None:
        return live_axes(codes).tolist()
    axes = check_axes(options.axes, codes.means[0].size).tolist()
    if codes.kl is not None and not options.dead:
        try:
            check_live(axes, codes.kl)
        except ValueError as error:
            raise ValueError(f"{error} (--dead shows it all the same)") from error
    return axes
