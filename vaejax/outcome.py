"""What a trained experiment has to show: its test figures and its pictures."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vaejax.evaluation import LABELS, Estimate, active_units, evaluate, per_example
from vaejax.experiment import Experiment, Settings
from vaejax.report import figures
from vaejax.types import Array, Params

# Test data and evaluation noise are the same for every run, whatever its seed.
EVALUATION_SEED = 0x7E57
VALIDATION_SEED = 0x7E58


class TestSet(NamedTuple):
    """The test data as the model sees them, with the keys of what is drawn from it: alike for every run."""

    x: Array
    white: float  # the largest value of x
    noise_key: Array  # for the figures
    sample_key: Array  # for the pictures
    mean_key: Array  # for the means of posteriors that have none in closed form


def prepare_test_set(experiment: Experiment) -> TestSet:
    """Prepare the test images with a fixed key, so that all runs are measured on the same x."""
    _, noise_key, sample_key, mean_key = jax.random.split(jax.random.key(EVALUATION_SEED), 4)
    x = prepare_test_images(experiment)
    return TestSet(x, float(jnp.max(x)), noise_key, sample_key, mean_key)


def prepare_test_images(experiment: Experiment) -> Array:
    """The test images as the model sees them."""
    prepare_key = jax.random.split(jax.random.key(EVALUATION_SEED), 4)[0]
    return experiment.prepare(prepare_key, experiment.dataset.test.images)


def measure(experiment: Experiment, params: Params) -> tuple[dict[str, Estimate], int]:
    """The test figures with their standard errors, and the number of active units."""
    x, white, noise_key, _, mean_key = prepare_test_set(experiment)
    figures = example_figures(experiment, white)
    evaluate_test = jax.jit(lambda params, key, x: evaluate(key, x, partial(figures, params)))
    return evaluate_test(params, noise_key, x), int(active_units(encode_means(experiment, params, mean_key, x)))


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


def encode_means(experiment: Experiment, params: Params, key: Array, x: Array) -> Array:
    """The posterior means of examples, `[N, *Z]`."""
    encode = lambda pair: posterior_mean(pair[0], experiment.model.encode(params, pair[1]))
    keys = jax.random.split(key, len(x))
    return jax.jit(lambda keys, x: jax.lax.map(encode, (keys, x), batch_size=min(500, len(x))))(keys, x)


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
    prepare_key, noise_key = jax.random.split(jax.random.key(VALIDATION_SEED))
    x = experiment.prepare(prepare_key, experiment.dataset.train.images[-size:])
    figures = example_figures(experiment, float(jnp.max(x)))
    compiled = jax.jit(lambda params, x: evaluate(jax.random.clone(noise_key), x, partial(figures, params)))

    def validate(params: Params) -> dict[str, np.ndarray]:
        means = {name: np.asarray(estimate.mean) for name, estimate in compiled(params, x).items()}
        return {f"validation_{name}": means[name] for name in LABELS if name in means}

    return validate


def draw(experiment: Experiment, params: Params, history: Sequence[Mapping[str, Any]], folder: Path) -> Iterator[Path]:
    """Draw the pictures of a run into its folder, and yield their paths.

    Args:
      experiment: that was trained.
      params: to draw with.
      history: the lines of its `metrics.jsonl`.
      folder: of the run.
    """
    x, white, _, sample_key, mean_key = prepare_test_set(experiment)
    decode = partial(jax.jit(experiment.model.decode), params)
    shown = x[:32]
    means = encode_means(experiment, params, mean_key, shown)

    def save(name: str, figure: Any) -> Path:
        figure.savefig(folder / name)
        return folder / name

    yield save("reconstructions.png", figures.reconstructions(shown, decode(means).mean, white))
    if experiment.prior is not None:
        prior_key, draw_key = jax.random.split(sample_key)
        p = decode(experiment.prior(params).sample(prior_key, (64,)))
        yield save("samples.png", figures.samples(p.mean, p.sample(draw_key), white))
    names = [name for name in LABELS if name in history[-1]]
    # A figure that is not finite is null in JSON.
    curves = {LABELS[name]: np.array([line[name] for line in history], float) for name in names}
    axes = np.array(history[-1].get("kl_per_axis", []), float)
    yield save("curves.png", figures.learning_curves([line["step"] for line in history], curves, axes))
    if means.shape[-1] == 2:
        # The same noise again for those that were shown.
        all_means = encode_means(experiment, params, jax.random.clone(mean_key), x)
        yield save("latents.png", figures.latents(all_means, experiment.dataset.test.labels))
        if experiment.prior is not None:
            grid = decode(quantile_grid(columns=16)).mean
            yield save("manifold.png", figures.manifold(grid, columns=16, white=white))


def quantile_grid(columns: int) -> Array:
    """Points of the plane at equal steps of the standard normal's probability, `[columns**2, 2]`, top row first."""
    steps = jax.scipy.special.ndtri((jnp.arange(columns) + 0.5) / columns)
    second, first = jnp.meshgrid(steps[::-1], steps, indexing="ij")
    return jnp.stack([first.ravel(), second.ravel()], axis=-1)
