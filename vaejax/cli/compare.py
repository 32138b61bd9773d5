"""Set runs beside each other: their figures, paired differences from the first, and one page for a browser.

All runs are measured on the same examples with the same noise, so what differs is the models alone.
"""

import argparse
from pathlib import Path

from vaejax import comparison
from vaejax.cli.command import Answer, Parser, columns, say
from vaejax.drafts import check_free, draft_of, named


def add_arguments(parser: Parser) -> None:
    """What the command takes."""
    parser.add_argument(
        "runs", metavar="RUN", nargs="+", help="run folders, the first of which the others are compared with"
    )
    parser.add_argument("--output", type=Path, default=Path("runs/comparison.html"), help="the page (%(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="also where there is such a file")


def run(options: argparse.Namespace) -> Answer:
    """Compare and write the page."""
    if len(options.runs) < 2:
        raise ValueError(f"name two runs or more to compare; got {options.runs[0]} alone")
    check_free(options.output, options.overwrite)
    # Matplotlib comes with it, which no help should wait for.
    from vaejax.comparison_page import comparison_page  # noqa: PLC0415

    runs = comparison.read_runs(options.runs)
    say(f"comparing {len(runs)} runs")
    found = comparison.compare(runs)
    with draft_of(options.output, overwrite=options.overwrite) as draft, named(options.output):
        draft.write_text(comparison_page(runs, found))
    blocks = ["test, mean per example ± its standard error", columns(comparison.rows(found))]
    if any(found.differences.values()):
        blocks += [f"paired differences. {comparison.BETTER}", columns(comparison.difference_rows(found))]
    if any(found.settings.values()):
        blocks += ["settings that differ", columns(comparison.setting_rows(found))]
    blocks += [*found.remarks, f"page: {options.output}"]
    return Answer("\n".join(blocks), found._asdict() | {"page": options.output})
