"""Table 1 of Burda et al. for one layer of latents: 784-200-200-50 with tanh on MNIST, binarized at every step.

Shows: what more samples and a tighter bound are worth on one net: `--method vae|iwae|dreg|miwae|piwae|ciwae
  --num-samples K`.
Command: make reproduce TABLE=iwae, or TABLE=bounds, which trains and measures every row; a single one is
  make train EXPERIMENT=mnist_iwae ARGS="--method iwae --num-samples 5"
  with the files of MNIST where `mnist_vae` looks for them.
Recipes: `paper` is that of the authors' code: their Adam, whose second moment starts at one and whose epsilon of 1e-4
  meets gradients summed over batches of 20, eight learning rates from 1e-3 down to 1e-4 for 1, 3, ..., 2187 of 3280
  epochs (in the same proportions of fewer), their initial weights, and the first 59,600 images. It departs from theirs
  in drawing the order of the images anew for each epoch. `modern` takes the optimizer and the schedule of the settings.
Time: on 2 cores an epoch of k = 1 takes 4 to 9 seconds and one of k = 5 some 17.
Expected: see experiments/RESULTS.md.
Source: Burda, Grosse and Salakhutdinov 2015, Importance Weighted Autoencoders, and the code that they published; Tucker
  et al. 2019, Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives (`dreg`); Rainforth et al. 2018,
  Tighter Variational Bounds are Not Necessarily Better (`miwae`, `piwae`, `ciwae`).
"""

import dataclasses
import enum
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import vaejax
from vaejax import Hierarchical, data, experiment, nets, recipes
from vaejax.types import Array, Distribution, Objective, Params

HELD_OUT = 400
# Of the paper's schedule: stage i lasts 3^i epochs.
STAGES = 8


class Method(enum.StrEnum):
    """What is maximised."""

    VAE = "vae"  # the evidence lower bound
    IWAE = "iwae"  # the importance-weighted bound
    DREG = "dreg"  # the same with the doubly reparameterized gradient, which of one sample is sticking the landing
    MIWAE = "miwae"  # the mean of the importance-weighted bounds of groups of the samples
    PIWAE = "piwae"  # the importance-weighted bound for the decoder, `miwae` for the encoder
    CIWAE = "ciwae"  # the evidence lower bound and the importance-weighted one, mixed


class Recipe(enum.StrEnum):
    """How it is trained."""

    PAPER = "paper"
    MODERN = "modern"


@dataclasses.dataclass(frozen=True)
class Settings(experiment.VaeSettings):
    """Settings of a row."""

    folder: str | None = None
    """Where the files of MNIST are; by default the environment variable VAEJAX_DATA."""
    method: Method = Method.IWAE
    """The bound, and its gradient."""
    groups: int = 8
    """Groups of the samples of `miwae` and `piwae`, M in their paper."""
    elbo_share: float = 0.5
    """Weight of the evidence lower bound in `ciwae`, beta in its paper."""
    recipe: Recipe = Recipe.MODERN
    """The optimizer and the schedule of the authors, or those of the settings."""
    epochs: int = 50
    """Passes over the training data."""
    batch_size: int = 100
    """Examples per step; 20 in the paper."""
    latent_size: int = 50
    """Number of latents."""
    hidden_sizes: tuple[int, ...] = (200, 200)
    """Widths of the encoder's hidden layers; the decoder has them in reverse."""
    training: experiment.Training = dataclasses.field(
        default_factory=lambda: experiment.Training(schedule="cosine_decay")
    )


def build(settings: Settings) -> experiment.Experiment:
    """Perceptrons of tanh with the paper's initial weights, and a standard normal prior."""
    dataset = load(settings)
    model = nets.mlp(dataset.shape, settings.latent_size, hidden_sizes=settings.hidden_sizes, activation=jnp.tanh)
    model = model._replace(init=partial(initial_params, model, mean_of(dataset)))
    return compose(settings, dataset, model, lambda params: vaejax.standard_normal.expand((settings.latent_size,)))


def load(settings: Settings) -> data.Dataset:
    """MNIST without its last training images."""
    return data.hold_out(data.load("mnist", settings.folder), HELD_OUT)


def compose(
    settings: Settings, dataset: data.Dataset, model: nets.Model, prior: Callable[[Params], Distribution]
) -> experiment.Experiment:
    """The experiment of a model: dynamic binarization, and the bound and the optimizer of the settings."""
    _check(settings)
    model, method = experiment.adapt(model, settings), method_of(settings)

    def objective(params: Params, key: Array, x: Array) -> Any:
        return method(prior(params))(params, key, x, model.encode, model.decode)

    return experiment.Experiment(
        dataset=dataset,
        model=model,
        prepare=partial(data.binarize, max_value=dataset.max_value),
        objective=objective,
        optimizer=optimizer_of(settings, dataset),
        prior=prior,
    )


def _check(settings: Settings) -> None:
    if settings.beta != 1.0 or settings.kl_schedule != experiment.KlSchedule.CONSTANT:
        raise ValueError(
            f"beta and kl_schedule must be 1 and constant, since the table has no weights; got {settings.beta} and "
            f"{settings.kl_schedule}"
        )


def method_of(settings: Settings) -> Callable[[Distribution], Callable[..., Any]]:
    """The prior to the bound of a row, of params, key, x, and an encoder and a decoder that take params first."""
    samples = settings.num_samples
    match settings.method:
        case Method.VAE:
            return _with_params(lambda prior: partial(_vae(prior), num_samples=samples))
        case Method.IWAE:
            return _with_params(partial(recipes.iwae, num_samples=samples))
        case Method.DREG:
            return _with_params(partial(recipes.dreg, num_samples=samples))
        case Method.MIWAE:
            return _with_params(partial(recipes.miwae, num_samples=samples, groups=settings.groups))
        case Method.CIWAE:
            return _with_params(partial(recipes.ciwae, num_samples=samples, beta=settings.elbo_share))
        case Method.PIWAE:
            return partial(_piwae, settings)


def _with_params(method: Callable[[Distribution], Objective]) -> Callable[[Distribution], Callable[..., Any]]:
    def bound(prior: Distribution, params: Params, key: Array, x: Array, encode: Any, decode: Any) -> Any:
        return method(prior)(key, x, partial(encode, params), partial(decode, params))

    return lambda prior: partial(bound, prior)


def _piwae(settings: Settings, prior: Distribution) -> Callable[..., Any]:
    recipe = recipes.piwae(prior, num_samples=settings.num_samples, groups=settings.groups)

    def bound(*arguments: Any) -> Any:
        of_decoder, of_encoder = recipe(*arguments)
        # The value is the decoder's, the gradient that of both.
        return of_decoder._replace(
            value=of_decoder.value + (of_encoder.value - jax.lax.stop_gradient(of_encoder.value))
        )

    return bound


def _vae(prior: Distribution) -> Objective:
    # Two layers have no closed divergence.
    return recipes.learned_prior_vae(prior) if isinstance(prior, Hierarchical) else recipes.vae(prior)


def mean_of(dataset: data.Dataset) -> np.ndarray:
    """The mean intensity of each pixel of the training data, flat, in [0, 1]."""
    images = np.asarray(dataset.train.examples)
    return images.reshape(len(images), -1).mean(axis=0, dtype=np.float64) / dataset.max_value


def initial_params(model: nets.Model, mean: np.ndarray, key: Array) -> Params:
    """The paper's initial weights, with the logits of the pixels' means as the last offsets."""
    model_key, kernel_key = jax.random.split(key)
    params = glorot(model.init(model_key), kernel_key, {"encoder": 2, "decoder": 1})
    last, clipped = max(params["decoder"]["layers"]), np.clip(mean, 0.001, 0.999)
    params["decoder"]["layers"][last]["bias"] = jnp.asarray(np.log(clipped / (1 - clipped)), jnp.float32)
    return params


def glorot(params: Params, key: Array, outputs_of_last: Mapping[str, int]) -> Params:
    """The parameters of perceptrons with uniform weights after Glorot and Bengio 2010.

    Mean and log-scale are layers of their own in the paper: of each net it is said how many its last layer stands for.
    """
    number = 0
    for net, outputs in outputs_of_last.items():
        layers = params[net]["layers"]
        for index, layer in layers.items():
            fan_in, fan_out = layer["kernel"].shape
            limit = (6 / (fan_in + fan_out / (outputs if index == max(layers) else 1))) ** 0.5
            drawn = jax.random.fold_in(key, number)
            layer["kernel"] = jax.random.uniform(drawn, (fan_in, fan_out), minval=-limit, maxval=limit)
            number += 1
    return params


def optimizer_of(settings: Settings, dataset: data.Dataset) -> optax.GradientTransformation:
    """The optimizer of a recipe."""
    if settings.recipe == Recipe.MODERN:
        return experiment.make_optimizer(settings, dataset)
    rate = paper_rates(settings.num_steps(dataset))
    return optax.chain(adam_from_ones(settings.examples_per_step(dataset)), optax.scale_by_learning_rate(rate))


def paper_rates(num_steps: int) -> Callable[[Any], Array]:
    """The learning rates of the paper over so many steps: `round(10^(1 - i / 7), 1) * 1e-4`, i = 0, ..., 7.

    >>> [round(1e4 * float(paper_rates(3280)(step)), 3) for step in (0, 1, 4, 3279)]
    [10.0, 7.2, 5.2, 1.0]
    """
    rates = jnp.array([1e-4 * round(10 ** (1 - stage / (STAGES - 1)), 1) for stage in range(STAGES)])
    # Of 1 + 3 + ... + 3^7 = 3280 epochs.
    ends = np.cumsum(3 ** np.arange(STAGES))
    starts = jnp.asarray(np.ceil(ends[:-1] * num_steps / ends[-1]))
    return lambda step: rates[jnp.searchsorted(starts, jnp.asarray(step), side="right")]


class Moments(NamedTuple):
    """The state of `adam_from_ones`."""

    count: Array  # [] int32, steps done
    first: Params
    second: Params


def adam_from_ones(batch_size: int, b1: float = 0.99, b2: float = 0.999, epsilon: float = 1e-4) -> Any:
    """The Adam of the authors' code, for the gradient of a mean over `batch_size` examples.

    With g the gradient summed over the batch, `m <- b1 m + (1 - b1) g`, `v <- b2 v + (1 - b2) g^2`, v = 1 before the
    first step, and the update `sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + epsilon)`.
    """

    def init(params: Params) -> Moments:
        first, second = jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.ones_like, params)
        return Moments(jnp.zeros((), jnp.int32), first, second)

    def update(gradient: Params, state: Moments, params: Params | None = None) -> tuple[Params, Moments]:
        count = state.count + 1
        summed = jax.tree.map(lambda g: batch_size * g, gradient)
        first = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.first, summed)
        second = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g**2, state.second, summed)
        correction = jnp.sqrt(1 - b2**count) / (1 - b1**count)
        updates = jax.tree.map(lambda m, v: correction * m / (jnp.sqrt(v) + epsilon), first, second)
        return updates, Moments(count, first, second)

    return optax.GradientTransformation(init, update)
