"""Draw new examples from a run, as its model says that data come about: z ~ p(z), then p(x|z).

Sample i is a function of the seed and of i alone. A million need no more memory than a few.
"""

import argparse
from typing import TYPE_CHECKING, Any

import jax

from vaejax.cli.command import Answer, Parser, counted, say
from vaejax.cli.output import Made, add_mean_or_draw, add_output, add_run, add_seed, open_asked, place_of, write
from vaejax.cli.values import integer
from vaejax.making import MAX_CODES, MAX_COUNT, code_prior, generate

if TYPE_CHECKING:
    from vaejax.run import OpenRun

MADE = Made("generated")


def add_arguments(parser: Parser) -> None:
    """What the command takes."""
    add_run(parser)
    parser.add_argument("--count", type=integer(1, MAX_COUNT), default=64, help="how many (%(default)s)")
    add_mean_or_draw(parser, "the mean of p(x|z)", "a draw from p(x|z), as data are")
    add_seed(parser, "z and the draws")
    parser.add_argument("--temperature", type=float, default=1.0, help="below 1: z nearer to the prior's mean")
    parser.add_argument(
        "--mixture", type=integer(1), metavar="N", help="in place of the prior, N Normals fitted to the codes"
    )
    add_output(parser, MADE)


def run(options: argparse.Namespace) -> Answer:
    """Generate."""
    opened = open_asked(options, MADE)
    place = place_of(opened, options, MADE, options.count)
    key = jax.random.key(options.seed)
    prior, source = _prior(key, opened, options.mixture)
    chunks = generate(
        key,
        opened.experiment,
        opened.params,
        options.count,
        draw=options.draw,
        temperature=options.temperature,
        prior=prior,
        batch_size=options.batch_size,
    )
    what = counted(options.count, "draw") + " from" if options.draw else counted(options.count, "mean") + " of"
    said = f"{what} p(x|z), z from {source}, seed {options.seed}, temperature {options.temperature:g}"
    return write(place, chunks, said)


def _prior(key: jax.Array, opened: "OpenRun", num_components: int | None) -> tuple[Any, str]:
    """What z is drawn from, None being the prior of the run, and what that is in words."""
    if num_components is None:
        if opened.experiment.prior is None:
            raise ValueError(f"{opened.folder} has no prior to draw from: --mixture 10 fits one to its codes")
        return None, "the prior"
    codes = min(MAX_CODES, len(opened.experiment.dataset.train.examples))
    if num_components >= codes:
        raise ValueError(f"mixture must be below {codes:,}, the codes that it is fitted to; got {num_components}")
    normals = counted(num_components, "Normal")
    say(f"fitting {normals} to the codes of {codes:,} training examples")
    # Samples have the numbers below this one.
    fit_key = jax.random.fold_in(key, MAX_COUNT)
    return code_prior(fit_key, opened.experiment, opened.params, num_components), f"{normals} fitted to codes"
