"""Pictures of what the latents do; `z[3]` is the latent of index 3."""

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vaejax.report.figures import contact_sheet, new_figure
from vaejax.types import ArrayLike

# More bars than this are drawn by their rank.
MAX_NAMED = 40
UNLABELLED = "#bbbbbb"


def draw_latents(
    axes: Axes,
    means: ArrayLike,
    labels: ArrayLike | None,
    title: str = "",
    names: Sequence[str] = (),
    pair: tuple[int, int] = (0, 1),
) -> None:
    """Scatter two of the axes of posterior means `[N, Z]`, coloured by label where there are any, into `axes`.

    Examples of a negative label have none and are grey, below the others.
    """
    means = np.asarray(means)[:, list(pair)]
    labels = np.full(len(means), -1) if labels is None else np.asarray(labels)
    known = labels >= 0
    if not known.all():
        colour = UNLABELLED if known.any() else None
        axes.scatter(means[~known, 0], means[~known, 1], c=colour, s=6, linewidths=0)
    if known.any():
        means, labels = means[known], labels[known]
        count = max(len(names), int(labels.max()) + 1)
        colours = colormaps["tab10" if count <= 10 else "turbo"].resampled(count)
        points = axes.scatter(
            means[:, 0], means[:, 1], c=labels, cmap=colours, vmin=-0.5, vmax=count - 0.5, s=6, linewidths=0
        )
        ticks = range(count) if count <= 20 else None
        bar = axes.figure.colorbar(points, ax=axes, ticks=ticks, label="" if names else "label")
        if names and ticks is not None:
            bar.set_ticklabels(names)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xlabel(f"z[{pair[0]}]")
    axes.set_ylabel(f"z[{pair[1]}]")
    axes.set_title(title, fontsize=10)


def latents(
    means: ArrayLike, pair: tuple[int, int], labels: ArrayLike | None = None, names: Sequence[str] = ()
) -> Figure:
    """Two axes of the posterior means of the test set `[N, Z]`, coloured by label where there are any."""
    count = np.shape(means)[1]
    which = "" if count == 2 else f", the two axes of {count} that say most"
    figure = new_figure(6.0, 5.2)
    draw_latents(figure.subplots(), means, labels, f"posterior means of the test set{which}", names, pair)
    return figure


def kl_bars(kl_per_axis: ArrayLike) -> Figure:
    """The mean KL of each axis over examples `[N, Z]`, greatest first, with its standard error."""
    values = np.asarray(kl_per_axis)
    mean, error = values.mean(axis=0), values.std(axis=0) / len(values) ** 0.5
    order, places = np.argsort(-mean, kind="stable"), np.arange(values.shape[1])
    figure = new_figure(min(9.0, 3.0 + 0.3 * len(mean)), 3.4)
    axes = figure.subplots()
    axes.bar(places, mean[order], yerr=error[order], capsize=2, error_kw={"linewidth": 0.8})
    if len(mean) <= MAX_NAMED:
        axes.set_xticks(places, [f"{axis}" for axis in order], fontsize=8)
        axes.set_xlabel("i of latent z[i]")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("latents by rank")
    axes.set_ylabel("KL (nats)")
    axes.set_title(f"test set: KL of each latent, {mean.sum():.2f} in all", fontsize=10)
    axes.grid(alpha=0.3, axis="y")
    axes.set_axisbelow(True)
    return figure


def traversals(
    images: ArrayLike,
    axes: Sequence[int],
    values: ArrayLike,
    kl: ArrayLike | None,
    *,
    white: float = 1.0,
    black: float = 0.0,
) -> Figure:
    """A row for each latent, moved from its low value to its high one, the others held: images `[A, S, H, W, C]`."""
    values = np.asarray(values)
    said = [""] * len(axes) if kl is None else [f"\n{each:.2f} nats" for each in np.asarray(kl)]
    names = [
        f"z[{axis}]{nats}\n{low:.1f} to {high:.1f}"
        for axis, nats, low, high in zip(axes, said, values[:, 0], values[:, -1], strict=True)
    ]
    title = "mean of p(x|z): one latent moved over the range of the test codes, the others at their medians"
    return contact_sheet(list(zip(names, np.asarray(images), strict=True)), white, title, black)


def interpolations(images: ArrayLike, *, white: float = 1.0, black: float = 0.0) -> Figure:
    """A row for each pair of examples: what lies between their latents, `[pairs, steps, H, W, C]`."""
    title = "mean of p(x|z) on the straight way between the posterior means of two test examples"
    rows = [(f"{2 * number} to {2 * number + 1}", row) for number, row in enumerate(np.asarray(images))]
    return contact_sheet(rows, white, title, black)
