"""Send examples through the encoder and the decoder of a run: each beside what becomes of it, the mean of p(x|z)."""

import argparse
from collections.abc import Iterator

import jax
import numpy as np

from vaejax.cli.choice import add_choice, chosen_of
from vaejax.cli.command import Answer, Parser
from vaejax.cli.output import Made, add_mean_or_draw, add_output, add_run, add_seed, open_asked, place_of, write
from vaejax.making import Chunk, reconstruct

MADE = Made("reconstructed", ("x", "reconstruction"), "reconstruction")
PAIRS_IN_A_ROW = 8


def add_arguments(parser: Parser) -> None:
    """What the command takes."""
    add_run(parser)
    add_choice(parser, 64)
    add_mean_or_draw(parser, "z is the posterior mean", "z is a draw from q(z|x)")
    add_seed(parser, "the draws")
    add_output(parser, MADE)


def run(options: argparse.Namespace) -> Answer:
    """Reconstruct."""
    opened = open_asked(options, MADE)
    chosen, which = chosen_of(options, opened)
    place = place_of(opened, options, MADE, len(chosen.numbers), PAIRS_IN_A_ROW)
    key = jax.random.key(options.seed)
    chunks = reconstruct(
        key, opened.experiment, opened.params, chosen, draw=options.draw, batch_size=options.batch_size
    )
    if opened.experiment.dataset.missing and place.names == MADE.pictured and place.shades is not None:
        chunks = _with_black(chunks, place.shades[0])
    z = f"a draw from q(z|x), seed {options.seed}" if options.draw else "the posterior mean"
    beside = "the means of p(x|z)" if place.names == (MADE.alone,) else "each beside the mean of p(x|z)"
    return write(place, chunks, f"{which}, {beside}, z being {z}")


def _with_black(chunks: Iterator[Chunk], black: float) -> Iterator[Chunk]:
    """The chunks with black in place of what is missing of x, for a picture."""
    return ({**chunk, "x": np.nan_to_num(chunk["x"], nan=black)} for chunk in chunks)
