"""A comparison of runs as one page for a browser."""

import io
from collections.abc import Iterator, Sequence
from html import escape

import numpy as np
from matplotlib.figure import Figure as Picture

from vaejax import __version__
from vaejax.comparison import BETTER, Comparison, Run, difference_rows, rows, setting_rows
from vaejax.evaluation import LABELS
from vaejax.report import figures, page

# Shown of each run, in this order.
SHOWN = ("reconstructions.png", "samples.png", "traversals.png")


def comparison_page(runs: Sequence[Run], comparison: Comparison) -> str:
    """The comparison as one page for a browser."""
    remarks = "".join(f'<p class="remark">{escape(remark)}</p>\n' for remark in comparison.remarks)
    same = f"Differences are paired: the same examples, the same noise. {BETTER}"
    units = "In nats, the squared error with white as 1; mean per test example ± standard error."
    differing = any(comparison.differences.values())
    parts = [
        page.section("Figures", page.table(rows(comparison)) + f'<p class="remark">{units}</p>\n' + remarks),
        page.section(
            "Differences",
            page.table(difference_rows(comparison)) + f'<p class="remark">{escape(same)}</p>\n' if differing else "",
        ),
        page.section(
            "Settings that differ", page.table(setting_rows(comparison)) if any(comparison.settings.values()) else ""
        ),
        page.section(
            "Pictures", page.pictures([(_png(each), caption, f"chart: {caption}") for each, caption in _drawn(runs)])
        ),
        *(page.section(_title(name), page.pictures(_of_each(runs, name))) for name in SHOWN),
        page.footer(f"Written by vaejax {__version__}; this page needs no network."),
    ]
    subtitle = ", ".join(run.name for run in runs)
    return page.page(f"{len(runs)} runs compared", subtitle, *parts)


def _drawn(runs: Sequence[Run]) -> Iterator[tuple[Picture, str]]:
    """Pictures of all runs together."""
    tests = {run.name: run.result.test for run in runs}
    points = {
        name: [(float(test["kl"].mean), float(test["reconstruction"].mean))]
        for name, test in tests.items()
        if {"kl", "reconstruction"} <= test.keys()
    }
    if len(points) > 1:
        yield (
            figures.rate_distortion(points, title="test set", path=False),
            "Rate and distortion: further down and left is better; dotted lines join equal sums.",
        )
    name = next((name for name in LABELS if any(name in run.history[-1] for run in runs)), None)
    if name is None:
        return
    curves = {
        run.name: (
            np.array([line["step"] for line in run.history]),
            np.array([line[name] for line in run.history], float),
        )
        for run in runs
        if name in run.history[-1]
    }
    yield figures.overlaid_curves(curves, LABELS[name]), f"{LABELS[name]} while training."
    axes = {run.name: np.array(run.result.kl_per_axis) for run in runs if run.result.kl_per_axis}
    if axes:
        yield figures.kl_profiles(axes), "KL of each latent, greatest first."


def _of_each(runs: Sequence[Run], name: str) -> list[tuple[bytes, str, str]]:
    there = [run for run in runs if (run.folder / name).is_file()]
    return [((run.folder / name).read_bytes(), run.name, f"{_title(name)} of {run.name}") for run in there]


def _title(name: str) -> str:
    return name.removesuffix(".png").capitalize()


def _png(picture: Picture) -> bytes:
    buffer = io.BytesIO()
    picture.savefig(buffer, format="png")
    return buffer.getvalue()
