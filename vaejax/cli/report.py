"""Write what is known of a run into one page for a browser, with a latent space to walk in.

Training and evaluation write it too. The page, report.html in the run folder, needs no network and no other file.
"""

import argparse
import webbrowser

from vaejax.cli.command import Answer, Parser, check_platform
from vaejax.run import open_run, rewrite_report


def add_arguments(parser: Parser) -> None:
    """What the command takes."""
    parser.add_argument("run", metavar="RUN", help="a run folder")
    parser.add_argument("--open", action="store_true", help="show it in a browser")


def run(options: argparse.Namespace) -> Answer:
    """Write the page and, where that is asked for, show it."""
    check_platform()
    path = rewrite_report(open_run(options.run))
    if options.open and not webbrowser.open(path.resolve().as_uri()):
        raise OSError(f"there is no browser here to show it: open {path} in one")
    return Answer(f"report: {path}", {"report": path})
