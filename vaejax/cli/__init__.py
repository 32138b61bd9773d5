"""The command line: a module for each command, which is loaded when it is asked for."""

import argparse
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from vaejax import __version__
from vaejax.cli.command import Parser, show
from vaejax.cli.commands import COMMANDS, load, make_parser
from vaejax.cli.stopping import Stopped, stoppable
from vaejax.experiment_files import experiment_names

USAGE = """usage: vaejax COMMAND ...
       vaejax --version

{commands}

vaejax COMMAND --help says more of one, and vaejax train EXPERIMENT --help what can be set of an experiment.
RUN is the folder of a run, such as runs/digits_vae/001. With --json a command prints one object of JSON; progress,
warnings and errors are lines on standard error all the same.
The exit code is 0; 1 for what failed on the way, 2 for what was asked wrongly, 128 and the number of a signal that
stopped it. With VAEJAX_TRACEBACK=1 in the environment an error shows where it came from.
Experiments here: {experiments}"""

# What is said in a line, as what a user can mend; anything else is a mistake of ours.
EXPECTED = (FloatingPointError, ValueError, TypeError, OSError, ModuleNotFoundError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code that the usage explains."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    with warnings.catch_warnings():
        warnings.showwarning = _warn  # type: ignore[assignment]
        code = _run(words)
    jax = sys.modules.get("jax")
    if code and jax is not None and jax.distributed.is_initialized():
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
        saved = "; the same command goes on from what is saved" if words[:1] in (["train"], ["sweep"]) else ""
        return _fail(f"interrupted{saved}", 130)
    except Stopped as error:
        return _fail(error, error.exit_code)
    except Exception as error:
        # `Interrupted` brings a code of its own.
        if hasattr(error, "exit_code"):
            return _fail(f"{error}; the same command goes on from there", error.exit_code)
        # For those who look for a mistake in an experiment file of their own.
        if not isinstance(error, EXPECTED) or os.environ.get("VAEJAX_TRACEBACK"):
            raise
        return _fail(error, 1 if isinstance(error, FloatingPointError) else 2)
    return code


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
    if rest and rest[0] in ("--help", "-h"):
        parser.print_help()
        return 0
    if not hasattr(command, "TAKES_SETTINGS"):
        options = parser.parse_args(rest)
        _keep_compiled()
        with stoppable():
            show(command.run(options), as_json=options.json)
        return 0
    options, settings = _parse_known(parser, rest)
    _keep_compiled()
    # Training listens to signals itself.
    show(command.run(options, settings), as_json=options.json)
    return 0


def _keep_compiled() -> None:
    # JAX comes with it, which no help should wait for.
    from vaejax.compilation_cache import keep_compiled  # noqa: PLC0415

    keep_compiled()


def _parse_known(parser: Parser, words: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """What a command is asked for that takes settings, and the words that are for them."""
    if words and words[0].startswith("-"):
        raise ValueError(f"name the experiment first: {parser.prog} EXPERIMENT {' '.join(words)}")
    options, settings = parser.parse_known_args(words)
    if {"--help", "-h"} & set(settings):
        print(f"{parser.format_help()}\nsettings:\n")
    return options, settings


def usage() -> str:
    """What there is."""
    commands = "\n".join(f"  {name:<12} {summary}" for name, summary in COMMANDS.items())
    return USAGE.format(commands=commands, experiments=", ".join(experiment_names()) or "none")


def _warn(message: Any, *_: Any) -> None:
    print(f"vaejax: warning: {message}", file=sys.stderr)


def _fail(message: Any, code: int) -> int:
    print(f"vaejax: error: {message}", file=sys.stderr)
    return code
