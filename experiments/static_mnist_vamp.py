"""A variational autoencoder with a VampPrior on static MNIST, beside static_mnist_vae.

Shows: that a prior which follows the encoder costs fewer nats than a standard normal.
Command: make train EXPERIMENT=static_mnist_vamp ARGS="--folder FOLDER"
Time: 8 minutes on 2 cores.
Expected: seed 0: -ln p(x) at most 90.6 +- 0.3 nats (-ELBO 94.8), where static_mnist_vae has 94.5 (99.0).
Source: Tomczak and Welling 2018, VAE with a VampPrior.
"""

import dataclasses
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp

from vaejax import experiment, nets, recipes, vamp_prior
from vaejax.types import Array, Distribution, Objective, Params

static_mnist = experiment.load_experiment(str(Path(__file__).parent / "static_mnist_vae.py"))


@dataclasses.dataclass(frozen=True)
class Settings(static_mnist.Settings):
    """Those of static_mnist_vae, and the prior's."""

    pseudo_inputs: int = 200
    """Components of the prior."""


def build(settings: Settings) -> experiment.Experiment:
    """The nets of static_mnist_vae and a mixture of their posteriors at learned inputs."""
    dataset = static_mnist.load(settings)
    model = nets.mlp(dataset.shape, settings.latent_size, hidden_sizes=settings.hidden_sizes)
    model = experiment.adapt(model, settings)
    images = dataset.train.examples

    def init(key: Array) -> Params:
        model_key, choice_key = jax.random.split(key)
        # Training images, so that each component begins where some data are; kept off the clip's flat ends.
        chosen = jax.random.choice(choice_key, len(images), (settings.pseudo_inputs,), replace=False)
        return {**model.init(model_key), "pseudo_inputs": 0.1 + 0.8 * jnp.asarray(images)[chosen].astype(jnp.float32)}

    def prior(params: Params) -> Distribution:
        return vamp_prior(partial(model.encode, params), jnp.clip(params["pseudo_inputs"], 0.0, 1.0))

    def method(params: Params) -> Objective:
        learned = recipes.learned_prior_vae(prior(params))
        return partial(learned, num_samples=settings.num_samples, beta=settings.beta)

    return static_mnist.compose(settings, dataset, model._replace(init=init), method, prior)
