"""A model as three pure functions, made of two NNX modules and two heads."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn import dtypes

from vaejax.checks import check_count, check_key
from vaejax.nets.heads import Head
from vaejax.types import Array, Distribution, Params, Shape

# Makes a module that maps `[N, *E]` to raw outputs `[N, outputs]`, elements first, channels last.
MakeModule = Callable[[nnx.Rngs], Callable[[Array], Array]]

# What multiplies by a kernel and adds a bias.
LAYERS = (nnx.Linear, nnx.LinearGeneral, nnx.Einsum, nnx.Conv, nnx.ConvTranspose)


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

    The modules are split once, here: what is left of them is a static description, and each call
    merges it with the parameters it is given.

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
    encoder, decoder = (_split(make)[0] for make in (make_encoder, make_decoder))

    def init(key: Array) -> Params:
        check_key(key)
        encoder_key, decoder_key, posterior_key, likelihood_key = jax.random.split(key, 4)
        return {
            "encoder": _split(make_encoder, encoder_key)[1],
            "posterior": posterior.init(posterior_key, latent_shape),
            "decoder": _split(make_decoder, decoder_key)[1],
            "likelihood": likelihood.init(likelihood_key, data_shape),
        }

    def encode(params: Params, x: Array) -> Distribution:
        inputs = likelihood.standardize(_check_event("encode: x", x, data_shape))
        raw = _apply(encoder, params["encoder"], inputs, data_shape, (*latent_shape, posterior.channels))
        return posterior.distribution(params["posterior"], raw, len(latent_shape))

    def decode(params: Params, z: Array) -> Distribution:
        inputs = _check_event("decode: z", z, latent_shape)
        raw = _apply(decoder, params["decoder"], inputs, latent_shape, (*data_shape, likelihood.channels))
        return likelihood.distribution(params["likelihood"], raw, len(data_shape))

    return Model(init, encode, decode)


def check_shape(name: str, shape: Shape) -> None:
    """Raise unless `shape` is a non-empty tuple of positive integers."""
    if not isinstance(shape, tuple) or not shape:
        raise TypeError(f"{name} must be a non-empty tuple of integers such as (28, 28, 1); got {shape!r}")
    for size in shape:
        check_count(name, size)


def _split(make: MakeModule, key: Array | None = None) -> tuple[nnx.GraphDef[Any], Params]:
    """The static description of a module and its parameters (abstract ones where there is no key)."""
    module: Any
    if key is None:
        module = nnx.eval_shape(lambda: make(nnx.Rngs(params=jax.random.key(0))))
    else:
        module = make(nnx.Rngs(params=key))
    for _, layer in nnx.iter_modules(module):
        if isinstance(layer, LAYERS) and layer.promote_dtype is dtypes.promote_dtype:
            layer.promote_dtype = _promote
    description, state = nnx.split(module, nnx.Param)
    return description, nnx.to_pure_dict(state)


def _promote(arrays: Any, /, *, dtype: Any = None, inexact: bool = True) -> Any:
    """Inputs, kernel and bias in one dtype, as Flax has them; but a kernel in half precision decides for the inputs.

    The bias stays as it is: its gradient is a sum over batch and pixels, which half precision cannot hold.
    """
    inputs, kernel, bias = arrays
    if dtype is None and jnp.issubdtype(kernel.dtype, jnp.floating) and kernel.dtype.itemsize < 4:
        return jnp.asarray(inputs, kernel.dtype), kernel, bias
    return dtypes.promote_dtype(arrays, dtype=dtype, inexact=inexact)


def _apply(description: nnx.GraphDef[Any], params: Params, inputs: Array, event: Shape, outputs: Shape) -> Array:
    """Run a module over `[*B, *event]`, its batch axes made one, to `[*B, *outputs]` in float32 or more."""
    batch = inputs.shape[: inputs.ndim - len(event)]
    raw = nnx.merge(description, params)(inputs.reshape(math.prod(batch), *event))
    return raw.reshape(batch + outputs).astype(jnp.promote_types(raw.dtype, jnp.float32))


def _check_event(name: str, value: Array, event: Shape) -> Array:
    shape = getattr(value, "shape", None)
    if shape is None or shape[len(shape) - len(event) :] != event:
        found = f"shape {shape}" if shape is not None else type(value).__name__
        raise ValueError(f"{name} must be an array that ends in the axes {event}; got {found}")
    return value
