"""Pictures as matplotlib figures: each function draws one and returns it, and shows or saves nothing."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vaejax.types import ArrayLike

# Between images, and where there is none.
GAP = "#5b7fa6"


def is_image(shape: Sequence[int]) -> bool:
    """Whether examples of a shape can be shown: height, width, and one channel or three."""
    return len(shape) == 3 and shape[-1] in (1, 3)


def tile(images: ArrayLike, columns: int, gap: int = 1) -> np.ndarray:
    """Images `[N, H, W, C]` side by side in rows of `columns`: `[H', W', C]`, gaps and holes NaN."""
    images = np.asarray(images, np.float32)
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, channels), np.nan, np.float32)
    for index, image in enumerate(images):
        top, left = (index // columns) * (height + gap), (index % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet


def draw_images(
    axes: Axes, images: ArrayLike, columns: int, white: float = 1.0, title: str = "", black: float = 0.0
) -> None:
    """Draw images `[N, H, W, C]` (grey or colour, from `black` to `white`) as one sheet into `axes`."""
    sheet = (tile(images, columns) - black) / (white - black)
    if sheet.shape[-1] == 1:
        axes.imshow(sheet[..., 0], cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
        axes.set_facecolor(GAP)
    else:
        gap = np.isnan(sheet).any(axis=-1, keepdims=True)
        axes.imshow(np.where(gap, to_rgb(GAP), np.clip(np.nan_to_num(sheet), 0.0, 1.0)), interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title(title, fontsize=10)


def draw_latents(
    axes: Axes, means: ArrayLike, labels: ArrayLike | None, title: str = "", names: Sequence[str] = ()
) -> None:
    """Scatter two-dimensional posterior means `[N, 2]`, coloured by label where there are any, into `axes`."""
    means = np.asarray(means)
    if labels is None:
        axes.scatter(means[:, 0], means[:, 1], s=6, linewidths=0)
    else:
        labels = np.asarray(labels)
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
    axes.set_xlabel("$z_1$")
    axes.set_ylabel("$z_2$")
    axes.set_title(title, fontsize=10)


def contact_sheet(
    rows: Sequence[tuple[str, ArrayLike]], white: float = 1.0, title: str = "", black: float = 0.0
) -> Figure:
    """Rows of images `[N, H, W, C]` of one size, each with what they have in common."""
    images = [np.asarray(each, np.float32) for _, each in rows]
    columns = max(len(each) for each in images)
    # Rows are filled up with nothing, so that each begins at the left.
    fill = lambda each: np.pad(each, ((0, columns - len(each)), *[(0, 0)] * 3), constant_values=np.nan)
    height, width = images[0].shape[1:3]
    across = _across(columns, width)
    figure = _figure(across, across * len(images) * height / (columns * width) + 0.6)
    axes = figure.subplots()
    draw_images(axes, np.concatenate([fill(each) for each in images]), columns, white, title, black)
    axes.set_yticks(
        [row * (height + 1) + height / 2 for row in range(len(rows))], [name for name, _ in rows], fontsize=8
    )
    axes.tick_params(length=0)
    return figure


def reconstructions(x: ArrayLike, means: ArrayLike, white: float = 1.0, black: float = 0.0) -> Figure:
    """Data above, and below each image the mean of p(x|z) at its posterior mean."""
    columns, rows = min(16, len(np.asarray(x))), -(-len(np.asarray(x)) // 16)
    height, width = np.shape(x)[1:3]
    across = _across(columns, width)
    figure = _figure(across, 2 * (across * rows * height / (columns * width) + 0.4))
    above, below = figure.subplots(2, 1)
    draw_images(above, x, columns, white, "data x", black)
    draw_images(below, means, columns, white, "reconstruction: mean of p(x|z), z the posterior mean", black)
    return figure


def samples(means: ArrayLike, draws: ArrayLike, white: float = 1.0, black: float = 0.0) -> Figure:
    """What the prior generates: for the same z, the mean of p(x|z) and a draw from it."""
    columns = int(np.ceil(np.sqrt(len(np.asarray(means)))))
    height, width = np.shape(means)[1:3]
    across = _across(2 * columns, width)
    figure = _figure(across, across / 2 * height / width + 0.4)
    left, right = figure.subplots(1, 2)
    draw_images(left, means, columns, white, "z ~ p(z): mean of p(x|z)", black)
    draw_images(right, draws, columns, white, "the same z: a draw x ~ p(x|z)", black)
    return figure


def _across(columns: int, width: int) -> float:
    """Inches in which the gaps between so many images of a width are still seen."""
    return min(16.0, max(8.0, columns * (width + 1) / 100))


def learning_curves(steps: Sequence[int], curves: Mapping[str, ArrayLike], kl_per_axis: ArrayLike) -> Figure:
    """The parts of the objective over the steps and, where there are any, the KL of each latent axis."""
    kl_per_axis = np.asarray(kl_per_axis)
    figure = _figure(9.0 if kl_per_axis.size else 5.0, 3.4)
    panels = figure.subplots(1, 2 if kl_per_axis.size else 1, squeeze=False)[0]
    # A penalty that is always 0 says nothing.
    curves = {name: values for name, values in curves.items() if np.any(values)} or curves
    for name, values in curves.items():
        panels[0].plot(steps, values, label=name)
    panels[0].set_xlabel("step")
    panels[0].set_ylabel("nats per example")
    panels[0].set_title("training, mean over an epoch", fontsize=10)
    # The first epochs are far above the rest; the picture is about where the curves settle.
    tails = np.concatenate([np.asarray(values)[len(steps) // 50 :] for values in curves.values()])
    # An epoch of which no step was finite has no figure.
    lowest, highest = float(np.nanmin(tails)), float(np.nanmax(tails))
    margin = 0.05 * (highest - lowest) or 1.0
    # Parts of a sum are compared from 0; a single curve shows how it falls.
    bottom = min(0.0, lowest) if len(curves) > 1 else lowest - margin
    panels[0].set_ylim(bottom, highest + margin)
    panels[0].legend(fontsize=8)
    panels[0].grid(alpha=0.3)
    if kl_per_axis.size:
        ordered = np.sort(kl_per_axis)[::-1]
        panels[1].bar(np.arange(1, len(ordered) + 1), ordered)
        panels[1].xaxis.set_major_locator(MaxNLocator(integer=True))
        panels[1].set_xlabel("latent axis, by rank")
        panels[1].set_ylabel("KL (nats)")
        panels[1].set_title("KL of each axis, last epoch", fontsize=10)
        panels[1].grid(alpha=0.3, axis="y")
    return figure


def rate_distortion(points: Mapping[str, Sequence[tuple[float, float]]]) -> Figure:
    """Models by how many nats they say of x (the rate, KL) and how many are then missing (the distortion).

    Lines through equal sums, the -ELBO, run downwards; a model further down and left is a better one.

    Args:
      points: (rate, distortion) of each seed, by the name of their settings.

    Source: Alemi et al. 2018, Fixing a Broken ELBO.
    """
    figure = _figure(6.4, 4.8)
    axes = figure.subplots()
    everything = np.array([pair for pairs in points.values() for pair in pairs])
    for label, pairs in points.items():
        rates, distortions = np.array(pairs).T
        (line,) = axes.plot(rates, distortions, "o", markersize=4, alpha=0.5)
        axes.plot(rates.mean(), distortions.mean(), "D", markersize=7, color=line.get_color(), label=label)
    axes.plot(*np.array([np.mean(pairs, axis=0) for pairs in points.values()]).T, color="gray", linewidth=0.8, zorder=0)
    (left, low), (right, high) = everything.min(axis=0), everything.max(axis=0)
    across, up = max(right - left, 1.0) * 0.1, max(high - low, 1.0) * 0.1
    axes.set_xlim(left - across, right + across)
    axes.set_ylim(low - up, high + up)
    for total in MaxNLocator(6).tick_values(left + low, right + high):
        axes.axline((0.0, total), slope=-1, color="gray", linewidth=0.5, linestyle=":", zorder=0)
        if low - up < total - left < high + up:
            axes.text(left - across * 0.9, total - left, f"-ELBO {total:g}", fontsize=7, color="gray")
    axes.set_xlabel("rate: KL (nats)")
    axes.set_ylabel("distortion: -E ln p(x|z) (nats)")
    axes.set_title("test set, each seed and the mean of its settings", fontsize=10)
    axes.legend(fontsize=8)
    return figure


def manifold(images: ArrayLike, columns: int, white: float = 1.0, black: float = 0.0) -> Figure:
    """The decoded plane: images at a grid of quantiles of the prior, `z_1` to the right, `z_2` upwards."""
    height, width = np.shape(images)[1:3]
    across = 0.75 * _across(columns, width)
    figure = _figure(across, across * height / width + 0.2)
    axes = figure.subplots()
    draw_images(axes, images, columns, white, "mean of p(x|z) over the plane, at quantiles of the prior", black)
    axes.set_xlabel("$z_1$")
    axes.set_ylabel("$z_2$")
    return figure


def latents(means: ArrayLike, labels: ArrayLike | None, names: Sequence[str] = ()) -> Figure:
    """Two-dimensional posterior means of the test set, coloured by label where there are any."""
    figure = _figure(6.0, 5.2)
    draw_latents(figure.subplots(), means, labels, "posterior means of the test set", names)
    return figure


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), dpi=120, layout="constrained")
