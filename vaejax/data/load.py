"""One way to every data set: by its name, or by the path of its files."""

import contextlib
import difflib
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from vaejax.data import download, prepared, tfds
from vaejax.data.binarized_mnist import load_binarized_mnist, read_binarized_text
from vaejax.data.dataset import Dataset, map_splits
from vaejax.data.digits import load_digits
from vaejax.data.dsprites import load_dsprites
from vaejax.data.files import load_npy, load_npz
from vaejax.data.idx import FILES, KNOWN, has_idx_files, load_idx, read_idx_set
from vaejax.data.image_folder import load_image_folder
from vaejax.data.lazy import Lazy, read_all
from vaejax.data.sprites import make_sprites
from vaejax.memory import host_capacity

# The share of the machine's memory in which lazy examples are kept once they are read.
KEPT_SHARE = 0.25
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
) -> Dataset:
    """A data set by its name, or by the path of its files.

    - `digits`, `sprites`, `color_sprites`: part of the library or made by it, no files are needed.
    - `mnist`, `fashion_mnist`, `kmnist` (four IDX files), `binarized_mnist`, `dsprites`: from their published files.
    - any name of tensorflow-datasets, such as `cifar10`, `celeb_a` or `emnist/letters`: prepared once, which may need
      TensorFlow, and then read without it. `tfds:mnist` is the MNIST of tensorflow-datasets.
    - a path: an `.npz` or `.npy` file, a folder of images, or a folder of four IDX files.

    What would be downloaded is taken from the folder where it is there already. Examples that fit in a quarter of the
    machine's memory are kept in it; others are `Lazy`.

    Args:
      name: of the data set, or a path.
      folder: where files are looked for first; by default what the environment variable `VAEJAX_DATA` names. Of
        tensorflow-datasets it is the data folder too.
      size: height and width to which images of a folder or of tensorflow-datasets are resized.
      crop: before that, a centred square of so many pixels is cut out of them.
      splits: of tensorflow-datasets: `train`, `validation` and `test` in its slices, such as `train[:50000]`.

    Raises:
      FileNotFoundError: files that are not there; the message says where they were looked for.
      ValueError: an unknown name, with the nearest ones; files that are damaged or hold something else.
      OSError: no network where something has to be downloaded.

    >>> load("digits").shape
    (8, 8, 1)
    """
    text = os.fspath(name)
    folder = folder or os.environ.get(FOLDER) or None
    reader = _reader_of_name(text, folder) or _reader_of_path(text, size, crop)
    if reader is not None:
        images = isinstance(reader, partial) and reader.func is load_image_folder
        _refuse(text, splits=splits, **({} if images else {"size": size, "crop": crop}))
        return _kept(reader())
    if not text.startswith(TFDS):
        _check_known(text, folder)
    return tfds.load_tfds(text.removeprefix(TFDS), folder, splits=splits, size=size, crop=crop)


def names() -> list[str]:
    """The data sets that `load` knows besides those of tensorflow-datasets."""
    return sorted({*MADE, *PUBLISHED})


def _published_idx(name: str, folder: Folder) -> Dataset:
    """A set of four IDX files: those of the folder, or what is fetched."""
    for root in () if folder is None else (Path(folder) / name, Path(folder)):
        if has_idx_files(root):
            return load_idx(root, name)
    found = download.fetch(name, download.known_files(name), _folders(name, folder))
    return read_idx_set({part: found[f"{file}.gz"] for part, file in FILES.items()}, name)


def _binarized_mnist(folder: Folder) -> Dataset:
    name = "binarized_mnist"
    if folder is not None:
        with contextlib.suppress(FileNotFoundError):
            return load_binarized_mnist(folder)
    found = download.fetch(name, download.known_files(name), _folders(name, folder))
    return read_binarized_text({part: found[f"{name}_{part}.amat"] for part in ("train", "valid", "test")})


def _dsprites(folder: Folder) -> Dataset:
    if folder is None:
        raise FileNotFoundError(f"dsprites needs the folder of its file: folder, or the environment variable {FOLDER}")
    return load_dsprites(folder)


def _color_sprites() -> Dataset:
    return make_sprites(channels=3, num_positions=5)._replace(name="color_sprites")


def _folders(name: str, folder: Folder) -> list[Path]:
    return [] if folder is None else [Path(folder) / name, Path(folder)]


READERS: dict[str, Callable[[Path], Dataset]] = {".npz": load_npz, ".npy": load_npy}
MADE: dict[str, Callable[[], Dataset]] = {
    "digits": load_digits,
    "sprites": make_sprites,
    "color_sprites": _color_sprites,
}
PUBLISHED: dict[str, Callable[[Folder], Dataset]] = {
    **{name: partial(_published_idx, name) for name in KNOWN},
    "binarized_mnist": _binarized_mnist,
    "dsprites": _dsprites,
}


def _reader_of_name(name: str, folder: Folder) -> Callable[[], Dataset] | None:
    if name in MADE:
        return MADE[name]
    if name in PUBLISHED:
        return partial(PUBLISHED[name], folder)
    return None


def _reader_of_path(name: str, size: tuple[int, int] | None, crop: int | None) -> Callable[[], Dataset] | None:
    """How to read what is at a path; None where the name is no path."""
    path = Path(name).expanduser()
    if not name or not path.exists():
        if path.is_absolute() or name.startswith(".") or path.suffix in READERS:
            raise FileNotFoundError(f"there is no file or folder {path}")
        return None
    if path.is_dir():
        return (
            partial(load_idx, path) if has_idx_files(path) else partial(load_image_folder, path, size=size, crop=crop)
        )
    if path.suffix not in READERS:
        raise ValueError(f"{path} must be an .npz or .npy file, or a folder; got a file that ends in {path.suffix!r}")
    return partial(READERS[path.suffix], path)


def _check_known(name: str, folder: Folder) -> None:
    """Raise where neither this library nor tensorflow-datasets knows a name."""
    others: list[str] = []
    # Without tensorflow-datasets there is nothing else to know.
    with contextlib.suppress(ModuleNotFoundError):
        others = prepared.known_names(folder)
    if prepared.NAME.fullmatch(name) and name.partition("/")[0].partition(":")[0] in others:
        return
    near = " or ".join(difflib.get_close_matches(name, [*names(), *others], 3))
    there = f"there are {', '.join(names())}, those of tensorflow-datasets, and paths of files and folders"
    raise ValueError(f"unknown data set {name}: {f'perhaps {near}; ' if near else ''}{there}")


def _refuse(name: str, **options: object) -> None:
    for option, value in options.items():
        if value is not None:
            raise ValueError(
                f"{option} is not for {name}: it is for tensorflow-datasets"
                + (
                    ""
                    if option == "splits"
                    else " and folders of images (data.resize and data.center_crop are for arrays)"
                )
            )


def _kept(dataset: Dataset) -> Dataset:
    """The data set with the examples in memory that fit there."""
    room = KEPT_SHARE * host_capacity()
    if sum(split.examples.nbytes for split in dataset.splits.values() if isinstance(split.examples, Lazy)) > room:
        return dataset
    return map_splits(lambda split: split._replace(examples=read_all(split.examples)), dataset)
