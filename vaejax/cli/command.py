"""What the commands share: their parser, and what they say."""

import argparse
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from vaejax.strict_json import dump_json


class Answer(NamedTuple):
    """What a command has to say: to a person, and to a script."""

    text: str
    content: dict[str, Any]


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line, as all others are."""

    def __init__(self, **options: Any):
        super().__init__(**options, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        """Raise `ValueError` in place of printing the usage and leaving."""
        # Named as all that is checked later.
        said = re.sub(r"^argument (?:--)?(\S+): must", r"\1 must", message)
        raise ValueError(f"{said} (see {self.prog} --help)")


def show(answer: Answer | None, *, as_json: bool) -> None:
    """Print an answer, if there is one, for a person or for a script."""
    if answer is not None:
        print(dump_json(_plain(answer.content), indent=2) if as_json else answer.text, flush=True)


def say(words: str) -> None:
    """Say what takes its time, on standard error."""
    print(words, file=sys.stderr, flush=True)


def counted(count: int, noun: str) -> str:
    """How many there are of something.

    >>> counted(1, "pair"), counted(1200, "pair")
    ('1 pair', '1,200 pairs')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _plain(value: Any) -> Any:
    """Anything that commands answer as dicts, lists, text and numbers."""
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, dict):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    # Arrays and their elements, of NumPy and of JAX.
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return str(value) if isinstance(value, Path) else value


def columns(rows: list[list[str]]) -> str:
    """Rows of words as a table: the first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    aligned = lambda row: [row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]
    return "\n".join(f"  {'  '.join(aligned(row))}".rstrip() for row in rows)
