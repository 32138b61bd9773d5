"""The table of Tomczak and Welling for two levels of latents: q(z2|x) q(z1|x, z2) and p(z2) p(z1|z2) p(x|z1, z2).

Shows: that the prior of the upper level of a hierarchy can be a VampPrior, whose components are the posteriors q(z2|u)
  alone, and that both levels see the data and the decoder both levels.
Command: make reproduce TABLE=vamp, which trains and measures every row; a single one is
  make train EXPERIMENT=static_mnist_vampprior_two_levels ARGS="--prior standard"
Recipes: those of static_mnist_vampprior.
Expected: see experiments/RESULTS.md.
Source: Tomczak and Welling 2018, VAE with a VampPrior, section 3, and the code that they published.
"""

import dataclasses
import math
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from vaejax import Bernoulli, Hierarchical, Normal, experiment, nets
from vaejax.types import Array, Distribution, Params

one_level = experiment.load_experiment(str(Path(__file__).parent / "static_mnist_vampprior.py"))


@dataclasses.dataclass(frozen=True)
class Settings(one_level.Settings):
    """Those of static_mnist_vampprior, whose latents are the upper level's."""

    lower_size: int = 40
    """Number of latents of the lower level."""


def build(settings: Settings) -> experiment.Experiment:
    """Five nets of gated layers, and the prior of the settings over the upper level."""
    dataset = one_level.static_mnist.load(settings)
    (first, second), pixels = one_level.widths(settings), math.prod(dataset.shape)
    upper_size, lower_size = settings.latent_size, settings.lower_size
    gated = one_level.GatedNet
    of_upper = nets.make_net(
        lambda rngs: gated([pixels], (first, second), [upper_size] * 2, rngs), [(pixels,)], (upper_size, 2)
    )
    # What the lower posterior sees of x, by itself: for many draws of z2 it is computed once.
    of_image = nets.make_net(lambda rngs: one_level.Gated(pixels, first, rngs), [(pixels,)], (first,))
    of_lower = nets.make_net(
        lambda rngs: gated([upper_size], (first, second), [lower_size] * 2, rngs, given=first),
        [(first,), (upper_size,)],
        (lower_size, 2),
    )
    down = nets.make_net(
        lambda rngs: gated([upper_size], (second, first), [lower_size] * 2, rngs), [(upper_size,)], (lower_size, 2)
    )
    of_data = nets.make_net(
        lambda rngs: gated([upper_size, lower_size], (second, first), [pixels], rngs),
        [(upper_size,), (lower_size,)],
        (*dataset.shape,),
    )

    def init(key: Array) -> Params:
        keys = jax.random.split(key, 5)
        return {
            "encoder": {
                "upper": of_upper.init(keys[0]),
                "image": of_image.init(keys[1]),
                "lower": of_lower.init(keys[2]),
            },
            "prior": down.init(keys[3]),
            "decoder": of_data.init(keys[4]),
        }

    def flat(x: Array) -> Array:
        return jnp.asarray(x, jnp.float32).reshape(*x.shape[: x.ndim - len(dataset.shape)], pixels)

    def encode_upper(params: Params, x: Array) -> Normal:
        return one_level.normal_of(of_upper.apply(params["encoder"]["upper"], flat(x)))

    def encode_lower(params: Params, image: Array, z_2: Array) -> Normal:
        return one_level.normal_of(of_lower.apply(params, image, z_2))

    def encode(params: Params, x: Array) -> Distribution:
        image = of_image.apply(params["encoder"]["image"], flat(x))
        return Hierarchical(encode_upper(params, x), Partial(encode_lower, params["encoder"]["lower"], image))

    def decode(params: Params, z: Array) -> Distribution:
        logits = of_data.apply(params["decoder"], z[..., :upper_size], z[..., upper_size:])
        return Bernoulli(logits, len(dataset.shape))

    def lower_prior(params: Params, z_2: Array) -> Normal:
        return one_level.normal_of(down.apply(params, z_2))

    def prior(params: Params) -> Distribution:
        top = one_level.top_prior(settings, params, partial(encode_upper, params))
        return Hierarchical(top, Partial(lower_prior, params["prior"]))

    model = one_level.with_pseudo_inputs(settings, dataset, nets.Model(init, encode, decode))
    return one_level.compose(settings, dataset, experiment.adapt(model, settings), prior)
