"""A variational autoencoder on images of any set; by default coloured sprites, 64x64x3.

Shows: that data and likelihood go together: binary images get a Bernoulli, stored levels the discretized logistic,
  whose nats are those of levels, and numbers from 0 to 1 the continuous Bernoulli. Any set of images that `vaejax data`
  knows trains so.
Command: make train EXPERIMENT=image_vae
  or ARGS="--dataset FOLDER --size 64", ARGS="--dataset cifar10", ARGS="--dataset sprites"; with
  ARGS="--channels 32 64 128" convolutions, which on a CPU are still very slow.
Time: two and a half minutes on 2 cores.
Expected: test -ELBO 649 +- 6 nats: reconstruction 603, KL 46; all 16 units active.
Source: Kingma and Welling 2014, Auto-Encoding Variational Bayes; the likelihood of Kingma et al. 2016, Improved
  Variational Inference with Inverse Autoregressive Flow; sprites after Matthey et al. 2017, dSprites.
"""

import dataclasses
from functools import partial

import jax.numpy as jnp

import vaejax
from vaejax import data, experiment, nets
from vaejax.types import Array, ArrayLike, ElboTerms, Params


@dataclasses.dataclass(frozen=True)
class Settings(experiment.VaeSettings):
    """Settings of a VAE on images."""

    dataset: str = "color_sprites"
    """The data set, as `vaejax data` takes it."""
    folder: str | None = None
    """Where its files are; by default the environment variable VAEJAX_DATA."""
    size: int | None = None
    """Pixels of a side to which images of a folder or of tensorflow-datasets are resized; as they are where None."""
    crop: int | None = None
    """Before that, a centred square of so many pixels is cut out of them."""
    epochs: int = 10
    """Passes over the training data."""
    latent_size: int = 16
    """Number of latents."""
    hidden_sizes: tuple[int, ...] = (400,)
    """Widths of the encoder's hidden layers; the decoder has them in reverse."""
    channels: tuple[int, ...] = ()
    """Of convolutions in place of these layers, each of which halves the image; the decoder has them in reverse."""


def build(settings: Settings) -> experiment.Experiment:
    """Images as they are stored, a perceptron or convolutions, and the evidence lower bound."""
    size = None if settings.size is None else (settings.size, settings.size)
    dataset = data.load(settings.dataset, settings.folder, size=size, crop=settings.crop)
    likelihood = likelihood_of(dataset)
    if settings.channels:
        net = partial(nets.conv, channels=settings.channels)
    else:
        net = partial(nets.mlp, hidden_sizes=settings.hidden_sizes)
    model = experiment.adapt(net(dataset.shape, settings.latent_size, likelihood=likelihood), settings)

    def objective(params: Params, key: Array, x: Array, beta: ArrayLike = settings.beta) -> ElboTerms:
        encode, decode = partial(model.encode, params), partial(model.decode, params)
        return vaejax.elbo(key, x, encode, decode, num_samples=settings.num_samples, beta=beta)

    return experiment.Experiment(
        dataset=dataset,
        model=model,
        prepare=lambda key, images: jnp.asarray(images),
        objective=objective,
        optimizer=experiment.make_optimizer(settings, dataset),
        prior=lambda params: vaejax.standard_normal.expand((settings.latent_size,)),
        schedules=experiment.kl_schedules(settings, dataset),
    )


def likelihood_of(dataset: data.Dataset) -> nets.Head:
    whole = jnp.issubdtype(dataset.dtype, jnp.integer)
    match dataset.meaning:
        case data.Meaning.BINARY:
            return nets.heads.bernoulli()
        case data.Meaning.INTENSITY if whole:
            return nets.likelihoods.discretized_logistic(int(dataset.max_value) + 1)
        case data.Meaning.INTENSITY if dataset.max_value == 1:
            return nets.heads.continuous_bernoulli()
    raise ValueError(f"{dataset.name} must hold images of levels, or of 0 to 1; got {dataset.meaning}, {dataset.dtype}")
