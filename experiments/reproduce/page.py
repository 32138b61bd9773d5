"""The page: what was run beside what was published, made of what is kept alone."""

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from .records import Record, Records, Summary, summarize
from .tables import Claim, Size, Table

HERE = Path(__file__).parent
PAGE, PICTURES = HERE.parent / "RESULTS.md", HERE.parent / "pictures"

INTRODUCTION = """# Published tables, reproduced

Made by `make reproduce` of the records in `experiments/reproduce/results/`: nothing here is written by hand, and no row
is in a table that was not run. Figures are -ln p(x) of the test set in nats, lower is better: the mean over seeds ± the
standard error of that mean. ln p(x) is estimated with 5,000 importance samples, which bounds it from below in
expectation. Where not all test examples were taken, the difference of ln p(x) and the ELBO is estimated on some of
them, chosen at random once and for all, and the ELBO on all.
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
    header = [
        "row",
        "-ln p(x)",
        "the paper's",
        "difference",
        "goal",
        "-ELBO",
        "active units",
        "seeds",
        "minutes a seed",
    ]
    return [_line(header), _line(["---"] * len(header)), *(_row(table, size, row, records[row]) for row in records)]


def _row(table: Table, size: Size, name: str, seeds: Mapping[int, Record]) -> str:
    row, found, goal = table.rows[name], summarize(seeds), size.goals.get(name)
    cells = [f"{row.label} (`{name}`)", spelled(found), "", "", "", *[""] * 4]
    if row.published is not None:
        cells[2] = f"{row.published:.2f}" + (f" ({row.stated})" if row.stated else "")
        cells[3] = f"{found.mean - row.published:+.2f}"
    if goal is not None:
        cells[4] = f"{goal:.2f}: {'reached' if found.mean <= goal else 'missed'}"
    cells[5] = f"{_mean(seeds, 'negative_elbo'):.2f}"
    cells[6] = ", ".join(str(record.active_units) for record in seeds.values())
    cells[7] = ", ".join(map(str, seeds))
    cells[8] = f"{(_mean(seeds, 'train_seconds') + _mean(seeds, 'measure_seconds')) / 60:.1f}"
    return _line(cells)


def spelled(found: Summary) -> str:
    """A mean with its error.

    >>> spelled(Summary(87.123, 0.0512, 3)), spelled(Summary(87.123, math.nan, 1))
    ('87.12 ± 0.05', '87.12')
    """
    return f"{found.mean:.2f}" + (f" ± {found.standard_error:.2f}" if math.isfinite(found.standard_error) else "")


def _mean(seeds: Mapping[int, Record], field: str) -> float:
    return math.fsum(getattr(record, field) for record in seeds.values()) / len(seeds)


def _claims(table: Table, records: Records) -> list[str]:
    """What the paper says of two rows, and what is found."""
    said = [_claim(table, claim, records) for claim in table.claims if {claim.lower, claim.higher} <= records.keys()]
    return [*said, ""] if said else []


def _claim(table: Table, claim: Claim, records: Records) -> str:
    lower, higher = (summarize(records[name]) for name in (claim.lower, claim.higher))
    difference = lower.mean - higher.mean
    error = math.hypot(lower.standard_error, higher.standard_error)
    relation = "below" if claim.strict else "no worse than"
    words = f"{table.rows[claim.lower].label}, {relation} {table.rows[claim.higher].label}"
    figures = f"{difference:+.2f}" + (f" ± {error:.2f}" if math.isfinite(error) else "")
    return f"- {words}: {figures}, {verdict(difference, error, strict=claim.strict)}."


def verdict(difference: float, error: float, *, strict: bool) -> str:
    """Whether a difference bears a claim out, with two standard errors for what chance does.

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
    header = ["row", "seed", "-ln p(x)", "examples", "Pareto k too high", "data", "versions", "where", "commit", "date"]
    lines = [ORIGINS]
    for name, table in tables.items():
        for size, records in kept.get(name, {}).items():
            if not records:
                continue
            lines += [f"`{command(name, size)}`", "", _line(header), _line(["---"] * len(header))]
            rows = [row for row in table.rows if row in records]
            lines += [_origin(row, seed, record) for row in rows for seed, record in sorted(records[row].items())]
            lines.append("")
    return "\n".join(lines)


def _origin(row: str, seed: int, record: Record) -> str:
    about = record.environment
    versions = ", ".join(
        f"{name} {about['versions'][name]}" for name in ("jax", "flax", "optax") if name in about["versions"]
    )
    return _line(
        [
            f"`{row}`",
            str(seed),
            f"{record.value:.2f} ± {record.standard_error:.2f}",
            f"{record.num_examples:,} x {record.num_samples:,}",
            f"{100 * record.unreliable:.0f} %",
            f"{record.data['name']} `{record.data['sha256'][:12]}`",
            f"Python {about['python']}, {versions}",
            f"{about['device']}, {about['processor']}, {about['cores']} cores",
            f"`{about['commit']}`",
            about["date"][:10],
        ]
    )


def picture_name(table: str) -> str:
    """The file of a table's picture."""
    return f"reproduced_{table}.png"


def picture(table: Table, kept: Mapping[str, Records]) -> Figure:
    """Ours, with the standard error over the seeds, and the paper's."""
    sizes = {size: records for size, records in kept.items() if records}
    rows = [row for row in table.rows if any(records.get(row) for records in sizes.values())]
    figure = Figure(figsize=(8, 1.4 + 0.42 * len(rows)), dpi=110, layout="constrained")
    axes = figure.subplots()
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
    axes.set_xlabel("-ln p(x) of the test set, nats (lower is better)")
    axes.set_title(table.title, fontsize=10, loc="left")
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    return figure


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
