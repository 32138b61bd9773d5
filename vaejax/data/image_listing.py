"""Which images a folder holds, in which split, and of which class."""

import os
from collections.abc import Iterable
from pathlib import Path

FORMATS = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".bmp": "BMP", ".webp": "WEBP", ".gif": "GIF", ".ppm": "PPM",
    ".pgm": "PPM",
}  # fmt: skip
SPLITS = {"train": ("train",), "validation": ("validation", "valid", "val"), "test": ("test",)}


def split_folders(root: Path) -> dict[str, Path]:
    """The folder of each split, of which `root` itself is the one where it holds no others.

    Raises:
      ValueError: some folders are called as splits and others are not, or there is none to train on.
    """
    images, folders = _entries(root)
    there = {path.name for path in folders}
    splits = {split: [name for name in names if name in there] for split, names in SPLITS.items()}
    found = [name for names in splits.values() for name in names]
    if not found:
        return {"train": root}
    others = sorted(there - set(found)) + [path.name for path in images] + splits["validation"][1:]
    if others or "train" not in found:
        what = f"beside {others[0]}" if others else "without train"
        raise ValueError(f"{root} must hold train, validation and test, or classes; got {', '.join(found)} {what}")
    return {split: root / names[0] for split, names in splits.items() if names}


def list_split(root: Path, folder: Path) -> list[tuple[Path, str | None]]:
    """The images of a split, sorted by their paths, each with the class that its folder below the split's names.

    Raises:
      FileNotFoundError: there are no images.
      ValueError: some images are in folders and some are not, or a folder has none.
    """
    direct, folders = _entries(folder)
    classes = {path.name: list(_below(path, (root.resolve(), folder.resolve()))) for path in folders}
    empty = sorted(name for name, paths in classes.items() if not paths)
    labelled = [(path, name) for name, paths in classes.items() for path in paths]
    if not direct and not labelled:
        raise FileNotFoundError(f"{folder} holds no images ({', '.join(FORMATS)})")
    if labelled and (direct or empty):
        what = f"{direct[0].name} beside the folder {labelled[0][1]}" if direct else f"no image in {empty[0]}"
        raise ValueError(f"{folder} must hold images, or folders of images, each a class; got {what}")
    return sorted([*((path, None) for path in direct), *labelled], key=lambda pair: pair[0].parts)


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
    """The images and the folders in a folder, sorted."""
    with os.scandir(folder) as entries:
        # The last is what packing on a Mac leaves behind.
        visible = sorted(
            (each for each in entries if not each.name.startswith((".", "__MACOSX"))), key=lambda e: e.name
        )
    # What an entry knows needs no look at the disk, but a link that leads nowhere makes it raise.
    kinds = [(Path(each), Path(each) if each.is_symlink() else each) for each in visible]
    images = [path for path, kind in kinds if path.suffix.lower() in FORMATS and kind.is_file()]
    return images, [path for path, kind in kinds if kind.is_dir()]
