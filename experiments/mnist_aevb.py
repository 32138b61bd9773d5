"""Figure 2 of Kingma and Welling on MNIST: the bound against the training examples seen, for 3 to 200 latents.

Shows: the recipe that the variational autoencoder came with, and that latents which are not needed do no harm.
Command: make reproduce TABLE=aevb, which trains and measures every row; a single one is
  make train EXPERIMENT=mnist_aevb ARGS="--latent-size 3"
  with the files of MNIST where `mnist_vae` looks for them.
Recipe: 784-500 and 500-784 with tanh, batches of 100, one draw, Adagrad, all parameters drawn from N(0, 0.01), taken as
  the variance, and with a standard normal prior, whose maximum is looked for. The paper does not say how its pixels
  were made binary; here they are drawn at every step. It chose the step size among 0.01, 0.02 and 0.1.
Expected: see experiments/RESULTS.md.
Source: Kingma and Welling 2014, Auto-Encoding Variational Bayes, section 5.
"""

import dataclasses
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import optax

from vaejax import experiment, nets
from vaejax.types import Array, Params

mnist_vae = experiment.load_experiment(str(Path(__file__).parent / "mnist_vae.py"))

INITIAL_SCALE = 0.1


@dataclasses.dataclass(frozen=True)
class Settings(mnist_vae.Settings):
    """Those of mnist_vae, as the paper has them."""

    batch_size: int = 100
    """Examples per step."""
    learning_rate: float = 0.02
    """Step size of Adagrad."""
    training: experiment.Training = dataclasses.field(default_factory=lambda: experiment.Training(optimizer="adagrad"))


def build(settings: Settings) -> experiment.Experiment:
    """The data and the bound of mnist_vae, and the nets and the optimizer of the paper."""
    if settings.training.optimizer != "adagrad":
        raise ValueError(f"optimizer must be adagrad, which this is the recipe of; got {settings.training.optimizer}")
    dataset = mnist_vae.load(settings)
    model = nets.mlp(dataset.shape, settings.latent_size, hidden_sizes=settings.hidden_sizes, activation=jnp.tanh)
    model = experiment.adapt(model._replace(init=partial(initial_params, model)), settings)
    # Of the loss of an example, so that the prior counts once in all of them.
    prior = optax.add_decayed_weights(1 / settings.num_training(dataset))
    optimizer = experiment.make_optimizer(settings, dataset, partial(optax.adagrad, initial_accumulator_value=0.0))
    return mnist_vae.compose(settings, dataset, model)._replace(optimizer=optax.chain(prior, optimizer))


def initial_params(model: nets.Model, key: Array) -> Params:
    """Every parameter from a Normal of one scale, the offsets too."""
    model_key, own_key = jax.random.split(key)
    leaves, structure = jax.tree.flatten(model.init(model_key))
    return jax.tree.unflatten(
        structure,
        [
            INITIAL_SCALE * jax.random.normal(jax.random.fold_in(own_key, number), leaf.shape, leaf.dtype)
            for number, leaf in enumerate(leaves)
        ],
    )
