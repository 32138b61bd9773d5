"""Pictures as matplotlib figures: each function draws one and returns it, and shows or saves nothing."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vaejax.types import ArrayLike

# Between images, and where there is none.
GAP = "#5b7fa6"
# A curve of so few points has a marker at each: one alone would not be seen.
FEW = 10


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


def contact_sheet(
    rows: Sequence[tuple[str, ArrayLike]], white: float = 1.0, title: str = "", black: float = 0.0
) -> Figure:
    """Rows of images `[N, H, W, C]` of one size, each with what they have in common."""
    images = [np.asarray(each, np.float32) for _, each in rows]
    columns = max(len(each) for each in images)
    # Rows are filled up with nothing, so that each begins at the left.
    fill = lambda each: np.pad(each, ((0, columns - len(each)), *[(0, 0)] * 3), constant_values=np.nan)
    height, width = images[0].shape[1:3]
    across = across_of(columns, width)
    figure = new_figure(across, across * len(images) * height / (columns * width) + 0.6)
    axes = figure.subplots()
    draw_images(axes, np.concatenate([fill(each) for each in images]), columns, white, title, black)
    axes.set_yticks(
        [row * (height + 1) + height / 2 for row in range(len(rows))], [name for name, _ in rows], fontsize=8
    )
    axes.tick_params(length=0)
    return figure


def reconstructions(x: ArrayLike, means: ArrayLike, white: float = 1.0, black: float = 0.0) -> Figure:
    """Data above, what is missing (NaN) in black, and below each image the mean of p(x|z) at its posterior mean."""
    columns, rows = min(16, len(np.asarray(x))), -(-len(np.asarray(x)) // 16)
    height, width = np.shape(x)[1:3]
    across = across_of(columns, width)
    figure = new_figure(across, 2 * (across * rows * height / (columns * width) + 0.4))
    above, below = figure.subplots(2, 1)
    draw_images(above, np.nan_to_num(x, nan=black), columns, white, "data x", black)
    draw_images(below, means, columns, white, "reconstruction: mean of p(x|z), z the posterior mean", black)
    return figure


def samples(means: ArrayLike, draws: ArrayLike, white: float = 1.0, black: float = 0.0) -> Figure:
    """What the prior generates: for the same z, the mean of p(x|z) and a draw from it."""
    columns = int(np.ceil(np.sqrt(len(np.asarray(means)))))
    height, width = np.shape(means)[1:3]
    across = across_of(2 * columns, width)
    figure = new_figure(across, across / 2 * height / width + 0.4)
    left, right = figure.subplots(1, 2)
    draw_images(left, means, columns, white, "z ~ p(z): mean of p(x|z)", black)
    draw_images(right, draws, columns, white, "the same z: a draw x ~ p(x|z)", black)
    return figure


def across_of(columns: int, width: int) -> float:
    """Inches in which the gaps between so many images of a width are still seen."""
    return min(16.0, max(8.0, columns * (width + 1) / 100))


def learning_curves(steps: Sequence[int], curves: Mapping[str, ArrayLike]) -> Figure:
    """The parts of the objective over the steps."""
    figure = new_figure(5.6, 3.4)
    axes = figure.subplots()
    # A penalty that is always 0 says nothing.
    curves = {name: values for name, values in curves.items() if np.any(values)} or curves
    for name, values in curves.items():
        draw_curve(axes, steps, values, name)
    axes.set_xlabel("step")
    axes.set_ylabel("nats per example")
    axes.set_title("training, mean over an epoch", fontsize=10)
    # The first epochs are far above the rest; the picture is about where the curves settle.
    tails = np.concatenate([np.asarray(values)[len(steps) // 50 :] for values in curves.values()])
    # An epoch of which no step was finite has no figure.
    lowest, highest = float(np.nanmin(tails)), float(np.nanmax(tails))
    margin = 0.05 * (highest - lowest) or 1.0
    # Parts of a sum are compared from 0; a single curve shows how it falls.
    bottom = min(0.0, lowest) if len(curves) > 1 else lowest - margin
    axes.set_ylim(bottom, highest + margin)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    return figure


def draw_curve(axes: Axes, steps: Sequence[int] | ArrayLike, values: ArrayLike, name: str) -> None:
    """Draw one figure over the steps into `axes`."""
    axes.plot(steps, values, marker="o" if len(np.asarray(values)) <= FEW else None, markersize=3, label=name)


def overlaid_curves(curves: Mapping[str, tuple[ArrayLike, ArrayLike]], label: str) -> Figure:
    """One figure over the steps of several runs: steps and values by the name of the run."""
    figure = new_figure(5.6, 3.4)
    axes = figure.subplots()
    for name, (steps, values) in curves.items():
        draw_curve(axes, steps, values, name)
    settled = [np.asarray(values)[len(np.asarray(values)) // 50 :] for _, values in curves.values()]
    low, high = (float(pick(np.concatenate(settled))) for pick in (np.nanmin, np.nanmax))
    margin = 0.05 * (high - low) or 1.0
    axes.set_ylim(low - margin, high + margin)
    axes.set_xlabel("step")
    axes.set_ylabel(f"{label} (nats per example)")
    axes.set_title("training, mean over an epoch", fontsize=10)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    return figure


def kl_profiles(kl_per_axis: Mapping[str, ArrayLike]) -> Figure:
    """The KL of each latent, greatest first, of several runs by name."""
    figure = new_figure(5.6, 3.4)
    axes = figure.subplots()
    for name, values in kl_per_axis.items():
        ordered = np.sort(np.ravel(values))[::-1]
        axes.plot(np.arange(1, len(ordered) + 1), ordered, "o-", markersize=3, label=name)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("latents by rank")
    axes.set_ylabel("KL (nats)")
    axes.set_title("test set", fontsize=10)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    return figure


def rate_distortion(
    points: Mapping[str, Sequence[tuple[float, float]]],
    title: str = "test set, each seed and the mean of its settings",
    *,
    path: bool = True,
) -> Figure:
    """Models by how many nats they say of x (the rate, KL) and how many are then missing (the distortion).

    Lines through equal sums, the -ELBO, run downwards; a model further down and left is a better one.

    Args:
      points: (rate, distortion) of each seed, by the name of their settings.
      title: of the picture.
      path: join the means in their order, as along the values of a setting.

    Source: Alemi et al. 2018, Fixing a Broken ELBO.
    """
    figure = new_figure(6.4, 4.8)
    axes = figure.subplots()
    everything = np.array([pair for pairs in points.values() for pair in pairs])
    for label, pairs in points.items():
        rates, distortions = np.array(pairs).T
        (line,) = axes.plot(rates, distortions, "o", markersize=4, alpha=0.5)
        axes.plot(rates.mean(), distortions.mean(), "D", markersize=7, color=line.get_color(), label=label)
    if path:
        means = np.array([np.mean(pairs, axis=0) for pairs in points.values()])
        axes.plot(*means.T, color="gray", linewidth=0.8, zorder=0)
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
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=8)
    return figure


def manifold(images: ArrayLike, columns: int, white: float = 1.0, black: float = 0.0) -> Figure:
    """The decoded plane: images at a grid of quantiles of the prior, `z[0]` to the right, `z[1]` upwards."""
    height, width = np.shape(images)[1:3]
    across = 0.75 * across_of(columns, width)
    figure = new_figure(across, across * height / width + 0.2)
    axes = figure.subplots()
    draw_images(axes, images, columns, white, "mean of p(x|z) over the plane, at quantiles of the prior", black)
    axes.set_xlabel("z[0]")
    axes.set_ylabel("z[1]")
    return figure


def new_figure(width: float, height: float) -> Figure:
    """A figure of so many inches, which needs no display."""
    return Figure(figsize=(width, height), dpi=120, layout="constrained")
