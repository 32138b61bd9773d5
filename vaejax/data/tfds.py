"""Any data set of tensorflow-datasets, read without TensorFlow."""

import hashlib
import itertools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vaejax.data.arrays import from_arrays
from vaejax.data.cache import cached
from vaejax.data.dataset import Dataset, Examples, Meaning, Split
from vaejax.data.download import import_tfds, one_line, quiet
from vaejax.data.images import check_fit
from vaejax.data.lazy import Lazy, hold
from vaejax.data.prepared import open_prepared, shards
from vaejax.data.records import Fields, Record, choose_fields, make_reader, read_records, read_rows
from vaejax.memory import EXAMPLES_SHARE, host_capacity
from vaejax.types import Shape

NAMES = ("train", "validation", "test")
# Changed whenever the same records are decoded to other arrays, which are then made anew.
FORMAT = 2
# How many examples are looked at where not all are read.
LOOKED_AT = 1000
# All bytes of the records go into the fingerprint where they are no more than so many; else so many of each file at so
# many places.
HASHED_WHOLE = 2**32
SAMPLE, PLACES = 2**16, 4


class _Source(NamedTuple):
    """The records of a split, and how to read them."""

    records: Any  # random access to bytes
    fields: Fields
    shape: Shape
    dtype: np.dtype[Any]
    reader: Callable[[bytes], Record]
    where: str
    fingerprint: str

    def read(self, rows: np.ndarray) -> np.ndarray:
        found = read_rows(self.records, rows.tolist(), self.reader, self.shape, self.where)
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
      folder: where it is prepared, and where prepared sets or the files to prepare one from are looked for, these also
        in a folder of its name; then they are in what `VAEJAX_DATA` names, and in `TFDS_DATA_DIR`, else
        `~/tensorflow_datasets`, where it is prepared without a folder.
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
    # Pixels are intensities even where none of those that are looked at is bright.
    known = (Meaning.INTENSITY, 255) if fields.is_image and not _is_binary(found) else (None, None)
    try:
        dataset = from_arrays(
            found["train"],
            found["test"],
            validation=found.get("validation"),
            name=name,
            meaning=known[0],
            max_value=known[1],
            label_names=fields.label_names,
            factor_names=tuple(factor.removeprefix("label_") for factor in fields.factors),
            origin=f"tensorflow-datasets {builder.info.full_name} in {builder.data_dir}{note}",
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {error}") from error
    held = {split: _hold(each, sources[split].fingerprint) for split, each in dataset.splits.items()}
    return dataset._replace(train=held["train"], validation=held.get("validation"), test=held["test"])


def _hold(split: Split, fingerprint: str) -> Split:
    examples = split.examples
    return split if isinstance(examples, Lazy) else split._replace(examples=hold(examples, fingerprint))


def _is_binary(splits: dict[str, Split]) -> bool:
    """Whether images are of 0 and 1 alone, as far as they are looked at."""
    return all(_some(split.examples).max() <= 1 for split in splits.values())


def _some(examples: Examples) -> np.ndarray:
    return examples[np.linspace(0, len(examples) - 1, min(len(examples), LOOKED_AT)).astype(int)]


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
    reader = make_reader(fields, crop, size)
    first = read_rows(records, [0], reader, None, builder.data_dir)[0].example
    fingerprint = f"{_fingerprint(builder)} {spec} size={size} crop={crop}"
    return _Source(records, fields, first.shape, first.dtype, reader, builder.data_dir, fingerprint)


def _fingerprint(builder: Any) -> str:
    """A checksum of what was prepared: the descriptions, and the records or, of very many, samples of them."""
    digest = hashlib.sha256()
    for file in ("dataset_info.json", "features.json"):
        path = Path(builder.data_dir) / file
        digest.update(path.read_bytes() if path.is_file() else b"")
    files = [path for path, _ in shards(builder)]
    whole = sum(path.stat().st_size for path in files) <= HASHED_WHOLE
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as stream:
            if whole:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
            for place in () if whole else range(PLACES):
                stream.seek(max(0, size - SAMPLE) * place // (PLACES - 1))
                digest.update(stream.read(SAMPLE))
    return digest.hexdigest()


def _load(name: str, builder: Any, sources: dict[str, _Source], cache: bool) -> dict[str, Split]:
    """Arrays where the examples of all splits fit into memory; else labels and factors as arrays, examples lazy."""
    nbytes = sum(len(each.records) * int(np.prod(each.shape)) * each.dtype.itemsize for each in sources.values())
    fits = nbytes <= EXAMPLES_SHARE * host_capacity()
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
    made_from = f"{FORMAT} {[(split, source.fingerprint) for split, source in sources.items()]} {times} {fits}"
    return cached(name, made_from, make) if cache else make()


def _read(source: _Source, fits: bool) -> dict[str, np.ndarray]:
    if fits:
        return read_records(source.records, source.reader, source.fields, source.shape, source.dtype, source.where)
    if source.fields.label is None and not source.fields.factors:
        return {}
    reader = make_reader(source.fields, None, None, labels_only=True)
    arrays = read_records(source.records, reader, source.fields, (), np.dtype(np.uint8), source.where)
    return {kind: array for kind, array in arrays.items() if kind != "examples"}


def _lazy(source: _Source) -> Lazy:
    return Lazy(source.read, (len(source.records), *source.shape), source.dtype, source.fingerprint)
