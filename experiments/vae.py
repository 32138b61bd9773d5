"""A variational autoencoder on any data set, with the likelihood that fits; by default coloured sprites, 64x64x3.

Shows: that data and likelihood go together. Numbers of 0 and 1 get a Bernoulli; stored levels the discretized logistic,
  whose nats are those of levels; other intensities the continuous Bernoulli, of their share of white; counts the
  negative binomial, which may spread more than a Poisson; real numbers a Normal of a learned scale, in their own units
  although the nets see them standardized. Missing numbers (NaN) are left out of the likelihood.
Command: make train EXPERIMENT=vae
  or ARGS="--dataset table.npy", ARGS="--dataset FOLDER --size 64", ARGS="--dataset cifar10"; where the numbers do not
  say what they are, ARGS="--dataset x.npy --meaning intensity --max-value 4095 --axes NCHW"; with
  ARGS="--channels 32 64 128" convolutions, which on a CPU are still very slow.
Time: two and a half minutes on 2 cores.
Expected: test -ELBO 649 +- 6 nats: reconstruction 603, KL 46; all 16 units active.
Source: Kingma and Welling 2014, Auto-Encoding Variational Bayes; the likelihood of Kingma et al. 2016, Improved
  Variational Inference with Inverse Autoregressive Flow; sprites after Matthey et al. 2017, dSprites.
"""

import dataclasses
from functools import partial

import jax.numpy as jnp
import numpy as np

import vaejax
from vaejax import data, experiment, nets
from vaejax.types import Array, ArrayLike, ElboTerms, Params


@dataclasses.dataclass(frozen=True)
class Settings(experiment.VaeSettings):
    """Settings of a VAE on any data."""

    dataset: str = "color_sprites"
    """The data set, as `vaejax data` takes it."""
    folder: str | None = None
    """Where its files are; by default the environment variable VAEJAX_DATA."""
    size: int | None = None
    """Pixels of a side to which images of a folder or of tensorflow-datasets are resized; as they are where None."""
    crop: int | None = None
    """Pixels of a side of the centred square that is first cut out of them."""
    meaning: data.Meaning | None = None
    """What the numbers of an .npz, .npy or IDX file say; found out from them where None."""
    max_value: float | None = None
    """Of these, the intensity of white."""
    axes: str | None = None
    """Of an .npz or .npy file, a letter for each axis (N, H, W, C, ...), such as NCHW."""
    epochs: int = 10
    """Passes over the training data."""
    latent_size: int = 16
    """Number of latents."""
    hidden_sizes: tuple[int, ...] = (400,)
    """Widths of the encoder's hidden layers; the decoder has them in reverse."""
    channels: tuple[int, ...] = ()
    """Widths of convolutions in place of these layers; each halves the image, and the decoder has them in reverse."""


def build(settings: Settings) -> experiment.Experiment:
    """Numbers in the units of the data, a perceptron or convolutions, and the evidence lower bound."""
    dataset = load(settings)
    levels = has_levels(dataset)
    likelihood = likelihood_of(dataset, levels, settings.num_training(dataset))
    if settings.channels:
        net = partial(nets.conv, channels=settings.channels)
    else:
        net = partial(nets.mlp, hidden_sizes=settings.hidden_sizes)
    model = experiment.adapt(net(dataset.shape, settings.latent_size, likelihood=likelihood), settings)
    as_share = dataset.meaning is data.Meaning.INTENSITY and not levels

    def objective(params: Params, key: Array, x: Array, beta: ArrayLike = settings.beta) -> ElboTerms:
        encode, decode = partial(model.encode, params), partial(model.decode, params)
        return vaejax.elbo(key, x, encode, decode, num_samples=settings.num_samples, beta=beta)

    return experiment.Experiment(
        dataset=dataset,
        model=model,
        prepare=lambda key, x: data.to_unit(x, dataset.max_value) if as_share else jnp.asarray(x),
        objective=objective,
        optimizer=experiment.make_optimizer(settings, dataset),
        prior=lambda params: vaejax.standard_normal.expand((settings.latent_size,)),
        schedules=experiment.kl_schedules(settings, dataset),
    )


def load(settings: Settings) -> data.Dataset:
    """The data set of the settings."""
    return data.load(
        settings.dataset,
        settings.folder,
        size=None if settings.size is None else (settings.size, settings.size),
        crop=settings.crop,
        meaning=settings.meaning,
        max_value=settings.max_value,
        axes=settings.axes,
    )


def likelihood_of(dataset: data.Dataset, levels: bool, num_training: int) -> nets.Head:
    """The likelihood that fits the meaning of the numbers, and leaves out what is missing."""
    examples = dataset.train.examples
    match dataset.meaning:
        case data.Meaning.BINARY:
            head = nets.heads.bernoulli()
        case data.Meaning.INTENSITY if levels:
            head = nets.likelihoods.discretized_logistic(int(dataset.max_value) + 1)
        case data.Meaning.INTENSITY:
            head = nets.heads.continuous_bernoulli()
        case data.Meaning.COUNTS:
            # What never occurs is rarer than once.
            means = np.maximum(data.standardize(examples, num_training).mean, 1 / num_training)
            head = nets.likelihoods.negative_binomial(initial_mean=means)
        case data.Meaning.REAL:
            fitted = data.standardize(examples, num_training)
            head = nets.heads.standardized(nets.heads.learned_normal(), fitted.mean, fitted.scale)
    return nets.heads.with_missing(head) if dataset.missing else head


def has_levels(dataset: data.Dataset) -> bool:
    """Whether the numbers are intensity levels: integers, or floats in memory without fractions."""
    if dataset.meaning is not data.Meaning.INTENSITY or np.issubdtype(dataset.dtype, np.integer):
        return dataset.meaning is data.Meaning.INTENSITY
    arrays = [split.examples for split in dataset.splits.values()]
    # Floats up to 1 are shares of white, though all should be 0 or 1.
    if dataset.max_value == 1 or dataset.max_value % 1 or any(isinstance(each, data.Lazy) for each in arrays):
        return False
    parts = (each[start : start + 1000] for each in arrays for start in range(0, len(each), 1000))
    return all(np.all((part == np.floor(part)) | np.isnan(part)) for part in parts)
