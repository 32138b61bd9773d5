"""The norm of a gradient, of any size that a float has."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from vaejax.types import Array, ArrayLike

# How often an array is folded in two before its elements are summed.
FOLDS = 4
# Squares of numbers above 1e19 overflow float32; of those this much smaller, none does.
SMALLER = 2.0**-80


def global_norm(tree: Any) -> Array:
    """The square root of the sum of all squares, `[]`, at least float32; 0 of no arrays.

    On a CPU the halves of an array are added to each other before the sum: XLA makes one loop of squares and additions,
    where for a sum alone it first writes all squares to memory, which costs as much as the rest of the norm. Where the
    squares overflow the sum is taken again of smaller numbers: on a CPU only there, elsewhere always, since
    accelerators would wait for the choice. (To scale by the largest number costs nine times as much.)
    """
    norm = _norm(tree)
    overflows = jnp.isinf(jax.lax.stop_gradient(norm))
    choose: Any = lambda tree: jax.lax.cond(overflows, partial(_norm_by, SMALLER), lambda _: norm, tree)
    always: Any = partial(_norm_by, jnp.where(overflows, SMALLER, 1.0))
    return jax.lax.platform_dependent(tree, cpu=choose, default=always)


def _norm_by(scale: ArrayLike, tree: Any) -> Array:
    """The norm by that of the numbers times a scale."""
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
