"""The tables: their rows, the numbers of the papers, and how large each is run."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Row(NamedTuple):
    """A row of a table."""

    label: str
    experiment: str  # a file in experiments/
    settings: Mapping[str, Any]  # what differs from the experiment's own, whatever the size
    published: float | None = None  # what the paper has
    stated: str = ""  # where it stands there


class Size(NamedTuple):
    """How a table is run."""

    about: str  # what it takes and what it is for
    settings: Mapping[str, Any]  # what differs from the experiment's own, in every row
    # What the mean of a row must reach: where the schedule is the paper's, its figure; elsewhere what the size is known
    # to reach, with some room for other seeds and machines.
    goals: Mapping[str, float] = {}
    num_seeds: int = 3
    # Where ln p(x) is compared:
    num_examples: int = 1000  # of the test set, whose ln p(x) is estimated
    num_samples: int = 5000  # importance samples of each
    together: bool = False  # all seeds as one program, for a device that one of them does not fill
    rows: Sequence[str] = ()  # those that are run at this size; all where none are named


def near_published(rows: Mapping[str, Row], nats: float = 0.25) -> dict[str, float]:
    """Goals for the rows that the paper has: its figure, and so much above it."""
    return {name: round(row.published + nats, 2) for name, row in rows.items() if row.published is not None}


class Claim(NamedTuple):
    """What the paper says of two rows."""

    better: str
    worse: str
    strict: bool = True  # False: no worse


class Table(NamedTuple):
    """A table of a paper."""

    title: str
    source: str
    recipe: str  # how what is run here differs from what was run there
    rows: Mapping[str, Row]
    sizes: Mapping[str, Size]
    claims: Sequence[Claim] = ()
    measure: str = "likelihood"  # what is compared, of `measures.MEASURES`

    def rows_at(self, size: str) -> dict[str, Row]:
        """The rows that are run at a size."""
        return {name: row for name, row in self.rows.items() if name in (self.sizes[size].rows or self.rows)}


def tables() -> dict[str, Table]:
    """All of them, by the names by which `make reproduce TABLE=` asks for them."""
    from . import aevb, bounds, dsprites, flow, iwae, ladder, vamp  # noqa: PLC0415 (they are written with the types above)

    return {
        "aevb": aevb.TABLE,
        "iwae": iwae.TABLE,
        "bounds": bounds.TABLE,
        "vamp": vamp.TABLE,
        "flow": flow.TABLE,
        "ladder": ladder.TABLE,
        "dsprites": dsprites.TABLE,
    }
