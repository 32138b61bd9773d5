"""Bilinear maps of a layer's inputs and its kernel, as primitives of JAX.

A layer is one of three ways to read a trilinear form `<x, k, y>` of inputs, kernel and outputs, as a function of two of
its arguments that gives the third: `forward(x, k)` gives y, `backward(y, k)` x and `kernel(x, y)` k. Each is the
derivative of another, so that three primitives have derivatives of every order.

Two things are decided here that JAX would decide otherwise. A map over examples, such as that of a train step over a
batch whose examples draw by themselves, makes a larger batch: all products stay products of two matrices, the gradient
of the kernel among them. And how each is computed may be another on a CPU than elsewhere, which is settled when a
program is compiled for a platform, so that one export holds both.

The primitives have a leading axis of members M, each with a kernel of its own, into which a map over kernels goes:
x `[M, N, ...]`, k `[M, ...]`, y `[M, N, ...]`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from vaejax.types import Array, Shape


def define_primitive(
    name: str,
    shape_of: Callable[..., Shape],
    function: Callable[..., Array],
    on_cpu: Callable[..., Array] | None = None,
    *,
    adds_examples: bool,
) -> Primitive:
    """A primitive of two arrays, without derivatives yet.

    Args:
      name: of the primitive.
      shape_of: the shapes of the arrays, members first, and the parameters by name to the shape of the result.
      function: the arrays of one member, and the parameters by name, to the result.
      on_cpu: the same, as it is computed on a CPU; as elsewhere where None.
      adds_examples: whether a map over the first array alone is one over examples, which the result has too.
    """
    primitive = Primitive(name)

    def abstract(left: Any, right: Any, **parameters: Any) -> Any:
        return left.update(shape=shape_of(left.shape, right.shape, **parameters), weak_type=False)

    def batch(arrays: Any, axes: Any, **parameters: Any) -> tuple[Array, int]:
        (left, right), (axis, other) = arrays, axes
        size = right.shape[other] if axis is None else left.shape[axis]
        if adds_examples and other is None:
            result = primitive.bind(_merge(left, axis, size, 1), right, **parameters)
            return result.reshape(len(result), size, -1, *result.shape[2:]), 1
        result = primitive.bind(_merge(left, axis, size, 0), _merge(right, other, size, 0), **parameters)
        return result.reshape(size, -1, *result.shape[1:]), 0

    primitive.def_impl(lambda *arrays, **parameters: jax.jit(partial(primitive.bind, **parameters))(*arrays))
    primitive.def_abstract_eval(abstract)
    batching.primitive_batchers[primitive] = batch
    mlir.register_lowering(primitive, mlir.lower_fun(_of_members(function), multiple_results=False))
    if on_cpu is not None:
        mlir.register_lowering(primitive, mlir.lower_fun(_of_members(on_cpu), multiple_results=False), platform="cpu")
    return primitive


def define_derivatives(
    forward: Primitive, backward: Primitive, kernel: Primitive, parameters_of: Callable[[Shape], dict[str, Any]]
) -> None:
    """Make each of the three the derivative of the others.

    Args:
      forward: (x, k) to y.
      backward: (y, k) to x, with parameters.
      kernel: (x, y) to k.
      parameters_of: the shape of x to the parameters of `backward`.
    """
    parameters = lambda x: parameters_of(x.aval.shape)
    ad.defbilinear(
        forward,
        lambda g, x, k: backward.bind(g, k, **parameters(x)),
        lambda g, x, k: kernel.bind(x, g),
    )
    ad.defbilinear(
        backward,
        lambda g, y, k, **_: forward.bind(g, k),
        lambda g, y, k, **_: kernel.bind(g, y),
    )
    ad.defbilinear(
        kernel,
        lambda g, x, y: backward.bind(y, g, **parameters(x)),
        lambda g, x, y: forward.bind(x, g),
    )


def _of_members(function: Callable[..., Array]) -> Callable[..., Array]:
    def mapped(*arrays: Array, **parameters: Any) -> Array:
        of_one = partial(function, **parameters)
        if len(arrays[0]) == 1:
            return of_one(*(array[0] for array in arrays))[None]
        return jax.vmap(of_one)(*arrays)

    return mapped


def _merge(array: Array, axis: int | None, size: int, place: int) -> Array:
    """An axis that is mapped over, made part of the members (0) or of the examples (1)."""
    if axis is None:
        array, axis = jnp.broadcast_to(array, (size, *array.shape)), 0
    array = jnp.moveaxis(array, axis, place)
    return array.reshape(*array.shape[:place], -1, *array.shape[place + 2 :])
