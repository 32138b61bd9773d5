"""Write the latents of examples: the mean of q(z|x), its variance and the KL of each axis, with labels and factors."""

import argparse

import jax

from vaejax.cli.choice import add_choice, chosen_of
from vaejax.cli.command import Answer, Parser
from vaejax.cli.output import add_mean_or_draw, add_output, add_run, open_asked, write
from vaejax.making import encode


def add_arguments(parser: Parser) -> None:
    """What the command takes."""
    add_run(parser)
    add_choice(parser, None)
    add_mean_or_draw(parser, "the mean alone", "also a draw from q(z|x)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (%(default)s)")
    add_output(parser, "codes", is_arrays=True)


def run(options: argparse.Namespace) -> Answer:
    """Encode."""
    opened = open_asked(options)
    chosen, which = chosen_of(options, opened)
    key = jax.random.key(options.seed)
    chunks = encode(key, opened.experiment, opened.params, chosen, draw=options.draw, batch_size=options.batch_size)
    also = f" and a draw of each, seed {options.seed}" if options.draw else ""
    if options.output and options.output.endswith(".npy"):
        raise ValueError("codes are several arrays: name an .npz file")
    return write(
        opened, options, chunks, len(chosen.numbers), f"means of q(z|x) of {which}{also}", default="codes", pictured=()
    )
