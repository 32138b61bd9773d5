"""The beta-VAE and its family on dSprites, whose factors are known: does a latent stand for a factor?

Shows: seven objectives on one net, which differ in the one expression that is their method: `--method vae|beta_vae|
  annealed_vae|beta_tc_vae|factor_vae|dip_vae_i|dip_vae_ii`, each with its `--weight`. Factor VAE's discriminator, with
  an optimizer of its own, is part of one loss and one step.
Command: make reproduce TABLE=dsprites, which trains and measures every row; a single one is
  make train EXPERIMENT=dsprites_vae ARGS="--method beta_tc_vae --weight 6"
  with the file of dSprites, the original or a part of it, in the folder that VAEJAX_DATA names; `make evaluate` then
  scores it.
Expected: see experiments/RESULTS.md.
Source: Higgins et al. 2017, beta-VAE; Burgess et al. 2018, Understanding Disentangling in beta-VAE (annealed); Chen et
  al. 2018, Isolating Sources of Disentanglement in VAEs; Kim and Mnih 2018, Disentangling by Factorising; Kumar et al.
  2018, Variational Inference of Disentangled Latent Concepts (dip); Locatello et al. 2019, Challenging Common
  Assumptions in the Unsupervised Learning of Disentangled Representations, for weights and optimizers.
"""

import dataclasses
import enum
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import vaejax
from vaejax import data, experiment, nets, recipes, training
from vaejax.objectives import discriminator_loss, permute_axes
from vaejax.types import Array, Params


class Method(enum.StrEnum):
    """What is maximised, and what the weight is there."""

    VAE = "vae"  # the evidence lower bound; none
    BETA_VAE = "beta_vae"  # of the KL
    ANNEALED_VAE = "annealed_vae"  # nats that the KL is held at in the end, a third of the way through
    BETA_TC_VAE = "beta_tc_vae"  # of the total correlation
    FACTOR_VAE = "factor_vae"  # of the total correlation as a discriminator sees it
    DIP_VAE_I = "dip_vae_i"  # of the correlations of the means, and ten times that of their variances from one
    DIP_VAE_II = "dip_vae_ii"  # of the correlations of the codes, and of their variances from one


@dataclasses.dataclass(frozen=True)
class Settings(experiment.VaeSettings):
    """Settings of a row."""

    folder: str | None = None
    """Where the file of dSprites is; by default the environment variable VAEJAX_DATA."""
    method: Method = Method.BETA_VAE
    """The objective."""
    weight: float = 4.0
    """Its weight."""
    epochs: int = 20
    """Passes over the training data."""
    batch_size: int = 64
    """Examples per step."""
    learning_rate: float = 1e-4
    """Step size of the optimizer."""
    latent_size: int = 10
    """Number of latents."""
    hidden_sizes: tuple[int, ...] = (400, 400)
    """Widths of the encoder's hidden layers; the decoder has them in reverse."""
    channels: tuple[int, ...] = ()
    """Of convolutions in place of these layers, each of which halves the image; the decoder has them in reverse."""
    discriminator_sizes: tuple[int, ...] = (1000,) * 6
    """Widths of the hidden layers of Factor VAE's discriminator."""
    discriminator_rate: float = 1e-4
    """Step size of its optimizer."""


def build(settings: Settings) -> experiment.Experiment:
    """A Bernoulli model of the images and the objective of the settings."""
    if settings.beta != 1.0 or settings.kl_schedule != experiment.KlSchedule.CONSTANT:
        raise ValueError(
            f"beta and kl_schedule must be 1 and constant, since each method has its own weight; got {settings.beta} "
            f"and {settings.kl_schedule}"
        )
    dataset = data.load("dsprites", settings.folder)
    if settings.channels:
        model = nets.conv(dataset.shape, settings.latent_size, channels=settings.channels)
    else:
        model = nets.mlp(dataset.shape, settings.latent_size, hidden_sizes=settings.hidden_sizes)
    model = experiment.adapt(model, settings)
    built = experiment.Experiment(
        dataset=dataset,
        model=model,
        prepare=lambda key, images: jnp.asarray(images),
        objective=on(model, settings.num_samples, recipe_of(settings, dataset)),
        optimizer=experiment.make_optimizer(settings, dataset),
        prior=lambda params: vaejax.standard_normal.expand((settings.latent_size,)),
        # Whatever is trained, the evidence lower bound is what is reported.
        report=on(model, settings.num_samples, recipes.vae),
        couples_batch=settings.method not in (Method.VAE, Method.BETA_VAE),
    )
    if settings.method == Method.ANNEALED_VAE:
        raised = training.linear(0.0, settings.weight, max(1, settings.num_steps(dataset) // 3))
        return built._replace(schedules={"target": raised})
    return with_discriminator(settings, built) if settings.method == Method.FACTOR_VAE else built


def on(model: nets.Model, num_samples: int, make: Any) -> Any:
    """A method on the nets; what is scheduled makes the method."""

    def objective(params: Params, key: Array, x: Array, **scheduled: Array) -> Any:
        encode, decode = partial(model.encode, params), partial(model.decode, params)
        return make(**scheduled)(key, x, encode, decode, num_samples=num_samples)

    return objective


def recipe_of(settings: Settings, dataset: data.Dataset) -> Any:
    """What makes the method: a function of what is scheduled. Factor VAE is a VAE until it gets its discriminator."""
    weight = settings.weight
    match settings.method:
        case Method.VAE | Method.FACTOR_VAE:
            return recipes.vae
        case Method.BETA_VAE:
            return partial(recipes.beta_vae, beta=weight)
        case Method.ANNEALED_VAE:
            return partial(recipes.capacity_vae, target=weight)
        case Method.BETA_TC_VAE:
            return partial(recipes.beta_tc_vae, dataset_size=settings.num_training(dataset), total_correlation=weight)
        case Method.DIP_VAE_I:
            return partial(recipes.dip_vae_i, off_diagonal=weight, diagonal=10 * weight)
        case Method.DIP_VAE_II:
            return partial(recipes.dip_vae_ii, off_diagonal=weight, diagonal=weight)


class Discriminator(nnx.Module):
    """The log-odds that codes `[N, L]` are draws of q(z), and not of the product of its marginals: `[N, 1]`."""

    def __init__(self, sizes: tuple[int, ...], rngs: nnx.Rngs):
        self.layers = nnx.List([nets.Dense(a, b, rngs=rngs) for a, b in pairwise((*sizes, 1))])

    def __call__(self, z: Array) -> Array:
        """Apply the layers."""
        for layer in self.layers[:-1]:
            z = jax.nn.leaky_relu(layer(z), 0.2)
        return self.layers[-1](z)


def with_discriminator(settings: Settings, built: experiment.Experiment) -> experiment.Experiment:
    """Factor VAE: the discriminator's loss beside that of the model, each with a gradient to its own parameters."""
    sizes = (settings.latent_size, *settings.discriminator_sizes)
    net = nets.make_net(lambda rngs: Discriminator(sizes, rngs), [(settings.latent_size,)], ())

    def init(key: Array) -> Params:
        model_key, own_key = jax.random.split(key)
        return {**built.model.init(model_key), "discriminator": net.init(own_key)}

    def objective(params: Params, key: Array, x: Array) -> Any:
        noise_key, shuffle_key = jax.random.split(key)
        frozen = jax.lax.stop_gradient(params["discriminator"])
        recipe = partial(recipes.factor_vae, discriminate=partial(net.apply, frozen), weight=settings.weight)
        terms = on(built.model, settings.num_samples, recipe)(params, noise_key, x)
        codes = terms.latents.reshape(-1, settings.latent_size)
        loss = discriminator_loss(partial(net.apply, params["discriminator"]), codes, permute_axes(shuffle_key, codes))
        # Only its gradient: the value stays that of the model.
        return terms._replace(value=terms.value - (loss - jax.lax.stop_gradient(loss)))

    def players(params: Params) -> Params:
        return {
            name: jax.tree.map(lambda _, name=name: "discriminator" if name == "discriminator" else "model", part)
            for name, part in params.items()
        }

    own = optax.adam(settings.discriminator_rate, b1=0.5, b2=0.9)
    return built._replace(
        model=built.model._replace(init=init),
        objective=objective,
        optimizer=optax.partition({"model": built.optimizer, "discriminator": own}, players),
    )
