"""The door for data from outside: arrays are checked, and what their numbers mean is found out or checked."""

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from vaejax.checks import check_array, is_image
from vaejax.data.axes import arrange, check_axes, warn_of_layout
from vaejax.data.dataset import Dataset, Examples, Meaning, Split
from vaejax.data.foreign import as_numpy
from vaejax.data.labels import integers, settle_labels
from vaejax.data.lazy import Lazy
from vaejax.data.meaning import Values, merge_values, settle_meaning, values_of
from vaejax.data.stored import convert, stored_dtype
from vaejax.types import Array

# Of examples that are read when they are asked for, as many are looked at, or fewer where these take more bytes.
LOOKED_AT = 1024
BYTES_AT_ONCE = 2**26


def from_arrays(
    train: Examples | Array | Split,
    test: Examples | Array | Split | None = None,
    *,
    validation: Examples | Array | Split | None = None,
    name: str = "arrays",
    meaning: Meaning | None = None,
    max_value: float | None = None,
    label_names: Sequence[str] = (),
    factor_names: Sequence[str] = (),
    test_fraction: float = 0.1,
    origin: str = "",
    axes: str | None = None,
) -> Dataset:
    """A data set of arrays, with everything checked.

    Three axes `[N, H, W]` are grey images and get a channel axis; `[N, D]` are vectors and stay. Where another layout
    is likelier, as of `[N, 3, H, W]`, there is a warning. With `axes` nothing is guessed: the examples are put first,
    other axes follow in their order, and those of images, H, W and C, come last; images without C get a channel axis.

    Truth values become uint8, floats float32, and integers of more than 32 bits int32. Arrays in memory are not copied
    where nothing has to be changed. Of a memory-mapped one no more than a part is in memory at once. Arrays of other
    libraries are taken where they speak `__array__` or DLPack, as tensors of PyTorch do.

    NaN marks a number that is missing, and so does a mask: masked arrays become float32 with NaN. What the numbers say
    depends on those that are there. `missing` of the data set says whether there are any.

    What the numbers say is found out where it is not given, from the values of all splits: 0 and 1 alone are BINARY;
    uint8 are INTENSITY up to 255, floats from 0 to 1 up to 1, and whatever is not negative up to a `max_value` that is
    given; other integers from 0 are COUNTS; all else is REAL. uint8 of which none is above 63 are taken for
    INTENSITY with a warning, and there is one for images of whole numbers up to 255 (of uint16, 65535) that are taken
    for COUNTS or REAL. Of `Lazy` examples only the first 1,024 are looked at, or fewer where they are large: give the
    meaning where these may differ from the rest.

    Labels are integers from 0, or floats that are, -1 where an example has none; rows `[N, C]` of zeros and a single
    one; or strings, which are numbered as `label_names` has them, or in their order. Other rows `[N, L]` are several
    labels of each example; they become factors, called label 0, label 1, ... where `factor_names` are not given.

    Args:
      train: examples `[N, *E]`, or a `Split` of them with labels and factors `[N, F]`, integers from 0.
      test: those of the test split. Where it is None, a part of `train` that a fixed permutation picks.
      validation: those of the validation split, if there is one.
      name: of the data set.
      meaning: what the numbers say; the values are checked against it.
      max_value: the intensity of white; of counts and real numbers a bound, by default the largest that occurs.
      label_names: what the labels 0, 1, ... are called; by default strings that are labels, sorted.
      factor_names: what the columns of the factors are called.
      test_fraction: how much of `train` becomes the test split where `test` is None.
      origin: where the data were read from, for a person.
      axes: a letter for each axis of the arrays of all splits: N examples, H height, W width, C channels, any other
        letter an axis of its own, such as "NCHW", "HWN", "TNHW" or "NTC".

    Raises:
      TypeError: what is no array of real numbers, or labels that are neither numbers nor strings.
      ValueError: splits that do not fit together, no examples, infinite values or ones that do not fit to the meaning,
        an example in which everything is missing, `axes` that do not fit, labels, factors or names that do not match.

    >>> import numpy as np
    >>> images = np.arange(10 * 4 * 4, dtype=np.uint8).reshape(10, 4, 4)
    >>> dataset = from_arrays(images, test_fraction=0.2)
    >>> dataset.train.examples.shape, len(dataset.test.examples), dataset.meaning.name, dataset.max_value
    ((8, 4, 4, 1), 2, 'INTENSITY', 255)
    >>> from_arrays(np.zeros((3, 16, 16, 20), bool), axes="CHWN").shape
    (16, 16, 3)
    """
    axes = None if axes is None else check_axes(axes)
    given = {"train": train, "validation": validation, "test": test}
    raw = {part: _raw(part, value) for part, value in given.items() if value is not None}
    if axes is None:
        warn_of_layout(name, raw["train"].examples.shape)
    raw = {part: split._replace(examples=arrange(part, split.examples, axes)) for part, split in raw.items()}
    labels, label_names, several = settle_labels(raw, _names("label_names", label_names))
    raw = {part: split._replace(factors=several.get(part, split.factors)) for part, split in raw.items()}
    factor_names = _names("factor_names", factor_names)
    if several and not factor_names:
        factor_names = tuple(f"label {column}" for column in range(next(iter(several.values())).shape[1]))
    # What the numbers say does not depend on what those are kept as that have a mask.
    dtype = stored_dtype("train", raw["train"].examples.dtype)
    raw = _unmasked(raw)
    splits = {part: _checked(part, split, labels.get(part)) for part, split in raw.items()}
    _check_alike(splits)
    _check_names(splits, label_names, factor_names)
    values = _values(raw, splits["train"].examples.dtype, meaning is Meaning.INTENSITY and max_value in (None, 255))
    image = is_image(splits["train"].examples.shape[1:])
    meaning, max_value = settle_meaning(name, values, dtype, meaning, max_value, image=image)
    if test is None:
        splits["train"], splits["test"] = _draw_test(splits["train"], test_fraction)
    return Dataset(
        name, splits["train"], splits["test"], max_value, meaning, splits.get("validation"), label_names, factor_names,
        origin, values.missing,
    )  # fmt: skip


def _raw(part: str, value: Any) -> Split:
    split = value if isinstance(value, Split) else Split(value)
    # Neither of these may be read as a whole.
    examples: Any = split.examples if isinstance(split.examples, Lazy) else as_numpy(part, split.examples)
    check_array(part, examples)
    examples = examples if isinstance(examples, Lazy | np.ndarray) else np.asarray(examples)
    if len(examples.shape) < 2 or 0 in examples.shape:
        raise ValueError(f"{part} must hold examples [N, D], [N, H, W] or [N, H, W, C]; got shape {examples.shape}")
    return split._replace(examples=examples)


def _unmasked(raw: dict[str, Split]) -> dict[str, Split]:
    """The splits with NaN in place of what is masked; where one has a mask, all that are in memory become floats."""
    if not any(isinstance(split.examples, np.ma.MaskedArray) for split in raw.values()):
        return raw
    return {part: split._replace(examples=_filled(part, split.examples)) for part, split in raw.items()}


def _filled(part: str, array: Examples) -> Examples:
    stored_dtype(part, array.dtype)
    if isinstance(array, Lazy):
        return array
    return np.asarray(np.ma.filled(array.astype(np.float32), np.nan))


def _checked(part: str, raw: Split, labels: np.ndarray | None) -> Split:
    count, factors = len(raw.examples), raw.factors
    factors = None if factors is None else integers(f"{part}.factors", factors, count, 2)
    return Split(_stored(part, raw.examples), labels, factors)


def _stored(part: str, array: Examples) -> Examples:
    dtype = stored_dtype(part, array.dtype)
    if isinstance(array, np.ndarray) and (array.dtype == dtype or not isinstance(array, np.memmap)):
        return convert(part, array, dtype)
    source = _lazy(array)
    if source.dtype == dtype:
        return source
    read = lambda rows: convert(part, np.asarray(source.read(rows)), dtype)
    return Lazy(read, source.shape, dtype, source.fingerprint)


def _check_alike(splits: dict[str, Split]) -> None:
    train = splits["train"].examples
    for part, (examples, _, factors) in splits.items():
        if (examples.shape[1:], examples.dtype) != (train.shape[1:], train.dtype):
            raise ValueError(
                f"{part} must hold examples of shape {train.shape[1:]} and dtype {train.dtype} as train does; "
                f"got {examples.shape[1:]} and {examples.dtype}"
            )
        of_train = splits["train"].factors
        if factors is not None and of_train is not None and factors.shape[1] != of_train.shape[1]:
            raise ValueError(f"{part}.factors must have {of_train.shape[1]} columns as train; got {factors.shape[1]}")


def _names(argument: str, names: Sequence[str]) -> tuple[str, ...]:
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"{argument} must be a sequence of strings; got {names!r}")
    return tuple(names)


def _check_names(splits: dict[str, Split], label_names: tuple[str, ...], factor_names: tuple[str, ...]) -> None:
    for part, (_, labels, factors) in splits.items():
        if label_names and labels is not None and labels.max() >= len(label_names):
            raise ValueError(f"label_names must be {labels.max() + 1} for {part}.labels; got {len(label_names)}")
        if factor_names and factors is not None and factors.shape[1] != len(factor_names):
            raise ValueError(f"factor_names must be {factors.shape[1]} for {part}.factors; got {len(factor_names)}")


def _values(raw: dict[str, Split], dtype: np.dtype[Any], known: bool) -> Values:
    if known and dtype == np.uint8:
        return Values(0, 255, True)
    return merge_values([values for part, split in raw.items() for values in _look(part, split.examples, dtype)])


def _look(part: str, array: Examples, dtype: np.dtype[Any]) -> list[Values]:
    step = max(1, BYTES_AT_ONCE // (math.prod(array.shape[1:]) * array.dtype.itemsize))
    rows = min(len(array), LOOKED_AT, step) if isinstance(array, Lazy) else len(array)
    starts = range(0, rows, step)
    return [values_of(part, start, convert(part, array[start : min(start + step, rows)], dtype)) for start in starts]


def _draw_test(split: Split, fraction: float) -> tuple[Split, Split]:
    check_array("test_fraction", fraction)
    total = len(split.examples)
    count = max(1, round(total * fraction)) if 0 < fraction < 1 else 0
    if not 0 < count < total:
        raise ValueError(f"test_fraction must leave examples in both splits of the {total}; got {fraction}")
    # The generator behind RandomState is frozen: this permutation is the same in every NumPy.
    order = np.random.RandomState(0).permutation(total)
    if isinstance(split.examples, np.memmap):
        split = split._replace(examples=_lazy(split.examples))
    return _pick(split, order[:-count]), _pick(split, order[-count:])


def _pick(split: Split, rows: np.ndarray) -> Split:
    examples, *known = split
    if not isinstance(examples, Lazy):
        return Split(examples[rows], *(None if array is None else array[rows] for array in known))
    fingerprint = f"{examples.fingerprint} rows {hashlib.sha256(rows.astype('<i8').tobytes()).hexdigest()}"
    read = lambda asked: examples.read(rows[asked])
    picked = Lazy(read, (len(rows), *examples.shape[1:]), examples.dtype, fingerprint)
    return Split(picked, *(None if array is None else array[rows] for array in known))


def _lazy(array: Examples) -> Lazy:
    if isinstance(array, Lazy):
        return array
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape}\n".encode())
    step = max(1, BYTES_AT_ONCE // array[:1].nbytes)
    for start in range(0, len(array), step):
        digest.update(np.ascontiguousarray(array[start : start + step]).tobytes())
    return Lazy(array.__getitem__, array.shape, array.dtype, digest.hexdigest())
