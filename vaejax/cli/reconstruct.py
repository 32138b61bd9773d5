"""Send examples through the encoder and the decoder of a run: each beside what becomes of it, the mean of p(x|z)."""

import argparse

import jax

from vaejax.cli.choice import add_choice, chosen_of
from vaejax.cli.command import Answer, Parser
from vaejax.cli.output import add_mean_or_draw, add_output, add_run, open_asked, write
from vaejax.making import reconstruct

PAIRS_IN_A_ROW = 8


def add_arguments(parser: Parser) -> None:
    """What the command takes."""
    add_run(parser)
    add_choice(parser, 64)
    add_mean_or_draw(parser, "z is the posterior mean", "z is a draw from q(z|x)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (%(default)s)")
    add_output(parser, "reconstructed")


def run(options: argparse.Namespace) -> Answer:
    """Reconstruct."""
    opened = open_asked(options)
    chosen, which = chosen_of(options, opened)
    key = jax.random.key(options.seed)
    chunks = reconstruct(
        key, opened.experiment, opened.params, chosen, draw=options.draw, batch_size=options.batch_size
    )
    z = f"a draw from q(z|x), seed {options.seed}" if options.draw else "the posterior mean"
    said = f"{which}, each beside the mean of p(x|z), z being {z}"
    pictured = ("x", "reconstruction")
    count = len(chosen.numbers)
    return write(
        opened, options, chunks, count, said, default="reconstructed", pictured=pictured, columns=PAIRS_IN_A_ROW
    )
