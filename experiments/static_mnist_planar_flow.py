"""The flow posteriors of Rezende and Mohamed on static MNIST: a Normal moved by none to eighty planar flows.

Shows: what the length of a flow is worth, by the recipe that flows came with; `--flow-layers 0` is the Normal itself.
Command: make reproduce TABLE=flow SIZE=full, which trains and measures every row; a single one is
  make train EXPERIMENT=static_mnist_planar_flow ARGS="--flow-layers 10"
  with the files where `static_mnist_vae` looks for them.
Recipe: 40 latents; 400 hidden units, each the largest of four linear functions, in the encoder and in the decoder;
  RMSprop at 1e-5 with a momentum of 0.9, 500,000 batches of 100; ln p(x, z) weighed by min(1, 0.01 + step / 10,000).
  The paper leaves open how many hidden layers there are, here one, and how parameters begin, here those of the last
  layers small: then each flow begins at a determinant of ln 2, since the paper's bound on it has no identity at zero.
Expected: see experiments/RESULTS.md.
Source: Rezende and Mohamed 2015, Variational Inference with Normalizing Flows, section 6.2.
"""

import dataclasses
import math
from functools import partial
from pathlib import Path

import jax.numpy as jnp
import optax
from flax import nnx

import vaejax
from vaejax import evaluation, experiment, nets, training
from vaejax.checks import check_count
from vaejax.types import Array, ArrayLike, Decode, Distribution, Encode

static_mnist = experiment.load_experiment(str(Path(__file__).parent / "static_mnist_vae.py"))

# Variance of what the last layer of a net gives at the start, for inputs of variance one.
INITIAL_VARIANCE = 0.01


@dataclasses.dataclass(frozen=True)
class Settings(static_mnist.Settings):
    """Those of static_mnist_vae, as the paper has them, and the flow's."""

    flow_layers: int = 80
    """Planar flows of the posterior; 0: a diagonal Normal."""
    hidden_sizes: tuple[int, ...] = (400,)
    """Units of the hidden layer of the encoder, and of the decoder."""
    window: int = 4
    """Linear functions of which a unit is the largest."""
    epochs: int = 1000
    """Passes over the training data."""
    batch_size: int = 100
    """Examples per step."""
    learning_rate: float = 1e-5
    """Step size of RMSprop."""
    annealing_steps: int = 10_000
    """Steps in which the weight of ln p(x, z) rises by one."""
    training: experiment.Training = dataclasses.field(default_factory=lambda: experiment.Training(optimizer="rmsprop"))


def build(settings: Settings) -> experiment.Experiment:
    """Maxout nets, planar flows and the annealed free energy."""
    static_mnist.check_unweighted(settings)
    check_count("flow_layers", settings.flow_layers, minimum=0)
    for name in ("window", "annealing_steps"):
        check_count(name, getattr(settings, name))
    if settings.training.optimizer != "rmsprop":
        raise ValueError(f"optimizer must be rmsprop, which this is the recipe of; got {settings.training.optimizer}")
    if len(settings.hidden_sizes) != 1:
        raise ValueError(f"hidden_sizes must be one, that of the hidden layer; got {settings.hidden_sizes}")
    dataset = static_mnist.load(settings)
    prior = static_mnist.standard_prior(settings)
    posterior = (
        nets.posteriors.planar_flow(settings.flow_layers) if settings.flow_layers else nets.heads.predicted_normal()
    )
    pixels, latents, (units,) = math.prod(dataset.shape), settings.latent_size, settings.hidden_sizes
    model = nets.make_model(
        lambda rngs: Maxout(pixels, units, settings.window, latents * posterior.channels, rngs),
        lambda rngs: Maxout(latents, units, settings.window, pixels, rngs),
        data_shape=dataset.shape,
        latent_shape=(latents,),
        posterior=posterior,
        likelihood=nets.heads.bernoulli(),
    )
    model = experiment.adapt(model, settings)
    method = lambda params: partial(free_energy, prior(params), settings.num_samples)
    return static_mnist.compose(settings, dataset, model, method, prior)._replace(
        optimizer=experiment.make_optimizer(settings, dataset, partial(optax.rmsprop, momentum=0.9)),
        schedules={"weight": training.linear(0.01, 1.0, 0.99 * settings.annealing_steps)},
    )


def free_energy(
    prior: Distribution,
    num_samples: int,
    key: Array,
    x: Array,
    encode: Encode,
    decode: Decode,
    weight: ArrayLike = 1.0,
) -> evaluation.Terms:
    """`weight (ln p(x|z) + ln p(z)) - ln q(z|x)`: not the KL term is weighed, but the joint density (equation 20)."""
    terms = vaejax.elbo(key, x, encode, decode, prior, num_samples=num_samples, kl=vaejax.monte_carlo_kl)
    joint = terms.log_likelihood + jnp.mean(prior.log_prob(terms.latents), axis=0)
    return terms._replace(value=terms.value - (1 - weight) * joint)


class Maxout(nnx.Module):
    """Units that are each the largest of some linear functions, and linear outputs: `[N, *E]` to `[N, outputs]`.

    Source: Goodfellow et al. 2013, Maxout Networks.
    """

    def __init__(self, inputs: int, units: int, window: int, outputs: int, rngs: nnx.Rngs):
        self.window = window
        self.hidden = nets.Dense(inputs, units * window, rngs=rngs)
        small = nnx.initializers.variance_scaling(INITIAL_VARIANCE, "fan_in", "normal")
        self.outputs = nets.Dense(units, outputs, kernel_init=small, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """Apply the layers."""
        pieces = self.hidden(x.reshape(len(x), -1))
        return self.outputs(jnp.max(pieces.reshape(len(x), -1, self.window), axis=-1))
