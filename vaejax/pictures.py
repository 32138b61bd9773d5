"""The pictures of a run."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vaejax.checks import is_image
from vaejax.distributions import Normal
from vaejax.evaluation import LABELS
from vaejax.experiment import Experiment
from vaejax.outcome import Measured, evaluation_keys, prepare_example, shades_of
from vaejax.report import figures, latent_figures
from vaejax.types import Array, ArrayLike, Params

SHOWN = 32
# Rows and columns of traversals and interpolations.
MAX_AXES, STEPS, PAIRS = 12, 11, 6
# What a latent is shown between: these shares of the codes are below and above.
TAIL = 1.0

# A picture as it is saved: its name and how it is drawn.
Picture = tuple[str, Any]


def draw(
    experiment: Experiment, params: Params, measured: Measured, history: Sequence[Mapping[str, Any]], folder: Path
) -> Iterator[Path]:
    """Draw the pictures of a run into its folder, and yield their paths.

    Args:
      experiment: that was trained.
      params: to draw with.
      measured: of it.
      history: the lines of its `metrics.jsonl`.
      folder: of the run.
    """
    pictures = [*_of_images(experiment, params, measured), *_of_numbers(experiment, measured, history)]
    for name, figure in pictures:
        figure.savefig(folder / name)
        yield folder / name


def _of_images(experiment: Experiment, params: Params, measured: Measured) -> Iterator[Picture]:
    """What is drawn where both the data and what the model sees of them are images."""
    first = jnp.asarray(experiment.dataset.test.examples[: min(SHOWN, len(measured.means))])
    keys = evaluation_keys()
    shown = jax.vmap(partial(prepare_example, experiment, keys))(jnp.arange(len(first)), first)
    if not (is_image(experiment.dataset.shape) and is_image(shown.shape[1:])):
        return
    low, high, _ = shades_of(experiment)
    shades: dict[str, Any] = {"white": high, "black": low}
    decode = partial(jax.jit(experiment.model.decode), params)
    yield "reconstructions.png", figures.reconstructions(shown, decode(measured.means[: len(shown)]).mean, **shades)
    if experiment.prior is not None:
        prior_key, draw_key = jax.random.split(keys.sample)
        p = decode(experiment.prior(params).sample(prior_key, (64,)))
        yield "samples.png", figures.samples(p.mean, p.sample(draw_key), **shades)
    if measured.means.ndim == 2:
        decode_mean = lambda z: decode(z).mean
        yield "traversals.png", latent_figures.traversals(*traversals(decode_mean, measured), **shades)
        yield "interpolations.png", latent_figures.interpolations(interpolations(decode_mean, measured.means), **shades)
    prior = experiment.prior(params) if experiment.prior else None
    if measured.means.shape[1:] == (2,) and isinstance(prior, Normal):
        grid = prior.loc + prior.scale * quantile_grid(columns=16)
        yield "manifold.png", figures.manifold(decode(grid).mean, 16, **shades)


def _of_numbers(experiment: Experiment, measured: Measured, history: Sequence[Mapping[str, Any]]) -> Iterator[Picture]:
    """What is drawn of any data."""
    names = [name for name in LABELS if name in history[-1]]
    # A figure that is not finite is null in JSON.
    curves = {LABELS[name]: np.array([line[name] for line in history], float) for name in names}
    yield "curves.png", figures.learning_curves([line["step"] for line in history], curves)
    if measured.kl_per_axis is not None and measured.kl_per_axis.ndim == 2:
        yield "kl_per_axis.png", latent_figures.kl_bars(measured.kl_per_axis)
    if measured.means.ndim == 2 and measured.means.shape[1] > 1:
        axes = ordered_axes(measured)[:2]
        pair = (min(axes), max(axes))
        test = experiment.dataset.test
        yield "latents.png", latent_figures.latents(measured.means, pair, test.labels, experiment.dataset.label_names)


class Traversals(NamedTuple):
    """A row of images for each of some axes, and what they are decoded from."""

    images: np.ndarray  # [axes, steps, H, W, C]
    axes: list[int]
    values: np.ndarray  # [axes, steps] of the latent that is moved
    kl: np.ndarray | None  # [axes] nats


def traversals(decode_mean: Callable[[Array], ArrayLike], measured: Measured) -> Traversals:
    """The axes that say most of x, each moved over the range of its codes, the others at their medians."""
    axes = ordered_axes(measured)[:MAX_AXES]
    low, centre, high = np.percentile(measured.means, [TAIL, 50, 100 - TAIL], axis=0)
    values = np.linspace(low[axes], high[axes], STEPS, axis=1)
    z = np.broadcast_to(centre, (len(axes), STEPS, len(centre))).astype(np.float32)
    for row, axis in enumerate(axes):
        z[row, :, axis] = values[row]
    images = np.asarray(decode_mean(jnp.asarray(z.reshape(-1, len(centre)))))
    kl = None if measured.kl_per_axis is None else measured.kl_per_axis.mean(axis=0)[axes]
    return Traversals(images.reshape(*values.shape, *images.shape[1:]), axes, values, kl)


def interpolations(decode_mean: Callable[[Array], ArrayLike], means: np.ndarray) -> np.ndarray:
    """Straight ways between the posterior means of neighbouring test examples, decoded: `[pairs, steps, H, W, C]`."""
    ends = means[: 2 * min(PAIRS, max(1, len(means) // 2))]
    share = np.linspace(0, 1, STEPS, dtype=np.float32)[:, None]
    z = (1 - share) * ends[0::2, None] + share * ends[1::2, None] if len(ends) > 1 else ends[:, None]
    images = np.asarray(decode_mean(jnp.asarray(z.reshape(-1, z.shape[-1]))))
    return images.reshape(*z.shape[:2], *images.shape[1:])


def ordered_axes(measured: Measured) -> list[int]:
    """The latents by how much they say of x: by their KL or, where it is unknown, by the variance of their means."""
    kl = measured.kl_per_axis
    weight = measured.means.var(axis=0) if kl is None else kl.mean(axis=0)
    return [int(axis) for axis in np.argsort(-weight, kind="stable")]


def quantile_grid(columns: int) -> Array:
    """Points of the plane at equal steps of the standard normal's probability, `[columns**2, 2]`, top row first."""
    steps = jax.scipy.special.ndtri((jnp.arange(columns) + 0.5) / columns)
    second, first = jnp.meshgrid(steps[::-1], steps, indexing="ij")
    return jnp.stack([first.ravel(), second.ravel()], axis=-1)
