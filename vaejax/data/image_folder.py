"""A folder of images, listed and checked at once, and decoded when the examples are asked for."""

import hashlib
import io
import itertools
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vaejax.data.arrays import from_arrays
from vaejax.data.dataset import Dataset, Meaning, Split
from vaejax.data.image_listing import FORMATS, list_split, split_folders, warn_of_targets
from vaejax.data.images import check_fit, fit_image, import_pillow
from vaejax.data.lazy import Lazy

# No image takes more; what does is not read.
MAX_BYTES = 2**28
# Of how PIL holds pixels, what is 8 bits deep; the grey ones, and those that become red, green and blue.
GREY, COLOUR = ("1", "L", "LA"), ("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
BITS_PER_SAMPLE = 258
# A pool of threads costs as much as decoding some small images.
FEW = 8


class _File(NamedTuple):
    path: Path
    label: str | None
    width: int
    height: int
    channels: int
    pages: int
    sha256: str


def load_image_folder(
    folder: str | os.PathLike[str], *, size: tuple[int, int] | None = None, crop: int | None = None
) -> Dataset:
    """The images below a folder, in the order of their paths: png, jpg, bmp, webp, gif, tif, ppm, pgm and pbm.

    Folders `train` (or `training`), `validation` (or `valid`, `val`, `validate`, `dev`) and `test` (or `testing`) are
    splits, in large letters or small; where there are none, or no test split, one is drawn as `from_arrays` does. In a
    split, either all images are in folders, each a class with its folder's name, or none is. Names that start with a
    dot, files that are no images and folders without any are left out.

    Grey images have one channel, all others three, and so have all where some are grey and some are not: palettes are
    looked up, transparency is dropped, and a camera's remark on how it was held is followed in a tif only. Of several
    frames or pages the first is taken, with a warning. All images must have one size.

    With `crop`, a centred square of so many pixels is cut out first. With `size`, the largest centred part of that
    aspect is resized by PIL's bilinear filter, which averages where it shrinks.

    All files are read once, for a checksum. They are decoded when the examples are asked for. Files that are the same
    in two splits are warned of, and so are two classes that are called as images and their masks.

    Args:
      folder: where the images are.
      size: height and width.
      crop: height and width of the square, at most those of the smallest image.

    Raises:
      FileNotFoundError: no such folder, or no images in it.
      ModuleNotFoundError: pillow is not installed.
      ValueError: an image that is damaged, 16 bits deep or of a type that is not read (such as heic), images of several
        sizes, or folders that say no clear split.

    >>> import tempfile
    >>> from PIL import Image
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("a.png", "b.png", "c.png"):
    ...     Image.new("RGB", (30, 20)).save(folder / name)
    >>> dataset = load_image_folder(folder, size=(16, 16))
    >>> dataset.train.examples.shape, len(dataset.test.examples)
    ((2, 16, 16, 3), 1)
    """
    check_fit(size, crop)
    import_pillow()
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is missing, or is no folder")
    files = _look_at_all({split: list_split(root, path) for split, path in split_folders(root).items()})
    _warn_of_copies(root, files)
    _warn_of_pages([file for split in files.values() for file in split])
    shape = _common_shape([file for split in files.values() for file in split], size, crop)
    classes = sorted({file.label for split in files.values() for file in split if file.label is not None})
    warn_of_targets(root, classes)
    numbers: dict[str | None, int] = {name: number for number, name in enumerate(classes)}
    splits: dict[str, Any] = {split: _split(root, each, numbers, shape, size, crop) for split, each in files.items()}
    kind: dict[str, Any] = {"name": _printable(root.resolve().name), "meaning": Meaning.INTENSITY, "max_value": 255}
    try:
        return from_arrays(**splits, **kind, label_names=_label_names(classes), origin=_printable(str(root)))
    except ValueError as error:
        raise ValueError(f"{root}: {error}") from error


def _warn_of_copies(root: Path, files: dict[str, list[_File]]) -> None:
    seen: dict[str, _File] = {}
    copies = []
    for split in files.values():
        copies += [(seen[file.sha256].path, file.path) for file in split if file.sha256 in seen]
        seen |= {file.sha256: file for file in split}
    if copies:
        count = "1 image occurs" if len(copies) == 1 else f"{len(copies)} images occur"
        example = " and ".join(str(path.relative_to(root)) for path in copies[0])
        warnings.warn(f"{root}: {count} in two splits, such as {example}", stacklevel=3)


def _warn_of_pages(files: Sequence[_File]) -> None:
    several = [file for file in files if file.pages > 1]
    if several:
        others = f" (and {len(several) - 1} more files of several pages)" if len(several) > 1 else ""
        warnings.warn(
            f"{several[0].path}: only the first of its {several[0].pages} pages or frames is read{others}; for all of "
            "them, save each as a file, or give them to vaejax.data.from_arrays as one array",
            stacklevel=3,
        )


def _printable(name: str) -> str:
    # The name of a file may be of any bytes.
    return os.fsencode(name).decode("utf-8", errors="replace")


def _label_names(classes: Sequence[str]) -> list[str]:
    """The names of the classes as they can be printed, with numbers where these would be equal."""
    found: dict[str, None] = {}
    for plain in map(_printable, classes):
        numbered = (f"{plain} {number}" for number in itertools.count(2))
        found[next(name for name in itertools.chain([plain], numbered) if name not in found)] = None
    return list(found)


def _look_at_all(listed: dict[str, list[tuple[Path, str | None]]]) -> dict[str, list[_File]]:
    return {split: _in_threads(lambda pair: _look_at(*pair), pairs) for split, pairs in listed.items()}


def _in_threads(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    if len(items) <= FEW:
        return [function(item) for item in items]
    with ThreadPoolExecutor(max_workers=min(32, os.cpu_count() or 1)) as pool:
        return list(pool.map(function, items))


def _look_at(path: Path, label: str | None) -> _File:
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path} must be at most {MAX_BYTES} bytes to be an image; got {path.stat().st_size}")
    content = path.read_bytes()
    image = _open(path, content)
    width, height = image.size
    channels = 1 if image.mode in GREY else 3
    return _File(path, label, width, height, channels, _pages(path, image), hashlib.sha256(content).hexdigest())


def _pages(path: Path, image: Any) -> int:
    # In what a camera saves there is a small copy of the picture, which is no page.
    if image.format == "MPO":
        return 1
    try:
        return int(getattr(image, "n_frames", 1))
    # PIL lets through whatever its readers raise.
    except Exception as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _open(path: Path, content: bytes) -> Any:
    """The image, of which PIL has read no more than the header."""
    pillow = import_pillow()
    try:
        image = pillow.open(io.BytesIO(content), formats=sorted(set(FORMATS.values())))
    # PIL lets through whatever its readers raise; what warns of too many pixels may be set to raise, too.
    except Exception as error:
        reason = "it is no image of a known type" if "cannot identify" in str(error) else error
        raise ValueError(f"{path} is damaged or no image: {reason}") from error
    limit = pillow.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise ValueError(f"{path} must have at most {limit} pixels; got {image.width} x {image.height}")
    if image.mode not in GREY + COLOUR or _is_deep(image):
        raise ValueError(f"{path} must be 8 bits deep; got more, in mode {image.mode} (convert it first)")
    return image


def _is_deep(image: Any) -> bool:
    # Of these types PIL would drop the lower bits in silence. What it hands to the decoder says how many there are, but
    # of a tif whose channels are one after the other.
    if image.format == "TIFF":
        return max(image.tag_v2.get(BITS_PER_SAMPLE, (1,))) > 8
    hint = image.tile[0].args if image.format in ("PNG", "PPM") and image.tile else None
    return hint[1] > 255 if isinstance(hint, tuple) else ";16" in str(hint)


def _common_shape(files: Sequence[_File], size: tuple[int, int] | None, crop: int | None) -> tuple[int, int, int]:
    first = files[0]
    small = next((file for file in files if crop is not None and crop > min(file.width, file.height)), None)
    if small is not None:
        raise ValueError(f"crop must fit into every image; got {crop}, and {small.path} has {_describe(small)}")
    other = next((file for file in files if size is None and crop is None and file[2:4] != first[2:4]), None)
    if other is not None:
        found = f"{_describe(first)} in {first.path} and {_describe(other)} in {other.path}"
        raise ValueError(f"all images must be alike; got {found} (give size=(height, width), or crop=pixels)")
    height, width = size or ((crop, crop) if crop is not None else (first.height, first.width))
    return int(height), int(width), max(file.channels for file in files)


def _describe(file: _File) -> str:
    return f"{file.height} x {file.width} {'grey' if file.channels == 1 else 'colour'} pixels"


def _split(
    root: Path,
    files: list[_File],
    numbers: dict[str | None, int],
    shape: tuple[int, int, int],
    size: tuple[int, int] | None,
    crop: int | None,
) -> Split:
    digest = hashlib.sha256(f"{shape[:2] if size else size} {crop} {shape[2]}\n".encode())
    for file in files:
        digest.update(os.fsencode(file.path.relative_to(root).as_posix()) + f"\n{file.sha256}\n".encode())
    one = lambda row: _decode(files[row], shape, size is not None, crop)
    read = lambda rows: np.stack([one(row) for row in rows]) if len(rows) else np.zeros((0, *shape), np.uint8)
    labels = None if files[0].label is None else np.array([numbers[file.label] for file in files], np.int32)
    return Split(Lazy(read, (len(files), *shape), np.dtype(np.uint8), digest.hexdigest()), labels)


def _decode(file: _File, shape: tuple[int, int, int], resized: bool, crop: int | None) -> np.ndarray:
    content = file.path.read_bytes()
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise ValueError(f"{file.path} was altered after it was listed (load the folder again)")
    image = _open(file.path, content)
    try:
        # A palette may say how transparent each of its colours is, of which a direct way to RGB would warn.
        image = image.convert("RGBA") if image.mode in ("P", "PA") else image
        image = image.convert("L" if shape[2] == 1 else "RGB")
    except Exception as error:
        raise ValueError(f"{file.path} is truncated or damaged: {error}") from error
    array = np.asarray(fit_image(image, shape[:2] if resized else None, crop))
    return array[..., None] if array.ndim == 2 else array
