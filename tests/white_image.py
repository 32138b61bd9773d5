"""An experiment with one white image among dark ones, of which a part of the step becomes not finite.

It is loaded by its path, as a user's own file is.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

import vaejax
from vaejax import data, experiment, nets
from vaejax.training import linear
from vaejax.types import MarginalTerms

WHITE = 13


@dataclasses.dataclass(frozen=True)
class Settings(experiment.Settings):
    """Settings of the experiment."""

    epochs: int = 2
    """Passes over the training data."""
    batch_size: int = 8
    """Examples per step."""
    fault: str = ""
    """What is not finite for the white image; nothing where empty."""
    objective: str = "elbo"
    """Or coupled, or marginal."""
    num_examples: int = 32
    """Size of the data."""
    num_samples: int | None = None
    """Samples of each latent."""


@partial(jax.tree_util.register_dataclass, data_fields=["loc", "gain"], meta_fields=["fault"])
@dataclasses.dataclass(frozen=True)
class Likelihood:
    """A unit Normal that takes any data, NaN too, and has a term more."""

    loc: jax.Array
    gain: jax.Array
    fault: str

    @property
    def mean(self):
        return self.loc

    def sample(self, key, sample_shape=()):
        return self.loc + jax.random.normal(key, (*sample_shape, *self.loc.shape))

    def log_prob(self, x):
        total = partial(jnp.sum, axis=(-3, -2, -1))
        value = -0.5 * total((x - self.loc) ** 2)
        if self.fault == "likelihood":
            value += jnp.log(total(1 - x))  # log 0
        if self.fault == "gradient":
            value += jnp.sqrt(total((self.gain * (x - 1)) ** 2))  # 0, with a slope of 0 times infinity
        return value


def init(key):
    encoder_key, decoder_key = jax.random.split(key)
    return {
        "encoder": {"kernel": 0.3 * jax.random.normal(encoder_key, (4, 2)), "scale": jnp.ones(())},
        "decoder": {"kernel": 0.3 * jax.random.normal(decoder_key, (2, 4)), "gain": jnp.ones(())},
        "spare": jnp.full(2, 1e38),
    }


def prepare(fault, key, images):
    x = images / 128
    # White stays 1 to the bit.
    x += 0.1 * jax.random.uniform(key, x.shape) * (1 - x)
    darkness = jnp.mean(1 - x, axis=(-3, -2, -1), keepdims=True)
    return x * darkness / darkness if fault == "x" else x


def encode(fault, params, x):
    flat = x.reshape(*x.shape[:-3], 4)
    # Its exponential overflows.
    excess = 1e3 * jnp.maximum(jnp.mean(flat, axis=-1, keepdims=True) - 0.9, 0.0)
    scale = 0.1 * params["encoder"]["scale"] * jnp.exp(excess if fault == "posterior" else 0.0)
    return vaejax.Normal(flat @ params["encoder"]["kernel"], scale)


def decode(fault, params, z):
    loc = (z @ params["decoder"]["kernel"]).reshape(*z.shape[:-1], 2, 2, 1)
    return Likelihood(loc, jnp.broadcast_to(params["decoder"]["gain"], z.shape[:-1]), fault)


def build(settings):
    images = np.random.default_rng(0).integers(0, 100, (settings.num_examples, 2, 2, 1)).astype(np.uint8)
    images[WHITE : WHITE + 1] = 128
    split = data.Split(images, np.zeros(len(images), np.uint8))
    model = nets.Model(init, partial(encode, settings.fault), partial(decode, settings.fault))

    def objective(params, key, x, beta=1.0):
        parts = partial(model.encode, params), partial(model.decode, params)
        terms = vaejax.elbo(key, x, *parts, num_samples=settings.num_samples, beta=beta)
        if settings.objective == "marginal":
            return MarginalTerms(terms.value, terms.value, jnp.zeros_like(terms.value))
        penalty = jnp.mean(terms.posterior.loc) ** 2 if settings.objective == "coupled" else 0.0
        return terms._replace(value=terms.value - penalty)

    # What no loss knows of doubles.
    double = lambda updates, params: {**updates, "spare": params["spare"] * (settings.fault == "parameters")}
    return experiment.Experiment(
        dataset=data.Dataset("white image", split, split, 128),
        model=model,
        prepare=partial(prepare, settings.fault),
        objective=objective,
        optimizer=optax.chain(optax.sgd(0.01, momentum=0.9), optax.stateless(double)),
        couples_batch=settings.objective == "coupled",
        schedules={"beta": linear(0.0, 1.0, 10)},
    )
