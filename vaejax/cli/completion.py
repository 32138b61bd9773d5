"""Print what makes a shell complete these commands.

bash: vaejax completion bash > ~/.local/share/bash-completion/completions/vaejax
zsh:  vaejax completion zsh > ~/.zfunc/_vaejax     (with fpath+=~/.zfunc before compinit in ~/.zshrc)
fish: vaejax completion fish > ~/.config/fish/completions/vaejax.fish
"""

import argparse
import dataclasses
from collections.abc import Iterator

import shtab

from vaejax.cli.command import Answer, Parser
from vaejax.settings import Running, Training, VaeSettings

SHELLS = ("bash", "zsh", "fish")
# What a word of a name stands for.
COMPLETES = {"run": shtab.DIRECTORY, "runs": shtab.DIRECTORY, "folder": shtab.DIRECTORY}
FILES = ("experiment", "name", "output", "input")


def add_arguments(parser: Parser) -> None:
    """What the command takes."""
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help=", ".join(SHELLS))


def run(options: argparse.Namespace) -> Answer:
    """Print the script."""
    script = shtab.complete(whole_parser(), shell=options.shell)
    return Answer(script, {"shell": options.shell, "script": script})


def whole_parser() -> argparse.ArgumentParser:
    """All commands with all their arguments, those of settings too."""
    from vaejax.cli import COMMANDS, fill_parser, load  # the table of which this is a row  # noqa: PLC0415

    whole = argparse.ArgumentParser(prog="vaejax")
    whole.add_argument("--version", action="store_true", help="print the version")
    commands = whole.add_subparsers()
    for name, summary in COMMANDS.items():
        command = load(name)
        parser = commands.add_parser(name, help=summary, description=summary)
        fill_parser(parser, command)
        for setting in settings() if hasattr(command, "TAKES_SETTINGS") else ():
            parser.add_argument(setting)
        for action in parser._actions:
            if action.dest in COMPLETES:
                action.complete = COMPLETES[action.dest]  # type: ignore[attr-defined]
            elif action.dest in FILES:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    return whole


def settings() -> Iterator[str]:
    """The options of the settings that experiments of this library share."""
    for kind in (VaeSettings, Training, Running):
        for field in dataclasses.fields(kind):
            if field.name not in ("training", "running"):
                yield f"--{field.name.replace('_', '-')}"
