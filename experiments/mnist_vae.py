"""The variational autoencoder of the textbooks on MNIST, 784-500-20, binarized afresh at every step.

Shows: a Bernoulli VAE at the size that others report, on MNIST or any other set of grey images (fashion_mnist, kmnist,
  tfds:mnist, a folder).
Command: make train EXPERIMENT=mnist_vae ARGS="--folder FOLDER"
  where FOLDER holds the four IDX files (or a folder mnist with them); without --folder, the environment variable
  VAEJAX_DATA names it. Files that are not there are downloaded.
Time: half a minute on 2 cores, 20 seconds of it training.
Expected: test -ELBO 101.9 +- 0.3 nats (the test images binarized once): reconstruction 74.7, KL 27.2; all
  20 units active. Flax's VAE example, of the same size and schedule, reports about 104.
Source: Kingma and Welling 2014, Auto-Encoding Variational Bayes; the recipe is that of flax's VAE example.
"""

import dataclasses
from functools import partial

import vaejax
from vaejax import data, experiment, nets
from vaejax.types import Array, ArrayLike, ElboTerms, Params


@dataclasses.dataclass(frozen=True)
class Settings(experiment.VaeSettings):
    """Settings of a VAE on MNIST."""

    dataset: str = "mnist"
    """The data set, as `vaejax data` takes it."""
    folder: str | None = None
    """Where its files are; by default the environment variable VAEJAX_DATA."""
    epochs: int = 10
    """Passes over the training data."""
    latent_size: int = 20
    """Number of latents."""
    hidden_sizes: tuple[int, ...] = (500,)
    """Widths of the encoder's hidden layers; the decoder has them in reverse."""


def build(settings: Settings) -> experiment.Experiment:
    """MNIST with dynamic binarization, a perceptron, and the evidence lower bound."""
    dataset = load(settings)
    model = nets.mlp(dataset.shape, settings.latent_size, hidden_sizes=settings.hidden_sizes)
    return compose(settings, dataset, experiment.adapt(model, settings))


def load(settings: Settings) -> data.Dataset:
    dataset = data.load(settings.dataset, settings.folder)
    if dataset.meaning not in (data.Meaning.BINARY, data.Meaning.INTENSITY):
        raise ValueError(
            f"{dataset.name} must hold binary images or intensities to be binarized; got {dataset.meaning}"
        )
    return dataset


def compose(settings: Settings, dataset: data.Dataset, model: nets.Model) -> experiment.Experiment:
    """The experiment of a model."""

    def objective(params: Params, key: Array, x: Array, beta: ArrayLike = settings.beta) -> ElboTerms:
        encode, decode = partial(model.encode, params), partial(model.decode, params)
        return vaejax.elbo(key, x, encode, decode, num_samples=settings.num_samples, beta=beta)

    return experiment.Experiment(
        dataset=dataset,
        model=model,
        prepare=partial(data.binarize, max_value=dataset.max_value),
        objective=objective,
        optimizer=experiment.make_optimizer(settings, dataset),
        prior=lambda params: vaejax.standard_normal.expand((settings.latent_size,)),
        schedules=experiment.kl_schedules(settings, dataset),
    )
