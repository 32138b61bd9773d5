"""The deterministic autoencoder: squared error, and no penalty on its code.

Shows: that an autoencoder is the same expression as a VAE, with a point for a posterior, a unit
Normal for a likelihood and no regularizer. It reconstructs, but has no prior to sample from.
Command: make train EXPERIMENT=digits_ae
Time: 7 seconds on 2 cores, 4 of them training.
Expected: test squared error 0.88 +- 0.02 per image with white as 1; as a reconstruction term 59.25 nats,
  half of that and the constant of a unit Normal over 64 pixels, 58.81.
Source: Rumelhart, Hinton and Williams 1986, Learning internal representations by error propagation.
"""

import dataclasses
from functools import partial

import vaejax
from vaejax import data, experiment, nets
from vaejax.types import Array, AutoencodeTerms, Params


@dataclasses.dataclass(frozen=True)
class Settings(experiment.Settings):
    """Settings of an autoencoder on the digits."""

    epochs: int = 200
    """Passes over the training data."""


def build(settings: Settings) -> experiment.Experiment:
    """The digits in [0, 1], a perceptron, and half the squared error (with the Normal's constant)."""
    dataset = data.load_digits()
    model = nets.mlp(
        dataset.shape,
        settings.latent_size,
        hidden_sizes=settings.hidden_sizes,
        posterior=nets.heads.delta(),
        likelihood=nets.heads.normal(scale=1.0),
    )
    model = experiment.adapt(model, settings)

    def objective(params: Params, key: Array, x: Array) -> AutoencodeTerms:
        return vaejax.autoencode(key, x, partial(model.encode, params), partial(model.decode, params), vaejax.none)

    return experiment.Experiment(
        dataset=dataset,
        model=model,
        prepare=lambda key, images: data.to_unit(images, dataset.max_value),
        objective=objective,
        optimizer=experiment.make_optimizer(settings, dataset),
    )
