"""What the numbers of a data set say, found out from their values or checked against them."""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from vaejax.checks import check_array, check_positive
from vaejax.data.dataset import Meaning

# Bytes of which none is larger are likely not from 0 to 255.
DARK = 63
# The whites of images that are stored as another type.
WHITE, DEEP_WHITE = 255, 65535


class Values(NamedTuple):
    """What decides of many numbers, those that are missing aside."""

    low: float
    high: float
    whole: bool  # no fractions
    missing: bool = False  # whether there is a NaN, which marks a number that is missing

    @property
    def binary(self) -> bool:
        """Whether they are 0 and 1."""
        return self.whole and self.low >= 0 and self.high <= 1


def merge_values(parts: Sequence[Values]) -> Values:
    """The values of all parts together."""
    low, high = min(each.low for each in parts), max(each.high for each in parts)
    return Values(low, high, all(each.whole for each in parts), any(each.missing for each in parts))


def values_of(part: str, start: int, chunk: np.ndarray) -> Values:
    """The values of the examples of a split from number `start` on; NaN is a number that is missing.

    Raises:
      ValueError: infinity, or an example in which every number is missing.
    """
    if chunk.dtype.kind != "f":
        return Values(chunk.min().item(), chunk.max().item(), True)
    rows = chunk.reshape(len(chunk), -1)
    _check_rows(f"{part} must be finite in float32; got infinity", start, np.isinf(rows).any(axis=1))
    missing = np.isnan(rows)
    _check_rows(
        f"{part} must have a number that is not missing (NaN) in every example; got none", start, missing.all(1)
    )
    low, high = np.nanmin(rows).item(), np.nanmax(rows).item()
    return Values(low, high, bool((missing | (rows == np.floor(rows))).all()), bool(missing.any()))


def _check_rows(message: str, start: int, wrong: np.ndarray) -> None:
    if wrong.any():
        raise ValueError(f"{message} in example {start + int(np.argmax(wrong))}")


def settle_meaning(
    name: str,
    values: Values,
    dtype: np.dtype[Any],
    meaning: Meaning | None,
    max_value: float | None,
    *,
    image: bool = False,
) -> tuple[Meaning, float]:
    """What numbers say and how large they get: found out where it is None, checked where it is given.

    Warns where bytes are taken for intensities up to 255, and none is larger than 63; and where the whole numbers of
    an `image` are taken for something else than intensities, though none is larger than 255 (of uint16, 65535).

    Raises:
      TypeError: a meaning that is no `Meaning`, a `max_value` that is no number.
      ValueError: values that do not fit, a `max_value` that is not positive, or none where it cannot be found out.
    """
    max_value = None if max_value is None else check_max_value(max_value)
    if meaning is None:
        meaning = _infer(values, dtype, max_value)
        hint = _hint(values, dtype, meaning, image) if max_value is None else None
        if hint:
            warnings.warn(f"{name}: {hint}", stacklevel=3)
    if not isinstance(meaning, Meaning):
        raise TypeError(f"meaning must be a vaejax.data.Meaning; got {type(meaning).__name__} {meaning!r}")
    limit = _default_limit(values, dtype, meaning) if max_value is None else max_value
    check_meaning(f"{meaning.name} values", values, meaning, limit)
    return meaning, limit


def check_meaning(name: str, values: Values, meaning: Meaning, max_value: float) -> None:
    """Raise `ValueError` where numbers do not fit what they are said to mean."""
    low, high, whole, _ = values
    fits, expected = {
        Meaning.BINARY: (values.binary and max_value == 1, "0 and 1"),
        Meaning.INTENSITY: (low >= 0 and high <= max_value, f"from 0 to max_value={max_value}"),
        Meaning.COUNTS: (whole and low >= 0 and high <= max_value, f"whole, from 0 to {max_value}"),
        Meaning.REAL: (max(-low, high) <= max_value, f"from {-max_value} to {max_value}"),
    }[meaning]
    if not fits:
        raise ValueError(
            f"{name} must be {expected}; got {'whole numbers' if whole else 'numbers'} from {low} to {high}"
        )


def check_max_value(max_value: Any) -> float:
    """The number that it must be: one, finite and positive."""
    check_array("max_value", max_value)
    if np.ndim(max_value) or not np.isfinite(max_value):
        raise ValueError(f"max_value must be one finite number; got {max_value}")
    check_positive("max_value", max_value)
    return np.asarray(max_value).item()


def _infer(values: Values, dtype: np.dtype[Any], max_value: float | None) -> Meaning:
    if values.binary and max_value in (None, 1):
        return Meaning.BINARY
    if values.low < 0:
        return Meaning.REAL
    if max_value is not None or dtype == np.uint8 or (dtype.kind == "f" and values.high <= 1):
        return Meaning.INTENSITY
    return Meaning.REAL if dtype.kind == "f" else Meaning.COUNTS


def _hint(values: Values, dtype: np.dtype[Any], meaning: Meaning, image: bool) -> str | None:
    """What is likelier than the meaning that was found out, if anything is."""
    if meaning is Meaning.INTENSITY and dtype == np.uint8 and values.high <= DARK:
        return (
            f"uint8 are taken for intensities up to 255, and the largest value is {values.high:g}: if that is white, "
            f"say max_value={values.high:g} (--max-value {values.high:g})"
        )
    white = DEEP_WHITE if dtype == np.uint16 and values.high > WHITE else WHITE
    other = image and meaning in (Meaning.COUNTS, Meaning.REAL)
    if other and values.whole and values.low >= 0 and values.high <= white:
        return (
            f"images of whole numbers from {values.low:g} to {values.high:g} are taken for {meaning.name}: for grey "
            f"values say meaning=INTENSITY, max_value={white} (--meaning intensity --max-value {white})"
        )
    return None


def _default_limit(values: Values, dtype: np.dtype[Any], meaning: Meaning) -> float:
    # A limit of 0 would be divided by.
    if meaning is Meaning.COUNTS:
        return values.high or 1
    if meaning is Meaning.REAL:
        return max(-values.low, values.high) or 1
    if meaning is Meaning.BINARY or (dtype.kind == "f" and values.high <= 1):
        return 1
    if dtype == np.uint8:
        return 255
    raise ValueError(
        f"max_value must say the intensity of white; got None, and {dtype} values up to {values.high} (say "
        f"max_value={values.high:g}, --max-value {values.high:g}, if that is white)"
    )
