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
    Variables that are no parameters are constants: the running averages of `nnx.BatchNorm(use_running_average=True)`,
    say. Layers that change theirs in the forward pass are refused.

    Args:
      make: `nnx.Rngs` to a module, arrays `[N, *inputs[0]]`, `[N, *inputs[1]]`, ... to `[N, prod(outputs)]`.
      inputs: the event axes of each input.
      outputs: those of what it gives.

    Raises:
      TypeError: `make` cannot be called.
      ValueError, of `apply`: inputs of other event axes, or another number of them; a layer that changes a variable,
        such as `nnx.Dropout` and `nnx.BatchNorm` as they are trained.

    >>> import jax, jax.numpy as jnp
    >>> from flax import nnx
    >>> net = make_net(lambda rngs: nnx.Linear(784, 40, rngs=rngs), [(784,)], (20, 2))
    >>> net.apply(net.init(jax.random.key(0)), jnp.zeros((5, 8, 784))).shape
    (5, 8, 20, 2)
    """
    check_callable("make_net: make", make)
    description, _, state = _split(make)
    if state:
        with jax.ensure_compile_time_eval():
            state = jax.jit(lambda: _split(make, jax.random.key(0))[2])()

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
        raw = _call(nnx.merge(description, params, state), *rows)
        return raw.reshape(batch + tuple(outputs)).astype(jnp.promote_types(raw.dtype, jnp.float32))

    return Net(init, apply)


def check_event(name: str, value: Array, event: Shape) -> Array:
    """Raise unless the last axes of an array are those of an event."""
    shape = getattr(value, "shape", None)
    if shape is None or shape[len(shape) - len(event) :] != tuple(event):
        found = f"shape {shape}" if shape is not None else type(value).__name__
        raise ValueError(f"{name} must be an array that ends in the axes {tuple(event)}; got {found}")
    return value


def _split(make: MakeModule, key: Array | None = None) -> tuple[nnx.GraphDef[Any], Params, Params]:
    """The static description of a module, its parameters and its other variables (abstract where there is no key)."""
    module: Any = nnx.eval_shape(lambda: make(_streams(jax.random.key(0)))) if key is None else make(_streams(key))
    for _, layer in nnx.iter_modules(module):
        if isinstance(layer, LAYERS) and layer.promote_dtype is dtypes.promote_dtype:
            layer.promote_dtype = _promote
    description, state = nnx.split(module)
    params, others = nnx.split_state(state, nnx.Param, ...)
    return description, nnx.to_pure_dict(params), nnx.to_pure_dict(others)


def _streams(key: Array) -> nnx.Rngs:
    """What a module draws from when it is made. The first carry of a recurrent layer is the same in each call."""
    return nnx.Rngs(jax.random.fold_in(key, 1), params=key, carry=0)


def _call(module: Any, *rows: Array) -> Array:
    """What a module makes of its inputs; raises where it changes a variable on the way."""

    def variables() -> dict[tuple[Any, ...], Any]:
        return dict(nnx.to_flat_state(nnx.state(module, nnx.Not(nnx.Param))))

    before = {path: variable.get_raw_value() for path, variable in variables().items()}
    raw: Array = module(*rows)
    for path, variable in variables().items():
        # A recurrent layer counts the carries that it has begun with, all of them alike.
        is_carry = getattr(variable, "tag", None) == "carry"
        if path in before and variable.get_raw_value() is not before[path] and not is_carry:
            raise ValueError(
                f"make_net: {'/'.join(map(str, path))} ({type(variable).__name__}) changes in the forward pass, and "
                f"layers with a state of their own cannot be trained yet; use nnx.LayerNorm or nnx.GroupNorm in place "
                f"of nnx.BatchNorm, and nnx.Dropout with deterministic=True"
            )
    return raw


def _promote(arrays: Any, /, *, dtype: Any = None, inexact: bool = True) -> Any:
    """Inputs, kernel and bias in one dtype, as Flax has them; but a kernel in half precision decides for the inputs.

    The bias stays as it is: its gradient is a sum over batch and pixels, which half precision cannot hold.
    """
    inputs, kernel, bias = arrays
    if dtype is None and jnp.issubdtype(kernel.dtype, jnp.floating) and kernel.dtype.itemsize < 4:
        return jnp.asarray(inputs, kernel.dtype), kernel, bias
    return dtypes.promote_dtype(arrays, dtype=dtype, inexact=inexact)
