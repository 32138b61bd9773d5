"""The page: what was run beside what was published, made of what is kept alone."""

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from .measures import MEASURES
from .records import Record, Records, Summary, summarize
from .tables import Claim, Size, Table

HERE = Path(__file__).parent
PAGE, PICTURES = HERE.parent / "RESULTS.md", HERE.parent / "pictures"

INTRODUCTION = """# Published tables, reproduced

Made by `make reproduce` of the records in `experiments/reproduce/results/`: nothing here is written by hand, and no row
is in a table that was not run. A figure is the mean over seeds ± the standard error of that mean. ln p(x) is that of
the test set in nats, estimated with 5,000 importance samples, which bounds it from below in expectation. Where not all
test examples were taken, the difference of ln p(x) and the ELBO is estimated on some of them, chosen at random once and
for all, and the ELBO on all. Below the rows stands what was found of them by their authors, who trained for longer than
`quick` does, and whether it is so here: "open" is a difference within two standard errors of none.
"""

ORIGINS = """## Where each figure comes from

The error beside a seed's figure is that of the test examples that were taken. Pareto k is too high where the heaviest
importance weights of an example have a tail that makes the estimate too low by more than its error says, and so
-ln p(x) too high; the estimates of the papers are of the same kind.
"""

# What is kept, by table and size.
Kept = Mapping[str, Mapping[str, Records]]


def page(tables: Mapping[str, Table], kept: Kept) -> str:
    """All tables as Markdown."""
    return "\n".join([INTRODUCTION, *(_table(name, table, kept.get(name, {})) for name, table in tables.items())])


def _table(name: str, table: Table, kept: Mapping[str, Records]) -> str:
    lines = [f"## {table.title} (`{name}`)", "", table.source, "", table.recipe, ""]
    if any(kept.values()):
        lines += [f"![Ours and the paper's]({PICTURES.name}/{picture_name(name)})", ""]
    for size_name, size in table.sizes.items():
        records = {
            row: kept.get(size_name, {})[row] for row in table.rows_at(size_name) if kept.get(size_name, {}).get(row)
        }
        lines += [f"### {size_name}: {size.about}", ""]
        if records:
            lines += [*_rows(table, size, records), "", *_claims(table, records)]
        lines += _not_run(name, table, size_name, size, records)
    return "\n".join(lines)


def _rows(table: Table, size: Size, records: Records) -> list[str]:
    return _grid([_row(table, size, name, seeds) for name, seeds in records.items()])


def _row(table: Table, size: Size, name: str, seeds: Mapping[int, Record]) -> dict[str, str]:
    """What stands in each column."""
    row, found, measure = table.rows[name], summarize(seeds), MEASURES[table.measure]
    cells = {"row": f"{row.label} (`{name}`)", measure.label: spelled(found), "the paper's": "", "difference": ""}
    if row.published is not None:
        cells["the paper's"] = f"{row.published:.2f}" + (f" ({row.stated})" if row.stated else "")
        cells["difference"] = f"{found.mean - row.published:+.2f}"
    cells["goal"] = attained(table, size, name, found)
    if measure.label != "-ELBO":
        cells["-ELBO"] = f"{_mean(seeds, lambda record: record.negative_elbo):.2f}"
    # The same for every seed, as the measure takes them.
    for score in next(iter(seeds.values())).scores:
        cells[score] = f"{_mean(seeds, lambda record, score=score: record.scores.get(score, math.nan)):.2f}"
    cells["active units"] = ", ".join(str(record.active_units) for record in seeds.values())
    cells["seeds"] = ", ".join(map(str, seeds))
    cells["minutes a seed"] = f"{_mean(seeds, lambda record: record.train_seconds + record.measure_seconds) / 60:.1f}"
    return cells


def spelled(found: Summary) -> str:
    """A mean with its error.

    >>> spelled(Summary(87.123, 0.0512, 3)), spelled(Summary(87.123, math.nan, 1))
    ('87.12 ± 0.05', '87.12')
    """
    return f"{found.mean:.2f}" + (f" ± {found.standard_error:.2f}" if math.isfinite(found.standard_error) else "")


def attained(table: Table, size: Size, row: str, found: Summary) -> str:
    """The goal of a row and whether its mean reaches it; nothing where it has none."""
    goal = size.goals.get(row)
    if goal is None:
        return ""
    reached = found.mean >= goal if MEASURES[table.measure].higher_is_better else found.mean <= goal
    return f"{goal:.2f}: {'reached' if reached else 'missed'}"


def _mean(seeds: Mapping[int, Record], of: Callable[..., float]) -> float:
    return math.fsum(map(of, seeds.values())) / len(seeds)


def _claims(table: Table, records: Records) -> list[str]:
    """What the paper says of two rows, and what is found."""
    said = [_claim(table, claim, records) for claim in table.claims if {claim.better, claim.worse} <= records.keys()]
    return [*said, ""] if said else []


def _claim(table: Table, claim: Claim, records: Records) -> str:
    better, worse = (summarize(records[name]) for name in (claim.better, claim.worse))
    difference, higher = better.mean - worse.mean, MEASURES[table.measure].higher_is_better
    error = math.hypot(better.standard_error, worse.standard_error)
    relation = "no worse than" if not claim.strict else "above" if higher else "below"
    words = f"{table.rows[claim.better].label}, {relation} {table.rows[claim.worse].label}"
    figures = f"{difference:+.2f}" + (f" ± {error:.2f}" if math.isfinite(error) else "")
    return f"- {words}: {figures}, {verdict(-difference if higher else difference, error, strict=claim.strict)}."


def verdict(difference: float, error: float, *, strict: bool) -> str:
    """Whether a difference, the lower the better, bears a claim out, with two standard errors for what chance does.

    >>> verdict(-0.5, 0.1, strict=True), verdict(-0.1, 0.1, strict=True), verdict(0.5, 0.1, strict=True)
    ('holds', 'open', 'does not hold')
    >>> verdict(0.1, 0.1, strict=False), verdict(0.5, 0.1, strict=False)
    ('holds', 'does not hold')
    """
    if not math.isfinite(error):
        return "open: an error needs two seeds of each"
    if strict and abs(difference) <= 2 * error:
        return "open"
    return "holds" if difference <= (0 if strict else 2 * error) else "does not hold"


def _not_run(name: str, table: Table, size_name: str, size: Size, records: Records) -> list[str]:
    here = table.rows_at(size_name)
    absent = [row for row in here if row not in records]
    unfinished = [row for row in records if len(records[row]) < size.num_seeds]
    said = []
    for what, rows in (("Not yet run", absent), ("Not all seeds yet", unfinished)):
        if rows:
            wanted = command(name, size_name, [] if len(rows) == len(here) else rows)
            said += [f"{what}: {', '.join(f'`{row}`' for row in rows)}; `{wanted}`.", ""]
    return said


def command(table: str, size: str, rows: Sequence[str] = ()) -> str:
    """What runs the rows of a table, all where none are named."""
    only = f' ARGS="--only {shlex.join(rows)}"' if rows else ""
    return f"make reproduce TABLE={table} SIZE={size}{only}"


def provenance(tables: Mapping[str, Table], kept: Kept) -> str:
    """Each figure with all that is needed to make it again."""
    lines = [ORIGINS]
    for name, table in tables.items():
        label = MEASURES[table.measure].label
        for size, records in kept.get(name, {}).items():
            if not records:
                continue
            lines += [f"`{command(name, size)}`", ""]
            rows = [
                _origin(label, row, seed, record)
                for row in table.rows
                if row in records
                for seed, record in sorted(records[row].items())
            ]
            lines += [*_grid(rows), ""]
    return "\n".join(lines)


def _origin(label: str, row: str, seed: int, record: Record) -> dict[str, str]:
    """What stands in each column."""
    about = record.environment
    versions = ", ".join(
        f"{name} {about['versions'][name]}" for name in ("jax", "flax", "optax") if name in about["versions"]
    )
    error = "" if record.standard_error is None else f" ± {record.standard_error:.2f}"
    return {
        "row": f"`{row}`",
        "seed": str(seed),
        label: f"{record.value:.2f}{error}",
        "examples": f"{record.num_examples:,} x {record.num_samples:,}" if record.unreliable is not None else "",
        "Pareto k too high": f"{100 * record.unreliable:.0f} %" if record.unreliable is not None else "",
        "data": f"{record.data['name']} `{record.data['sha256'][:12]}`",
        "versions": f"Python {about['python']}, {versions}",
        "where": f"{about['device']}, {about['processor']}, {about['cores']} cores",
        "commit": f"`{about['commit']}`",
        "date": about["date"][:10],
    }


def picture_name(table: str) -> str:
    """The file of a table's picture."""
    return f"reproduced_{table}.png"


def picture(table: Table, kept: Mapping[str, Records]) -> Figure:
    """Ours, with the standard error over the seeds, and the paper's; what came on the way beside it."""
    sizes = {size: records for size, records in kept.items() if records}
    curves = any(record.curve for records in sizes.values() for seeds in records.values() for record in seeds.values())
    rows = [row for row in table.rows if any(records.get(row) for records in sizes.values())]
    height = 1.4 + 0.42 * len(rows)
    figure = Figure(figsize=(12, max(height, 4.5)) if curves else (8, height), dpi=110, layout="constrained")
    if curves:
        axes, way = figure.subplots(1, 2)
        _curves(way, table, sizes)
    else:
        axes = figure.subplots()
    _points(axes, table, sizes, rows)
    for each in figure.axes:
        each.spines[["top", "right"]].set_visible(False)
        each.legend(fontsize=8, frameon=False)
    return figure


def _points(axes: Any, table: Table, sizes: Mapping[str, Records], rows: Sequence[str]) -> None:
    for number, (size, records) in enumerate(sizes.items()):
        shown = [(place, summarize(records[row])) for place, row in enumerate(rows) if records.get(row)]
        places = [place + 0.16 * (number + 1) for place, _ in shown]
        errors = [0.0 if math.isnan(found.standard_error) else found.standard_error for _, found in shown]
        means = [found.mean for _, found in shown]
        axes.errorbar(means, places, xerr=errors, fmt="o", capsize=3, markersize=5, label=f"vaejax, {size}")
    published = [(table.rows[row].published, place) for place, row in enumerate(rows) if table.rows[row].published]
    if published:
        axes.plot(*zip(*published, strict=True), "kD", markersize=5, label="the paper's")
    axes.set_yticks(range(len(rows)), [table.rows[row].label for row in rows])
    axes.set_ylim(len(rows) - 0.3, -0.5)
    axes.set_xlabel(MEASURES[table.measure].axis)
    axes.set_title(table.title, fontsize=10, loc="left")
    axes.grid(axis="x", alpha=0.3)


def _curves(axes: Any, table: Table, sizes: Mapping[str, Records]) -> None:
    """What the table compares against the training examples seen, a line for each row and seed of the largest size."""
    records = list(sizes.values())[-1]
    for number, row in enumerate(row for row in table.rows if row in records):
        for place, record in enumerate(records[row].values()):
            label = table.rows[row].label if place == 0 else None
            axes.plot(*zip(*record.curve, strict=True), color=f"C{number}", linewidth=1, label=label)
    axes.set_xscale("log")
    axes.set_xlabel("training examples seen")
    axes.set_ylabel(f"{MEASURES[table.measure].label} of the validation examples")
    axes.grid(alpha=0.3)


def _grid(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Rows, each by the names of its columns, as a table of those columns in which something stands."""
    columns = [name for name in rows[0] if any(row[name] for row in rows)]
    return [_line(columns), _line(["---"] * len(columns)), *(_line([row[name] for name in columns]) for row in rows)]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
