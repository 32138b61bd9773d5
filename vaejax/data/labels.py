"""Labels and factors from outside as integers from 0, in whichever of the usual ways they come."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from vaejax.checks import check_array
from vaejax.data.dataset import Split
from vaejax.data.stored import convert, stored_dtype


def settle_labels(
    splits: Mapping[str, Split], names: tuple[str, ...] = ()
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The labels of the splits that have some as integers `[N]`, and what these are called.

    Strings become their place among `names`, or among all that occur, sorted. Rows `[N, C]` of zeros with a single one
    become the place of the one, and a column `[N, 1]` becomes `[N]`.

    Raises:
      TypeError: what holds neither numbers nor strings, or strings in some splits alone.
      ValueError: fractions, negative numbers, another count than that of the examples, or a string without a name.

    >>> splits = {"train": Split(np.zeros((3, 2)), np.array(["cat", "ape", "cat"]))}
    >>> labels, names = settle_labels(splits)
    >>> labels["train"].tolist(), names
    ([1, 0, 1], ('ape', 'cat'))
    """
    found = {part: _array(f"{part}.labels", split.labels) for part, split in splits.items() if split.labels is not None}
    texts = [part for part, labels in found.items() if labels.dtype.kind == "U"]
    if texts:
        if len(texts) < len(found):
            raise TypeError(f"labels must be strings in all splits or in none; got strings in {', '.join(texts)}")
        names = names or tuple(sorted({text for labels in found.values() for text in np.unique(labels).tolist()}))
        found = {part: _places(part, labels, names) for part, labels in found.items()}
    else:
        _check_columns(found)
        found = {part: _from_rows(labels) for part, labels in found.items()}
    return {
        part: integers(f"{part}.labels", each, len(splits[part].examples), 1) for part, each in found.items()
    }, names


def integers(name: str, value: Any, count: int, axes: int) -> np.ndarray:
    """Numbers from outside as integers from 0, one row of `axes` axes in all for each of `count` examples.

    Raises:
      TypeError: what is no array of numbers.
      ValueError: fractions, negative numbers, or another shape.
    """
    array = _array(name, value)
    floats = jnp.issubdtype(array.dtype, jnp.floating)
    if not floats and array.dtype.kind not in "iub":
        raise TypeError(f"{name} must hold integers; got dtype {array.dtype}")
    if array.ndim != axes or len(array) != count:
        expected = f"({count},)" if axes == 1 else f"({count}, F)"
        raise ValueError(f"{name} must have shape {expected} for {count} examples; got shape {array.shape}")
    # Neither infinity nor NaN has a remainder of 0.
    with np.errstate(invalid="ignore"):
        broken = array[array % 1 != 0] if floats else array[:0]
    if broken.size:
        raise ValueError(f"{name} must hold integers; got {broken.flat[0]}")
    if array.size and array.min() < 0:
        raise ValueError(f"{name} must be at least 0; got values down to {array.min()}")
    return convert(name, array, np.dtype(np.int32) if floats else stored_dtype(name, array.dtype))


def _array(name: str, value: Any) -> np.ndarray:
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} must be an array without a mask; got MaskedArray")
    if not (isinstance(value, np.ndarray) and value.dtype.kind == "U"):
        check_array(name, value)
    return np.asarray(value)


def _check_columns(found: Mapping[str, np.ndarray]) -> None:
    columns = {part: labels.shape[1] for part, labels in found.items() if labels.ndim == 2 and labels.shape[1] > 1}
    first = next(iter(columns), "")
    other = next((part for part in columns if columns[part] != columns[first]), None)
    if other is not None:
        raise ValueError(f"{other}.labels must have {columns[first]} columns as {first}; got {columns[other]}")


def _from_rows(labels: np.ndarray) -> np.ndarray:
    """Labels without a second axis, where that is a column or says the class by the place of its one."""
    if labels.ndim != 2 or labels.shape[1] == 0:
        return labels
    if labels.shape[1] == 1:
        return labels[:, 0]
    one = ((labels == 0) | (labels == 1)).all() and (np.count_nonzero(labels, axis=1) == 1).all()
    return labels.argmax(axis=1) if one else labels


def _places(part: str, labels: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    texts, rows = np.unique(labels, return_inverse=True)
    missing = next((text for text in texts.tolist() if text not in names), None)
    if missing is not None:
        raise ValueError(f"label_names must have all of {part}.labels; got none that is {missing!r}")
    places = np.array([names.index(text) for text in texts.tolist()], np.int32)[rows].reshape(labels.shape)
    return _from_rows(places) if labels.shape[1:] == (1,) else places
