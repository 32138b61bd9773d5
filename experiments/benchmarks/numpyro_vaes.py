"""The same models in numpyro, trained by SVI as its own VAE example does, a whole round as one compiled loop."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import SVI, RenyiELBO, TraceMeanField_ELBO
from numpyro.optim import Adam

from . import plain
from .timing import Advance


def mlp(images: np.ndarray, batch: int, hidden: int, latents: int) -> Advance:
    """The VAE of dense layers with the KL in closed form."""
    return _training(images, batch, (hidden,), latents, jax.nn.relu, TraceMeanField_ELBO())


def iwae(images: np.ndarray, batch: int, hidden: tuple[int, ...], latents: int, samples: int) -> Advance:
    """The importance-weighted bound of `samples` draws."""
    return _training(images, batch, hidden, latents, jnp.tanh, RenyiELBO(alpha=0, num_particles=samples))


def _training(
    images: np.ndarray, batch: int, hidden: tuple[int, ...], latents: int, activation: Callable[[Any], Any], loss: Any
) -> Advance:
    pixels, stored = images[0].size, jax.device_put(images.reshape(len(images), -1))
    up, down = (pixels, *hidden, 2 * latents), (latents, *reversed(hidden), pixels)
    net = lambda name, sizes: numpyro.param(name, lambda key: plain.dense(key, sizes))

    def model(x: jax.Array) -> None:
        layers = net("decoder", down)
        with numpyro.plate("batch", len(x)):
            z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([latents]).to_event(1))
            logits = plain.perceptron(layers, z, activation)
            numpyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(x: jax.Array) -> None:
        mean, log_scale = jnp.split(plain.perceptron(net("encoder", up), x, activation), 2, axis=-1)
        with numpyro.plate("batch", len(x)):
            numpyro.sample("z", dist.Normal(mean, jnp.exp(log_scale)).to_event(1))

    svi = SVI(model, guide, Adam(1e-3), loss)

    @partial(jax.jit, donate_argnums=0)
    def run(state: Any, key: jax.Array, steps: jax.Array, stored: jax.Array) -> Any:
        order_key, draw_key = jax.random.split(key)
        order = jax.random.permutation(order_key, len(stored))

        def step(number: jax.Array, state: Any) -> Any:
            rows = jax.lax.dynamic_slice_in_dim(order, number % (len(stored) // batch) * batch, batch)
            x = plain.binarized(jax.random.fold_in(draw_key, number), stored[rows])
            return svi.update(state, x)[0]

        return jax.lax.fori_loop(0, steps, step, state)

    state = [svi.init(jax.random.key(0), jnp.zeros((batch, pixels)))]
    keys = iter(range(10**9))

    def advance(steps: int) -> None:
        state[0] = jax.block_until_ready(run(state[0], jax.random.key(next(keys)), np.int32(steps), stored))

    return advance
