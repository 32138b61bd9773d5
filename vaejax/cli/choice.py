"""Which examples a command takes."""

import argparse
from typing import TYPE_CHECKING

import numpy as np

from vaejax.cli.command import Parser, counted
from vaejax.cli.values import check_numbers, numbers
from vaejax.data.files import read_npy
from vaejax.making import Chosen, choose, given

if TYPE_CHECKING:
    from vaejax.run import OpenRun


def add_choice(parser: Parser, first: int | None) -> None:
    """The examples of a split, or those of a file."""
    usual = "all" if first is None else f"the first {first} of a split and all of a file"
    parser.add_argument(
        "--examples",
        type=numbers("examples"),
        metavar="N,N-M,...",
        help=f"their numbers, such as 3,10-19; by default {usual}",
    )
    group = parser.add_mutually_exclusive_group()
    add_split(group)
    group.add_argument("--input", metavar="FILE", help="an .npy file of examples in place of those of the data set")
    parser.set_defaults(first=first)


def add_split(parser: argparse._ActionsContainer) -> None:
    """The split."""
    parser.add_argument("--split", default="test", help="of the data set, such as train or test (%(default)s)")


def chosen_of(options: argparse.Namespace, opened: "OpenRun") -> tuple[Chosen, str]:
    """The examples that are asked for, and what they are in words."""
    dataset = opened.experiment.dataset
    if options.input is not None:
        chosen = given(dataset, read_npy(options.input))
        if options.examples is not None:
            check_numbers("examples", options.examples, len(chosen.numbers), options.input)
            chosen = chosen._replace(numbers=options.examples)
        return chosen, f"{counted(len(chosen.numbers), 'example')} of {options.input}"
    picked = options.examples
    if options.split in dataset.splits:
        total = len(dataset.splits[options.split].examples)
        if picked is not None:
            check_numbers("examples", picked, total, options.split)
        elif options.first is not None:
            picked = np.arange(min(options.first, total))
    chosen = choose(dataset, options.split, picked)
    return chosen, counted(len(chosen.numbers), f"{options.split} example")
