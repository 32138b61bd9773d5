"""Write what is known of a run into one page for a browser, with a latent space to walk in.

Training and evaluation write it too. The page, report.html in the run folder, needs no network and no other file.
"""

import argparse
import webbrowser

from vaejax.cli.command import Answer, Parser
from vaejax.cli.output import add_run, open_run


def add_arguments(parser: Parser) -> None:
    """What the command takes."""
    add_run(parser)
    parser.add_argument("--open", action="store_true", help="show it in a browser")


def run(options: argparse.Namespace) -> Answer:
    """Write the page and, where that is asked for, show it."""
    opened = open_run(options.run)
    # Matplotlib comes with it, which no help should wait for.
    from vaejax.run import rewrite_report  # noqa: PLC0415

    path = rewrite_report(opened)
    if options.open and not webbrowser.open(path.resolve().as_uri()):
        raise OSError(f"there is no browser here to show it: open {path} in one")
    return Answer(f"report: {path}", {"report": path})
