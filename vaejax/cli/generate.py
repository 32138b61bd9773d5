"""Draw new examples from a run, as its model says that data come about: z ~ p(z), then p(x|z).

Sample i is a function of the seed and of i alone. A million need no more memory than a few.
"""

import argparse

import jax

from vaejax.checks import check_count
from vaejax.cli.command import Answer, Parser
from vaejax.cli.output import add_mean_or_draw, add_output, add_run, open_asked, write
from vaejax.making import code_prior, generate


def add_arguments(parser: Parser) -> None:
    """What the command takes."""
    add_run(parser)
    parser.add_argument("--count", type=int, default=64, help="how many (%(default)s)")
    add_mean_or_draw(parser, "the mean of p(x|z)", "a draw from p(x|z), as data are")
    parser.add_argument("--seed", type=int, default=0, help="of z and the draws (%(default)s)")
    parser.add_argument("--temperature", type=float, default=1.0, help="below 1: z nearer to the prior's mean")
    parser.add_argument("--mixture", type=int, metavar="N", help="in place of the prior, N Normals fitted to the codes")
    add_output(parser, "generated")


def run(options: argparse.Namespace) -> Answer:
    """Generate."""
    check_count("count", options.count)
    check_count("seed", options.seed, minimum=0)
    opened = open_asked(options)
    model, params = opened.experiment, opened.params
    key, fit_key = jax.random.key(options.seed), jax.random.key(options.seed)
    prior, source = None, "the prior"
    if options.mixture is not None:
        prior, source = (
            code_prior(fit_key, model, params, options.mixture),
            f"{options.mixture} Normals fitted to codes",
        )
    elif model.prior is None:
        raise ValueError(f"{opened.folder} has no prior to draw from: --mixture 10 fits one to its codes")
    chunks = generate(
        key,
        model,
        params,
        options.count,
        draw=options.draw,
        temperature=options.temperature,
        prior=prior,
        batch_size=options.batch_size,
    )
    what = "draws from" if options.draw else "means of"
    said = f"{options.count:,} {what} p(x|z), z from {source}, seed {options.seed}, temperature {options.temperature:g}"
    return write(opened, options, chunks, options.count, said, default="generated")
