"""Table 1 of Burda et al. for two layers of latents: h1 of 100 and h2 of 50 units, with mnist_iwae's data and recipes.

Shows: that a model of two layers is one of one layer whose posterior q(h1|x) q(h2|h1) and whose prior p(h2) p(h1|h2)
  are `Hierarchical`, so that the bounds, their gradients and the evaluation are the same.
Command: make reproduce TABLE=iwae, which trains and measures every row; a single one is
  make train EXPERIMENT=mnist_iwae_two_layers ARGS="--method iwae --num-samples 5"
Time: not measured yet by itself.
Expected: see experiments/RESULTS.md.
Source: Burda, Grosse and Salakhutdinov 2015, Importance Weighted Autoencoders.
"""

import dataclasses
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from vaejax import Hierarchical, experiment, nets, standard_normal
from vaejax.types import Array, Distribution, Params

mnist_iwae = experiment.load_experiment(str(Path(__file__).parent / "mnist_iwae.py"))


@dataclasses.dataclass(frozen=True)
class Settings(mnist_iwae.Settings):
    """Those of mnist_iwae, whose latents are the upper layer's."""

    lower_size: int = 100
    """Number of latents of the lower layer."""
    upper_hidden_sizes: tuple[int, ...] = (100, 100)
    """Widths of the hidden layers between the two layers of latents, on the way up; on the way down in reverse."""


def build(settings: Settings) -> experiment.Experiment:
    """The nets between x and h1 of mnist_iwae, and others of its kind between h1 and h2."""
    dataset = mnist_iwae.load(settings)
    between = partial(nets.mlp, activation=jnp.tanh)
    lower = between(dataset.shape, settings.lower_size, hidden_sizes=settings.hidden_sizes)
    upper = between(
        (settings.lower_size,),
        settings.latent_size,
        hidden_sizes=settings.upper_hidden_sizes,
        likelihood=nets.heads.predicted_normal(),
    )
    mean = mnist_iwae.mean_of(dataset)

    def init(key: Array) -> Params:
        lower_key, upper_key, kernel_key = jax.random.split(key, 3)
        of_lower = mnist_iwae.initial_params(lower, mean, lower_key)
        of_upper = mnist_iwae.glorot(upper.init(upper_key), kernel_key, {"encoder": 2, "decoder": 2})
        # By their ends and not by their layers: a precision is that of an encoder or of a decoder.
        return {end: {"lower": of_lower[end], "upper": of_upper[end]} for end in of_lower}

    def encode(params: Params, x: Array) -> Distribution:
        return Hierarchical(lower.encode(layer(params, "lower"), x), Partial(upper.encode, layer(params, "upper")))

    def decode(params: Params, z: Array) -> Distribution:
        return lower.decode(layer(params, "lower"), z[..., : settings.lower_size])

    def prior(params: Params) -> Distribution:
        top = standard_normal.expand((settings.latent_size,))
        return Hierarchical(top, Partial(upper.decode, layer(params, "upper")), reverse=True)

    return mnist_iwae.compose(settings, dataset, nets.Model(init, encode, decode), prior)


def layer(params: Params, name: str) -> Params:
    """The parameters of one of the two models."""
    return {end: layers[name] for end, layers in params.items()}
