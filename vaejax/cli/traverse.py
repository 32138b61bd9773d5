"""Decode one latent after the other from low to high, the others being held: a row for each, the means of p(x|z)."""

import argparse

from vaejax.cli.choice import parse_numbers
from vaejax.cli.command import Answer, Parser
from vaejax.cli.output import add_output, add_run, open_asked, write
from vaejax.making import check_axes, check_live, live_axes, mean_kl_per_axis, traverse
from vaejax.run import OpenRun


def add_arguments(parser: Parser) -> None:
    """What the command takes."""
    add_run(parser)
    parser.add_argument("--axes", metavar="I,J-K,...", help="latents from 0 on; by default all that say something")
    parser.add_argument(
        "--dead", action="store_true", help="also latents that say nothing of x, where --axes names them"
    )
    parser.add_argument("--start", type=int, metavar="N", help="hold the others at the codes of test example N")
    parser.add_argument("--low", type=float, default=-3.0, help="the first value (%(default)s)")
    parser.add_argument("--high", type=float, default=3.0, help="the last value (%(default)s)")
    parser.add_argument("--steps", type=int, default=11, help="values of each latent (%(default)s)")
    add_output(parser, "traversed")


def run(options: argparse.Namespace) -> Answer:
    """Traverse."""
    opened = open_asked(options)
    axes = _axes(options, opened)
    chunks = traverse(
        opened.experiment,
        opened.params,
        axes=axes,
        start=options.start,
        low=options.low,
        high=options.high,
        num_steps=options.steps,
        batch_size=options.batch_size,
    )
    held = "the mean of the prior" if options.start is None else f"the codes of test example {options.start}"
    rows = ", ".join(f"z[{axis}]" for axis in axes)
    said = f"means of p(x|z), {rows} from {options.low:g} to {options.high:g} in a row each, the others at {held}"
    count = len(axes) * options.steps
    return write(opened, options, chunks, count, said, default="traversed", columns=options.steps)


def _axes(options: argparse.Namespace, opened: OpenRun) -> list[int]:
    """The latents that are asked for; one that is dead would be a row of the same picture."""
    kl = mean_kl_per_axis(opened.experiment, opened.params)
    if options.axes is None:
        return live_axes(opened.experiment, opened.params).tolist()
    axes = parse_numbers("axes", options.axes).tolist()
    if kl is not None and not options.dead:
        check_axes(axes, len(kl))
        try:
            check_live(axes, kl)
        except ValueError as error:
            raise ValueError(f"{error} (--dead shows it all the same)") from error
    return axes
