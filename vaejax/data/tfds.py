"""Any data set of tensorflow-datasets, read without TensorFlow."""

import hashlib
import itertools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vaejax.data.cache import cached
from vaejax.data.dataset import Dataset, Examples, Meaning, Split
from vaejax.data.download import import_tfds, one_line, quiet
from vaejax.data.images import check_fit
from vaejax.data.lazy import Lazy
from vaejax.data.prepared import open_prepared, shards
from vaejax.data.records import Fields, choose_fields, make_reader, read_records, read_rows
from vaejax.memory import host_capacity
from vaejax.types import Shape

NAMES = ("train", "validation", "test")
# Of the memory of the machine, for the examples of a data set.
SHARE = 0.25
# How many examples are looked at where not all are read.
LOOKED_AT = 1000
# Bytes of each file of records that go into the fingerprint, at so many places of it.
SAMPLE, PLACES = 2**16, 4


class _Source(NamedTuple):
    """The records of a split, and how to read them."""

    records: Any  # random access to bytes
    fields: Fields
    shape: Shape
    dtype: np.dtype[Any]
    crop: int | None
    size: tuple[int, int] | None
    where: str
    fingerprint: str

    def read(self, rows: np.ndarray) -> np.ndarray:
        reader = make_reader(self.fields, self.crop, self.size)
        found = read_rows(self.records, rows.tolist(), reader, self.shape, self.where)
        return np.stack([record.example for record in found]) if found else np.empty((0, *self.shape), self.dtype)


def load_tfds(
    name: str,
    folder: str | os.PathLike[str] | None = None,
    *,
    splits: Mapping[str, str] | None = None,
    size: tuple[int, int] | None = None,
    crop: int | None = None,
    cache: bool = True,
) -> Dataset:
    """A data set of tensorflow-datasets: `mnist`, `cifar10`, `celeb_a`, `emnist/letters`, ...

    Records that are prepared already are read without TensorFlow. Otherwise they are prepared once, for which most
    data sets need it; files that lie in the folder are used in place of a download. Examples are one array where they
    take at most a quarter of the memory, and are read when they are asked for otherwise. Examples come in the order of
    tensorflow-datasets, which is that of a hash of their keys.

    The example is the feature `image`, or the only image or tensor; labels are the class `label`, factors the classes
    `label_...`. Images of 0 and 1 alone are binary; where the examples are too many to hold, a thousand are looked at.

    Args:
      name: as tensorflow-datasets has it, perhaps with a config and a version.
      folder: where prepared data sets lie, or the files to prepare one from, these also in a folder of its name; by
        default `TFDS_DATA_DIR`, else `~/tensorflow_datasets`.
      splits: `train`, `test` and perhaps `validation` as slices of its splits, such as `train[:50000]`; by default its
        own, and the last tenth of the training split for tests where it has no test split.
      size: height and width that images are resized to, after their centre of the same aspect is cut out.
      crop: pixels of the centred square that is cut out before.
      cache: whether the arrays are kept as files and mapped the next time, see `cached`.

    Raises:
      ValueError: an unknown name or split, splits that overlap, damaged or half-prepared records, images of several
        sizes without `size`, or a data set that has no single image.
      FileNotFoundError: the files to prepare it from are not there and cannot be downloaded.
      ModuleNotFoundError: tensorflow-datasets is not installed, or TensorFlow is not and is needed once.

    Source: TensorFlow Datasets, https://www.tensorflow.org/datasets.
    """
    check_fit(size, crop)
    builder = open_prepared(name, folder)
    fields = choose_fields(name, builder.info.features)
    if (size or crop) and not fields.is_image:
        raise ValueError(f"size and crop are for images; {name} has tensors")
    specs, note = _specs(name, builder.info.splits) if splits is None else (dict(splits), "")
    _check_disjoint(name, specs, builder.info.splits)
    sources = {split: _source(builder, fields, spec, size, crop) for split, spec in specs.items()}
    found = _load(name, builder, sources, cache)
    meaning, max_value = _meaning([split.examples for split in found.values()])
    return Dataset(
        name,
        found["train"],
        found["test"],
        max_value,
        meaning,
        found.get("validation"),
        fields.label_names,
        tuple(factor.removeprefix("label_") for factor in fields.factors),
        f"tensorflow-datasets {builder.info.full_name} in {builder.data_dir}{note}",
    )


def _specs(name: str, infos: Any) -> tuple[dict[str, str], str]:
    """Its own splits; the last tenth of the training split for tests where there is none, with a note of it."""
    specs = {split: split for split in NAMES if split in infos}
    if "train" in specs and "test" in specs:
        return specs, ""
    count = infos["train"].num_examples if "train" in specs else 0
    if count < 2:
        raise ValueError(f"{name} has the splits {', '.join(infos)}: say which are train and test by splits={{...}}")
    start = count - max(1, count // 10)
    return specs | {"train": f"train[:{start}]", "test": f"train[{start}:]"}, f", test: train[{start}:]"


def _check_disjoint(name: str, specs: dict[str, str], infos: Any) -> None:
    """Raise `ValueError` where a split is unknown or empty, or an example is in two of them."""
    if not {"train", "test"} <= set(specs) <= set(NAMES):
        raise ValueError(f"splits must name train, test and perhaps validation; got {', '.join(specs) or 'none'}")
    instruction = import_tfds().core.ReadInstruction
    parts = []
    for split, spec in specs.items():
        try:
            absolute = instruction.from_spec(spec).to_absolute(infos)
        except Exception as error:  # assertions and others
            raise ValueError(f"{name} has no split {spec!r} for {split}: {one_line(error)}") from error
        for each in absolute:
            start, stop = each.from_ or 0, infos[each.splitname].num_examples if each.to is None else each.to
            if start >= stop:
                raise ValueError(f"{name} has no examples in the split {spec!r} for {split}")
            parts.append((each.splitname, start, stop, split))
    for one, other in itertools.pairwise(sorted(parts)):
        if one[0] == other[0] and other[1] < one[2]:
            raise ValueError(f"the splits {one[3]} and {other[3]} of {name} share examples of its {one[0]}: {specs}")


def _source(builder: Any, fields: Fields, spec: str, size: tuple[int, int] | None, crop: int | None) -> _Source:
    raw = import_tfds().decode.DeserializeMethod.RAW_BYTES
    with quiet():
        records = builder.as_data_source(spec, deserialize_method=raw, file_format="array_record")
    # By which the shape of all is known.
    first = read_rows(records, [0], make_reader(fields, crop, size), None, builder.data_dir)[0].example
    fingerprint = f"{_fingerprint(builder)} {spec} size={size} crop={crop}"
    return _Source(records, fields, first.shape, first.dtype, crop, size, builder.data_dir, fingerprint)


def _fingerprint(builder: Any) -> str:
    """A checksum of what was prepared: the descriptions, and of each file of records its size and samples of it."""
    digest = hashlib.sha256()
    for file in ("dataset_info.json", "features.json"):
        path = Path(builder.data_dir) / file
        digest.update(path.read_bytes() if path.is_file() else b"")
    for path, _ in shards(builder):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as stream:
            for place in range(PLACES):
                stream.seek(max(0, size - SAMPLE) * place // (PLACES - 1))
                digest.update(stream.read(SAMPLE))
    return digest.hexdigest()


def _load(name: str, builder: Any, sources: dict[str, _Source], cache: bool) -> dict[str, Split]:
    """Arrays where the examples of all splits fit into memory; else labels and factors as arrays, examples lazy."""
    nbytes = sum(len(each.records) * int(np.prod(each.shape)) * each.dtype.itemsize for each in sources.values())
    fits = nbytes <= SHARE * host_capacity()
    arrays = _arrays(name, builder, sources, fits, cache)
    return {
        split: Split(
            arrays[f"{split}_examples"] if fits else _lazy(source),
            arrays.get(f"{split}_labels"),
            arrays.get(f"{split}_factors"),
        )
        for split, source in sources.items()
    }


def _arrays(name: str, builder: Any, sources: dict[str, _Source], fits: bool, cache: bool) -> Mapping[str, np.ndarray]:
    def make() -> dict[str, np.ndarray]:
        return {
            f"{split}_{kind}": array for split, source in sources.items() for kind, array in _read(source, fits).items()
        }

    # Records that were prepared again may look the same in all samples.
    times = [path.stat().st_mtime_ns for path, _ in shards(builder)]
    made_from = f"{[(split, source.fingerprint) for split, source in sources.items()]} {times} {fits}"
    return cached(name, made_from, make) if cache else make()


def _read(source: _Source, fits: bool) -> dict[str, np.ndarray]:
    if fits:
        reader = make_reader(source.fields, source.crop, source.size)
        return read_records(source.records, reader, source.fields, source.shape, source.dtype, source.where)
    if source.fields.label is None and not source.fields.factors:
        return {}
    reader = make_reader(source.fields, None, None, labels_only=True)
    arrays = read_records(source.records, reader, source.fields, (), np.dtype(np.uint8), source.where)
    return {kind: array for kind, array in arrays.items() if kind != "examples"}


def _lazy(source: _Source) -> Lazy:
    return Lazy(source.read, (len(source.records), *source.shape), source.dtype, source.fingerprint)


def _meaning(splits: list[Examples]) -> tuple[Meaning, float]:
    """What numbers say, from all of those that are held, or from some of each split where none are."""
    parts = [
        each[np.linspace(0, len(each) - 1, min(len(each), LOOKED_AT)).astype(int)] if isinstance(each, Lazy) else each
        for each in splits
    ]
    low, high = min(float(part.min()) for part in parts), max(float(part.max()) for part in parts)
    dtype = parts[0].dtype
    if dtype.kind in "bu" and dtype.itemsize == 1:
        return (Meaning.BINARY, 1) if high <= 1 else (Meaning.INTENSITY, 255)
    if dtype.kind in "iu" and low >= 0:
        return Meaning.COUNTS, high
    if not np.isfinite([low, high]).all():
        raise ValueError(f"examples must be finite; got values from {low} to {high}")
    return Meaning.REAL, max(-low, high)
