"""Which examples a step sees, as a pure function of a key and the step."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vaejax.checks import check_count, check_key
from vaejax.types import Array, ArrayLike


def epoch_indices(key: Array, epoch: ArrayLike, *, num_examples: int, batch_size: int) -> Array:
    """The examples of each step of an epoch: `[steps_per_epoch, batch_size]` int32.

    An epoch is `num_examples // batch_size` steps through a permutation of its own, drawn from the key and the number
    of the epoch. So the examples of a step are known from its number, and no iterator has a state to save. The examples
    left over at the end of an epoch wait for another permutation.

    Args:
      key: one typed PRNG key, the same for the whole run.
      epoch: counted from 0, may be traced.
      num_examples: size of the data set.
      batch_size: examples per step, at most `num_examples`.

    >>> import jax
    >>> rows = epoch_indices(jax.random.key(0), 0, num_examples=6, batch_size=3)
    >>> sorted(rows.ravel().tolist())
    [0, 1, 2, 3, 4, 5]
    """
    check_key(key)
    steps = count_steps(num_examples, batch_size)
    order = jax.random.permutation(jax.random.fold_in(key, epoch), num_examples).astype(jnp.int32)
    return order[: steps * batch_size].reshape(steps, batch_size)


def count_steps(num_examples: int, batch_size: int) -> int:
    """Steps per epoch: whole batches only."""
    check_count("num_examples", num_examples)
    check_count("batch_size", batch_size)
    if batch_size > num_examples:
        raise ValueError(f"batch_size must be at most the {num_examples} examples there are; got {batch_size}")
    return num_examples // batch_size


def batches_from(
    key: Array, examples: Any, first_step: int, *, batch_size: int, share: tuple[int, int] = (0, 1)
) -> Iterator[Any]:
    """The batches of a run from one of its steps on, without end, read from the host: those of `epoch_indices`.

    Args:
      key: that of `epoch_indices`.
      examples: a pytree of arrays `[N, ...]`, which may be memory-mapped: only the rows of a batch are read.
      first_step: counted from 0 over the whole run.
      batch_size: examples per step, of all hosts together.
      share: (index, count) of this host: it yields the index-th of count equal parts of each batch.

    Raises:
      ValueError: a count of hosts that does not divide the batch.

    >>> import jax, numpy as np
    >>> batches = batches_from(jax.random.key(0), np.arange(6), 1, batch_size=3, share=(1, 3))
    >>> next(batches).shape
    (1,)
    """
    index, count = share
    if batch_size % count:
        raise ValueError(f"batch_size must be a multiple of the {count} hosts; got {batch_size}")
    (num_examples,) = {len(leaf) for leaf in jax.tree.leaves(examples)}
    rows_of = jax.jit(partial(epoch_indices, key, num_examples=num_examples, batch_size=batch_size))
    part = slice(index * (batch_size // count), (index + 1) * (batch_size // count))
    epoch, step = divmod(first_step, count_steps(num_examples, batch_size))
    while True:
        for row in np.asarray(rows_of(epoch))[step:]:
            yield jax.tree.map(partial(_take, indices=row[part]), examples)
        epoch, step = epoch + 1, 0


def _take(array: Any, indices: np.ndarray) -> Any:
    return array[indices]
