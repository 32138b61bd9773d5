"""The examples of tensorflow-datasets as arrays: which features they are, and how images are decoded."""

import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from vaejax.data.download import import_tfds, one_line, quiet
from vaejax.data.images import fit_image, import_pillow
from vaejax.types import Shape

# An image can claim any size; none that a model is trained on is larger.
MAX_PIXELS = 2**26
READ_AT_ONCE = 512
# In place of an example of which the label alone is wanted.
NOTHING = np.zeros((), np.uint8)
MODES = {1: "L", 3: "RGB", 4: "RGBA"}


class Fields(NamedTuple):
    """The features of a data set that are read."""

    features: Any  # a FeaturesDict of these alone, so that nothing else is decoded
    example: str  # its name
    is_image: bool  # stored as PNG or JPEG
    label: str | None
    factors: tuple[str, ...]
    label_names: tuple[str, ...]


class Record(NamedTuple):
    """What is known of one example."""

    example: np.ndarray
    label: int
    factors: list[int]


def choose_fields(name: str, features: Any) -> Fields:
    """The features that are examples, labels and factors, by their names and types.

    The example is `image`, else the only image, else the only tensor. The label is the class `label`; the factors are
    the classes `label_...`, as dSprites and its like call them.

    Raises:
      ValueError: there is no such example, or it is not clear which one it is.
    """
    tfds = import_tfds()
    kinds = {key: type(feature) for key, feature in getattr(features, "items", dict)()}
    images = [key for key, kind in kinds.items() if kind is tfds.features.Image]
    tensors = [key for key, kind in kinds.items() if kind is tfds.features.Tensor and features[key].shape]
    found = [key for key in images + tensors if key == "image"] or images or tensors
    if len(found) != 1:
        raise ValueError(f"{name} must have one feature that is an image or a tensor; got {_list(kinds)}")
    classes = [key for key, kind in kinds.items() if kind is tfds.features.ClassLabel]
    factors = tuple(key for key in classes if key.startswith("label_"))
    label = "label" if "label" in classes else None
    kept = [found[0], *factors, *([label] if label else [])]
    with quiet():
        chosen = tfds.features.FeaturesDict({key: features[key] for key in kept})
    label_names = tuple(features[label].names or ()) if label else ()
    return Fields(chosen, found[0], found[0] in images, label, factors, _said(label_names))


def _said(names: tuple[str, ...]) -> tuple[str, ...]:
    """No names where they are but the numbers of the classes."""
    return () if names == tuple(str(number) for number in range(len(names))) else names


def _list(kinds: dict[str, type]) -> str:
    return ", ".join(f"{key} ({kind.__name__})" for key, kind in kinds.items()) or "features without names"


def make_reader(
    fields: Fields, crop: int | None, size: tuple[int, int] | None, *, labels_only: bool = False
) -> Callable[[bytes], Record]:
    """A function from a stored record to the example and what is known of it."""
    skip = import_tfds().decode.SkipDecoding()
    decoders = {fields.example: skip} if fields.is_image or labels_only else None

    def read(record: bytes) -> Record:
        stored = fields.features.deserialize_example_np(record, decoders=decoders)
        label = int(stored[fields.label]) if fields.label else 0
        example = NOTHING if labels_only else _example(stored[fields.example], fields, crop, size)
        return Record(example, label, [int(stored[name]) for name in fields.factors])

    return read


def _example(stored: Any, fields: Fields, crop: int | None, size: tuple[int, int] | None) -> np.ndarray:
    feature = fields.features[fields.example]
    if fields.is_image:
        return decode_image(stored, feature.shape[-1] or 3, np.dtype(feature.np_dtype), crop, size)
    array = np.asarray(stored)
    # A matrix is an image of one channel.
    return array[..., None] if array.ndim == 2 else array


def decode_image(
    content: bytes, channels: int, dtype: np.dtype[Any], crop: int | None, size: tuple[int, int] | None
) -> np.ndarray:
    """A stored image as `[H, W, C]` uint8.

    Raises:
      ValueError: it is damaged, too large, has more than 8 bits a channel, or is smaller than `crop`.
    """
    Image = import_pillow()
    if dtype != np.uint8 or channels not in MODES:
        raise ValueError(f"images must be uint8 of 1, 3 or 4 channels; got {dtype} of {channels}")
    with Image.open(io.BytesIO(content)) as image:
        if image.width * image.height > MAX_PIXELS or image.mode[0] in "IF":
            raise ValueError(f"images must be of 8 bits and at most {MAX_PIXELS} pixels; got {image.mode} {image.size}")
        # PIL alone would leave one bit as 0 and 1, and a palette as its indices.
        plain = image if image.mode == MODES[channels] else image.convert(MODES[channels])
        array = np.asarray(fit_image(plain, size, crop))
    return array.reshape(*array.shape[:2], channels)


def read_rows(
    source: Any, rows: Sequence[int], read: Callable[[bytes], Record], shape: Shape | None, where: str
) -> list[Record]:
    """Read and decode some records; without a shape they may have any.

    Raises:
      ValueError: a record is damaged, or its example has another shape; `where` says which data set it is in.
    """
    try:
        records = [read(record) for record in source.__getitems__([int(row) for row in rows])]
    except Exception as error:  # of array_record, protobuf, PIL and tensorflow-datasets
        raise ValueError(f"{where} has a record that cannot be read: {one_line(error)}") from error
    for record in records:
        if shape is not None and record.example.shape != shape:
            raise ValueError(
                f"{where} has examples of shapes {shape} and {record.example.shape}: "
                f"size=(height, width) makes them one"
            )
    return records


def read_records(
    source: Any, read: Callable[[bytes], Record], fields: Fields, shape: Shape, dtype: np.dtype[Any], where: str
) -> dict[str, np.ndarray]:
    """All examples, labels and factors of a source as arrays, read by several threads."""
    count = len(source)
    examples = np.empty((count, *shape), dtype)
    labels, factors = np.zeros(count, np.int32), np.zeros((count, len(fields.factors)), np.int32)

    def fill(start: int) -> None:
        rows = range(start, min(start + READ_AT_ONCE, count))
        for row, record in zip(rows, read_rows(source, rows, read, shape, where), strict=True):
            examples[row], labels[row], factors[row] = record.example, record.label, record.factors

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(fill, range(0, count, READ_AT_ONCE)))
    arrays = {"examples": examples, "labels": labels, "factors": factors}
    # A class that is not known is stored as -1, in test splits of competitions that of every example.
    known = {"examples": True, "labels": fields.label and labels.max() >= 0, "factors": bool(fields.factors)}
    return {name: array for name, array in arrays.items() if known[name]}
