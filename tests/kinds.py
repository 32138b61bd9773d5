"""An experiment on data of a kind that `--kind` names: vectors, counts, odd images, examples that are read."""

import dataclasses
from functools import partial

import jax.numpy as jnp
import numpy as np

import vaejax
from vaejax import data, experiment, nets

RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (120, 4, 4, 1)).astype(np.uint8)


def read(rows):
    return GREY[rows]


def lazy():
    return data.Lazy(read, GREY.shape, GREY.dtype, "grey images")


def grey(examples):
    return data.from_arrays(examples, name="grey", meaning=data.Meaning.INTENSITY, max_value=255)


def once(dataset):
    return data.once(dataset, partial(data.binarize, max_value=255), meaning=data.Meaning.BINARY)


KINDS = {
    "vectors": (lambda: data.from_arrays(RANDOM.normal(size=(120, 5)), name="vectors"), nets.heads.normal()),
    "counts": (lambda: data.from_arrays(RANDOM.poisson(3, (120, 6)), name="counts"), nets.likelihoods.poisson()),
    "symmetric": (
        lambda: data.from_arrays(RANDOM.uniform(-1, 1, (120, 4, 4, 1)), name="symmetric"),
        nets.heads.normal(),
    ),
    "two channels": (lambda: data.from_arrays(RANDOM.normal(size=(120, 4, 4, 2)), name="two"), nets.heads.normal()),
    "colour": (lambda: grey(np.tile(GREY, 3)), nets.heads.categorical(256)),
    "lazy": (lambda: grey(lazy()), nets.heads.categorical(256)),
    "once": (lambda: once(grey(GREY)), nets.heads.bernoulli()),
    "lazy once": (lambda: once(grey(lazy())), nets.heads.bernoulli()),
}


@dataclasses.dataclass(frozen=True)
class Settings(experiment.VaeSettings):
    """Settings of an experiment on one kind of data."""

    kind: str = "vectors"
    """Which."""
    epochs: int = 2
    """Passes over the training data."""
    batch_size: int = 12
    """Examples per step."""
    latent_size: int = 2
    """Number of latents."""
    hidden_sizes: tuple[int, ...] = (4,)
    """Widths of the hidden layers."""


def build(settings):
    make, likelihood = KINDS[settings.kind]
    dataset = make()
    model = nets.mlp(dataset.shape, settings.latent_size, hidden_sizes=settings.hidden_sizes, likelihood=likelihood)

    def objective(params, key, x, beta=settings.beta):
        return vaejax.elbo(key, x, partial(model.encode, params), partial(model.decode, params), beta=beta)

    return experiment.Experiment(
        dataset=dataset,
        model=model,
        prepare=lambda key, x: jnp.asarray(x),
        objective=objective,
        optimizer=experiment.make_optimizer(settings, dataset),
        prior=lambda params: vaejax.standard_normal.expand((settings.latent_size,)),
    )
