"""A variational autoencoder with a flow posterior on static MNIST, beside static_mnist_vae.

Shows: that a posterior which need not be a diagonal Normal costs fewer nats: inverse autoregressive flows, which see
a context of the encoder.
Command: make train EXPERIMENT=static_mnist_flow ARGS="--folder FOLDER"
Source: Kingma et al. 2016, Improved Variational Inference with Inverse Autoregressive Flow.
"""

import dataclasses
from functools import partial
from pathlib import Path

from vaejax import experiment, nets, recipes

static_mnist = experiment.load_experiment(str(Path(__file__).parent / "static_mnist_vae.py"))


@dataclasses.dataclass(frozen=True)
class Settings(static_mnist.Settings):
    """Those of static_mnist_vae, and the flow's."""

    flow_layers: int = 2
    """Autoregressive layers of the posterior."""
    flow_hidden_size: int = 200
    """Width of the hidden layer of each."""


def build(settings: Settings) -> experiment.Experiment:
    """The nets of static_mnist_vae, whose posterior is moved by a flow."""
    dataset = static_mnist.load(settings)
    posterior = nets.posteriors.autoregressive_flow(settings.flow_layers, settings.flow_hidden_size)
    model = nets.mlp(dataset.shape, settings.latent_size, hidden_sizes=settings.hidden_sizes, posterior=posterior)
    flow_vae = partial(recipes.flow_vae(), num_samples=settings.num_samples, beta=settings.beta)
    return static_mnist.compose(
        settings, dataset, model, lambda params: flow_vae, static_mnist.standard_prior(settings)
    )
