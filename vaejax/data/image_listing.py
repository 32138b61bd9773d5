"""Which images a folder holds, in which split, and of which class."""

import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

FORMATS = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".bmp": "BMP", ".webp": "WEBP",
    ".gif": "GIF", ".tif": "TIFF", ".tiff": "TIFF", ".ppm": "PPM", ".pgm": "PPM", ".pbm": "PPM", ".pnm": "PPM",
}  # fmt: skip
# Images that are not read; a set without them would not be the one that is meant.
UNREAD = (
    ".heic", ".heif", ".avif", ".jxl", ".jp2", ".j2k", ".apng", ".tga", ".ico", ".psd", ".dng", ".exr", ".hdr",
    ".pfm", ".pcx", ".dds", ".svg",
)  # fmt: skip
# What the folders of splits are called, in large letters or small.
SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "validate", "dev"),
    "test": ("test", "testing"),
}

# Folders of images and of what belongs to each of these, which are no classes.
IMAGE_FOLDERS = {"image", "images", "img", "imgs", "jpegimages"}
TARGET_FOLDERS = {
    "annotations", "ground_truth", "groundtruth", "gt", "labels", "mask", "masks", "segmentation", "segmentations",
    "targets",
}  # fmt: skip


def split_folders(root: Path) -> dict[str, Path]:
    """The folder of each split, of which `root` itself is the one where it holds no others.

    Raises:
      ValueError: some folders are called as splits and others with images are not, two are called as one split, or
        there is none to train on.
    """
    images, folders = _entries(root)
    splits = {split: [path for path in folders if path.name.casefold() in names] for split, names in SPLITS.items()}
    found = [path for paths in splits.values() for path in paths]
    if not found:
        return {"train": root}
    second = [path.name for paths in splits.values() for path in paths[1:]]
    strange = (
        path.name for path in folders if path not in found and any(True for _ in _below(path, (root.resolve(),)))
    )
    others = [*second, *(path.name for path in images), *strange]
    if others or not splits["train"]:
        what = f"beside {others[0]}" if others else "without train"
        names = ", ".join(path.name for path in found)
        raise ValueError(f"{root} must hold train, validation and test, or classes; got {names} {what}")
    return {split: paths[0] for split, paths in splits.items() if paths}


def list_split(root: Path, folder: Path) -> list[tuple[Path, str | None]]:
    """The images of a split, sorted by their paths, each with the class that its folder below the split's names.

    Raises:
      FileNotFoundError: there are no images.
      ValueError: some images are in folders and some are not.
    """
    direct, folders = _entries(folder)
    classes = {path.name: list(_below(path, (root.resolve(), folder.resolve()))) for path in folders}
    labelled = [(path, name) for name, paths in classes.items() for path in paths]
    if not direct and not labelled:
        raise FileNotFoundError(f"{folder} holds no images ({', '.join(FORMATS)})")
    if labelled and direct:
        what = f"{direct[0].name} beside the folder {labelled[0][1]}"
        raise ValueError(f"{folder} must hold images, or folders of images, each a class; got {what}")
    return sorted([*((path, None) for path in direct), *labelled], key=lambda pair: pair[0].parts)


def warn_of_targets(root: Path, classes: Sequence[str]) -> None:
    """Warn where two of the classes are called as images and what belongs to each of these, such as masks."""
    images = [name for name in classes if name.casefold() in IMAGE_FOLDERS]
    targets = [name for name in classes if name.casefold() in TARGET_FOLDERS]
    if images and targets:
        warnings.warn(
            f"{root}: the folders {images[0]} and {targets[0]} are taken for two classes; for the images alone give "
            f"the path of {images[0]}",
            stacklevel=3,
        )


def _below(folder: Path, above: tuple[Path, ...]) -> Iterable[Path]:
    # A link to a folder above would be followed for ever.
    here = folder.resolve()
    if here in above:
        return
    images, folders = _entries(folder)
    yield from images
    for path in folders:
        yield from _below(path, (*above, here))


def _entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """The images and the folders in a folder, sorted.

    Raises:
      ValueError: an image of a type that is not read.
    """
    with os.scandir(folder) as entries:
        # The last is what packing on a Mac leaves behind.
        visible = sorted(
            (each for each in entries if not each.name.startswith((".", "__MACOSX"))), key=lambda e: e.name
        )
    # What an entry knows needs no look at the disk, but a link that leads nowhere makes it raise.
    kinds = [(Path(each), Path(each) if each.is_symlink() else each) for each in visible]
    images = [path for path, kind in kinds if path.suffix.lower() in FORMATS and kind.is_file()]
    unread = next((path for path, kind in kinds if path.suffix.lower() in UNREAD and kind.is_file()), None)
    if unread is not None:
        raise ValueError(f"{unread} is of a type that is not read (convert it to png, or take it out of the folder)")
    return images, [path for path, kind in kinds if kind.is_dir()]
