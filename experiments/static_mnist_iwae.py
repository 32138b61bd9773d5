"""The importance-weighted autoencoder on static MNIST, beside static_mnist_vae.

Shows: that a tighter bound trains a better model: compare with static_mnist_vae at the same --num-samples, which costs
the same.
Command: make train EXPERIMENT=static_mnist_iwae ARGS="--folder FOLDER"
Time: 4.5 minutes on 2 cores.
Expected: seeds 0 and 1: -ln p(x) at most 92.4, 92.3 +- 0.3 nats, where static_mnist_vae with
  --num-samples 5 has 93.0. Its ELBO is the worse one, 99.5: what is trained is the tighter bound.
Source: Burda, Grosse and Salakhutdinov 2015, Importance Weighted Autoencoders.
"""

import dataclasses
from pathlib import Path

from vaejax import experiment, nets, recipes

static_mnist = experiment.load_experiment(str(Path(__file__).parent / "static_mnist_vae.py"))


@dataclasses.dataclass(frozen=True)
class Settings(static_mnist.Settings):
    """Those of static_mnist_vae."""

    num_samples: int = 5
    """Importance samples of the bound that is trained."""
    path_gradient: bool = False
    """Train with the doubly reparameterized gradient."""


def build(settings: Settings) -> experiment.Experiment:
    """The nets of static_mnist_vae and the importance-weighted bound."""
    static_mnist.check_unweighted(settings)
    dataset = static_mnist.load(settings)
    model = nets.mlp(dataset.shape, settings.latent_size, hidden_sizes=settings.hidden_sizes)
    model = experiment.adapt(model, settings)
    iwae = recipes.iwae(num_samples=settings.num_samples, path_gradient=settings.path_gradient)
    return static_mnist.compose(settings, dataset, model, lambda params: iwae, static_mnist.standard_prior(settings))
