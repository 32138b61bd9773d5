"""What a sweep shows: a table of means over seeds, and the rate-distortion picture."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vaejax.evaluation import LABELS
from vaejax.report import figures


def groups(members: list[dict[str, Any]]) -> dict[tuple[tuple[str, float], ...], list[dict[str, Any]]]:
    """The members by their settings, those that differ by the seed alone together."""
    found: dict[tuple[tuple[str, float], ...], list[dict[str, Any]]] = {}
    for member in members:
        key = tuple((name, value) for name, value in member["values"].items() if name != "seed")
        found.setdefault(key, []).append(member)
    return found


def table(members: list[dict[str, Any]]) -> list[list[str]]:
    """A row of words per combination of settings, below a header: the mean over its seeds and its standard error."""
    names = [name for name in LABELS if any(member["test"] and name in member["test"] for member in members)]
    settings = [name for name in members[0]["values"] if name != "seed"]
    rows = [[*settings, "seeds", *(LABELS[name] for name in names)]]
    for key, group in groups(members).items():
        trained = [member["test"] for member in group if member["test"]]
        said = f"{len(trained)}" if len(trained) == len(group) else f"{len(trained)} of {len(group)} (others diverged)"
        cells = [_mean_and_error([test[name]["mean"] for test in trained]) for name in names]
        rows.append([*(f"{value:g}" for _, value in key), said, *cells])
    return rows


def _mean_and_error(means: list[float | None]) -> str:
    if not means:
        return "-"
    # What was not finite is null in JSON.
    values = np.array(means, float)
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{values.mean():.2f} ± {values.std(ddof=1) / len(values) ** 0.5:.2f}"


def draw(members: list[dict[str, Any]], folder: Path) -> Iterator[Path]:
    """The rate-distortion picture, where the members have both."""
    points = {}
    for key, group in groups(members).items():
        label = ", ".join(f"{name} {value:g}" for name, value in key) or "all seeds"
        tests = [member["test"] for member in group if member["test"] and "kl" in member["test"]]
        if tests:
            points[label] = [(test["kl"]["mean"], test["reconstruction"]["mean"]) for test in tests]
    if points:
        figures.rate_distortion(points).savefig(folder / "rate_distortion.png")
        yield folder / "rate_distortion.png"
