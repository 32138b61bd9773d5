"""Run the rows of a table that are not there yet, keep what comes of each seed, and make the page again."""

import argparse
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from vaejax.compilation_cache import keep_compiled
from vaejax.durable import write_durably
from vaejax.training import Interrupted

from . import page, records, work
from .measures import MEASURES
from .tables import Table, tables

RUNS = Path("runs/reproduce")


def main(arguments: Sequence[str] | None = None, known: Mapping[str, Table] | None = None) -> int:
    """Run, keep and write; returns the exit code."""
    known = tables() if known is None else known
    options = _parse(arguments, known)
    try:
        if options.table is not None:
            keep_compiled()
            reproduce(options, known[options.table])
        for path in write_page(known, options.results, options.page):
            print(path)
    except Interrupted as error:
        return _fail(f"{error}; the same command goes on from there", error.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted; the same command goes on from what is saved", 128 + signal.SIGINT)
    except (FloatingPointError, ValueError, TypeError, OSError) as error:
        return _fail(error, 2)
    return 0


def _parse(arguments: Sequence[str] | None, known: Mapping[str, Table]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m experiments.reproduce", description=__doc__)
    parser.add_argument("table", nargs="?", choices=known, help=f"of {', '.join(known)}; none: only make the page")
    parser.add_argument("--size", default="quick", help="of the table (default: %(default)s)")
    parser.add_argument("--only", nargs="+", metavar="ROW", help="these rows")
    parser.add_argument("--runs", type=Path, default=RUNS, help="where the runs are (default: %(default)s)")
    parser.add_argument("--results", type=Path, default=records.RESULTS, help="where the records are")
    parser.add_argument("--page", type=Path, default=page.PAGE, help="the page that is written")
    options = parser.parse_args(arguments)
    if options.table is None:
        return options
    table = known[options.table]
    if options.size not in table.sizes:
        parser.error(f"--size must be of {', '.join(table.sizes)}; got {options.size}")
    rows = table.rows_at(options.size)
    for name in options.only or ():
        if name not in rows:
            parser.error(f"--only must be of {', '.join(rows)}; got {name}")
    return options


def reproduce(options: argparse.Namespace, table: Table) -> None:
    """Train and measure what is not kept yet, and keep it as soon as it is there."""
    size, path = table.sizes[options.size], records.path_of(options.table, options.size, options.results)
    rows, measure = table.rows_at(options.size), MEASURES[table.measure]
    for name in options.only or rows:
        row, kept = rows[name], records.read_records(path).get(name, {})
        seeds = work.missing_seeds(row, size, kept)
        folder = options.runs / options.table / options.size / name
        for seed, record in work.run_row(row, size, measure, seeds, folder) if seeds else ():
            records.write_record(path, name, seed, record)
        summary = records.summarize(records.read_records(path)[name])
        goal = page.attained(table, size, name, summary)
        print(
            f"{options.table} {options.size} {name}: {measure.label} {page.spelled(summary)} ({summary.count} seeds)"
            + (f", goal {goal}" if goal else ""),
            flush=True,
        )


def write_page(known: Mapping[str, Table], results: Path, target: Path) -> list[Path]:
    """The page of all that is kept, and the pictures of the tables beside it."""
    kept = {
        name: {size: records.read_records(records.path_of(name, size, results)) for size in table.sizes}
        for name, table in known.items()
    }
    written = [target]
    pictures = target.parent / page.PICTURES.name
    for name, table in known.items():
        if any(kept[name].values()):
            pictures.mkdir(parents=True, exist_ok=True)
            written.append(pictures / page.picture_name(name))
            page.picture(table, kept[name]).savefig(written[-1])
    write_durably(target, f"{page.page(known, kept)}\n{page.provenance(known, kept)}".encode())
    return written


def _fail(message: object, code: int) -> int:
    print(f"reproduce: error: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
