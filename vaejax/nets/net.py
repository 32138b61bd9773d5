"""A net as two pure functions, made of an NNX module."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn import dtypes

from vaejax.checks import check_callable, check_key
from vaejax.types import Array, Params, Shape

# Makes a module that maps arrays `[N, *E]` to raw outputs `[N, outputs]`, elements first, channels last.
MakeModule = Callable[[nnx.Rngs], Callable[..., Array]]

# What multiplies by a kernel and adds a bias.
LAYERS = (nnx.Linear, nnx.LinearGeneral, nnx.Einsum, nnx.Conv, nnx.ConvTranspose)


class Net(NamedTuple):
    """A net as pure functions; its parameters are nested dicts of arrays."""

    init: Callable[[Array], Params]  # key -> params
    apply: Callable[..., Array]  # params, inputs [*B, *E] each -> outputs [*B, *outputs], float32 or wider


def make_net(make: MakeModule, inputs: Sequence[Shape], outputs: Shape) -> Net:
    """An NNX module as a `Net`, of which encoders and decoders of one's own are made.

    The module is split once, here: what is left of it is a static description, and each call merges it with the
    parameters it is given. It sees one batch axis; the net takes any, and those of several inputs are broadcast.

    Args:
      make: `nnx.Rngs` to a module, arrays `[N, *inputs[0]]`, `[N, *inputs[1]]`, ... to `[N, prod(outputs)]`.
      inputs: the event axes of each input.
      outputs: those of what it gives.

    Raises:
      TypeError: `make` cannot be called.
      ValueError, of `apply`: inputs of other event axes, or another number of them.

    >>> import jax, jax.numpy as jnp
    >>> from flax import nnx
    >>> net = make_net(lambda rngs: nnx.Linear(784, 40, rngs=rngs), [(784,)], (20, 2))
    >>> net.apply(net.init(jax.random.key(0)), jnp.zeros((5, 8, 784))).shape
    (5, 8, 20, 2)
    """
    check_callable("make_net: make", make)
    description, _ = _split(make)

    def init(key: Array) -> Params:
        check_key(key)
        return _split(make, key)[1]

    def apply(params: Params, *arrays: Array) -> Array:
        if len(arrays) != len(inputs):
            raise ValueError(f"make_net: this net takes {len(inputs)} inputs; got {len(arrays)}")
        for array, event in zip(arrays, inputs, strict=True):
            check_event("make_net: an input", array, event)
        batches = [array.shape[: array.ndim - len(event)] for array, event in zip(arrays, inputs, strict=True)]
        batch = jnp.broadcast_shapes(*batches)
        rows = [
            jnp.broadcast_to(array, batch + tuple(event)).reshape(math.prod(batch), *event)
            for array, event in zip(arrays, inputs, strict=True)
        ]
        raw = nnx.merge(description, params)(*rows)
        return raw.reshape(batch + tuple(outputs)).astype(jnp.promote_types(raw.dtype, jnp.float32))

    return Net(init, apply)


def check_event(name: str, value: Array, event: Shape) -> Array:
    """Raise unless the last axes of an array are those of an event."""
    shape = getattr(value, "shape", None)
    if shape is None or shape[len(shape) - len(event) :] != tuple(event):
        found = f"shape {shape}" if shape is not None else type(value).__name__
        raise ValueError(f"{name} must be an array that ends in the axes {tuple(event)}; got {found}")
    return value


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
