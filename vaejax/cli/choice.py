"""Which examples a command takes."""

import argparse

import numpy as np

from vaejax.cli.command import Parser
from vaejax.data.files import read_npy
from vaejax.making import Chosen, choose, given
from vaejax.run import OpenRun


def add_choice(parser: Parser, first: int | None) -> None:
    """The examples of a split, or those of a file."""
    usual = "all" if first is None else f"the first {first}"
    parser.add_argument("--examples", metavar="N,N-M,...", help=f"their numbers, such as 3,10-19; {usual} by default")
    parser.add_argument("--split", default="test", help="train, validation or test (%(default)s)")
    parser.add_argument("--input", metavar="FILE", help="an .npy file of examples in place of those of the data set")
    parser.set_defaults(first=first)


def chosen_of(options: argparse.Namespace, opened: OpenRun) -> tuple[Chosen, str]:
    """The examples that are asked for, and what they are in words."""
    if options.input is not None:
        chosen = given(opened.experiment.dataset, read_npy(options.input))
        return chosen, f"{len(chosen.numbers):,} examples of {options.input}"
    dataset = opened.experiment.dataset
    numbers = None if options.examples is None else parse_numbers("examples", options.examples)
    if numbers is None and options.first is not None and options.split in dataset.splits:
        numbers = np.arange(min(options.first, len(dataset.splits[options.split].examples)))
    chosen = choose(dataset, options.split, numbers)
    return chosen, f"{len(chosen.numbers):,} {options.split} examples"


def parse_numbers(name: str, words: str) -> np.ndarray:
    """Numbers and ranges such as `3,10-19`, both ends included.

    >>> parse_numbers("examples", "3,10-12").tolist()
    [3, 10, 11, 12]
    """
    found: list[int] = []
    for word in words.split(","):
        low, dash, high = word.strip().partition("-")
        if not (low.isdecimal() and (high.isdecimal() if dash else not high)):
            raise ValueError(f"{name} must be numbers and ranges such as 3,10-19; got {words}")
        if dash and int(high) < int(low):
            raise ValueError(f"{name} must have ranges from low to high; got {word.strip()}")
        if len(found) + int(high or low) - int(low) > MAX_NUMBERS:
            raise ValueError(f"{name} must name at most {MAX_NUMBERS:,} examples; got {words}")
        found.extend(range(int(low), int(high or low) + 1))
    return np.array(found)


MAX_NUMBERS = 10**7
