"""One way to every data set: by its name, or by the path of its files."""

import contextlib
import difflib
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from vaejax.data import download, prepared, tfds
from vaejax.data.binarized_mnist import load_binarized_mnist, read_binarized_text
from vaejax.data.dataset import Dataset, Meaning, Split, map_splits
from vaejax.data.digits import load_digits
from vaejax.data.dsprites import load_dsprites
from vaejax.data.files import load_npy, load_npz
from vaejax.data.idx import FILES, KNOWN, has_idx_files, load_idx, read_idx_set
from vaejax.data.image_folder import load_image_folder
from vaejax.data.lazy import Lazy, hold, read_all
from vaejax.data.sprites import make_sprites
from vaejax.memory import EXAMPLES_SHARE, host_capacity

TFDS = "tfds:"
FOLDER = "VAEJAX_DATA"

Folder = str | os.PathLike[str] | None


def load(
    name: str | os.PathLike[str],
    folder: Folder = None,
    *,
    size: tuple[int, int] | None = None,
    crop: int | None = None,
    splits: Mapping[str, str] | None = None,
    meaning: Meaning | None = None,
    max_value: float | None = None,
    axes: str | None = None,
) -> Dataset:
    """A data set by its name, or by the path of its files.

    - `digits`, `sprites`, `color_sprites`: part of the library or made by it, no files are needed.
    - `mnist`, `fashion_mnist`, `kmnist` (four IDX files), `binarized_mnist`, `dsprites`: from their published files.
    - any name of tensorflow-datasets, such as `cifar10`, `celeb_a` or `emnist/letters`: prepared once, which may need
      TensorFlow, and then read without it. `tfds:mnist` is the MNIST of tensorflow-datasets.
    - a path: an `.npz` or `.npy` file, a folder of images, or a folder of four IDX files. A word without a separator is
      a path only where it is no name; `./word` always is one, and so is a `Path`.

    What would be downloaded is taken from the folder where it is there already. Examples that fit in a quarter of the
    machine's memory are kept in it; others are `Lazy`.

    Args:
      name: of the data set, or a path.
      folder: where files are looked for first; by default what the environment variable `VAEJAX_DATA` names. Sets of
        tensorflow-datasets are prepared there too where it is given.
      size: height and width to which images of a folder or of tensorflow-datasets are resized.
      crop: before that, a centred square of so many pixels is cut out of them.
      splits: of tensorflow-datasets: `train`, `validation` and `test` in its slices, such as `train[:50000]`.
      meaning: what the numbers of an `.npz`, `.npy` or IDX file say, where that is not to be found out from them.
      max_value: of these, the intensity of white.
      axes: of the arrays of an `.npz` or `.npy` file, a letter for each axis, as in `from_arrays`.

    Raises:
      FileNotFoundError: files that are not there; the message says where they were looked for.
      ValueError: an unknown name, with the nearest ones; files that are damaged or hold something else.
      OSError: no network where something has to be downloaded.

    >>> load("digits").shape
    (8, 8, 1)
    """
    text = os.fspath(name)
    if folder is not None and not _expanded(folder).is_dir():
        raise FileNotFoundError(f"there is no folder {folder} to look for {text} in")
    given = {"size": size, "crop": crop, "splits": splits, "meaning": meaning, "max_value": max_value, "axes": axes}
    if isinstance(name, os.PathLike) or _is_path(text):
        return _kept(_read_path(_expanded(text), text, given))
    if text in MADE or text in PUBLISHED:
        _refuse(text, given)
        named = folder or os.environ.get(FOLDER)
        return _kept(MADE[text]() if text in MADE else PUBLISHED[text](_expanded(named) if named else None))
    if not text.startswith(TFDS) and not _is_known(text, folder):
        if text and Path(text).is_dir():
            return _kept(_read_path(Path(text), text, given))
        raise _unknown(text, folder)
    _refuse(text, {option: given[option] for option in ("meaning", "max_value", "axes")})
    return tfds.load_tfds(text.removeprefix(TFDS), folder, splits=splits, size=size, crop=crop)


def _expanded(path: str | os.PathLike[str]) -> Path:
    # That of pathlib raises where there is no such home.
    return Path(os.path.expanduser(path))


def names() -> list[str]:
    """The data sets that `load` knows besides those of tensorflow-datasets."""
    return sorted({*MADE, *PUBLISHED})


def _published_idx(name: str, folder: Path | None) -> Dataset:
    """A set of four IDX files: those of the folder, or what is fetched."""
    known = KNOWN[name]
    # Without checksums, files are what they are called only where their folder says so.
    places = [] if folder is None else [folder / name, *([folder] if known.sha256 else [])]
    for root in places:
        if has_idx_files(root):
            return load_idx(root, name)
    found = download.fetch(name, download.known_files(name), [] if folder is None else [folder])
    return read_idx_set({part: found[f"{file}.gz"] for part, file in FILES.items()}, name, known)


def _binarized_mnist(folder: Path | None) -> Dataset:
    name = "binarized_mnist"
    if folder is not None:
        with contextlib.suppress(FileNotFoundError):
            return load_binarized_mnist(folder)
    found = download.fetch(name, download.known_files(name), [] if folder is None else [folder])
    return read_binarized_text({part: found[f"{name}_{part}.amat"] for part in ("train", "valid", "test")})


def _dsprites(folder: Path | None) -> Dataset:
    if folder is None:
        raise FileNotFoundError(f"dsprites needs the folder of its file: folder, or the environment variable {FOLDER}")
    return load_dsprites(folder)


def _color_sprites() -> Dataset:
    return make_sprites(channels=3, num_positions=5)._replace(name="color_sprites")


READERS: dict[str, Callable[..., Dataset]] = {".npz": load_npz, ".npy": load_npy}
MADE: dict[str, Callable[[], Dataset]] = {
    "digits": load_digits,
    "sprites": make_sprites,
    "color_sprites": _color_sprites,
}
PUBLISHED: dict[str, Callable[[Path | None], Dataset]] = {
    **{name: partial(_published_idx, name) for name in KNOWN},
    "binarized_mnist": _binarized_mnist,
    "dsprites": _dsprites,
}


def _is_path(text: str) -> bool:
    """Whether a text can be nothing but a path, or has a separator and is one."""
    path = Path(text)
    if not text or path.is_absolute() or text[0] in ".~" or path.suffix.lower() in READERS:
        return bool(text)
    return len(path.parts) > 1 and path.exists()


def _read_path(path: Path, name: str, given: Mapping[str, Any]) -> Dataset:
    if not path.exists():
        raise FileNotFoundError(f"there is no file or folder {path}")
    suffix = path.suffix.lower()
    numbers = {option: given[option] for option in ("meaning", "max_value")}
    if path.is_dir() and has_idx_files(path):
        _refuse(name, {option: value for option, value in given.items() if option not in numbers})
        return load_idx(path, **numbers)
    if path.is_dir():
        _refuse(name, {option: value for option, value in given.items() if option not in ("size", "crop")})
        return load_image_folder(path, size=given["size"], crop=given["crop"])
    if suffix not in READERS:
        raise ValueError(f"{path} must be an .npz or .npy file, or a folder; got a file that ends in {path.suffix!r}")
    _refuse(name, {option: given[option] for option in ("size", "crop", "splits")})
    return READERS[suffix](path, axes=given["axes"], **numbers)


def _is_known(name: str, folder: Folder) -> bool:
    """Whether tensorflow-datasets knows a name, or somebody has prepared a set of this name."""
    return bool(prepared.NAME.fullmatch(name)) and name.partition("/")[0].partition(":")[0] in _others(folder)


def _others(folder: Folder) -> list[str]:
    # Without tensorflow-datasets there is nothing else to know.
    with contextlib.suppress(ModuleNotFoundError):
        return prepared.known_names(folder)
    return []


def _unknown(name: str, folder: Folder) -> ValueError:
    near = " or ".join(difflib.get_close_matches(name, [*names(), *_others(folder)], 3))
    there = f"there are {', '.join(names())}, those of tensorflow-datasets, and paths of files and folders"
    return ValueError(f"unknown data set {name}: {f'perhaps {near}; ' if near else ''}{there}")


FOR = {
    "size": "tensorflow-datasets and folders of images (data.resize and data.center_crop are for arrays)",
    "crop": "tensorflow-datasets and folders of images (data.resize and data.center_crop are for arrays)",
    "splits": "tensorflow-datasets",
    "meaning": "files of arrays",
    "max_value": "files of arrays",
    "axes": ".npz and .npy files",
}


def _refuse(name: str, given: Mapping[str, Any]) -> None:
    for option, value in given.items():
        if value is not None:
            raise ValueError(f"{option} is not for {name}: it is for {FOR[option]}")


def _kept(dataset: Dataset) -> Dataset:
    """The data set with the examples in memory that fit there."""
    room = EXAMPLES_SHARE * host_capacity()
    if sum(split.examples.nbytes for split in dataset.splits.values() if isinstance(split.examples, Lazy)) > room:
        return dataset
    return map_splits(_read, dataset)


def _read(split: Split) -> Split:
    examples = split.examples
    return (
        split._replace(examples=hold(read_all(examples), examples.fingerprint)) if isinstance(examples, Lazy) else split
    )
