"""Which examples a step sees, as a pure function of a key and the step."""

import jax
import jax.numpy as jnp

from vaejax.checks import check_count, check_key
from vaejax.types import Array, ArrayLike


def batch_indices(key: Array, first_step: ArrayLike, *, num_steps: int, num_examples: int, batch_size: int) -> Array:
    """The examples of `num_steps` steps, from `first_step` on: `[num_steps, batch_size]` int32.

    Each epoch is `num_examples // batch_size` steps through a fresh permutation, drawn from the key
    and the number of the epoch. So a step has the same examples however the run is cut into chunks,
    and no iterator has a state to save. The examples left over at the end of an epoch wait for
    another permutation.

    Args:
      key: one typed PRNG key, the same for the whole run.
      first_step: counted from 0 over the whole run, may be traced.
      num_steps: how many steps to plan.
      num_examples: size of the data set.
      batch_size: examples per step, at most `num_examples`.

    >>> import jax
    >>> plan = batch_indices(jax.random.key(0), 0, num_steps=2, num_examples=6, batch_size=3)
    >>> sorted(plan.ravel().tolist())
    [0, 1, 2, 3, 4, 5]
    """
    check_key(key)
    check_count("num_steps", num_steps)
    steps_per_epoch = count_steps(num_examples, batch_size)
    steps = jnp.asarray(first_step, jnp.int32) + jnp.arange(num_steps, dtype=jnp.int32)
    epochs = steps // steps_per_epoch
    # The most epochs that so many steps can touch; where fewer are, the last draw is skipped.
    touched = epochs[0] + jnp.arange((num_steps - 2) // steps_per_epoch + 2, dtype=jnp.int32)

    def permutation(epoch: Array) -> Array:
        order = jax.random.permutation(jax.random.fold_in(key, epoch), num_examples).astype(jnp.int32)
        return order[: steps_per_epoch * batch_size].reshape(steps_per_epoch, batch_size)

    def skip(epoch: Array) -> Array:
        del epoch
        return jnp.zeros((steps_per_epoch, batch_size), jnp.int32)

    rows = jax.lax.map(lambda epoch: jax.lax.cond(epoch <= epochs[-1], permutation, skip, epoch), touched)
    return rows[epochs - epochs[0], steps % steps_per_epoch]


def count_steps(num_examples: int, batch_size: int) -> int:
    """Steps per epoch: whole batches only."""
    check_count("num_examples", num_examples)
    check_count("batch_size", batch_size)
    if batch_size > num_examples:
        raise ValueError(f"batch_size must be at most the {num_examples} examples there are; got {batch_size}")
    return num_examples // batch_size
