"""Rows that are made a chunk at a time, and the examples that they are made of."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from vaejax.checks import check_array, check_count
from vaejax.data import Dataset, Examples, Meaning
from vaejax.outcome import EVALUATION_SEED, VALIDATION_SEED, Keys, evaluation_keys
from vaejax.types import Array, ArrayLike, Params

# Arrays of as many rows, by name.
Chunk = dict[str, np.ndarray]

# For what is drawn for x of training examples, as outcome has it of those that are held out.
TRAINING_SEED = 0x7E59
SEEDS = {"train": TRAINING_SEED, "validation": VALIDATION_SEED, "test": EVALUATION_SEED}

# Rows that are made at once.
BATCH_SIZE = 128


class Chosen(NamedTuple):
    """Examples of which something is made, with what is known of each."""

    examples: Examples  # [M, *E] as they are stored
    numbers: np.ndarray  # [N] which of them, in the order in which they are used
    keys: Keys  # of what is drawn for their x
    known: dict[str, np.ndarray]  # [M, ...] labels and factors, by name


def choose(dataset: Dataset, split: str, numbers: Sequence[int] | np.ndarray | None = None) -> Chosen:
    """The examples of a split that have these numbers, or all of them where None.

    Their x are those of the test figures: what is drawn for one is a function of its split and number.

    Raises:
      TypeError: numbers that are no integers.
      ValueError: a split that there is not, no numbers, or one out of range.
    """
    if split not in dataset.splits:
        raise ValueError(f"split must be one of {', '.join(dataset.splits)}; got {split!r}")
    examples, labels, factors = dataset.splits[split]
    picked = np.arange(len(examples)) if numbers is None else _check_numbers(numbers, split, len(examples))
    known = {name: array for name, array in (("label", labels), ("factors", factors)) if array is not None}
    return Chosen(examples, picked, evaluation_keys(SEEDS[split]), known)


def given(dataset: Dataset, examples: ArrayLike) -> Chosen:
    """A person's own examples `[N, *E]`, in the form in which the data set stores its own.

    Raises:
      TypeError: no array of numbers, or fractions where the data set stores whole numbers.
      ValueError: no examples, another shape, or numbers out of range.
    """
    check_array("examples", examples)
    stored = np.asarray(examples)
    if stored.shape[1:] != dataset.shape or not len(stored):
        sizes = ", ".join(["N", *map(str, dataset.shape)])
        raise ValueError(f"examples must be of shape [{sizes}], N at least 1; got shape {stored.shape}")
    if stored.dtype.kind == "f" and dataset.dtype.kind != "f":
        kept = f"{dataset.dtype} from 0 to {dataset.max_value:g}"
        raise TypeError(f"examples must be as {dataset.name} stores them, {kept}; got {stored.dtype}")
    low, high = _limits(dataset)
    there = stored[~np.isnan(stored)] if dataset.missing and stored.dtype.kind == "f" else stored
    if not ((low <= there) & (there <= high)).all():
        wanted = f"from {low:g} to {high:g}, as {dataset.name} stores them"
        raise ValueError(f"examples must be {wanted}; got numbers from {stored.min()} to {stored.max()}")
    return Chosen(stored.astype(dataset.dtype), np.arange(len(stored)), evaluation_keys(), {})


def in_chunks(
    row: Callable[..., dict[str, Array]],
    params: Params,
    numbers: Sequence[int] | np.ndarray,
    batch_size: int,
    examples: Examples | None = None,
) -> Iterator[Chunk]:
    """What `row(params, number)`, or `row(params, number, example)`, gives of each number, by one compiled program.

    What goes wrong as it is traced does so now, and not when the first chunk is asked for.
    """
    check_count("batch_size", batch_size)
    size = min(batch_size, len(numbers))
    program = jax.jit(lambda params, *part: jax.vmap(partial(row, params))(*part))

    def chunks() -> Iterator[Chunk]:
        for start in range(0, len(numbers), size):
            wanted = np.asarray(numbers[start : start + size])
            part = [wanted.astype(np.uint32), *([] if examples is None else [examples[wanted]])]
            # The last part is filled up with its last row, for a program of one shape.
            filled = [np.concatenate([each, np.repeat(each[-1:], size - len(each), axis=0)]) for each in part]
            yield {name: np.asarray(made)[: len(wanted)] for name, made in program(params, *filled).items()}

    shapes = [((size,), np.uint32), *([] if examples is None else [((size, *examples.shape[1:]), examples.dtype)])]
    jax.eval_shape(program, params, *(jax.ShapeDtypeStruct(*each) for each in shapes))
    return chunks()


def with_known(chunks: Iterator[Chunk], numbers: np.ndarray, known: dict[str, np.ndarray]) -> Iterator[Chunk]:
    """The chunks with the numbers of their examples, and what is known of these."""
    start = 0
    for chunk in chunks:
        picked = numbers[start : start + len(next(iter(chunk.values())))]
        start += len(picked)
        yield {"index": picked, **chunk, **{name: array[picked] for name, array in known.items()}}


def _limits(dataset: Dataset) -> tuple[float, float]:
    """What examples like those of the data set may hold; what only happens to be its largest value is no limit."""
    if dataset.meaning in (Meaning.BINARY, Meaning.INTENSITY):
        return 0, dataset.max_value
    kind: Any = np.finfo(dataset.dtype) if dataset.dtype.kind == "f" else np.iinfo(dataset.dtype)
    return (0 if dataset.meaning is Meaning.COUNTS else float(kind.min)), float(kind.max)


def _check_numbers(numbers: Any, split: str, total: int) -> np.ndarray:
    picked = np.asarray(numbers)
    if not picked.size:
        raise ValueError(f"numbers must name at least one example of the {split} split; got none")
    if picked.dtype.kind not in "iu" or picked.ndim != 1:
        raise TypeError(f"numbers must be integers, [N]; got {picked.dtype} of shape {picked.shape}")
    outside = picked[(picked < 0) | (picked >= total)]
    if outside.size:
        raise ValueError(f"numbers must be from 0 to {total - 1}, the {split} examples; got {outside[0]}")
    return picked
