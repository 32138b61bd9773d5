"""Multilayer perceptrons for encoder and decoder."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import jax
from flax import nnx

from vaejax.checks import check_count
from vaejax.nets import heads
from vaejax.nets.dense import Dense
from vaejax.nets.heads import Head
from vaejax.nets.model import Model, check_shape, make_model
from vaejax.types import Array, Shape


class Perceptron(nnx.Module):
    """Dense layers with an activation between them: `[N, *E]`, flattened, to `[N, sizes[-1]]`."""

    def __init__(self, sizes: Sequence[int], activation: Callable[[Array], Array], rngs: nnx.Rngs):
        self.layers = nnx.List([Dense(fan_in, fan_out, rngs=rngs) for fan_in, fan_out in pairwise(sizes)])
        self.activation = activation

    def __call__(self, x: Array) -> Array:
        """Apply the layers."""
        x = x.reshape(len(x), -1)
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)


def mlp(
    data_shape: Shape,
    latent_size: int,
    *,
    hidden_sizes: Sequence[int] = (500,),
    likelihood: Head | None = None,
    posterior: Head | None = None,
    activation: Callable[[Array], Array] = jax.nn.relu,
) -> Model:
    """A model whose encoder and decoder are perceptrons, the decoder a mirror image.

    Args:
      data_shape: the axes of one example, such as `(784,)` or `(28, 28, 1)`; they are flattened inside.
      latent_size: the number of latents.
      hidden_sizes: widths of the encoder's hidden layers; the decoder has them in reverse.
      likelihood: head of the decoder, `heads.bernoulli()` where None.
      posterior: head of the encoder, `heads.predicted_normal()` where None.
      activation: between the layers.

    Raises:
      TypeError, ValueError: sizes that are no positive integers.

    >>> import jax, jax.numpy as jnp
    >>> model = mlp((28, 28, 1), 20)
    >>> params = model.init(jax.random.key(0))
    >>> model.encode(params, jnp.zeros((8, 28, 28, 1))).mean.shape
    (8, 20)
    """
    check_shape("data_shape", data_shape)
    check_count("latent_size", latent_size)
    for size in hidden_sizes:
        check_count("hidden_sizes", size)
    likelihood = likelihood or heads.bernoulli()
    posterior = posterior or heads.predicted_normal()
    data_size = math.prod(data_shape)
    up = (data_size, *hidden_sizes, latent_size * posterior.channels)
    down = (latent_size, *reversed(hidden_sizes), data_size * likelihood.channels)
    return make_model(
        lambda rngs: Perceptron(up, activation, rngs),
        lambda rngs: Perceptron(down, activation, rngs),
        data_shape=data_shape,
        latent_shape=(latent_size,),
        posterior=posterior,
        likelihood=likelihood,
    )
