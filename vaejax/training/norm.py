"""The norm of a gradient, of any size that a float has."""

from typing import Any

import jax
import jax.numpy as jnp

from vaejax.types import Array

# How often an array is folded in two before its elements are summed.
FOLDS = 4
# Squares of numbers above 1e19 overflow float32; of those this much smaller, none does.
SMALLER = 2.0**-80


def global_norm(tree: Any) -> Array:
    """The square root of the sum of all squares, `[]`, at least float32; 0 of no arrays.

    On a CPU the halves of an array are added to each other before the sum: XLA makes one loop of squares and additions,
    where for a sum alone it first writes all squares to memory, which costs as much as the rest of the norm. The sum of
    numbers made smaller where it overflows is computed always: to scale by the largest number costs nine times as much,
    and accelerators wait for a choice.
    """
    overflows = jnp.isinf(jax.lax.stop_gradient(_norm(tree)))
    scale = jnp.where(overflows, SMALLER, 1.0)
    return _norm(jax.tree.map(lambda each: each * scale, tree)) / scale


def _norm(tree: Any) -> Array:
    on = jax.lax.platform_dependent
    return jnp.sqrt(sum((on(each, cpu=_folded, default=_plain) for each in jax.tree.leaves(tree)), jnp.zeros(())))


def _plain(array: Array) -> Array:
    return jnp.sum(_squares(array))


def _folded(array: Array) -> Array:
    squares = _squares(array).ravel()
    for _ in range(FOLDS):
        if squares.size % 2:
            break
        squares = jnp.add(*jnp.split(squares, 2))
    return jnp.sum(squares)


def _squares(array: Array) -> Array:
    array = jnp.abs(array) if jnp.iscomplexobj(array) else jnp.asarray(array)
    return jnp.square(array.astype(jnp.promote_types(array.dtype, jnp.float32)))
