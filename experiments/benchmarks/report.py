"""What was measured, as a table, as JSON, as a picture and as Markdown."""

import datetime
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vaejax.strict_json import dump_json

from .timing import Contest, times_faster

# With whom the others are compared, where it takes part.
REFERENCE = "PyTorch"
SPEED, RATIO = "examples/s", f"times {REFERENCE}"
PACKAGES = ("vaejax", "jax", "jaxlib", "flax", "optax", "numpy", "torch", "numpyro", "pythae")
REPOSITORY = Path(__file__).parents[2]


class Line(NamedTuple):
    """A contestant in one case."""

    case: str
    contestant: str
    figures: dict[str, float]  # by their names, which say the units


class Curve(NamedTuple):
    """Cost against size."""

    label: str
    sizes: list[float]
    costs: list[float]


class Part(NamedTuple):
    """What came of a part."""

    title: str
    lines: list[Line]
    contests: dict[str, Contest]  # every round of everyone, by case
    shown: str = SPEED  # the figure that is drawn
    notes: Sequence[str] = ()
    curves: Sequence[Curve] = ()


def figures_of(contest: Contest, name: str, examples: float) -> dict[str, float]:
    """The speed of a contestant that takes so many examples in a step, and how often it is that of PyTorch."""
    timing, other = contest.timings[name], contest.timings.get(REFERENCE)
    figures = {SPEED: examples / timing.per_step, "ms per step": 1e3 * timing.per_step}
    return figures | ({RATIO: times_faster(timing, other)} if other else {})


def environment() -> dict[str, Any]:
    """On what it was measured."""
    device = jax.devices()[0]
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _output("git", "-C", str(REPOSITORY), "describe", "--always", "--dirty"),
        "device": f"{len(jax.devices())} x {device.device_kind} ({device.platform})",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": [round(each, 2) for each in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def spelled(value: float | None) -> str:
    """A figure for a person.

    >>> [spelled(each) for each in (None, 61234.5, 312.0, 2.345, 0.01234)]
    ['', '61,234', '312', '2.35', '0.0123']
    """
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def cells_of(part: Part) -> list[list[str]]:
    """The rows of a part's table, its header first."""
    names = list(dict.fromkeys(name for line in part.lines for name in line.figures))
    rows = [[line.case, line.contestant, *(spelled(line.figures.get(name)) for name in names)] for line in part.lines]
    return [["case", "contestant", *names], *rows]


def remarks(part: Part) -> list[str]:
    """What is said below the table: the notes, and who was left out."""
    absent = [
        f"{case}: {name} is left out: {reason}"
        for case, contest in part.contests.items()
        for name, reason in contest.left_out.items()
    ]
    return [*part.notes, *absent]


def as_text(part: Part) -> str:
    """The table in columns."""
    rows = cells_of(part)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        words = [
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(words).rstrip())
    return "\n".join([part.title, *lines, *remarks(part)]) + "\n"


def as_markdown(parts: Mapping[str, Part], about: Mapping[str, Any], command: str) -> str:
    """All tables, with what they were measured on."""
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    lines = ["# Benchmarks", "", f"`{command}`, commit {about['commit']}, {about['date']}.", ""]
    lines += [f"{about['device']}, {about['processor']}, {about['cores']} cores, load {about['load']}; {versions}.", ""]
    lines += ["Medians of interleaved rounds; the first, in which programs are compiled, is dropped.", ""]
    for name, part in parts.items():
        header, *rows = cells_of(part)
        lines += [f"## {part.title} (`{name}`)", "", _markdown_row(header), _markdown_row(["---"] * len(header))]
        lines += [*map(_markdown_row, rows), "", *(f"- {each}" for each in remarks(part)), ""]
    return "\n".join(lines)


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def as_json(parts: Mapping[str, Part], about: Mapping[str, Any]) -> str:
    """Everything, with each round."""
    plain = {
        name: {
            "title": part.title,
            "lines": [line._asdict() for line in part.lines],
            "rounds": {case: _contest_as_json(contest) for case, contest in part.contests.items()},
            "curves": [curve._asdict() for curve in part.curves],
            "notes": [*part.notes],
        }
        for name, part in parts.items()
    }
    return dump_json({"environment": about, "parts": plain}, indent=1)


def _contest_as_json(contest: Contest) -> dict[str, Any]:
    timings = {name: timing._asdict() for name, timing in contest.timings.items()}
    return {"timings": timings, "left_out": contest.left_out}


def picture(parts: Mapping[str, Part]) -> Figure:
    """A panel of bars for each part; of one with curves, the curves."""
    heights = [max(4, 2 + (12 if part.curves else len(part.lines))) for part in parts.values()]
    figure = Figure(figsize=(10, 0.24 * sum(heights)), dpi=110, layout="constrained")
    panels = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    for panel, part in zip(panels, parts.values(), strict=True):
        (draw_curves if part.curves else draw_bars)(panel, part)
    return figure


def draw_bars(axes: Axes, part: Part) -> None:
    """A bar for each line: how it stands to PyTorch in its case where that took part, or else its figure."""
    is_relative = bool(part.lines) and all(RATIO in line.figures for line in part.lines)
    lines = part.lines if is_relative else [line for line in part.lines if part.shown in line.figures]
    lengths = [line.figures[RATIO if is_relative else part.shown] for line in lines]
    colours = {name: f"C{number % 10}" for number, name in enumerate(dict.fromkeys(line.contestant for line in lines))}
    places = range(len(lines))
    axes.barh(places, lengths, color=[colours[line.contestant] for line in lines])
    axes.set_yticks(places, [f"{line.case}: {line.contestant}" for line in lines], fontsize=8)
    axes.invert_yaxis()
    for place, line, length in zip(places, lines, lengths, strict=True):
        ratio = f"   {spelled(length)} x" if is_relative else ""
        axes.text(length, place, f" {spelled(line.figures[part.shown])}{ratio}", va="center", fontsize=8)
    axes.set_xlim(0, 1.2 * max(lengths, default=1.0))
    about = f"{part.shown}, and bars by {REFERENCE}" if is_relative else part.shown
    axes.set_title(f"{part.title}: {about}", fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)


def draw_curves(axes: Axes, part: Part) -> None:
    """Cost against size, both relative to the smallest, so that a power law is a straight line."""
    for curve in part.curves:
        sizes, costs = [each / curve.sizes[0] for each in curve.sizes], [each / curve.costs[0] for each in curve.costs]
        axes.loglog(sizes, costs, marker="o", markersize=4, label=curve.label)
    axes.set(xlabel="size by the smallest", ylabel="cost by the first")
    axes.set_title(part.title, fontsize=10, loc="left")
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def write(folder: Path, parts: Mapping[str, Part], about: Mapping[str, Any], command: str) -> list[Path]:
    """The files of a run of the benchmarks."""
    files = {"results.json": as_json(parts, about), "results.md": as_markdown(parts, about, command)}
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    picture(parts).savefig(folder / "benchmarks.png")
    return [folder / name for name in (*files, "benchmarks.png")]
