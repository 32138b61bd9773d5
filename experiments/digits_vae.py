"""A variational autoencoder on handwritten digits: the first thing to run.

Shows: the Gaussian VAE, a Bernoulli likelihood on pixels binarized afresh at every step, the KL of
each latent axis, and samples from the prior.
Command: make train
Time: half a minute on 2 cores.
Expected: see EXPECTED.
Source: Kingma and Welling 2014, Auto-Encoding Variational Bayes.
"""

import dataclasses
from functools import partial

import optax

import vaejax
from vaejax import data, experiment, nets
from vaejax.types import Array, ElboTerms, Params


@dataclasses.dataclass(frozen=True)
class Settings(experiment.Settings):
    """Settings of a VAE on the digits."""

    epochs: int = 300
    latent_size: int = 8
    """Number of latents."""
    hidden_sizes: tuple[int, ...] = (256,)
    """Widths of the encoder's hidden layers; the decoder has them in reverse."""
    num_samples: int = 1
    """Monte-Carlo samples of the likelihood term."""
    beta: float = 1.0
    """Weight of the KL term in training; the figures reported never use it."""


def build(settings: Settings) -> experiment.Experiment:
    dataset = data.load_digits()
    model = nets.mlp(dataset.shape, settings.latent_size, hidden_sizes=settings.hidden_sizes)

    def objective(params: Params, key: Array, x: Array) -> ElboTerms:
        encode, decode = partial(model.encode, params), partial(model.decode, params)
        return vaejax.elbo(key, x, encode, decode, num_samples=settings.num_samples, beta=settings.beta)

    return experiment.Experiment(
        dataset=dataset,
        model=model,
        prepare=partial(data.binarize, max_value=dataset.max_value),
        objective=objective,
        optimizer=optax.adam(settings.learning_rate),
        prior=vaejax.standard_normal.expand((settings.latent_size,)),
    )
