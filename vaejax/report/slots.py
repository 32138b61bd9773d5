"""Values of a program for the browser: what is known while it is written, and slots that it will fill."""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from vaejax.types import Shape

# What a float32 counts exactly.
LARGEST_INTEGER = 2**24


class UnsupportedOperation(ValueError):
    """A function that cannot become a program for the browser: a primitive it does not have, or too many weights."""


class Known:
    """A value that does not depend on z."""

    def __init__(self, array: Any):
        self.array = array
        self.shape: Shape = tuple(array.shape)
        self.dtype = array.dtype


class Slot(NamedTuple):
    """A value that the browser computes, as the elements of an array in its natural order."""

    place: int
    shape: Shape
    dtype: Any


Value = Known | Slot


class Builder:
    """Operations so far, the slots that they read and fill, and the constants among these."""

    def __init__(self, outer: "Builder | None" = None):
        self.operations: list[dict[str, Any]] = []
        self.sizes: list[int] = [] if outer is None else outer.sizes
        self._constants: dict[tuple[str, bytes], int] = {} if outer is None else outer._constants

    def block(self) -> "Builder":
        """Operations of their own, on the same slots and constants."""
        return Builder(self)

    def slot(self, shape: Sequence[int], dtype: Any) -> Slot:
        """A new slot."""
        self.sizes.append(math.prod(shape))
        return Slot(len(self.sizes) - 1, tuple(shape), dtype)

    def constant(self, array: np.ndarray) -> int:
        """The slot of a float32 or int32 array, the same one for the same elements."""
        key = (array.dtype.kind, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self.slot(array.shape, array.dtype).place
        return self._constants[key]

    def constants(self) -> list[tuple[int, np.ndarray]]:
        """The constants with their slots."""
        return [(index, np.frombuffer(data, f"{kind}4")) for (kind, data), index in self._constants.items()]

    def materialize(self, value: Value) -> Slot:
        """A slot that holds the value."""
        if isinstance(value, Slot):
            return value
        return Slot(self.constant(_as_float32(value.array)), value.shape, value.dtype)

    def emit(self, op: str, inputs: Sequence[Value], shape: Sequence[int], dtype: Any, **parameters: Any) -> Slot:
        """Write an operation and return the slot that it fills."""
        read = [self.materialize(value).place for value in inputs]
        result = self.slot(shape, dtype)
        self.operations.append({"op": op, "in": read, "out": [result.place], **parameters})
        return result

    def copy(self, value: Value) -> Slot:
        """A slot of its own with the same elements."""
        return self.emit("take", [value], value.shape, value.dtype, **_strided(positions_of(value.shape)) or {})

    def take(self, values: Sequence[Value], positions: np.ndarray, dtype: Any) -> Value:
        """Elements of the values, one after the other, by their positions; below 0 stands for NaN."""
        if all(isinstance(value, Known) for value in values):
            return Known(np.concatenate([np.ravel(_as_float32(value.array)) for value in values])[positions])  # type: ignore[union-attr]
        (first, *rest), shape = values, positions.shape
        if not rest and np.array_equal(positions.ravel(), np.arange(math.prod(first.shape))):
            return Slot(self.materialize(first).place, shape, dtype)
        strided = None if rest else _strided(positions)
        if strided is not None:
            return self.emit("take", values, shape, dtype, **strided)
        return self.emit("take", values, shape, dtype, map=self.constant(positions.astype(np.int32)))

    def transpose(self, value: Value, order: Sequence[int]) -> Value:
        """The value with its axes in another order."""
        return self.take([value], np.transpose(positions_of(value.shape), order), value.dtype)

    def elementwise(self, name: str, inputs: Sequence[Value], shape: Shape, dtype: Any) -> Slot:
        """An operation on the elements of inputs that broadcast to a shape."""
        periods = {_period(value.shape, shape) for value in inputs} - {math.prod(shape), 1}
        single = periods.pop() if len(periods) == 1 else None
        period = single or math.prod(shape)
        fitted = [self._fit(value, shape, period) for value in inputs]
        strides = [_strides_of(math.prod(value.shape), math.prod(shape), period) for value in fitted]
        return self.emit("map", fitted, shape, dtype, f=name, period=period, strides=strides)

    def _fit(self, value: Value, shape: Shape, period: int) -> Value:
        if _period(value.shape, shape) in {1, period, math.prod(shape)}:
            return value
        return self.take([value], np.broadcast_to(positions_of(value.shape), shape), value.dtype)


def unsupported(what: str) -> UnsupportedOperation:
    """The error for what no program has."""
    # Also for the readers of a page, who know of no function and no argument.
    return UnsupportedOperation(f"the decoder uses {what}, which cannot run in a page")


def _as_float32(array: Any) -> np.ndarray:
    if not (jnp.issubdtype(array.dtype, jnp.floating) or array.dtype.kind in "biu"):
        raise unsupported(f"constants of dtype {array.dtype}")
    host = np.asarray(array)
    if host.dtype.kind in "iu" and host.size and np.max(np.abs(host.astype(np.float64))) > LARGEST_INTEGER:
        raise unsupported("integers beyond 2**24")
    return np.ascontiguousarray(host.astype(np.float32))


def positions_of(shape: Sequence[int], start: int = 0) -> np.ndarray:
    """The places of the elements of a shape, counted from `start`."""
    return np.arange(start, start + math.prod(shape), dtype=np.int32).reshape(shape)


def _strided(positions: np.ndarray) -> dict[str, Any] | None:
    """A start and a stride per axis, where that is what the positions are."""
    if positions.size == 0:
        return None
    start = int(positions.flat[0])
    strides = [
        int(np.take(positions, 1, axis).flat[0]) - start if n > 1 else 0 for axis, n in enumerate(positions.shape)
    ]
    steps = (np.arange(n) * stride for n, stride in zip(positions.shape, strides, strict=True))
    along = np.ix_(*steps) if strides else ()
    if start < 0 or not np.array_equal(positions, np.broadcast_to(start + sum(along), positions.shape)):
        return None
    return {"start": start, "strides": strides, "counts": list(positions.shape)}


def _period(shape: Shape, target: Shape) -> int | None:
    """After how many elements a shape repeats when it is broadcast to another; None where it is not that simple."""
    size, trimmed = math.prod(shape), tuple(itertools.dropwhile(lambda n: n == 1, shape))
    return size if not trimmed or target[len(target) - len(trimmed) :] == trimmed else None


def _strides_of(size: int, whole: int, period: int) -> list[int]:
    """How far an operand moves from one period to the next, and inside of one."""
    if size == whole:
        return [period, 1]
    return [0, 0] if size == 1 else [0, 1]
