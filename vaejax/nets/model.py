"""A model as three pure functions, made of two NNX modules and two heads."""

from collections.abc import Callable
from typing import NamedTuple

import jax

from vaejax.checks import check_count, check_key
from vaejax.nets.heads import Head
from vaejax.nets.net import MakeModule, check_event, make_net
from vaejax.types import Array, Distribution, Params, Shape


class Model(NamedTuple):
    """An encoder and a decoder as pure functions, in the manner of an optax transformation.

    The parameters are nested dicts of arrays (a flow among them is its own pytree). There is no other state.
    """

    init: Callable[[Array], Params]  # key -> params
    encode: Callable[[Params, Array], Distribution]  # params, x [*B, *E] -> q(z|x) over [*B, *Z]
    decode: Callable[[Params, Array], Distribution]  # params, z [*B, *Z] -> p(x|z) over [*B, *E]


def make_model(
    make_encoder: MakeModule,
    make_decoder: MakeModule,
    *,
    data_shape: Shape,
    latent_shape: Shape,
    posterior: Head,
    likelihood: Head,
) -> Model:
    """Compose two modules and two heads into a `Model`.

    Each module becomes a `Net` (see `make_net`).

    Args:
      make_encoder: `nnx.Rngs` to a module, `[N, *data_shape]` to `[N, prod(latent_shape) * channels]`.
      make_decoder: `nnx.Rngs` to a module, `[N, *latent_shape]` to `[N, prod(data_shape) * channels]`.
      data_shape: the event axes of one example, such as `(28, 28, 1)`.
      latent_shape: the event axes of one latent, such as `(20,)`.
      posterior: the head that makes q(z|x) of the encoder's outputs.
      likelihood: the head that makes p(x|z) of the decoder's outputs.

    Returns:
      A `Model`; its functions take any batch axes and raise `ValueError` on other event axes.
    """
    encoder = make_net(make_encoder, [data_shape], (*latent_shape, posterior.channels))
    decoder = make_net(make_decoder, [latent_shape], (*data_shape, likelihood.channels))

    def init(key: Array) -> Params:
        check_key(key)
        encoder_key, decoder_key, posterior_key, likelihood_key = jax.random.split(key, 4)
        return {
            "encoder": encoder.init(encoder_key),
            "posterior": posterior.init(posterior_key, latent_shape),
            "decoder": decoder.init(decoder_key),
            "likelihood": likelihood.init(likelihood_key, data_shape),
        }

    def encode(params: Params, x: Array) -> Distribution:
        inputs = likelihood.standardize(check_event("encode: x", x, data_shape))
        raw = encoder.apply(params["encoder"], inputs)
        return posterior.distribution(params["posterior"], raw, len(latent_shape))

    def decode(params: Params, z: Array) -> Distribution:
        inputs = check_event("decode: z", z, latent_shape)
        raw = decoder.apply(params["decoder"], inputs)
        return likelihood.distribution(params["likelihood"], raw, len(data_shape))

    return Model(init, encode, decode)


def check_shape(name: str, shape: Shape) -> None:
    """Raise unless `shape` is a non-empty tuple of positive integers."""
    if not isinstance(shape, tuple) or not shape:
        raise TypeError(f"{name} must be a non-empty tuple of integers such as (28, 28, 1); got {shape!r}")
    for size in shape:
        check_count(name, size)
