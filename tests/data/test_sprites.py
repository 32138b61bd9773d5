"""Sprites: frames against the formulas of their factors."""

import itertools
import math

import numpy as np
import pytest

from tests.tiers import slow_but
from vaejax.data import Lazy, Meaning, sprites
from vaejax.data.sprites import make_sprites, render_sprites

HEART_AREA, HEART_CENTRE = 4 + math.pi, (math.pi / 2 + 2 / 3) / (math.pi + 4)
# Of a sprite that reaches 1 from its centre.
AREAS = [2, math.pi / 2, HEART_AREA / (2 * (1 + HEART_CENTRE) ** 2)]
SMALL = {"num_scales": 2, "num_orientations": 3, "num_positions": 4}
# Sizes of which the boxes around the sprites have an even and an odd number of pixels, and grids that fill them.
ODD = [
    {"size": 64, "num_scales": 6, "num_positions": 8},
    {"size": 51, "num_scales": 2, "num_positions": 5},
    {"size": 50, "num_scales": 2, "num_orientations": 4, "num_positions": 24},
    {"size": 33, "num_scales": 2, "num_orientations": 3, "num_positions": 1},
    {"size": 16, "channels": 3, "num_colors": 5, "num_scales": 2, "num_orientations": 6, "num_positions": 7},
]


def whole(dataset):
    """All frames and factors, in the order of the grid."""
    frames = np.concatenate([dataset.train.examples[:], dataset.test.examples[:]])
    factors = np.concatenate([dataset.train.factors, dataset.test.factors])
    order = np.lexsort(factors.T[::-1])
    return frames[order], factors[order]


@pytest.fixture(scope="module")
def binary():
    frames, _ = whole(make_sprites())
    return frames.reshape(3, 6, 10, 8, 8, 64, 64)


@pytest.fixture(scope="module")
def smooth():
    """In red: how much of each pixel is inside, with centre and reach in pixels."""
    factors = np.stack(np.unravel_index(np.arange(180), (1, 3, 6, 10, 1, 1)), axis=1)
    frames = render_sprites(factors, 128, channels=3, num_positions=1)
    assert not frames[..., 1:].any()
    return frames[..., 0].reshape(3, 6, 10, 128, 128) / 255


def moments(frames):
    """Mass, and the centre of mass (x, y) in pixels from the upper left corner of the frame."""
    mass = frames.sum((-1, -2), dtype=float)
    middle = np.arange(frames.shape[-1]) + 0.5
    return mass, frames.sum(-2) @ middle / mass, frames.sum(-1) @ middle / mass


def test_every_combination_is_there_once():
    dataset = make_sprites()
    assert (dataset.name, dataset.shape, dataset.dtype) == ("sprites", (64, 64, 1), np.uint8)
    assert (dataset.meaning, dataset.max_value, dataset.train.labels) == (Meaning.BINARY, 1, None)
    assert dataset.factor_names == ("shape", "scale", "orientation", "position_x", "position_y")
    assert (len(dataset.train.examples), len(dataset.test.examples)) == (10_368, 1_152)
    _, factors = whole(dataset)
    assert factors.tolist() == [list(each) for each in itertools.product(*map(range, (3, 6, 10, 8, 8)))]
    # Neither split is a block of the grid.
    for split in dataset.splits.values():
        for factor, count in enumerate((3, 6, 10, 8, 8)):
            shares = np.bincount(split.factors[:, factor]) * count / len(split.factors)
            assert np.all(np.abs(shares - 1) < 0.25)


# In grey and in colour.
ODD_FAST = [ODD[1], ODD[-1]]


@pytest.mark.parametrize(
    "grid",
    slow_but(ODD_FAST, [{}, {"channels": 3, "num_scales": 4, "num_orientations": 3}, *ODD[1:]], "other grids"),
)
def test_all_frames_differ(grid):
    frames, _ = whole(make_sprites(**{"num_positions": 4} | grid))
    assert set(np.unique(frames)) == {0, 1} if frames.shape[-1] == 1 else frames.max() == 255
    assert len({frame.tobytes() for frame in frames}) == len(frames)


@pytest.mark.parametrize("grid", slow_but(ODD_FAST, ODD, "other grids"))
def test_no_frame_cuts_a_sprite_and_all_positions_are_shifts(grid):
    frames, _ = whole(make_sprites(**grid))
    for border in (frames[:, 0], frames[:, -1], frames[:, :, 0], frames[:, :, -1]):
        assert not border.any()
    number = grid["num_positions"]
    frames = frames.reshape(-1, number, number, *frames.shape[1:])
    step = (grid["size"] - 2 - math.ceil(grid["size"] / 2)) // max(1, number - 1)
    for x, y in itertools.product(range(number), repeat=2):
        np.testing.assert_array_equal(frames[:, x, y], np.roll(frames[:, 0, 0], (y * step, x * step), axis=(-3, -2)))
    # Squares look the same after half a turn: about the centre of the frame, with the positions in the other order.
    squares = frames[: grid["num_scales"]]
    np.testing.assert_array_equal(squares[:, ::-1, ::-1], squares[..., ::-1, ::-1, :])


def test_the_centre_of_mass_is_the_position(binary, smooth):
    """Of squares and ellipses exactly; of hearts up to the pixels that their edges fall on."""
    for frames, centres, most, mean in (
        (smooth[..., None, None, :, :], 64, 0.07, 0.015),
        (binary, 4 * np.arange(8) + 18, 0.3, 0.1),
    ):
        _, x, y = moments(frames)
        for off in (x - np.reshape(centres, (-1, 1)), y - centres):
            np.testing.assert_allclose(off[:2], 0, atol=1e-12)
            assert abs(off[2]).max() < most
            assert abs(off[2].mean(1)).max() < mean


def test_the_area_is_that_of_the_shape_and_grows_with_the_square_of_the_scale(binary, smooth):
    scales = np.linspace(0.5, 1, 6)
    for frames, reach, tolerance in ((smooth, 32, 0.02), (binary, 16, 0.15)):
        mass, *_ = moments(frames)
        expected = np.multiply.outer(AREAS, (scales * reach) ** 2)
        mass = mass.reshape(3, 6, 10, -1)
        assert np.abs(mass / expected[..., None, None] - 1).max() < tolerance
        np.testing.assert_allclose(mass.mean((2, 3)), expected, rtol=tolerance / 5)


def test_each_sprite_reaches_as_far_as_its_scale(smooth):
    row, column = np.indices((128, 128)) + 0.5
    distance = np.hypot(row - 64, column - 64)
    reached = np.where(smooth > 0, distance, 0).max((-1, -2))
    assert np.abs(reached - 32 * np.linspace(0.5, 1, 6)[:, None]).max() < 1


def test_second_moments_are_those_of_the_shapes(smooth):
    """A square has the same in all directions; an ellipse those of its axes, turned counterclockwise by its angle."""
    row, column = np.indices((128, 128)) + 0.5
    x, y = column - 64, 64 - row
    mass = smooth.sum((-1, -2))
    xx, yy, xy = ((smooth * each).sum((-1, -2)) / mass for each in (x * x, y * y, x * y))
    reach = 32 * np.linspace(0.5, 1, 6)[:, None]
    angle = np.arange(10) * math.pi / 20
    np.testing.assert_allclose([xx[0] / reach**2, yy[0] / reach**2], 1 / 6, rtol=0.02)
    np.testing.assert_allclose(xy[0] / reach**2, 0, atol=0.001)
    # Of an ellipse a^2 / 4 along its axis and b^2 / 4 across, with b = a / 2.
    mean, half = 5 / 32 * reach**2, 3 / 32 * reach**2
    np.testing.assert_allclose(xx[1], mean + half * np.cos(2 * angle), rtol=0.02)
    np.testing.assert_allclose(yy[1], mean - half * np.cos(2 * angle), rtol=0.02)
    np.testing.assert_allclose(
        xy[1] / reach**2, np.broadcast_to(half / reach**2 * np.sin(2 * angle), (6, 10)), atol=0.001
    )


def test_sprites_have_the_symmetries_of_their_shapes(binary):
    square, ellipse, heart = binary[:, :, :, 3, 3, 14:46, 14:46]
    for frames in (square, ellipse):
        np.testing.assert_array_equal(frames, frames[..., ::-1, ::-1])
    # A square after a quarter turn, and mirrored, which turns it the other way.
    np.testing.assert_array_equal(square, np.rot90(square, axes=(-2, -1)))
    np.testing.assert_array_equal(square[:, 1:], square[:, :0:-1, :, ::-1])
    # Swapping x and y (up) takes an angle to a quarter turn less it; the rows of a frame count down.
    swapped = ellipse[..., ::-1, ::-1].swapaxes(-1, -2)
    assert np.any(ellipse[:, 0] != np.rot90(ellipse[:, 0], axes=(-2, -1)))
    np.testing.assert_array_equal(ellipse[:, 1:], swapped[:, :0:-1])
    # A heart at rest is mirrored at the vertical, with its tip at the bottom; after an eighth of a turn at the diagonal.
    np.testing.assert_array_equal(heart[:, 0], heart[:, 0, :, ::-1])
    np.testing.assert_array_equal(heart[:, 5], heart[:, 5].swapaxes(-1, -2))
    widths = heart[-1, 0].sum(1)[heart[-1, 0].any(1)]
    assert widths[-1] <= 2 < widths[0] < widths.max()
    # Counterclockwise, the tip is then the corner at the lower right.
    assert (heart[-1, 5, 26, 26], heart[-1, 5, 5, 5]) == (1, 0)


def test_colors_are_hues_of_the_same_frames():
    frames, factors = whole(make_sprites(40, channels=3, num_colors=6, **SMALL))
    assert frames.shape == (6 * 3 * 2 * 3 * 4 * 4, 40, 40, 3)
    assert set(factors[:, 0]) == set(range(6))
    red = frames[: len(frames) // 6, ..., 0]
    full = [(255, 0, 0), (255, 255, 0), (0, 255, 0), (0, 255, 255), (0, 0, 255), (255, 0, 255)]
    for color, frame in zip(full, np.split(frames, 6), strict=True):
        np.testing.assert_array_equal(frame, red[..., None] * (np.array(color) // 255))
    # Smooth edges, and a black background in every one.
    levels = np.unique(red)
    assert levels.tolist() == [round(255 * level / 16) for level in range(17)]
    dataset = make_sprites(40, channels=3, num_colors=6, **SMALL)
    assert (dataset.meaning, dataset.max_value, dataset.shape) == (Meaning.INTENSITY, 255, (40, 40, 3))
    assert dataset.factor_names[0] == "color"


def test_as_many_colors_as_uint8_tells_apart():
    for count in (1529, 1530):
        factors = np.zeros((count, 6), int)
        factors[:, 0] = np.arange(count)
        frames = render_sprites(factors, 16, channels=3, num_colors=count, num_positions=1)
        assert len({frame.tobytes() for frame in frames}) == count
    # Where no pixel is full, hues may look the same.
    with pytest.raises(ValueError, match="size must be larger"):
        make_sprites(8, channels=3, num_colors=3, num_scales=2, num_orientations=1, num_positions=1)


@pytest.mark.parametrize("grid", [SMALL, {"channels": 3, **SMALL}])
def test_lazy_frames_are_those_of_the_array(grid):
    array, lazy = make_sprites(40, **grid), make_sprites(40, lazy=True, **grid)
    frames = np.concatenate([array.train.examples, array.test.examples])
    for name, split in array.splits.items():
        other = lazy.splits[name]
        assert isinstance(split.examples, np.ndarray)
        assert isinstance(other.examples, Lazy)
        np.testing.assert_array_equal(other.factors, split.factors)
        np.testing.assert_array_equal(other.examples[:], split.examples)
        np.testing.assert_array_equal(other.examples[np.array([5, 2, 5])], split.examples[[5, 2, 5]])
        np.testing.assert_array_equal(other.examples[-1], split.examples[-1])
    # And a pure function of the factors.
    factors = np.concatenate([array.train.factors, array.test.factors])
    rows = np.random.default_rng(0).integers(0, len(factors), 50)
    np.testing.assert_array_equal(render_sprites(factors[rows], 40, **grid), frames[rows])
    assert render_sprites(factors[:0], 40, **grid).shape == (0, *frames.shape[1:])


def test_checksums_say_what_differs():
    grids = [{}, {"num_scales": 3}, {"num_orientations": 4}, {"num_positions": 5}, {"size": 44}, {"test_fraction": 0.2}]
    for options in ({}, {"lazy": True}, {"channels": 3, "lazy": True}, {"channels": 3, "num_colors": 4, "lazy": True}):
        sums = [make_sprites(**{"size": 40, **SMALL, **options, **grid}).sha256 for grid in grids]
        assert len(set(sums)) == len(grids)
        assert sums[0] == make_sprites(40, **SMALL, **options).sha256
    # Frames alone, without their factors.
    grids = [
        {},
        {"channels": 3, "num_colors": 1},
        {"channels": 3, "num_colors": 4},
        {"size": 44},
        {"test_fraction": 0.2},
    ]
    datasets = [make_sprites(**{"size": 40, "lazy": True, **SMALL, **grid}) for grid in grids]
    prints = [split.examples.fingerprint for each in datasets for split in each.splits.values()]
    assert len(set(prints)) == len(prints)


def test_splits_have_the_size_that_was_asked_for():
    for fraction, test in [(0.25, 72), (0.5, 144), (1 / 288, 1), (287 / 288, 287)]:
        dataset = make_sprites(40, test_fraction=fraction, lazy=True, **SMALL)
        assert (len(dataset.test.examples), len(dataset.test.factors)) == (test, test)
        assert (len(dataset.train.examples), len(dataset.train.factors)) == (288 - test, 288 - test)


def test_a_single_scale_is_the_largest():
    mass, *_ = moments(render_sprites([[0, 0, 0, 0, 0]], num_scales=1, num_positions=1)[0, :, :, 0])
    assert mass == 22**2


def test_factors_are_stored_small_and_none_is_cut_off():
    """In bytes where they fit; a position times its step may not."""
    for count, kind in ((200, np.uint8), (300, np.uint16)):
        _, factors = whole(make_sprites(40, channels=3, num_colors=count, **dict.fromkeys(SMALL, 1)))
        assert factors.dtype == kind
        assert np.bincount(factors[:, 0]).tolist() == [3] * count
    far = np.array([[0, 0, 0, 39, 39]], np.uint8)
    frame = render_sprites(far, 600, num_scales=1, num_positions=40)[0, :, :, 0]
    assert moments(frame)[1:] == (300 + 7 * 19.5, 300 + 7 * 19.5)


def test_large_sets_cost_nothing_before_they_are_read():
    dataset = make_sprites(
        96, channels=3, num_colors=8, num_scales=10, num_orientations=20, num_positions=16, lazy=True
    )
    assert dataset.train.examples.nbytes + dataset.test.examples.nbytes == 8 * 3 * 10 * 20 * 16**2 * 96**2 * 3
    rows = np.array([0, 10**6])
    frames = dataset.train.examples[rows]
    # Their centres and areas are those of their factors, also where positions do not fill the frame evenly.
    for frame, (_, shape, scale, _, x, y) in zip(
        frames.max(-1) / 255, dataset.train.factors[rows].astype(int), strict=True
    ):
        mass, across, down = moments(frame)
        assert mass == pytest.approx(AREAS[shape] * (24 * (0.5 + scale / 18)) ** 2, rel=0.01)
        assert (across, down) == pytest.approx((48 + 3 * (x - 7.5), 48 + 3 * (y - 7.5)), abs=0.05)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"size": 7}, ValueError, "size must be at least 8; got 7"),
        ({"size": 64.0}, TypeError, "size must be an integer; got float 64.0"),
        ({"channels": 2}, ValueError, "channels must be 1 or 3; got 2"),
        ({"num_colors": 1531}, ValueError, "num_colors must be at most 1530; got 1531"),
        ({"num_scales": 0}, ValueError, "num_scales must be at least 1; got 0"),
        ({"num_orientations": True}, TypeError, "num_orientations must be an integer; got bool"),
        ({"num_positions": 32}, ValueError, "num_positions must be at most 31 for size=64; got 32"),
        ({"num_positions": 10**12}, ValueError, "num_positions must be at most 31 for size=64"),
    ],
)
def test_impossible_grids_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        make_sprites(**options)
    with pytest.raises(error, match=message):
        render_sprites(np.zeros((1, 5), int), **options)


@pytest.mark.parametrize(
    "options", [{"size": 40}, {"num_orientations": 40}, {"num_scales": 20}, {"size": 8, "num_scales": 2}]
)
def test_grids_too_fine_for_their_frames_are_refused(options):
    options = {"num_positions": 2} | options
    expected = f"num_scales={options.get('num_scales', 6)} and num_orientations={options.get('num_orientations', 10)}"
    with pytest.raises(
        ValueError, match=f"size must be larger for {expected} to differ.*got {options.get('size', 64)}"
    ):
        make_sprites(**options)


def test_a_frame_without_a_sprite_is_refused():
    """The one sprite that is not there, a small ellipse, falls between the pixels."""
    with pytest.raises(ValueError, match="size must be larger"):
        make_sprites(8, num_scales=2, num_orientations=1, num_positions=1)


def test_a_sprite_that_is_another_one_moved_is_refused():
    moved = np.zeros((2, 5, 5), np.uint8)
    moved[0, 1:3, 1:4] = moved[1, 2:4, 1:4] = 1
    grid = sprites._Grid(10, 1, 3, 2, 1, 1)
    with pytest.raises(ValueError, match="size must be larger"):
        sprites._check_different(grid, moved)
    moved[1, 2, 1] = 0
    sprites._check_different(grid, moved)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, math.nan, math.inf, 0.5 / 288, 1 - 0.4 / 288])
def test_splits_without_frames_are_refused(fraction):
    with pytest.raises(ValueError, match=r"test_fraction must.*got"):
        make_sprites(40, test_fraction=fraction, lazy=True, **SMALL)


@pytest.mark.parametrize(
    ("factors", "error", "message"),
    [
        (np.zeros((1, 5)), TypeError, "factors must be integers; got dtype float64"),
        (np.zeros(5, int), ValueError, r"factors must have shape \[B, 5\].*position_y.*; got \(5,\)"),
        (np.zeros((2, 6), int), ValueError, r"factors must have shape \[B, 5\].*; got \(2, 6\)"),
        ([[0, 0, 0, 8, 0]], ValueError, r"factors must.*got .*8, 0\]"),
        ([[0, 0, 0, -1, 0]], ValueError, r"factors must.*got .*-1, 0\]"),
    ],
)
def test_factors_outside_of_the_grid_are_refused(factors, error, message):
    with pytest.raises(error, match=message):
        render_sprites(factors)
