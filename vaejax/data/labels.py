"""Labels and factors from outside as integers from 0, in whichever of the usual ways they come."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from vaejax.checks import check_array
from vaejax.data.dataset import Split
from vaejax.data.foreign import as_numpy
from vaejax.data.stored import convert, stored_dtype


class Labels(NamedTuple):
    """What is known of the examples of the splits, by the names of these."""

    labels: dict[str, np.ndarray]  # [N] integers from 0, -1 where there is none
    names: tuple[str, ...]  # what the labels 0, 1, ... are called
    several: dict[str, np.ndarray]  # [N, L] integers from 0, in place of labels where each example has several


def settle_labels(splits: Mapping[str, Split], names: tuple[str, ...] = ()) -> Labels:
    """The labels of the splits that have some as integers `[N]`, and what these are called.

    Strings become their place among `names`, or among all that occur, sorted. Rows `[N, C]` of zeros with a single one
    become the place of the one, and a column `[N, 1]` becomes `[N]`. Other rows `[N, L]` are several labels of each
    example, which are factors where no others are given. A label of -1 says that an example has none.

    Raises:
      TypeError: what holds neither numbers nor strings, or strings in some splits alone.
      ValueError: fractions, numbers below -1, another count than that of the examples, or a string without a name.

    >>> splits = {"train": Split(np.zeros((3, 2)), np.array(["cat", "ape", "cat"]))}
    >>> labels, names, _ = settle_labels(splits)
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
        found = _from_rows(found)
    several = bool(found) and not texts and all(labels.ndim == 2 and labels.shape[1] > 1 for labels in found.values())
    several = several and all(split.factors is None for split in splits.values())
    axes, lowest = (2, 0) if several else (1, -1)
    settled = {
        part: integers(f"{part}.labels", each, len(splits[part].examples), axes, lowest) for part, each in found.items()
    }
    return Labels({}, names, settled) if several else Labels(settled, names, {})


def integers(name: str, value: Any, count: int, axes: int, lowest: int = 0) -> np.ndarray:
    """Numbers from outside as integers from `lowest`, a row of `axes` axes in all for each of `count` examples.

    Raises:
      TypeError: what is no array of numbers.
      ValueError: fractions, numbers that are less, or another shape.
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
    if array.size and array.min() < lowest:
        unknown = " (-1 says that an example has none)" if lowest < 0 else ""
        raise ValueError(f"{name} must be at least {lowest}{unknown}; got values down to {array.min()}")
    return convert(name, array, np.dtype(np.int32) if floats else stored_dtype(name, array.dtype))


def _array(name: str, value: Any) -> np.ndarray:
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} must be an array without a mask; got MaskedArray")
    value = as_numpy(name, value)
    if isinstance(value, np.ndarray) and value.dtype.kind in "US":
        return _texts(name, value)
    check_array(name, value)
    return np.asarray(value)


def _texts(name: str, array: np.ndarray) -> np.ndarray:
    """Strings, of which every sign can be written; those of a file may be any bytes."""
    try:
        if array.dtype.kind == "S":
            return np.char.decode(array, "utf-8")
        array.tobytes().decode("utf-32-be" if array.dtype.str[0] == ">" else "utf-32-le")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} must be strings of Unicode; got other bytes ({error.reason})") from error
    return array


def _check_columns(found: Mapping[str, np.ndarray]) -> None:
    columns = {part: labels.shape[1] for part, labels in found.items() if labels.ndim == 2 and labels.shape[1] > 1}
    first = next(iter(columns), "")
    other = next((part for part in columns if columns[part] != columns[first]), None)
    if other is not None:
        raise ValueError(f"{other}.labels must have {columns[first]} columns as {first}; got {columns[other]}")


def _from_rows(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Labels without a second axis where it is of one column, or in all splits has a single one in each row."""
    found = {part: labels[:, 0] if labels.shape[1:] == (1,) else labels for part, labels in found.items()}
    rows = {part: labels for part, labels in found.items() if labels.ndim == 2}
    return found | {part: each.argmax(axis=1) for part, each in rows.items() if all(map(_is_one_hot, rows.values()))}


def _is_one_hot(rows: np.ndarray) -> bool:
    return bool(((rows == 0) | (rows == 1)).all() and (np.count_nonzero(rows, axis=1) == 1).all())


def _places(part: str, labels: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    texts, rows = np.unique(labels, return_inverse=True)
    missing = next((text for text in texts.tolist() if text not in names), None)
    if missing is not None:
        raise ValueError(f"label_names must have all of {part}.labels; got none that is {missing!r}")
    places = np.array([names.index(text) for text in texts.tolist()], np.int32)[rows].reshape(labels.shape)
    return places[:, 0] if labels.shape[1:] == (1,) else places
