"""What a model costs: nets in half precision, and activations that the backward pass computes again."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vaejax.checks import check_callable
from vaejax.nets.model import Model
from vaejax.types import Array, Distribution, Params


def in_precision(model: Model, dtype: Any) -> Model:
    """The same model with the matrix products and convolutions of its nets in `dtype`, such as `jnp.bfloat16`.

    Parameters stay in float32 and so do their gradients. The kernels and what they are multiplied with are cast for the
    product alone; biases, activations, heads and densities are in float32. That is where the time goes, and half the
    memory for what the backward pass keeps of a layer's inputs. Data are not cast, so integer levels stay integers.

    Args:
      model: of `make_model`, as `mlp` and `conv` are. Layers of Flax with a dtype of their own keep it.
      dtype: a floating dtype. float16 overflows at 65,504 and would need its loss scaled; bfloat16 does not.

    Raises:
      TypeError: a dtype that is not floating.
      ValueError: parameters that have no "encoder" or "decoder".

    >>> import jax
    >>> from vaejax.nets import mlp
    >>> model = in_precision(mlp((784,), 20), jnp.bfloat16)
    >>> params = model.init(jax.random.key(0))
    >>> params["encoder"]["layers"][0]["kernel"].dtype, model.encode(params, jnp.ones((8, 784))).mean.dtype
    (dtype('float32'), dtype('float32'))

    Source: Micikevicius et al. 2018, Mixed Precision Training; Kalamkar et al. 2019, A Study of BFLOAT16 for Deep
    Learning Training.
    """
    dtype = jnp.dtype(dtype)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"in_precision: dtype must be a floating dtype such as jnp.bfloat16; got {dtype}")

    def encode(params: Params, x: Array) -> Distribution:
        return model.encode(_with_kernels_in(dtype, params, "encoder"), x)

    def decode(params: Params, z: Array) -> Distribution:
        return model.decode(_with_kernels_in(dtype, params, "decoder"), z)

    return Model(model.init, encode, decode)


def rematerialize(model: Model, policy: Callable[..., Any] | None = None) -> Model:
    """The same model, which keeps no activations for its backward pass: `encode` and `decode` under `jax.checkpoint`.

    Values and gradients are the same. The backward pass computes each of the two nets forward once more, and while it
    is in one of them it holds the activations of that one alone. Where draws are mapped one after the other
    (`map_samples` by `jax.lax.map`), it holds those of one draw in place of all. The compiler has the last word: that
    for CPUs may merge the two forward passes again.

    Args:
      model: any model.
      policy: what to keep all the same, one of `jax.checkpoint_policies`; nothing where None.

    >>> import jax
    >>> from vaejax.nets import mlp
    >>> model = rematerialize(mlp((784,), 20, hidden_sizes=(500, 500)))
    >>> model.encode(model.init(jax.random.key(0)), jnp.ones((8, 784))).mean.shape
    (8, 20)

    Source: Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost.
    """
    if policy is not None:
        check_callable("rematerialize: policy", policy)
    return Model(model.init, jax.checkpoint(model.encode, policy=policy), jax.checkpoint(model.decode, policy=policy))


def _with_kernels_in(dtype: Any, params: Params, net: str) -> Params:
    if not isinstance(params, dict) or net not in params:
        found = ", ".join(map(str, params)) if isinstance(params, dict) else type(params).__name__
        raise ValueError(f"in_precision: params must be a dict with {net!r}, as make_model has them; got {found}")

    def cast(path: tuple[Any, ...], leaf: Array) -> Array:
        return leaf.astype(dtype) if getattr(path[-1], "key", None) == "kernel" else leaf

    return {**params, net: jax.tree_util.tree_map_with_path(cast, params[net])}
