"""The variational autoencoder on MNIST binarized once and for all, to compare others with.

Shows: the baseline of static_mnist_iwae, static_mnist_vamp and static_mnist_flow, which have its nets, data, steps and
optimizer, and differ in the one expression that is their method.
Command: make train EXPERIMENT=static_mnist_vae ARGS="--folder FOLDER"
  where FOLDER holds binarized_mnist.npz or the three .amat files; without --folder, the environment variable
  VAEJAX_DATA names it.
Time: 2.5 minutes on 2 cores.
Expected: seeds 0 and 1: -ln p(x) at most 94.5, 93.8 (-ELBO 99.0, 98.4 +- 0.3) nats;
  with --num-samples 5 besides, 93.0 (97.6).
Source: Kingma and Welling 2014, Auto-Encoding Variational Bayes; nets of two hidden layers and the evaluation by
  importance sampling as in Burda et al. 2015, Importance Weighted Autoencoders.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax

import vaejax
from vaejax import data, evaluation, experiment, nets, recipes
from vaejax.types import Array, Distribution, Objective, Params


@dataclasses.dataclass(frozen=True)
class Settings(experiment.VaeSettings):
    """Settings of the methods on static MNIST."""

    folder: str | None = None
    """Where the files are; by default the environment variable VAEJAX_DATA."""
    epochs: int = 50
    """Passes over the training data."""
    latent_size: int = 40
    """Number of latents."""
    hidden_sizes: tuple[int, ...] = (200, 200)
    """Widths of the encoder's hidden layers; the decoder has them in reverse."""
    report_samples: int = 200
    """Importance samples of the reported bound on log p(x)."""
    training: experiment.Training = dataclasses.field(
        default_factory=lambda: experiment.Training(schedule="cosine_decay")
    )


def load(settings: Settings) -> data.Dataset:
    return data.load("binarized_mnist", settings.folder)


def compose(
    settings: Settings,
    dataset: data.Dataset,
    model: nets.Model,
    method: Callable[[Params], Objective],
    prior: Callable[[Params], Distribution],
) -> experiment.Experiment:
    """The experiment of a method: params to its objective, and params to its prior."""

    def objective(params: Params, key: Array, x: Array, **scheduled: Array) -> evaluation.Terms:
        return method(params)(key, x, partial(model.encode, params), partial(model.decode, params), **scheduled)

    def report(params: Params, key: Array, x: Array) -> evaluation.Terms:
        bound = recipes.iwae(prior(params), num_samples=settings.report_samples)
        return bound(key, x, partial(model.encode, params), partial(model.decode, params), map_samples=in_chunks)

    return experiment.Experiment(
        dataset=dataset,
        model=model,
        prepare=lambda key, images: jax.numpy.asarray(images, jax.numpy.float32),
        objective=objective,
        optimizer=experiment.make_optimizer(settings, dataset),
        prior=prior,
        report=report,
        schedules=experiment.kl_schedules(settings, dataset),
    )


def in_chunks(function: Callable[..., Any]) -> Callable[..., Any]:
    """Map over the samples twenty at a time, so that the memory does not grow with their number."""
    return lambda *samples: jax.lax.map(lambda each: function(*each), samples, batch_size=20)


def check_unweighted(settings: Settings) -> None:
    """Raise where a weight is asked of a KL term by a bound that has none."""
    if settings.beta != 1.0:
        raise ValueError(f"beta must be 1, since this bound has no KL term to weigh; got {settings.beta}")
    if settings.kl_schedule is not experiment.KlSchedule.CONSTANT:
        raise ValueError(f"kl_schedule must be constant, since this bound has no KL term; got {settings.kl_schedule}")


def standard_prior(settings: Settings) -> Callable[[Params], Distribution]:
    return lambda params: vaejax.standard_normal.expand((settings.latent_size,))


def build(settings: Settings) -> experiment.Experiment:
    """Perceptrons, a Normal posterior, and the evidence lower bound."""
    dataset = load(settings)
    model = nets.mlp(dataset.shape, settings.latent_size, hidden_sizes=settings.hidden_sizes)
    model = experiment.adapt(model, settings)
    vae = partial(recipes.vae(), num_samples=settings.num_samples, beta=settings.beta)
    return compose(settings, dataset, model, lambda params: vae, standard_prior(settings))
