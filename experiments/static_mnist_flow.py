"""A variational autoencoder with a flow posterior on static MNIST, beside static_mnist_vae.

Shows: that a posterior which need not be a diagonal Normal costs fewer nats: affine couplings, which see a context
of the encoder, trained with path gradients. The noise of those vanishes as the posterior becomes the true one, which a
flow comes close enough to for it to matter; couplings are as fast backwards, where the path gradient needs the density.
Command: make train EXPERIMENT=static_mnist_flow ARGS="--folder FOLDER"
Time: 2.5 minutes on 2 cores.
Expected: seed 0: -ln p(x) at most 92.0 +- 0.3 nats (-ELBO 96.2), where static_mnist_vae has 94.5 (99.0).
Source: Rezende and Mohamed 2015, Variational Inference with Normalizing Flows; Dinh et al. 2017, Density estimation
  using Real NVP (couplings); Roeder et al. 2017, Sticking the Landing (path gradients).
"""

import dataclasses
from pathlib import Path

from vaejax import experiment, nets, recipes

static_mnist = experiment.load_experiment(str(Path(__file__).parent / "static_mnist_vae.py"))


@dataclasses.dataclass(frozen=True)
class Settings(static_mnist.Settings):
    """Those of static_mnist_vae, and the flow's."""

    flow_layers: int = 4
    """Couplings of the posterior."""
    flow_hidden_size: int = 200
    """Width of the hidden layer of each."""


def build(settings: Settings) -> experiment.Experiment:
    """The nets of static_mnist_vae, whose posterior is moved by a flow."""
    static_mnist.check_unweighted(settings)
    dataset = static_mnist.load(settings)
    posterior = nets.posteriors.coupling_flow(settings.flow_layers, settings.flow_hidden_size)
    model = nets.mlp(dataset.shape, settings.latent_size, hidden_sizes=settings.hidden_sizes, posterior=posterior)
    model = experiment.adapt(model, settings)
    bound = recipes.sticking_the_landing(num_samples=settings.num_samples)
    return static_mnist.compose(settings, dataset, model, lambda params: bound, static_mnist.standard_prior(settings))
