"""The table of Tomczak and Welling for one level of latents: gated nets on MNIST that was binarized once and for all.

Shows: what a prior that follows the encoder is worth on the nets of its paper: `--prior standard|vamp`.
Command: make reproduce TABLE=vamp, which trains and measures every row; a single one is
  make train EXPERIMENT=static_mnist_vampprior ARGS="--prior standard"
  with the file of binarized MNIST where `static_mnist_vae` looks for it.
Recipes: `paper` is that of the authors' code: Adam on gradients of which each tensor is divided by its norm, the weight
  of the KL term in steps of an epoch up to 1 over the first `kl_epochs` of them. The size `full` of the table adds what
  settings can say: 100 epochs of that, and the end 50 epochs after the best on the validation images. `modern` takes
  the optimizer and the schedules of the settings, and images of the training data as the first pseudo-inputs. `paper`
  departs from the code in two things: there the probabilities of pixels are kept within 1e-5 and 1 - 1e-5, also in the
  evaluation, and the best of the validation images is looked for in the warm-up too.
Expected: see experiments/RESULTS.md.
Source: Tomczak and Welling 2018, VAE with a VampPrior, and the code that they published.
"""

import dataclasses
import enum
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from vaejax import Normal, data, experiment, nets, recipes, standard_normal, vamp_prior
from vaejax.types import Array, Distribution, Encode, Objective, Params

static_mnist = experiment.load_experiment(str(Path(__file__).parent / "static_mnist_vae.py"))


class Prior(enum.StrEnum):
    """That of the upper latents."""

    STANDARD = "standard"
    VAMP = "vamp"


class Recipe(enum.StrEnum):
    """How it is trained."""

    PAPER = "paper"
    MODERN = "modern"


@dataclasses.dataclass(frozen=True)
class Settings(static_mnist.Settings):
    """Settings of a row."""

    prior: Prior = Prior.VAMP
    """A standard normal, or a mixture of the posteriors at pseudo-inputs that are learned."""
    pseudo_inputs: int = 500
    """Components of the mixture."""
    recipe: Recipe = Recipe.MODERN
    """The optimizer and the schedules of the authors, or those of the settings."""
    hidden_sizes: tuple[int, ...] = (300, 300)
    """Widths of the two gated layers of each net; the decoder has them in reverse."""
    batch_size: int = 100
    """Examples per step."""
    learning_rate: float = 5e-4
    """Step size of the optimizer."""


def build(settings: Settings) -> experiment.Experiment:
    """An encoder and a decoder of gated layers, and the prior of the settings."""
    dataset = static_mnist.load(settings)
    first, second = widths(settings)
    model = nets.make_model(
        lambda rngs: GatedNet([math.prod(dataset.shape)], (first, second), [settings.latent_size] * 2, rngs),
        lambda rngs: GatedNet([settings.latent_size], (second, first), [math.prod(dataset.shape)], rngs),
        data_shape=dataset.shape,
        latent_shape=(settings.latent_size,),
        posterior=nets.heads.predicted_normal(half_in_bounds),
        likelihood=nets.heads.bernoulli(),
    )
    model = experiment.adapt(with_pseudo_inputs(settings, dataset, model), settings)
    return compose(settings, dataset, model, lambda params: top_prior(settings, params, partial(model.encode, params)))


class Gated(nnx.Module):
    """`(W x + b) * sigmoid(V x + c)`, `[N, inputs]` to `[N, outputs]`."""

    def __init__(self, inputs: int, outputs: int, rngs: nnx.Rngs):
        self.linear, self.gate = dense(inputs, outputs, rngs), dense(inputs, outputs, rngs)

    def __call__(self, x: Array) -> Array:
        """Apply the layer."""
        return self.linear(x) * jax.nn.sigmoid(self.gate(x))


class GatedNet(nnx.Module):
    """A gated layer of each input, one of all that they give, and linear outputs: `[N, ...]` to `[N, size * count]`.

    Args:
      inputs: sizes of the inputs.
      widths: of the gated layers.
      outputs: sizes of the outputs, all the same, which become the last axis.
      given: size of one input more, the first, which is taken as it is for what a layer has made of it.
    """

    def __init__(
        self, inputs: Sequence[int], widths: tuple[int, int], outputs: Sequence[int], rngs: nnx.Rngs, given: int = 0
    ):
        first, second = widths
        self.first = nnx.List([Gated(size, first, rngs) for size in inputs])
        self.second = Gated(given + first * len(inputs), second, rngs)
        self.outputs = nnx.List([dense(second, size, rngs) for size in outputs])

    def __call__(self, *inputs: Array) -> Array:
        """Apply the layers."""
        flat = [each.reshape(len(each), -1) for each in inputs]
        given, own = flat[: len(flat) - len(self.first)], flat[len(flat) - len(self.first) :]
        made = [layer(each) for layer, each in zip(self.first, own, strict=True)]
        hidden = self.second(jnp.concatenate([*given, *made], axis=-1))
        return jnp.stack([layer(hidden) for layer in self.outputs], axis=-1)


def dense(inputs: int, outputs: int, rngs: nnx.Rngs) -> nets.Dense:
    """A dense layer that begins as those of the authors: weights after He et al. 2015, offsets as PyTorch has them."""
    limit = inputs**-0.5
    return nets.Dense(
        inputs,
        outputs,
        kernel_init=nnx.initializers.variance_scaling(2.0, "fan_in", "normal"),
        bias_init=lambda key, shape, dtype=jnp.float32, **_: jax.random.uniform(key, shape, dtype, -limit, limit),
        rngs=rngs,
    )


def half_in_bounds(log_variance: Array) -> Array:
    """The log of the scale from that of the variance, which the authors keep within -6 and 2."""
    return jnp.clip(log_variance, -6.0, 2.0) / 2


def normal_of(raw: Array) -> Normal:
    """The Normal of mean and log-variance, `[*B, D, 2]`."""
    return Normal.from_log_scale(raw[..., 0], raw[..., 1], 1, half_in_bounds)


def widths(settings: Settings) -> tuple[int, int]:
    """Those of the two gated layers of a net."""
    if len(settings.hidden_sizes) != 2:
        raise ValueError(f"hidden_sizes must be two widths, those of the two layers; got {settings.hidden_sizes}")
    first, second = settings.hidden_sizes
    return first, second


def with_pseudo_inputs(settings: Settings, dataset: data.Dataset, model: nets.Model) -> nets.Model:
    """The model, whose parameters begin with pseudo-inputs where the prior takes them."""
    images = dataset.train.examples

    def init(key: Array) -> Params:
        model_key, pseudo_key = jax.random.split(key)
        params = model.init(model_key)
        if settings.prior == Prior.STANDARD:
            return params
        shape = (settings.pseudo_inputs, *dataset.shape)
        if settings.recipe == Recipe.PAPER:
            return {**params, "pseudo_inputs": 0.05 + 0.01 * jax.random.normal(pseudo_key, shape)}
        chosen = jax.random.choice(pseudo_key, len(images), shape[:1], replace=False)
        # Off the clip's flat ends.
        return {**params, "pseudo_inputs": 0.1 + 0.8 * jnp.asarray(images)[chosen].astype(jnp.float32)}

    return model._replace(init=init)


def top_prior(settings: Settings, params: Params, encode: Encode) -> Distribution:
    """The prior of the latents whose posterior is `encode`."""
    if settings.prior == Prior.STANDARD:
        return standard_normal.expand((settings.latent_size,))
    return vamp_prior(encode, jnp.clip(params["pseudo_inputs"], 0.0, 1.0))


def compose(
    settings: Settings, dataset: data.Dataset, model: nets.Model, prior: Callable[[Params], Distribution]
) -> experiment.Experiment:
    """The experiment of a model, with the optimizer and the schedules of its recipe."""

    def method(params: Params) -> Objective:
        # Its divergence is that of a draw, as in the paper, whatever the prior.
        return partial(recipes.learned_prior_vae(prior(params)), num_samples=settings.num_samples, beta=settings.beta)

    composed = static_mnist.compose(settings, dataset, model, method, prior)
    if settings.recipe == Recipe.MODERN:
        return composed
    if settings.kl_schedule != experiment.KlSchedule.CONSTANT:
        raise ValueError(f"kl_schedule must be constant, since the paper has its own; got {settings.kl_schedule}")
    optimizer = optax.chain(divided_by_norms(), optax.adam(settings.learning_rate))
    schedules = {"beta": warm_up(settings.beta, settings.kl_epochs, settings.steps_per_epoch(dataset))}
    return composed._replace(optimizer=optimizer, schedules=schedules)


def divided_by_norms(epsilon: float = 1e-7) -> Any:
    """Gradients of which each tensor is divided by its norm and epsilon."""
    return optax.stateless_with_tree_map(lambda gradient, _: gradient / (jnp.linalg.norm(gradient.ravel()) + epsilon))


def warm_up(beta: float, epochs: float, steps_per_epoch: int) -> Callable[[Array], Array]:
    """The weight of the KL term: `beta min(epoch / epochs, 1)`, epoch = 1, 2, ....

    >>> [round(float(warm_up(1.0, 100, 500)(jax.numpy.asarray(step))), 2) for step in (0, 499, 500, 49_499, 99_999)]
    [0.01, 0.01, 0.02, 0.99, 1.0]
    """
    return lambda step: beta * jnp.minimum((step // steps_per_epoch + 1) / epochs, 1.0)
