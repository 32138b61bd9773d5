"""Which examples a step sees, as a pure function of a key and the step."""

import functools
from collections.abc import Callable, Iterator
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


# The number of an epoch, which may be traced, to the examples of each of its steps: [steps_per_epoch, batch_size].
Plan = Callable[[Any], Array]
# More steps than any run has.
ENDLESS = 2**40


def batches_from(
    plan: Plan,
    examples: Any,
    first_step: int,
    *,
    share: tuple[int, int] = (0, 1),
    num_threads: int = 8,
    prefetch: int = 16,
) -> Iterator[Any]:
    """The batches of a run from one of its steps on, without end, read on the host by several threads.

    A batch is a function of the number of its step, so the place to go on from after a stop is that number, and the
    batches are those that the same plan takes from examples on the device.

    Args:
      plan: such as `partial(epoch_indices, key, num_examples=N, batch_size=B)`.
      examples: a pytree of arrays `[N, ...]`, which may be memory-mapped, or `Lazy`: only the rows of a batch are read.
      first_step: counted from 0 over the whole run.
      share: (index, count) of this host: it reads the index-th of count equal parts of each batch.
      num_threads: that read and decode.
      prefetch: batches to read ahead.

    Raises:
      ValueError: a count of hosts that does not divide the batch.

    >>> import jax, numpy as np
    >>> from functools import partial
    >>> plan = partial(epoch_indices, jax.random.key(0), num_examples=6, batch_size=3)
    >>> next(batches_from(plan, np.arange(6), 1, share=(1, 3))).shape
    (1,)
    """
    try:
        import grain  # slow to import, and needed here alone  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f'streams need grain: pip install "vaejax[data]" ({error})') from error
    check_count("num_threads", num_threads)
    check_count("prefetch", prefetch)
    check_count("first_step", first_step, minimum=0)
    batches = grain.MapDataset.source(_Batches(plan, examples, share))[first_step:]
    reading = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=max(num_threads, prefetch))
    return iter(batches.to_iter_dataset(reading))


class _Batches:
    """The batches of a run by the number of their step."""

    def __init__(self, plan: Plan, examples: Any, share: tuple[int, int]):
        self.steps_per_epoch, batch_size = jax.eval_shape(plan, 0).shape
        index, count = share
        if not 0 <= index < count:
            raise ValueError(f"share must be (index, count) with index from 0 to count - 1; got {share}")
        if batch_size % count:
            raise ValueError(f"batch_size must be a multiple of the {count} hosts; got {batch_size}")
        self.part = slice(index * (batch_size // count), (index + 1) * (batch_size // count))
        self.examples = examples
        compiled = jax.jit(plan)
        # Threads may be in two epochs at once.
        self.rows_of = functools.lru_cache(2)(lambda epoch: np.asarray(compiled(epoch)))

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, step: int) -> Any:
        epoch, place = divmod(step, self.steps_per_epoch)
        rows = self.rows_of(epoch)[place][self.part]
        return jax.tree.map(lambda array: array[rows], self.examples)
