"""Pictures of images: one sheet of all, or a folder with a file of each."""

import itertools
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vaejax.data.images import import_pillow
from vaejax.sinks.arrays import Chunk, Kind, only
from vaejax.types import Shape

# Images of one sheet, and its pixels: what a viewer still opens.
MAX_IMAGES, MAX_PIXELS = 4096, 2**26
# Pixels that the longer side of an image of a sheet has at least, so that small ones can be seen.
MIN_SIDE = 32
# Between images, and where there are no more.
GAP_COLOR, PAPER = (0x5B, 0x7F, 0xA6), 255
NUMBERED = re.compile(r"\d{6,}\.png")


def is_image_folder(path: Path) -> bool:
    """Whether a path is a folder with nothing but numbered images, as a sink makes it."""
    return path.is_dir() and all(NUMBERED.fullmatch(each.name) for each in path.iterdir())


def to_bytes(images: np.ndarray, shades: tuple[float, float]) -> np.ndarray:
    """Images from black to white as uint8 from 0 to 255; what is beyond is clipped.

    >>> to_bytes(np.array([-1.0, 0.0, 8.0, 16.0, 99.0]), (0.0, 16.0)).tolist()
    [0, 0, 128, 255, 255]
    """
    black, white = shades
    if not np.isfinite(images).all():
        raise ValueError("images must be finite; got NaN or infinity")
    return np.rint(np.clip((images.astype(np.float64) - black) / (white - black), 0.0, 1.0) * 255).astype(np.uint8)


def sheet(target: Path, draft: Path, *, shades: tuple[float, float], columns: int | None) -> Kind:
    """One picture of all images, those of one example beside each other."""
    image = import_pillow()
    examples: list[tuple[np.ndarray, ...]] = []

    def write(arrays: Chunk) -> None:
        shown = [_images(target, array, shades) for array in arrays.values()]
        if len({each.shape[1:] for each in shown}) > 1:
            raise ValueError(f"{target}: the images of an example must be of one size")
        examples.extend(zip(*shown, strict=True))
        check_room(target, len(examples) * len(shown), shown[0].shape[1:])

    def finish() -> None:
        beside = len(examples[0])
        width = columns or math.ceil((len(examples) / beside) ** 0.5)
        images = [each for example in examples for each in example]
        image.fromarray(_tile(images, beside * width)).save(draft, "PNG")

    return Kind(write, finish)


def folder(target: Path, draft: Path, *, shades: tuple[float, float], **_: Any) -> Kind:
    """A picture of each example, numbered."""
    image, numbers = import_pillow(), itertools.count()

    def write(arrays: Chunk) -> None:
        draft.mkdir(exist_ok=True)
        for each in _images(target, only(target, arrays), shades):
            picture = each[..., 0] if each.shape[-1] == 1 else each
            image.fromarray(picture).save(draft / f"{next(numbers):06d}.png", "PNG")

    return Kind(write, lambda: None)


def _images(target: Path, array: np.ndarray, shades: tuple[float, float]) -> np.ndarray:
    if array.ndim != 4 or array.shape[-1] not in (1, 3):
        raise ValueError(
            f"{target}: images must be of shape [N, H, W, 1] or [N, H, W, 3]; got {array.shape}: write an .npz"
        )
    return to_bytes(array, shades)


def check_room(target: Path, count: int, shape: Shape) -> None:
    """Raise `ValueError` where so many images `[H, W, C]` are too many for one sheet."""
    pixels = count * math.prod(_magnified(shape))
    if count > MAX_IMAGES or pixels > MAX_PIXELS:
        raise ValueError(
            f"{target} must hold at most {MAX_IMAGES:,} images and {MAX_PIXELS:,} pixels; got {count:,} images and "
            f"{pixels:,} pixels: name a folder, {target.with_suffix('')}{os.sep}, for more"
        )


def _magnified(shape: Shape) -> tuple[int, int]:
    scale = max(1, MIN_SIDE // max(shape[:2]))
    return scale * shape[0], scale * shape[1]


def _tile(images: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Images side by side in rows of `columns`, `[H', W', 3]`, with a line between them."""
    height, width = _magnified(images[0].shape)
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    sheet = np.empty((rows * (height + 1) - 1, columns * (width + 1) - 1, 3), np.uint8)
    sheet[:] = GAP_COLOR
    corner = lambda number: (number // columns * (height + 1), number % columns * (width + 1))
    # Where there are no more images there is paper.
    top, left = corner(len(images))
    sheet[top:, left:] = PAPER
    for number, image in enumerate(images):
        top, left = corner(number)
        scale = height // image.shape[0]
        sheet[top : top + height, left : left + width] = image.repeat(scale, axis=0).repeat(scale, axis=1)
    return sheet
