"""What came of each seed, kept as JSON beside the code, so that the page can be made again without a run."""

import json
import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vaejax.durable import write_durably
from vaejax.strict_json import dump_json

RESULTS = Path(__file__).parent / "results"


class Record(NamedTuple):
    """A trained and measured seed of a row."""

    value: float  # what the table compares; see `measures`
    standard_error: float | None  # of it, over the examples
    negative_elbo: float  # of the whole test set
    active_units: int
    unreliable: float | None  # share of the examples whose Pareto k says that their estimate cannot be trusted
    num_examples: int  # that were asked for, of the test set
    num_samples: int  # importance samples of each
    train_seconds: float  # where the seeds are one program, the share of this one
    measure_seconds: float
    settings: dict[str, Any]  # all of the experiment's, but for where it ran
    experiment: dict[str, str]  # its file and the checksum of that
    data: dict[str, str]  # name and checksum
    environment: dict[str, Any]  # versions, device, processor, commit and date
    scores: dict[str, float] = {}  # noqa: RUF012 (never changed) what else was measured, by its name
    curve: list[list[float]] = []  # noqa: RUF012 training examples seen, and what the table compares, as it came


# Row to seed to what came of it.
Records = dict[str, dict[int, Record]]


class Summary(NamedTuple):
    """The seeds of a row together."""

    mean: float
    standard_error: float  # of the mean, over the seeds; NaN of one
    count: int


def summarize(seeds: Mapping[int, Record]) -> Summary:
    """The mean over the seeds and its standard error.

    >>> Summary(2.0, 1.0, 2) == summarize({0: EXAMPLE._replace(value=1.0), 1: EXAMPLE._replace(value=3.0)})
    True
    """
    values = [record.value for record in seeds.values()]
    count = len(values)
    error = statistics.stdev(values) / math.sqrt(count) if count > 1 else math.nan
    return Summary(statistics.fmean(values), error, count)


def path_of(table: str, size: str, folder: Path = RESULTS) -> Path:
    """The file of a table at a size."""
    return folder / f"{table}-{size}.json"


def read_records(path: Path) -> Records:
    """What is kept; nothing where there is no file.

    Raises:
      ValueError: the file is damaged.
    """
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text())
        return {row: {int(seed): _record(each) for seed, each in seeds.items()} for row, seeds in content.items()}
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: {error!r}; remove it to run its rows again") from error


def _record(content: Mapping[str, Any]) -> Record:
    """A record as it was written; a figure that was not finite is null in JSON."""
    figures = {name: math.nan if content[name] is None else content[name] for name in ("value", "negative_elbo")}
    return Record(**{**content, **figures})


def write_record(path: Path, row: str, seed: int, record: Record) -> None:
    """Add a seed to what is kept, whole or not at all."""
    records = read_records(path)
    records.setdefault(row, {})[seed] = record
    content = {
        name: {str(number): each._asdict() for number, each in sorted(seeds.items())}
        for name, seeds in sorted(records.items())
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, (dump_json(content, indent=1, sort_keys=True) + "\n").encode())


EXAMPLE = Record(90.0, 0.1, 95.0, 20, 0.0, 1000, 5000, 60.0, 20.0, {}, {}, {}, {})
