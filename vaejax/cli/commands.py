"""The table of the commands, and the parser of each."""

import argparse
import difflib
import importlib
from typing import Any

from vaejax.cli.command import Parser

# In the order in which a stranger meets them.
COMMANDS = {
    "train": "train an experiment; the same command again goes on with a run that was stopped",
    "sweep": "train all combinations of some settings, each from several seeds, as one program",
    "evaluate": "measure a run: ln p(x) with its error, how tight the bound is, what the latents hold",
    "report": "write what is known of a run into one page for a browser, with a latent space to walk in",
    "compare": "set runs beside each other: paired differences on the same examples and noise",
    "generate": "draw new examples from the prior of a run",
    "reconstruct": "send examples through the encoder and the decoder of a run",
    "interpolate": "decode the way from the latents of one example to those of another",
    "traverse": "decode one latent after the other from low to high",
    "encode": "write the latents of examples",
    "export": "write encoder, decoder and generator as files that load without this library",
    "data": "say what a data set is, and draw a sheet of it",
    "replay": "take a step of a run apart that was not finite, or any other",
    "completion": "print what makes a shell complete these commands",
}


def load(name: str) -> Any:
    """The module of a command."""
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        raise ValueError(f"unknown command {name}: {f'perhaps {close[0]}; ' if close else ''}see vaejax --help")
    try:
        return importlib.import_module(f"vaejax.cli.{name}")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f'{name} needs {error.name}: pip install "vaejax[train]"') from error


def make_parser(name: str, command: Any) -> Parser:
    """The parser of a command, which `--help` and completion are made of."""
    parser = Parser(prog=f"vaejax {name}", description=command.__doc__, add_help=not hasattr(command, "TAKES_SETTINGS"))
    fill_parser(parser, command)
    return parser


def fill_parser(parser: argparse.ArgumentParser, command: Any) -> None:
    """What a command takes, and what all take."""
    command.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one object of JSON")
