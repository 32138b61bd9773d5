"""Transforms that are done once and for all, as static binarization is: the result is another data set."""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vaejax.checks import check_array, check_callable, check_count
from vaejax.data.dataset import Dataset, Examples, Meaning
from vaejax.data.lazy import Lazy
from vaejax.data.meaning import check_max_value, check_meaning, values_of
from vaejax.types import Array

# (key, examples [B, *E]) to examples [B, *F].
Transform = Callable[[Array, Any], Array]
# (number of a split, index, example [*E]) to the example [*F] in its place.
Single = Callable[[Any, Any, Any], Array]

# The key of an example depends on the number of its split, so these stay as they are.
NUMBERS = {"train": 0, "validation": 1, "test": 2}
# Folded in first: keys that are split or folded from a seed, as those of a run, are others.
STREAM = 0x0DA7A5E7
# What is transformed at once: so that little memory is needed beside the results.
EXAMPLES_AT_ONCE = 4096
ELEMENTS_AT_ONCE = 2**24


def once(
    dataset: Dataset,
    transform: Transform,
    *,
    seed: int = 0,
    meaning: Meaning | None = None,
    max_value: float | None = None,
) -> Dataset:
    """The data set with a transform done once and for all: what an example becomes never changes.

    In place of x, the i-th example of its split, is `transform(fold_in(fold_in(fold_in(key(seed), STREAM),
    split), i), x[None])[0]`, where train, validation and test are the splits 0, 1 and 2, and `STREAM` sets these keys
    apart from those that a run makes of the same seed. So what it becomes depends on the seed and its place
    alone, and not on what is read with it. It is computed on the CPU where JAX has one, with threefry keys, so that
    it does not depend on the accelerator either. (A crop or a draw of bits is the same to the bit, whether examples
    are read one by one or together; sums, as in `resize`, are so up to rounding.)

    Arrays become arrays; what is lazy stays so, and is transformed when it is read. Labels and factors are kept.
    For lazy examples, the checksum of the data set tells transforms apart by their name and, of a
    `functools.partial`, by its plain arguments: functions that differ need different names.

    Args:
      dataset: whose examples are transformed.
      transform: such as `partial(binarize, max_value=255)`: any pure function of a key and examples `[1, *E]` to
        examples `[1, *F]`. It is traced, but for the first example of each split, of which it may check the values.
      seed: from 0 to 2^32 - 1.
      meaning: of the results; that of the data set where None. Binary results are stored as uint8.
      max_value: of the results; where None 1 if `meaning` is binary, and that of the data set otherwise.

    Raises:
      TypeError: a transform that is no function or returns no array.
      ValueError: results that are not one for one, or do not fit `meaning` and `max_value`; of lazy examples when
        they are read.

    Source: Salakhutdinov and Murray 2008, who binarized MNIST in this way.

    >>> from functools import partial
    >>> from vaejax.data import binarize, load_digits
    >>> digits = once(load_digits(), partial(binarize, max_value=16), meaning=Meaning.BINARY)
    >>> digits.shape, digits.dtype, digits.train.examples.max().item()
    ((8, 8, 1), dtype('uint8'), 1)
    """
    check_callable("once: transform", transform)
    check_count("once: seed", seed, minimum=0)
    if seed >= 2**32:
        raise ValueError(f"once: seed must be below 2**32; got {seed}")
    result = _described(dataset, meaning, max_value)
    label = f"{_name(transform)} with seed {seed}"
    single = _single(transform, seed)
    batched = jax.jit(jax.vmap(single, (None, 0, 0)))
    changed = {
        name: split._replace(examples=_transform_split(result, name, single, batched, label))
        for name, split in dataset.splits.items()
    }
    return result._replace(
        train=changed["train"],
        validation=changed.get("validation"),
        test=changed["test"],
        origin=", ".join(filter(None, (dataset.origin, label))),
    )


def _described(dataset: Dataset, meaning: Meaning | None, max_value: float | None) -> Dataset:
    meaning = Meaning(meaning or dataset.meaning)
    if max_value is None:
        max_value = 1 if meaning is Meaning.BINARY else dataset.max_value
    max_value = check_max_value(max_value)
    if meaning is Meaning.BINARY and max_value != 1:
        raise ValueError(f"once: max_value must be 1 for binary results; got {max_value}")
    return dataset._replace(meaning=meaning, max_value=max_value)


def _single(transform: Transform, seed: int) -> Single:
    def single(number: Any, index: Any, example: Any) -> Array:
        # Another generator may draw other bits for one key among many than for the key alone.
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), STREAM), number)
        results = transform(jax.random.fold_in(key, index), example[None])
        check_array("once: what transform returns", results)
        if jnp.shape(results)[:1] != (1,):
            raise ValueError(f"once: transform must return shape [1, ...] for one example; got {jnp.shape(results)}")
        return jnp.asarray(results)[0]

    return single


def _transform_split(dataset: Dataset, name: str, single: Single, batched: Single, label: str) -> Examples:
    examples, number = dataset.splits[name].examples, NUMBERS[name]
    first = examples[0] if len(examples) else np.zeros(examples.shape[1:], examples.dtype)
    # Not traced, so that it is seen to be right; it also shows shape and dtype.
    with _now():
        example = np.asarray(single(number, 0, first))
    # NaN marks what is missing, which bytes do not have.
    dtype = np.dtype(np.uint8) if dataset.meaning is Meaning.BINARY and not dataset.missing else example.dtype
    size = max(1, min(EXAMPLES_AT_ONCE, ELEMENTS_AT_ONCE // max(1, first.size, example.size)))

    def read(rows: np.ndarray) -> np.ndarray:
        results = np.empty((len(rows), *example.shape), dtype)
        # Sizes that are powers of two are few, and each is compiled once.
        step = min(size, 2 ** math.ceil(math.log2(max(1, len(rows)))))
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            with _now():
                values = np.asarray(batched(number, _filled(some, step), _filled(examples[some], step)))[: len(some)]
            what = f"once: results of the {name} split"
            if not dataset.missing:
                _check_present(what, start, values)
            check_meaning(what, values_of(what, start, values), dataset.meaning, dataset.max_value)
            results[start : start + step] = values
        return results

    shape = (len(examples), *example.shape)
    if not isinstance(examples, Lazy):
        return read(np.arange(len(examples)))
    if "<lambda>" in label:
        raise ValueError("once: a transform of lazy examples must have a name, which the checksum needs; got a lambda")
    return Lazy(read, shape, dtype, f"{examples.fingerprint}, {label}, split {number}")


def _check_present(what: str, start: int, values: np.ndarray) -> None:
    """Raise on NaN, which only marks a missing number where the data set has those."""
    absent = np.isnan(values).reshape(len(values), -1).any(axis=1) if values.dtype.kind == "f" else np.zeros(1, bool)
    if absent.any():
        raise ValueError(f"{what} must be finite in float32; got NaN in example {start + int(np.argmax(absent))}")


def _filled(array: np.ndarray, size: int) -> np.ndarray:
    """Up to `size` with the last one again and again, so that all parts are of one shape."""
    return array if len(array) == size else array[np.minimum(np.arange(size), len(array) - 1)]


@contextlib.contextmanager
def _now() -> Iterator[None]:
    """Compute on the CPU, where JAX has one; also where what is around is being traced."""
    try:
        device = jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX was told to do without
        device = None
    with jax.ensure_compile_time_eval(), jax.default_device(device):
        yield


def _name(function: Any) -> str:
    if not isinstance(function, functools.partial):
        return str(getattr(function, "__name__", type(function).__name__))
    arguments = [_plain(each) for each in function.args]
    arguments += [f"{name}={_plain(value)}" for name, value in function.keywords.items()]
    return f"{_name(function.func)}({', '.join(arguments)})"


def _plain(value: Any) -> str:
    """A number or text as it is written; of anything else the type, since its text may differ from run to run."""
    if isinstance(value, tuple | list):
        return f"({', '.join(_plain(each) for each in value)})"
    return repr(value) if isinstance(value, bool | int | float | str | None) else type(value).__name__
