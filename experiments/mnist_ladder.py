"""Five layers of latents on MNIST, 64-32-16-8-4: a ladder against a posterior that goes upwards, layer by layer.

Shows: what it is worth that the posterior of a layer knows its prior: `--posterior ladder` combines what the data say
  of a layer with what the layers above say, by their precisions; `--posterior upwards` draws each layer given the one
  below. Both are `markov_chain`s, so that ln p(x) is estimated as for one layer.
Command: make reproduce TABLE=ladder, which trains and measures both; a single one is
  make train EXPERIMENT=mnist_ladder ARGS="--posterior upwards"
  with the files of MNIST where `mnist_vae` looks for them.
Recipe: two layers of 512, 256, 128, 64 and 32 leaky rectifiers for each layer of latents, upwards and downwards,
  variances that are the softplus of a linear layer, and a weight of the KL term that rises to 1. It departs from the
  paper in having no batch normalisation: nets here are functions of one example.
Expected: see experiments/RESULTS.md.
Source: Sonderby et al. 2016, Ladder Variational Autoencoders.
"""

import dataclasses
import enum
import math
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.tree_util import Partial

from vaejax import Bernoulli, Normal, experiment, markov_chain, nets, precision_weighted, recipes, standard_normal
from vaejax.types import Array, Distribution, Params

mnist_vae = experiment.load_experiment(str(Path(__file__).parent / "mnist_vae.py"))

# Added to every variance, so that a density stays finite.
LEAST_VARIANCE = 1e-6


class Posterior(enum.StrEnum):
    """How the posterior of the hierarchy is made."""

    LADDER = "ladder"
    UPWARDS = "upwards"


@dataclasses.dataclass(frozen=True)
class Settings(mnist_vae.Settings):
    """Settings of a hierarchy."""

    posterior: Posterior = Posterior.LADDER
    """Downwards, each layer from its prior and the data; or upwards, each layer from the one below."""
    latent_size: int = 64
    """Number of latents of the layer next to the data."""
    upper_sizes: tuple[int, ...] = (32, 16, 8, 4)
    """Those of the layers above it."""
    hidden_sizes: tuple[int, ...] = (512, 256, 128, 64, 32)
    """Width of the two hidden layers that go with each layer of latents."""
    batch_size: int = 256
    """Examples per step."""
    kl_schedule: experiment.KlSchedule = experiment.KlSchedule.LINEAR
    """How the weight comes to beta: at once, or from 0 over the first kl_epochs, or again and again in each of them."""
    kl_epochs: float = 200.0
    """Epochs of the schedule, or of each of its cycles."""


def build(settings: Settings) -> experiment.Experiment:
    """A net for each layer of latents on the way up, and another on the way down."""
    sizes, widths = (settings.latent_size, *settings.upper_sizes), settings.hidden_sizes
    if len(sizes) != len(widths):
        raise ValueError(f"hidden_sizes must be {len(sizes)}, one for each layer of latents; got {widths}")
    dataset = mnist_vae.load(settings)
    pixels = math.prod(dataset.shape)
    is_ladder, top = settings.posterior == Posterior.LADDER, len(sizes) - 1
    # What goes up from one layer to the next: what was seen of x, or the latents themselves.
    below = (pixels, *(widths if is_ladder else sizes)[:-1])
    ups = [perceptron(inputs, width) for inputs, width in zip(below, widths, strict=True)]
    heads = [linear(width, size) for width, size in zip(widths, sizes, strict=True)]
    downs = [
        perceptron(above, width, (size, 2)) for (size, above), width in zip(pairwise(sizes), widths[1:], strict=True)
    ]
    decoder = perceptron(sizes[0], widths[0], dataset.shape)

    def init(key: Array) -> Params:
        keys = jax.random.split(key, 4)
        drawn = [
            {level: each.init(jax.random.fold_in(own, level)) for level, each in enumerate(group)}
            for own, group in zip(keys[:3], (ups, heads, downs), strict=True)
        ]
        encoder = {"ups": drawn[0], "heads": drawn[1]}
        return {"encoder": encoder, "prior": drawn[2], "decoder": decoder.init(keys[3])}

    def see(level: int, params: Params, below: Array) -> tuple[Array, Normal]:
        """What is seen of what is below a layer, and the Normal of its latents by that alone."""
        seen = ups[level].apply(params["ups"][level], below)
        return seen, normal_of(heads[level].apply(params["heads"][level], seen))

    def from_below(level: int, params: Params, below: Array) -> Normal:
        return see(level, params, below)[1]

    def from_above(level: int, params: Params, above: Array) -> Normal:
        return normal_of(downs[level].apply(params[level], above))

    def merged(level: int, seen: Normal, params: Params, above: Array) -> Normal:
        return precision_weighted(seen, from_above(level, params, above))

    # Made once: a distribution that holds one of them has the same structure each time.
    sights, priors, merges = (
        [partial(function, level) for level in range(top + 1)] for function in (from_below, from_above, merged)
    )

    def encode_upwards(params: Params, x: Array) -> Distribution:
        own = params["encoder"]
        steps = [Partial(sight, own) for sight in sights[1:]]
        return markov_chain(from_below(0, own, x), *steps)

    def encode_ladder(params: Params, x: Array) -> Distribution:
        seen, below = [], x
        for level in range(top + 1):
            below, normal = see(level, params["encoder"], below)
            seen.append(normal)
        steps = [Partial(merges[level], seen[level], params["prior"]) for level in reversed(range(top))]
        return markov_chain(seen[top], *steps, reverse=True)

    def encode(params: Params, x: Array) -> Distribution:
        flat = jnp.asarray(x, jnp.float32).reshape(*x.shape[: x.ndim - len(dataset.shape)], pixels)
        return (encode_ladder if is_ladder else encode_upwards)(params, flat)

    def prior(params: Params) -> Distribution:
        steps = [Partial(priors[level], params["prior"]) for level in reversed(range(top))]
        return markov_chain(standard_normal.expand((sizes[top],)), *steps, reverse=True)

    def decode(params: Params, z: Array) -> Distribution:
        return Bernoulli(decoder.apply(params["decoder"], z[..., : sizes[0]]), len(dataset.shape))

    model = experiment.adapt(nets.Model(init, encode, decode), settings)

    def objective(params: Params, key: Array, x: Array, beta: Any = settings.beta) -> Any:
        bound = recipes.learned_prior_vae(prior(params))
        encode, decode = partial(model.encode, params), partial(model.decode, params)
        return bound(key, x, encode, decode, num_samples=settings.num_samples, beta=beta)

    return mnist_vae.compose(settings, dataset, model)._replace(objective=objective, prior=prior)


class Layers(nnx.Module):
    """Two layers of leaky rectifiers, and a linear one where it has outputs: `[N, A]` to `[N, width]` or `[N, B]`."""

    def __init__(self, inputs: int, width: int, outputs: int | None, rngs: nnx.Rngs):
        self.hidden = nnx.List([nets.Dense(inputs, width, rngs=rngs), nets.Dense(width, width, rngs=rngs)])
        self.last = nnx.List([] if outputs is None else [nets.Dense(width, outputs, rngs=rngs)])

    def __call__(self, x: Array) -> Array:
        """Apply the layers."""
        for layer in self.hidden:
            x = jax.nn.leaky_relu(layer(x))
        for layer in self.last:
            x = layer(x)
        return x


def perceptron(inputs: int, width: int, outputs: tuple[int, ...] | None = None) -> nets.Net:
    size = None if outputs is None else math.prod(outputs)
    return nets.make_net(lambda rngs: Layers(inputs, width, size, rngs), [(inputs,)], outputs or (width,))


def linear(inputs: int, size: int) -> nets.Net:
    return nets.make_net(lambda rngs: nets.Dense(inputs, 2 * size, rngs=rngs), [(inputs,)], (size, 2))


def normal_of(raw: Array) -> Normal:
    """The Normal of a mean and what the variance is the softplus of, `[*B, D, 2]`.

    The log of a scale would not do: what a layer draws is what the next one sees, and a chain of exponentials diverges
    while the KL term weighs next to nothing.
    """
    return Normal(raw[..., 0], jnp.sqrt(jax.nn.softplus(raw[..., 1]) + LEAST_VARIANCE), 1)
