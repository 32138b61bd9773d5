"""Take a step of a run apart: each of its parts, and what of it is not finite."""

import argparse

from vaejax.cli.command import Answer, Parser
from vaejax.cli.platform import check_platform
from vaejax.replay import describe, replay


def add_arguments(parser: Parser) -> None:
    """What the command takes."""
    parser.add_argument("run", metavar="RUN", help="a run folder")
    parser.add_argument("--step", type=int, help="of a step that did not fail")


def run(options: argparse.Namespace) -> Answer:
    """Replay the step that failed, or the one that is asked for."""
    check_platform()
    found = replay(options.run, options.step)
    return Answer(describe(found), found._asdict())
