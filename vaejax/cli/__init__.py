"""The command line: a module for each command, which is loaded when it is asked for."""

import argparse
import difflib
import importlib
import json
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import jax

from vaejax import __version__
from vaejax.cli.command import Parser, to_json
from vaejax.experiment_files import experiment_names

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

USAGE = """usage: vaejax COMMAND ...

{commands}

vaejax COMMAND --help says more of one, and vaejax train EXPERIMENT --help what can be set of an experiment.
RUN is the folder of a run, such as runs/digits_vae/001. With --json a command prints one object of JSON.
The exit code is 0; 1 for what failed on the way, 2 for what was asked wrongly, 128 and the number of a signal that
stopped it. With VAEJAX_TRACEBACK=1 in the environment an error shows where it came from.
Experiments here: {experiments}"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code that the usage explains."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    with warnings.catch_warnings():
        warnings.showwarning = _warn  # type: ignore[assignment]
        code = _run(words)
    if code and jax.distributed.is_initialized():
        # A normal end would wait for the other hosts, which wait for this one; so they notice, and end too.
        sys.stdout.flush()
        os._exit(code)
    return code


def _run(words: list[str]) -> int:
    try:
        code = _answer(words)
        # Where nobody reads any more, it is found out here and not when the process ends.
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        saved = "; the same command goes on from what is saved" if words[0] in ("train", "sweep") else ""
        return _fail(f"interrupted{saved}", 130)
    except Exception as error:
        # `Interrupted` brings a code of its own.
        if hasattr(error, "exit_code"):
            return _fail(f"{error}; the same command goes on from there", error.exit_code)
        # For those who look for a mistake in an experiment file of their own.
        if not isinstance(error, EXPECTED) or os.environ.get("VAEJAX_TRACEBACK"):
            raise
        return _fail(error, 1 if isinstance(error, FloatingPointError) else 2)
    return code


# What is said in a line, as what a user can mend; anything else is a mistake of ours.
EXPECTED = (FloatingPointError, ValueError, TypeError, OSError, ModuleNotFoundError)


def _answer(words: list[str]) -> int:
    """Find the command, run it and print what it answers."""
    if not words or words[0] in ("--help", "-h"):
        print(usage())
        return 0 if words else 2
    if words == ["--version"]:
        print(__version__)
        return 0
    name, *rest = words
    command = load(name)
    parser = make_parser(name, command)
    if not rest or rest[0] in ("--help", "-h"):
        parser.print_help()
        return 0 if rest else 2
    options, settings = _parse(parser, rest, takes_settings=hasattr(command, "TAKES_SETTINGS"))
    answer = command.run(options, *settings)
    if answer is not None:
        print(json.dumps(to_json(answer.content), indent=2) if options.json else answer.text)
    return 0


def _parse(parser: Parser, words: list[str], *, takes_settings: bool) -> tuple[argparse.Namespace, list[list[str]]]:
    """What a command is asked for; of one that takes settings, the words that are for them too."""
    if not takes_settings:
        return parser.parse_args(words), []
    if words[0].startswith("-"):
        raise ValueError(f"name the experiment first: {parser.prog} EXPERIMENT {' '.join(words)}")
    options, settings = parser.parse_known_args(words)
    if {"--help", "-h"} & set(settings):
        print(f"{parser.format_help()}\nsettings:\n")
    return options, [settings]


def usage() -> str:
    """What there is."""
    commands = "\n".join(f"  {name:<12} {summary}" for name, summary in COMMANDS.items())
    return USAGE.format(commands=commands, experiments=", ".join(experiment_names()) or "none")


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


def _warn(message: Any, *_: Any) -> None:
    print(f"vaejax: warning: {message}", file=sys.stderr)


def _fail(message: Any, code: int) -> int:
    print(f"vaejax: error: {message}", file=sys.stderr)
    return code
