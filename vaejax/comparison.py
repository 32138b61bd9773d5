"""Runs beside each other, from what their folders hold.

All are measured on the same examples with the same noise, so differences are paired.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from vaejax.evaluation import LABELS, estimate, unit_of
from vaejax.findings import EVALUATION, Figure
from vaejax.folder import RESULTS, read_config, settings_of
from vaejax.outcome import Measured
from vaejax.results import RunResult, read_assessed, read_measured, read_result
from vaejax.trainer import METRICS
from vaejax.writers import read_json_lines

LIKELIHOOD = "negative_log_likelihood"
BETTER = "Below 0, -ln p(x), -bound, -ELBO and the squared error are better than those of the first run."
NAMES = {LIKELIHOOD: "-ln p(x)", **LABELS}


class Run(NamedTuple):
    """What the folder of a finished run holds."""

    name: str
    folder: Path
    config: Mapping[str, Any]
    result: RunResult
    measured: Measured
    assessed: Mapping[str, np.ndarray]
    history: Sequence[Mapping[str, Any]]

    def per_example(self, name: str) -> tuple[np.ndarray, np.ndarray] | None:
        """A figure of each example and the fingerprint of its x, `[N]` each; None where it was not measured."""
        if name == LIKELIHOOD:
            return (-self.assessed["log_likelihood"], self.assessed["fingerprint"]) if self.assessed else None
        values = self.measured.figures.get(name)
        return None if values is None else (values, self.measured.fingerprints)


class Comparison(NamedTuple):
    """What was found; figures by the name of the run."""

    figures: dict[str, dict[str, Figure]]
    differences: dict[str, dict[str, Figure]]  # of each run but the first, less that of the first
    settings: dict[str, dict[str, str]]  # those in which the runs differ
    remarks: list[str]


def read_runs(folders: Sequence[str | Path]) -> list[Run]:
    """What the folders hold.

    Raises:
      FileNotFoundError: a folder is no run, or the run is not finished.
      ValueError: a file of it is damaged, it is a sweep, or a run is named twice.
    """
    paths = [Path(folder) for folder in folders]
    if len({path.resolve() for path in paths}) < len(paths):
        raise ValueError("each run must be named once")
    return [_read(path) for path in paths]


def _read(folder: Path) -> Run:
    config = read_config(folder)
    if config is None:
        raise FileNotFoundError(f"{folder} is no run folder: {_why_not(folder)}")
    if "members" in config:
        raise ValueError(f"{folder} is a sweep, whose members its own results compare: name runs")
    if not (folder / RESULTS).is_file():
        raise FileNotFoundError(f"{folder} is not finished: it has no {RESULTS}; train it to its end")
    if not (folder / METRICS).is_file() or not (history := read_json_lines(folder / METRICS)):
        raise ValueError(
            f"{folder / METRICS} holds no report of the run: it was changed, and the run cannot be compared"
        )
    assessed = read_assessed(folder)
    return Run(str(folder), folder, config, read_result(folder), read_measured(folder), assessed, history)


def compare(runs: Sequence[Run]) -> Comparison:
    """Figures of each run, and paired differences from the first.

    `d_n = f_n(run) - f_n(first)` over the examples n that both have measured, with the standard error of their mean:
    since x and noise are the same, what makes one example harder than another is in neither. Figures are costs: a
    difference below 0 is for the run.
    """
    first, *others = runs
    shown = {run.name: {name: each for name in NAMES if (each := _figure(run, name))} for run in runs}
    differences: dict[str, dict[str, Figure]] = {}
    apart: dict[str, list[str]] = {}
    for run in others:
        both = [name for name in shown[run.name] if name in shown[first.name]]
        differences[run.name] = {name: each for name in both if (each := _difference(first, run, name))}
        if not all(name in differences[run.name] for name in both if name != LIKELIHOOD):
            apart.setdefault(_why(first, run), []).append(run.name)
    remarks = [
        f"{', '.join(names)}: not measured on the same x as {first.name}, so there are no differences: {why}."
        for why, names in apart.items()
    ]
    return Comparison(shown, differences, _settings(runs), [*remarks, *_on_the_likelihoods(runs)])


def _on_the_likelihoods(runs: Sequence[Run]) -> Iterator[str]:
    """What keeps the estimates of ln p(x) from being compared."""
    known = [run for run in runs if run.assessed]
    # An autoencoder that was evaluated has none.
    unknown = [run.name for run in runs if not run.assessed and not (run.folder / EVALUATION).is_file()]
    if known and unknown:
        yield f"-ln p(x) is not known of {', '.join(unknown)}: vaejax evaluate measures it."
    sizes = {(len(run.assessed["log_likelihood"]), int(run.assessed["num_samples"])) for run in known}
    if len(sizes) > 1:
        said = [
            f"{run.name} on {len(run.assessed['log_likelihood']):,} examples with "
            f"{int(run.assessed['num_samples']):,} samples"
            for run in known
        ]
        yield (
            f"-ln p(x) was not estimated alike: {', '.join(said)}. More samples make it less; with unlike ones there "
            "is no difference."
        )


def _figure(run: Run, name: str) -> Figure | None:
    found = run.per_example(name)
    return None if found is None else _estimated(NAMES[name], found[0], unit_of(name))


def _difference(first: Run, other: Run, name: str) -> Figure | None:
    mine, theirs = other.per_example(name), first.per_example(name)
    if mine is None or theirs is None:
        return None
    if name == LIKELIHOOD and int(other.assessed["num_samples"]) != int(first.assessed["num_samples"]):
        return None
    count = min(len(mine[0]), len(theirs[0]))
    if not np.array_equal(mine[1][:count], theirs[1][:count]):
        return None
    return _estimated(NAMES[name], mine[0][:count].astype(float) - theirs[0][:count], unit_of(name))


def _estimated(label: str, values: np.ndarray, unit: str) -> Figure:
    found = estimate(jnp.asarray(values))
    return Figure(label, float(found.mean), float(found.standard_error), unit)


def _why(first: Run, other: Run) -> str:
    mine, theirs = other.config["data"], first.config["data"]
    if mine["name"] != theirs["name"]:
        return f"the data are {mine['name']} and {theirs['name']}"
    if mine["sha256"] != theirs["sha256"]:
        return "the data differ"
    return "the data are prepared differently, or one likelihood is a density and the other is not"


def _settings(runs: Sequence[Run]) -> dict[str, dict[str, str]]:
    """The settings and the experiment that are not alike, by run."""
    flat = {run.name: {"experiment": run.config["experiment"], **settings_of(run.config)} for run in runs}
    names = list(dict.fromkeys(name for each in flat.values() for name in each))
    differing = [name for name in names if len({str(each.get(name)) for each in flat.values()}) > 1]
    return {run: {name: str(each.get(name, "-")) for name in differing} for run, each in flat.items()}


def rows(comparison: Comparison) -> list[list[str]]:
    """The figures as a table of words, a run per row, below a header."""
    return _table(comparison.figures, "run")


def difference_rows(comparison: Comparison) -> list[list[str]]:
    """The differences as a table of words; nothing but a header where there are none."""
    return _table(comparison.differences, "less the first run")


def setting_rows(comparison: Comparison) -> list[list[str]]:
    """The settings that differ as a table."""
    names = list(next(iter(comparison.settings.values())))
    return [["run", *names], *([run, *each.values()] for run, each in comparison.settings.items())]


def _table(by_run: Mapping[str, Mapping[str, Figure]], corner: str) -> list[list[str]]:
    names = [name for name in NAMES if any(name in each for each in by_run.values())]
    words = lambda figure: "-" if figure is None else figure._replace(unit="").words()
    body = [[run, *(words(each.get(name)) for name in names)] for run, each in by_run.items()]
    return [[corner, *(NAMES[name] for name in names)], *body]


def _why_not(folder: Path) -> str:
    return "it has no config.json" if folder.is_dir() else "there is no such folder"
