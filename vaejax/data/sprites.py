"""Sprites: frames that are pure functions of known factors, for those without files."""

import colorsys
import math
from typing import NamedTuple

import numpy as np

from vaejax.checks import check_count
from vaejax.data.dataset import Dataset, Meaning, Split, slice_split
from vaejax.data.lazy import Lazy
from vaejax.types import Shape

# The farthest that a sprite gets from its centre, as a part of the size of the frame.
REACH = 0.25
# Points per pixel and axis of a sprite with smooth edges; the others are 0 or 1 by their centres.
SMOOTH = 4
# A point on the very edge is inside, whatever way its distance was rounded.
EDGE = 1 + 1e-9
# Hues of full saturation that uint8 tells apart.
MAX_COLORS = 6 * 255


def make_sprites(
    size: int = 64,
    *,
    channels: int = 1,
    num_colors: int = 3,
    num_scales: int = 6,
    num_orientations: int = 10,
    num_positions: int = 8,
    test_fraction: float = 0.1,
    lazy: bool = False,
) -> Dataset:
    """Squares, ellipses and hearts: one frame for every combination of their factors, and all frames differ.

    By default 11,520 frames of 64x64 pixels 0 or 1 (47 MB), or 34,560 in color (425 MB). The test split is a part of
    them by a fixed permutation; nothing else is random, and no file is read.

    Args:
      size: height and width of a frame.
      channels: 1 for pixels 0 or 1; 3 for smooth sprites in a hue on black, of intensities 0 to 255.
      num_colors: hues, evenly spaced from red on; used where there are 3 channels.
      num_scales: evenly spaced, from half the size of the largest sprites.
      num_orientations: evenly spaced, counterclockwise; a quarter turn is left out, after which squares look the same.
      num_positions: from left to right and from top to bottom, evenly spaced by whole pixels; no sprite is cut.
      test_fraction: the part of the frames that is held out.
      lazy: whether frames are rendered when they are asked for, the same to the bit.

    Raises:
      TypeError: a count that is no integer.
      ValueError: frames too small for what is asked for (finer grids need larger ones), or a split without frames.

    Source: factors and order are those of Matthey et al. 2017, dSprites: Disentanglement testing Sprites dataset. The
    frames are others: the position is the centre of mass of all shapes, and no two orientations look the same.

    >>> sprites = make_sprites(32, num_scales=2, num_orientations=3, num_positions=4, lazy=True)
    >>> sprites.factor_names
    ('shape', 'scale', 'orientation', 'position_x', 'position_y')
    >>> sprites.train.examples[:2].shape, len(sprites.train.examples), len(sprites.test.examples)
    ((2, 32, 32, 1), 259, 29)
    """
    grid = _checked(_Grid(size, channels, num_colors, num_scales, num_orientations, num_positions))
    count = math.prod(grid.counts)
    start = count - round(count * test_fraction) if 0 < test_fraction < 1 else 0
    if not 0 < start < count:
        raise ValueError(f"test_fraction must leave some of the {count} frames to either split; got {test_fraction}")
    # The generator behind RandomState is frozen: this permutation is the same in every NumPy.
    order = np.random.RandomState(0).permutation(count)
    factors = np.stack(np.unravel_index(order, grid.counts), axis=1).astype(np.min_scalar_type(max(grid.counts)))
    examples = _examples(grid, factors)
    whole = Split(examples if lazy else examples[:], factors=factors)
    return Dataset(
        "sprites",
        slice_split(whole, 0, start),
        slice_split(whole, start, count),
        max_value=1 if channels == 1 else 255,
        meaning=Meaning.BINARY if channels == 1 else Meaning.INTENSITY,
        factor_names=grid.names,
        origin="rendered from formulas",
    )


def render_sprites(
    factors: np.ndarray,
    size: int = 64,
    *,
    channels: int = 1,
    num_colors: int = 3,
    num_scales: int = 6,
    num_orientations: int = 10,
    num_positions: int = 8,
) -> np.ndarray:
    """The frames of given factors: `[B, F]` integers to `[B, size, size, channels]` uint8.

    The factors are those of `make_sprites` with the same arguments, in the order of its `factor_names`.

    Raises:
      TypeError: factors that are no integers, or a count that is none.
      ValueError: factors of another shape or outside of the grid, or a frame too small for it.

    >>> import numpy as np
    >>> render_sprites(np.array([[0, 0, 0, 0, 0]]), 8, num_positions=1)[0, 2:6, 2:6, 0].tolist()
    [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    """
    grid = _checked(_Grid(size, channels, num_colors, num_scales, num_orientations, num_positions))
    factors = np.asarray(factors)
    if factors.dtype.kind not in "iu":
        raise TypeError(f"factors must be integers; got dtype {factors.dtype}")
    if factors.ndim != 2 or factors.shape[1] != len(grid.counts):
        raise ValueError(f"factors must have shape [B, {len(grid.counts)}], for {grid.names}; got {factors.shape}")
    if np.any((factors < 0) | (factors >= np.array(grid.counts))):
        found = f"{factors.min(axis=0).tolist()} to {factors.max(axis=0).tolist()}"
        raise ValueError(f"factors must be at least 0 and below {grid.counts}; got {found}")
    looks, rows = np.unique(factors[:, -5:-2], axis=0, return_inverse=True)
    return _paint(grid, factors, _draw(grid, looks), rows.ravel())


class _Grid(NamedTuple):
    """What all frames have in common."""

    size: int
    channels: int
    num_colors: int
    num_scales: int
    num_orientations: int
    num_positions: int

    @property
    def counts(self) -> Shape:  # how many values each factor has
        counts = (len(SHAPES), self.num_scales, self.num_orientations, self.num_positions, self.num_positions)
        return counts if self.channels == 1 else (self.num_colors, *counts)

    @property
    def names(self) -> tuple[str, ...]:  # what the factors are called
        names = ("shape", "scale", "orientation", "position_x", "position_y")
        return names if self.channels == 1 else ("color", *names)

    @property
    def points(self) -> int:  # points per pixel and axis
        return 1 if self.channels == 1 else SMOOTH

    @property
    def room(self) -> int:  # pixels that a sprite can move by, one pixel from the border on either side
        return self.size - 2 - math.ceil(2 * REACH * self.size)

    @property
    def step(self) -> int:  # pixels from one position to the next
        return self.room // max(1, self.num_positions - 1)

    @property
    def first(self) -> int:  # pixels before the box around a sprite at its first position, and after it at its last
        return (self.room - (self.num_positions - 1) * self.step) // 2 + 1

    @property
    def box(self) -> int:  # pixels along an axis of the box around a sprite
        return self.size - 2 * self.first - (self.num_positions - 1) * self.step


def _checked(grid: _Grid) -> _Grid:
    for name, value in grid._asdict().items():
        check_count(name, value, 8 if name == "size" else 1)
    if grid.channels not in (1, 3):
        raise ValueError(f"channels must be 1 or 3; got {grid.channels}")
    if grid.num_colors > MAX_COLORS:
        raise ValueError(f"num_colors must be at most {MAX_COLORS}; got {grid.num_colors}")
    if (most := grid.room + 1) < grid.num_positions:
        raise ValueError(f"num_positions must be at most {most} for size={grid.size}; got {grid.num_positions}")
    return grid


def _examples(grid: _Grid, factors: np.ndarray) -> Lazy:
    counts = grid.counts[-5:-2]
    sprites = _draw(grid, np.stack(np.unravel_index(np.arange(math.prod(counts)), counts), axis=1))
    _check_different(grid, sprites)

    def read(rows: np.ndarray) -> np.ndarray:
        picked = factors[rows]
        return _paint(grid, picked, sprites, np.ravel_multi_index(tuple(picked[:, -5:-2].T), counts))

    return Lazy(read, (len(factors), grid.size, grid.size, grid.channels), np.dtype(np.uint8), f"sprites {tuple(grid)}")


def _check_different(grid: _Grid, sprites: np.ndarray) -> None:
    # Without what is black around it, so that no sprite is another one that was moved.
    cut = [sprite[sprite.any(axis=1)][:, sprite.any(axis=0)] for sprite in sprites]
    # Where a whole pixel is inside, hues differ.
    if (
        len({(each.shape, each.tobytes()) for each in cut}) < len(cut)
        or sprites.max(axis=(1, 2)).min() < grid.points**2
    ):
        raise ValueError(
            f"size must be larger for num_scales={grid.num_scales} and num_orientations={grid.num_orientations} to "
            f"differ in all sprites; got {grid.size}"
        )


def _draw(grid: _Grid, looks: np.ndarray) -> np.ndarray:
    """Sprites of given shape, scale and orientation `[T, 3]`: how many points of each pixel are inside, `[T, b, b]`."""
    axis = ((np.arange(grid.box * grid.points) + 0.5) / grid.points - grid.box / 2) / (REACH * grid.size)
    scales = np.linspace(1, 0.5, grid.num_scales)[::-1]
    angles = np.arange(grid.num_orientations) / grid.num_orientations * (math.pi / 2)
    sprites = np.empty((len(looks), grid.box, grid.box), np.uint8)
    for sprite, (shape, scale, orientation) in zip(sprites, looks, strict=True):
        x, y = axis[None, :] / scales[scale], -axis[:, None] / scales[scale]
        cos, sin = math.cos(angles[orientation]), math.sin(angles[orientation])
        inside = SHAPES[shape](cos * x + sin * y, cos * y - sin * x)
        sprite[:] = inside.reshape(grid.box, grid.points, grid.box, grid.points).sum(axis=(1, 3))
    return sprites


def _paint(grid: _Grid, factors: np.ndarray, sprites: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The frames of `factors`, each with the sprite of its row."""
    shades = _shades(grid)
    colors = np.zeros(len(factors), int) if grid.channels == 1 else factors[:, 0]
    corners = grid.first + grid.step * factors[:, -2:].astype(int)
    frames = np.zeros((len(factors), grid.size, grid.size, grid.channels), np.uint8)
    for frame, row, color, (x, y) in zip(frames, rows, colors, corners, strict=True):
        frame[y : y + grid.box, x : x + grid.box] = shades[color][sprites[row]]
    return frames


def _shades(grid: _Grid) -> np.ndarray:
    """What a pixel is by its color and the number of its points inside: `[colors, points + 1, channels]` uint8."""
    if grid.channels == 1:
        return np.array([[[0], [1]]], np.uint8)
    hues = np.array([colorsys.hsv_to_rgb(index / grid.num_colors, 1, 1) for index in range(grid.num_colors)])
    levels = np.arange(SMOOTH**2 + 1) / SMOOTH**2
    return np.round(255 * levels[:, None] * hues[:, None, :]).astype(np.uint8)


def _square(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(abs(u), abs(v)) * math.sqrt(2) <= EDGE


def _ellipse(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return u**2 + (2 * v) ** 2 <= EDGE


def _heart(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """A square that stands on its tip, of half side 1, with half a disc of radius 1 on either upper side."""
    # The centre of mass of the three, of areas 4, pi/2 and pi/2.
    centre = (math.pi / 2 + 2 / 3) / (math.pi + 4)
    p, q = (1 + centre) * (v + u) + centre, (1 + centre) * (v - u) + centre
    square = np.maximum(abs(p), abs(q)) <= EDGE
    return square | ((p - 1) ** 2 + q**2 <= EDGE) | (p**2 + (q - 1) ** 2 <= EDGE)


# Each says whether points are inside, of a centre of mass at 0 and a reach of 1; v points up.
SHAPES = (_square, _ellipse, _heart)
