"""What a trained experiment has to show: its test figures and its pictures."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vaejax.data import Examples, Meaning
from vaejax.evaluation import LABELS, Estimate, active_units, estimate, per_example
from vaejax.experiment import Experiment, Settings
from vaejax.report import figures
from vaejax.types import Array, Params

# Test data and evaluation noise are the same for every run, whatever its seed.
EVALUATION_SEED = 0x7E57
VALIDATION_SEED = 0x7E58

# Bytes of examples that are measured at once, so that a data set of any size can be.
MEASURED_AT_ONCE = 2**27

# What is computed of one example: from params, its number and how it is stored.
OfExample = Callable[[Params, Array, Array], Any]


class Keys(NamedTuple):
    """The streams of what is drawn for a test set."""

    prepare: Array  # for x
    noise: Array  # for the figures
    sample: Array  # for the pictures
    mean: Array  # for the means of posteriors that have none in closed form


def evaluation_keys(seed: int = EVALUATION_SEED) -> Keys:
    """The same for every run, so that all are measured on the same x and noise."""
    return Keys(*jax.random.split(jax.random.key(seed), len(Keys._fields)))


def prepare_example(experiment: Experiment, keys: Keys, number: Array, example: Array) -> Array:
    """An example as the model sees it: what is drawn is a function of its number, and not of those around it."""
    return experiment.prepare(jax.random.fold_in(keys.prepare, number), example[None])[0]


class Shades(NamedTuple):
    """How the model sees black and white."""

    low: float
    high: float
    spread: float  # from black to white: what a difference of 1 is


def shades_of(experiment: Experiment) -> Shades:
    """The shades of the data as they are prepared; those of real numbers go as far below 0 as above."""
    dataset, key = experiment.dataset, evaluation_keys().prepare
    levels = [0, dataset.max_value, *([-dataset.max_value] if dataset.meaning is Meaning.REAL else [])]
    images = [np.full((1, *dataset.shape), level, dataset.dtype) for level in levels]
    black, white, *rest = (np.asarray(experiment.prepare(jax.random.clone(key), image)) for image in images)
    spread = float(np.max(np.abs(white - black)))
    if not 0 < spread < math.inf:
        # Prepared in a way that does not keep them, as images that are standardized one by one.
        return Shades(0.0, 1.0, 1.0)
    everything = np.concatenate([each.ravel() for each in (black, white, *rest)])
    return Shades(float(everything.min()), float(everything.max()), spread)


def map_numbered(function: Callable[[Array, Array], Any], numbers: Array, examples: Any) -> Any:
    """The function of every number and example, a few hundred at once."""
    return jax.lax.map(lambda pair: function(*pair), (numbers, examples), batch_size=min(500, len(examples)))


def map_examples(function: OfExample) -> Callable[[Params, Examples], Any]:
    """`(params, examples)` to what the function gives of each, `[N, ...]` on the host; a part at a time."""
    compiled = jax.jit(lambda params, *part: map_numbered(partial(function, params), *part))

    def over(params: Params, examples: Examples) -> Any:
        count = len(examples)
        size = min(count, max(1, MEASURED_AT_ONCE * count // max(1, examples.nbytes)))
        parts = []
        for start in range(0, count, size):
            numbers = np.arange(start, start + size)
            # The last part is filled up with its last example, for a program of one shape.
            part = compiled(params, numbers, examples[np.minimum(numbers, count - 1)])
            parts.append(jax.tree.map(lambda leaf, stop=count - start: np.asarray(leaf)[:stop], part))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)

    return over


def measure(experiment: Experiment, params: Params) -> tuple[dict[str, Estimate], int]:
    """The test figures with their standard errors, and the number of active units."""
    test = experiment.dataset.test.examples
    values = map_examples(stored_figures(experiment, shades_of(experiment).spread, evaluation_keys()))(params, test)
    units = active_units(jnp.asarray(encode_means(experiment, params)))
    return {name: estimate(each) for name, each in values.items()}, int(units)


def stored_figures(experiment: Experiment, white: float, keys: Keys) -> OfExample:
    """`(params, number, example)` to the figures of one example as it is stored."""
    figures_of = example_figures(experiment, white)

    def figures(params: Params, number: Array, example: Array) -> dict[str, Array]:
        x = prepare_example(experiment, keys, number, example)
        return figures_of(params, jax.random.fold_in(keys.noise, number), x)

    return figures


def example_figures(experiment: Experiment, white: float) -> Callable[[Params, Array, Array], dict[str, Array]]:
    """`(params, key, x)` to the figures of one example, by name.

    To the parts of what is reported comes `squared_error`: from x to the mean of p(x|z) at the posterior
    mean, summed over the image, with white as 1.
    """

    def figures(params: Params, key: Array, x: Array) -> dict[str, Array]:
        report_key, mean_key = jax.random.split(key)
        # A batch of one, whose noise and value do not depend on others.
        each = per_example((experiment.report or experiment.objective)(params, report_key, x[None]))
        z = posterior_mean(mean_key, experiment.model.encode(params, x))
        error = (x - experiment.model.decode(params, z).mean) / white  # type: ignore[attr-defined]
        return {name: values[0] for name, values in each.items()} | {"squared_error": jnp.sum(error**2)}

    return figures


def encode_means(experiment: Experiment, params: Params) -> np.ndarray:
    """The posterior means of the test examples, `[N, *Z]`."""
    keys = evaluation_keys()

    def mean_of(params: Params, number: Array, example: Array) -> Array:
        q = experiment.model.encode(params, prepare_example(experiment, keys, number, example))
        return posterior_mean(jax.random.fold_in(keys.mean, number), q)

    return map_examples(mean_of)(params, experiment.dataset.test.examples)


def posterior_mean(key: Array, q: Any, num_samples: int = 256) -> Array:
    """`E_q z`, in closed form where q knows it and as the mean of draws where it does not, as a flow."""
    mean = getattr(q, "mean", None)
    return jnp.mean(q.sample(key, (num_samples,)), axis=0) if mean is None else mean


def make_validation(experiment: Experiment, settings: Settings) -> Callable[[Params], dict[str, np.ndarray]] | None:
    """Params to the figures of the examples that are held out, that which is watched first; None where none are.

    The noise is the same every time, so that one set of weights differs from another by the weights alone.
    """
    size = settings.training.validation_size
    if not size:
        return None
    dataset = experiment.dataset
    if dataset.validation is None:
        held_out = dataset.train.examples[len(dataset.train.examples) - size :]
    else:
        held_out = dataset.validation.examples[:size]
    figures_of = map_examples(
        stored_figures(experiment, shades_of(experiment).spread, evaluation_keys(VALIDATION_SEED))
    )

    def validate(params: Params) -> dict[str, np.ndarray]:
        values = figures_of(params, held_out)
        return {f"validation_{name}": values[name].mean() for name in LABELS if name in values}

    return validate


def draw(experiment: Experiment, params: Params, history: Sequence[Mapping[str, Any]], folder: Path) -> Iterator[Path]:
    """Draw the pictures of a run into its folder, and yield their paths.

    Args:
      experiment: that was trained.
      params: to draw with.
      history: the lines of its `metrics.jsonl`.
      folder: of the run.
    """
    low, high, _ = shades_of(experiment)
    keys, test = evaluation_keys(), experiment.dataset.test
    decode = partial(jax.jit(experiment.model.decode), params)
    first = jnp.asarray(test.examples[: min(32, len(test.examples))])
    shown = jax.vmap(partial(prepare_example, experiment, keys))(jnp.arange(len(first)), first)
    means = encode_means(experiment, params)

    def save(name: str, figure: Any) -> Path:
        figure.savefig(folder / name)
        return folder / name

    images = figures.is_image(experiment.dataset.shape) and figures.is_image(shown.shape[1:])
    if images:
        reconstructed = decode(means[: len(shown)]).mean
        yield save("reconstructions.png", figures.reconstructions(shown, reconstructed, high, low))
    if images and experiment.prior is not None:
        prior_key, draw_key = jax.random.split(keys.sample)
        p = decode(experiment.prior(params).sample(prior_key, (64,)))
        yield save("samples.png", figures.samples(p.mean, p.sample(draw_key), high, low))
    names = [name for name in LABELS if name in history[-1]]
    # A figure that is not finite is null in JSON.
    curves = {LABELS[name]: np.array([line[name] for line in history], float) for name in names}
    axes = np.array(history[-1].get("kl_per_axis", []), float)
    yield save("curves.png", figures.learning_curves([line["step"] for line in history], curves, axes))
    if means.shape[1:] == (2,):
        yield save("latents.png", figures.latents(means, test.labels, experiment.dataset.label_names))
        if images and experiment.prior is not None:
            grid = decode(quantile_grid(columns=16)).mean
            yield save("manifold.png", figures.manifold(grid, 16, high, low))


def quantile_grid(columns: int) -> Array:
    """Points of the plane at equal steps of the standard normal's probability, `[columns**2, 2]`, top row first."""
    steps = jax.scipy.special.ndtri((jnp.arange(columns) + 0.5) / columns)
    second, first = jnp.meshgrid(steps[::-1], steps, indexing="ij")
    return jnp.stack([first.ravel(), second.ravel()], axis=-1)
