"""Write the latents of examples: the mean of q(z|x), its variance and the KL of each axis, with labels and factors."""

import argparse

import jax

from vaejax.cli.choice import add_choice, chosen_of
from vaejax.cli.command import Answer, Parser
from vaejax.cli.output import Made, add_mean_or_draw, add_output, add_run, add_seed, open_asked, place_of, write
from vaejax.making import encode

MADE = Made("codes", pictured=())
# Names that the sentence has room for; a script gets all.
MAX_NAMES = 20


def add_arguments(parser: Parser) -> None:
    """What the command takes."""
    add_run(parser)
    add_choice(parser, None)
    add_mean_or_draw(parser, "the mean alone", "also a draw from q(z|x)")
    add_seed(parser, "the draws")
    add_output(parser, MADE)


def run(options: argparse.Namespace) -> Answer:
    """Encode."""
    opened = open_asked(options, MADE)
    chosen, which = chosen_of(options, opened)
    place = place_of(opened, options, MADE, len(chosen.numbers))
    key = jax.random.key(options.seed)
    chunks = encode(key, opened.experiment, opened.params, chosen, draw=options.draw, batch_size=options.batch_size)
    also = f" and a draw of each, seed {options.seed}" if options.draw else ""
    dataset = opened.experiment.dataset
    names = {
        "label_names": dataset.label_names if "label" in chosen.known else (),
        "factor_names": dataset.factor_names if "factors" in chosen.known else (),
    }
    said = [f"means of q(z|x) of {which}{also}"]
    said += [f"{name.replace('_names', 's')} from 0 on: {_listed(each)}" for name, each in names.items() if each]
    return write(place, chunks, "; ".join(said), names)


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names[:MAX_NAMES]) + ("..." if len(names) > MAX_NAMES else "")
