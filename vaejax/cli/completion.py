"""Print what makes a shell complete these commands.

bash: vaejax completion bash > ~/.local/share/bash-completion/completions/vaejax
zsh:  vaejax completion zsh > ~/.zfunc/_vaejax     (with fpath+=~/.zfunc before compinit in ~/.zshrc)
fish: vaejax completion fish > ~/.config/fish/completions/vaejax.fish
"""

import argparse
import dataclasses
from collections.abc import Iterator

import shtab

from vaejax import data
from vaejax.cli.command import Answer, Parser
from vaejax.cli.commands import COMMANDS, fill_parser, load
from vaejax.data import Dataset
from vaejax.settings import Running, Training, VaeSettings

SHELLS = ("bash", "zsh", "fish")
SPLITS = [name for name in Dataset._fields if name in ("train", "validation", "test")]


def _words_or_files(name: str, words: str) -> dict[str, str]:
    """A function of each shell that completes words, which a command of the shell prints one by one, and files."""
    return {
        "bash": f'_vaejax_{name}() {{ compgen -W "$({words})" -- "$1"; compgen -f -- "$1"; }}\n',
        "zsh": f"_vaejax_{name}() {{ compadd -- $({words}); _files; }}\n",
        "fish": f"function _vaejax_{name}; {words}; __fish_complete_path (commandline -ct); end\n",
    }


def _called(name: str) -> dict[str, str]:
    """How `shtab` has such a function called."""
    return {"bash": f"_vaejax_{name}", "zsh": f"_vaejax_{name}", "fish": f"(_vaejax_{name})"}


# Experiments are looked for when a word is completed, since they come and go.
FUNCTIONS = {
    "experiments": "ls experiments 2>/dev/null | sed -n 's/[.]py$//p'",
    "datasets": f"printf '%s\\n' {' '.join(data.names())}",
}
# What a word of a name stands for.
COMPLETES = {
    **dict.fromkeys(("run", "runs", "folder"), shtab.DIRECTORY),
    **dict.fromkeys(("output", "input"), shtab.FILE),
    "experiment": _called("experiments"),
    "name": _called("datasets"),
}


def add_arguments(parser: Parser) -> None:
    """What the command takes."""
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help=", ".join(SHELLS))


def run(options: argparse.Namespace) -> Answer:
    """Print the script."""
    functions = [_words_or_files(name, words)[options.shell] for name, words in FUNCTIONS.items()]
    script = shtab.complete(whole_parser(), shell=options.shell, preamble="".join(functions))
    return Answer(script, {"shell": options.shell, "script": script})


def whole_parser() -> argparse.ArgumentParser:
    """All commands with all their arguments, those of settings too."""
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
            elif action.dest == "split":
                action.choices = SPLITS
    return whole


def settings() -> Iterator[str]:
    """The options of the settings that experiments of this library share."""
    for kind in (VaeSettings, Training, Running):
        for field in dataclasses.fields(kind):
            if field.name not in ("training", "running"):
                yield f"--{field.name.replace('_', '-')}"
