"""Convolutional encoders and decoders for images of any size."""

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
from vaejax.nets.strided import STRIDES, convolve, convolve_transposed
from vaejax.types import Array, Shape

KERNEL = (4, 4)


class Convolution(nnx.Conv):
    """A 4x4 convolution of stride 2, with Flax's parameters."""

    def __init__(self, inputs: int, outputs: int, rngs: nnx.Rngs):
        super().__init__(inputs, outputs, KERNEL, strides=STRIDES, rngs=rngs)

    def __call__(self, inputs: Array, out_sharding: None = None) -> Array:
        """`[N, H, W, inputs]` to `[N, ceil(H / 2), ceil(W / 2), outputs]`."""
        x, kernel, bias = self.promote_dtype((inputs, self.kernel[...], self.bias[...]))  # type: ignore[index]
        return convolve(x, kernel) + bias


class TransposedConvolution(nnx.ConvTranspose):
    """A transposed 4x4 convolution of stride 2 to images of a given size, with Flax's parameters."""

    def __init__(self, inputs: int, outputs: int, size: tuple[int, int], rngs: nnx.Rngs):
        super().__init__(inputs, outputs, KERNEL, strides=STRIDES, rngs=rngs)
        self.size = size

    def __call__(self, inputs: Array) -> Array:
        """`[N, h, w, inputs]` to `[N, *size, outputs]`."""
        y, kernel, bias = self.promote_dtype((inputs, self.kernel[...], self.bias[...]))  # type: ignore[index]
        # Flax's kernel is that of the convolution of an image with zeros between its pixels.
        return convolve_transposed(y, kernel[::-1, ::-1].swapaxes(2, 3), self.size) + bias


class ConvEncoder(nnx.Module):
    """4x4 convolutions of stride 2, each halving the image, and a dense layer."""

    def __init__(
        self,
        data_shape: Shape,
        channels: Sequence[int],
        outputs: int,
        activation: Callable[[Array], Array],
        rngs: nnx.Rngs,
    ):
        self.convolutions = nnx.List([Convolution(a, b, rngs) for a, b in pairwise((data_shape[-1], *channels))])
        height, width = _sizes(data_shape, len(channels))[-1]
        self.dense = Dense(height * width * channels[-1], outputs, rngs=rngs)
        self.activation = activation

    def __call__(self, x: Array) -> Array:
        """`[N, H, W, C]` to `[N, outputs]`."""
        for convolution in self.convolutions:
            x = self.activation(convolution(x))
        return self.dense(x.reshape(len(x), -1))


class ConvDecoder(nnx.Module):
    """The mirror image: a dense layer and transposed convolutions, each doubling the image.

    Where halving had rounded up, doubling leaves a row or column out.
    """

    def __init__(
        self,
        data_shape: Shape,
        channels: Sequence[int],
        latent_size: int,
        outputs: int,
        activation: Callable[[Array], Array],
        rngs: nnx.Rngs,
    ):
        sizes = _sizes(data_shape, len(channels))[::-1]
        height, width = sizes[0]
        reverse = tuple(reversed(channels))
        self.first_shape = (height, width, reverse[0])
        self.dense = Dense(latent_size, math.prod(self.first_shape), rngs=rngs)
        self.convolutions = nnx.List(
            [
                TransposedConvolution(a, b, size, rngs)
                for (a, b), size in zip(pairwise((*reverse, outputs)), sizes[1:], strict=True)
            ]
        )
        self.activation = activation

    def __call__(self, z: Array) -> Array:
        """`[N, latent_size]` to `[N, H, W, outputs]`."""
        x = self.dense(z).reshape(len(z), *self.first_shape)
        for convolution in self.convolutions:
            x = convolution(self.activation(x))
        return x


def conv(
    data_shape: Shape,
    latent_size: int,
    *,
    channels: Sequence[int] = (32, 64),
    likelihood: Head | None = None,
    posterior: Head | None = None,
    activation: Callable[[Array], Array] = jax.nn.relu,
) -> Model:
    """A model whose encoder and decoder are convolutional, without any normalisation layers.

    Args:
      data_shape: height, width and channels of one image; any sizes.
      latent_size: the number of latents.
      channels: of the convolutions, each of which halves height and width.
      likelihood: head of the decoder, `heads.bernoulli()` where None.
      posterior: head of the encoder, `heads.predicted_normal()` where None.
      activation: between the layers.

    Raises:
      TypeError, ValueError: sizes that are no positive integers; a data shape without three axes.

    >>> import jax, jax.numpy as jnp
    >>> model = conv((28, 28, 1), 20)
    >>> params = model.init(jax.random.key(0))
    >>> model.decode(params, jnp.zeros((8, 20))).mean.shape
    (8, 28, 28, 1)
    """
    check_shape("data_shape", data_shape)
    if len(data_shape) != 3:
        raise ValueError(f"data_shape must be (height, width, channels); got {data_shape}")
    check_count("latent_size", latent_size)
    if len(channels) == 0:
        raise ValueError("channels must have at least one entry: each is a convolution that halves the image")
    for size in channels:
        check_count("channels", size)
    likelihood = likelihood or heads.bernoulli()
    posterior = posterior or heads.predicted_normal()
    raw_latents, raw_pixels = latent_size * posterior.channels, data_shape[-1] * likelihood.channels
    return make_model(
        lambda rngs: ConvEncoder(data_shape, channels, raw_latents, activation, rngs),
        lambda rngs: ConvDecoder(data_shape, channels, latent_size, raw_pixels, activation, rngs),
        data_shape=data_shape,
        latent_shape=(latent_size,),
        posterior=posterior,
        likelihood=likelihood,
    )


def _sizes(data_shape: Shape, layers: int) -> list[tuple[int, int]]:
    """Height and width before each halving and after the last: `[(28, 28), (14, 14), (7, 7)]`."""
    sizes = [(data_shape[0], data_shape[1])]
    for _ in range(layers):
        height, width = sizes[-1]
        sizes.append((-(-height // 2), -(-width // 2)))
    return sizes
