"""dSprites: both of its files, what is said of damaged ones, and what is known of the real images."""

import hashlib
import itertools
import math
import os
import pickle

import numpy as np
import pytest

from vaejax.data import Meaning, dsprites
from vaejax.data.dsprites import load_dsprites

ORIGINAL, DOWNSAMPLED = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz", "dsprites_downsampled.npz"
COUNTS = {ORIGINAL: (1, 3, 2, 4, 2, 3), DOWNSAMPLED: (3, 2, 2, 2, 3)}
PUBLISHED = dsprites.FILES


@pytest.fixture(autouse=True)
def small(monkeypatch, request):
    """Files of a few images, but where the real ones are read."""
    if request.node.get_closest_marker("data") is None:
        known = {file: each._replace(counts=COUNTS[file]) for file, each in PUBLISHED.items()}
        known[DOWNSAMPLED] = known[DOWNSAMPLED]._replace(sha256=None)
        monkeypatch.setattr(dsprites, "FILES", known)


def arrays_of(file, shuffled=True):
    """Every image says its own classes in its first pixels; the rest is noise."""
    classes = np.array(list(itertools.product(*map(range, COUNTS[file]))))
    random = np.random.default_rng(len(classes))
    classes = random.permutation(classes) if shuffled else classes
    images = random.integers(0, 2, (len(classes), 64, 64)).astype(np.uint8)
    for factor, each in enumerate(classes[:, -5:].T):
        images[:, factor, :8] = np.eye(8, dtype=np.uint8)[each]
    return {"imgs": images, "latents_classes": classes}


class Trap:
    """What runs where a pickle of it is loaded."""

    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


def write(path, save=np.savez, **arrays):
    """As the published files are: with a pickle, and an array that is not needed."""
    path.parent.mkdir(exist_ok=True)
    metadata = np.array({"trap": Trap()}, dtype=object)
    save(path, metadata=metadata, latents_values=np.zeros((3, 3)), **arrays)
    return path


def key_of(dataset, name):
    return sorted(dataset.splits[name].examples[:, :5, :8, 0].argmax(-1).tolist())


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("folder", ["", "dsprites"])
@pytest.mark.parametrize(("file", "name"), [(ORIGINAL, "dsprites"), (DOWNSAMPLED, "dsprites_downsampled")])
def test_images_keep_their_factors(tmp_path, file, name, folder, save):
    arrays = arrays_of(file)
    path = write(tmp_path / folder / file, save, **arrays)
    dataset = load_dsprites(tmp_path)
    assert (dataset.name, dataset.meaning, dataset.max_value) == (name, Meaning.BINARY, 1)
    assert (dataset.origin, dataset.shape, dataset.dtype) == (str(path), (64, 64, 1), np.uint8)
    assert dataset.factor_names == ("shape", "scale", "orientation", "position_x", "position_y")
    images = np.concatenate([split.examples for split in dataset.splits.values()])
    factors = np.concatenate([split.factors for split in dataset.splits.values()])
    assert [split.labels for split in dataset.splits.values()] == [None, None]
    count = math.prod(COUNTS[file])
    assert (len(dataset.test.examples), len(dataset.test.factors), len(images)) == (count // 10, count // 10, count)
    # In the order of one fixed permutation.
    order = np.random.RandomState(0).permutation(count)
    np.testing.assert_array_equal(images[..., 0], arrays["imgs"][order])
    np.testing.assert_array_equal(factors, arrays["latents_classes"][order, -5:])
    np.testing.assert_array_equal(images[:, :5, :8, 0].argmax(-1), factors)
    assert dataset.sha256 == load_dsprites(tmp_path).sha256


def test_the_grids_have_the_published_sizes():
    assert {file: math.prod(known.counts) for file, known in PUBLISHED.items()} == {
        ORIGINAL: 737_280,
        DOWNSAMPLED: 46_080,
    }


def test_the_original_comes_first(tmp_path):
    write(tmp_path / DOWNSAMPLED, **arrays_of(DOWNSAMPLED))
    write(tmp_path / ORIGINAL, **arrays_of(ORIGINAL))
    assert load_dsprites(str(tmp_path)).name == "dsprites"


def test_it_says_which_files_it_looks_for(tmp_path):
    (tmp_path / ORIGINAL).mkdir()
    with pytest.raises(FileNotFoundError, match=rf"holds neither {ORIGINAL} nor {DOWNSAMPLED} \(nor does a folder dsp"):
        load_dsprites(tmp_path)


@pytest.mark.parametrize("count", [1, 2, 3, 10, 301])
@pytest.mark.parametrize("layout", ["C", "F"])
def test_images_are_put_in_order_where_they_are(count, layout):
    random = np.random.default_rng(count)
    for order in (random.permutation(count), np.arange(count), np.roll(np.arange(count), 1)):
        images = np.asarray(random.integers(0, 256, (count, 3, 2)), np.uint8, order=layout)
        expected, kept = images[order], order.copy()
        assert dsprites._reorder(images, order) is None
        np.testing.assert_array_equal(images, expected)
        np.testing.assert_array_equal(order, kept)


IMAGES, CLASSES = arrays_of(ORIGINAL)["imgs"], arrays_of(ORIGINAL)["latents_classes"]
TWICE, OUTSIDE, COLOR = CLASSES.copy(), CLASSES.copy(), CLASSES.copy()
TWICE[7] = TWICE[3]
OUTSIDE[5, 2] = 2
COLOR[5, 0] = 1


@pytest.mark.parametrize(
    ("arrays", "found"),
    [
        ({"imgs": IMAGES[:-1]}, r"imgs must.*got uint8 of \(143, 64, 64\)"),
        ({"imgs": IMAGES[:, :, :32]}, r"imgs must.*got uint8 of \(144, 64, 32\)"),
        ({"imgs": IMAGES[..., None]}, r"imgs must.*got uint8 of \(144, 64, 64, 1\)"),
        ({"imgs": IMAGES.astype(np.int8)}, r"imgs must be uint8 of shape \(144, 64, 64\); got int8"),
        ({"imgs": IMAGES * 255}, "imgs must be 0 or 1; got values up to 255"),
        (
            {"latents_classes": CLASSES[:-1]},
            r"latents_classes must.*got int64 of \(143, 6\)",
        ),
        (
            {"latents_classes": CLASSES[:, 1:]},
            r"latents_classes must.*got int64 of \(144, 5\)",
        ),
        ({"latents_classes": CLASSES * 1.0}, r"latents_classes must.*got float64"),
        (
            {"latents_classes": TWICE},
            r"latents_classes must hold each combination of \(1, 3, 2, 4, 2, 3\) classes exactly once",
        ),
        ({"latents_classes": OUTSIDE}, "latents_classes must hold each combination of .* exactly once"),
        ({"latents_classes": COLOR}, "latents_classes must hold each combination of .* exactly once"),
        ({"latents_classes": CLASSES - 1}, "latents_classes must hold each combination of .* exactly once"),
        ({"latents_classes": CLASSES.astype(object)}, "latents_classes must hold numbers; got objects"),
        ({"imgs": IMAGES.astype(object)}, "imgs must hold numbers; got objects"),
        ({"imgs": None}, ".*has no array imgs|has no array imgs"),
        ({"latents_classes": None}, "has no array latents_classes"),
    ],
)
def test_what_is_no_dsprites_is_refused(tmp_path, arrays, found):
    arrays = {
        name: each for name, each in ({"imgs": IMAGES, "latents_classes": CLASSES} | arrays).items() if each is not None
    }
    write(tmp_path / ORIGINAL, **arrays)
    with pytest.raises(ValueError, match=rf"{ORIGINAL}:? {found}"):
        load_dsprites(tmp_path)


def test_images_are_not_read_where_their_classes_are_wrong(tmp_path, monkeypatch):
    write(tmp_path / ORIGINAL, imgs=IMAGES, latents_classes=TWICE)
    read = []
    monkeypatch.setattr(
        dsprites, "read_npz", lambda path, keys, inner=dsprites.read_npz: read.extend(keys) or inner(path, keys)
    )
    with pytest.raises(ValueError, match="exactly once"):
        load_dsprites(tmp_path)
    assert read == ["latents_classes"]


def test_truncated_and_altered_files_are_named(tmp_path):
    path = write(tmp_path / ORIGINAL, np.savez_compressed, imgs=IMAGES, latents_classes=CLASSES)
    whole = path.read_bytes()
    expected = load_dsprites(tmp_path)
    for content in (b"", b"hello", whole[: len(whole) // 2], whole[len(whole) // 2 :], whole[:-30]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=ORIGINAL):
            load_dsprites(tmp_path)
    refused = harmless = 0
    positions = range(50, len(whole), len(whole) // 100)
    for position in positions:
        content = bytearray(whole)
        content[position] ^= 0xFF
        path.write_bytes(content)
        try:
            dataset = load_dsprites(tmp_path)
        except ValueError as error:
            refused += ORIGINAL in str(error)
            continue
        # It lies in what is not read.
        harmless += 1
        assert dataset.sha256 == expected.sha256
    assert refused + harmless == len(positions)
    assert refused > 80


def test_an_altered_file_of_a_known_checksum_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = write(tmp_path / DOWNSAMPLED, **arrays_of(DOWNSAMPLED))
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    known = dsprites.FILES[DOWNSAMPLED]._replace(sha256=checksum)
    monkeypatch.setattr(dsprites, "FILES", {DOWNSAMPLED: known})
    assert load_dsprites(tmp_path).name == "dsprites_downsampled"
    monkeypatch.setattr(dsprites, "read_npz", lambda *args: pytest.fail("it was read"))
    # A byte after the archive, which an archive may have; an end that is missing.
    for content in (path.read_bytes() + b"\0", path.read_bytes()[:-1]):
        path.write_bytes(content)
        found = hashlib.sha256(content).hexdigest()
        with pytest.raises(ValueError, match=f"{DOWNSAMPLED} must have the sha256 {checksum}; got {found}"):
            load_dsprites(tmp_path)


def test_the_trap_is_one():
    with pytest.raises(pytest.fail.Exception, match="a pickle was loaded"):
        pickle.loads(pickle.dumps(Trap()))


@pytest.fixture(scope="module")
def real():
    """The images of the real file by their factors `[3, 6, 10, 16, 16, 64, 64]`, in the order of the grid."""
    dataset = load_dsprites(os.environ["VAEJAX_DATA"])
    assert dataset.name == "dsprites_downsampled"
    assert (len(dataset.train.examples), len(dataset.test.examples)) == (41_472, 4_608)
    images = np.concatenate([dataset.train.examples, dataset.test.examples])
    factors = np.concatenate([dataset.train.factors, dataset.test.factors])
    return images[np.lexsort(factors.T[::-1])].reshape(3, 6, 10, 16, 16, 64, 64)


def needs_data(test):
    absent = pytest.mark.skipif("VAEJAX_DATA" not in os.environ, reason="VAEJAX_DATA names no folder of data sets")
    return pytest.mark.slow("46,080 published images")(pytest.mark.data(absent(test)))


@needs_data
def test_positions_are_where_the_shapes_are(real):
    """x from left to right, y from top to bottom; the published values are multiples of 2/31, of half the frame."""
    squares = real[0].astype(float)
    mass = squares.sum((-1, -2))
    centres = 15.5 + 32 * np.arange(16) * 2 / 31
    x, y = squares.sum(-2) @ np.arange(64) / mass, squares.sum(-1) @ np.arange(64) / mass
    assert abs(x - centres[:, None]).max() < 0.6
    assert abs(y - centres).max() < 0.6


@needs_data
def test_neighbours_in_a_position_are_shifted(real):
    """Along the axis of that position alone; all but the pixels of an edge."""
    for axis, shifted in ((3, -1), (4, -2)):
        before, after = np.moveaxis(real, axis, 0)[:-1], np.moveaxis(real, axis, 0)[1:]
        moved = np.roll(before, 2, shifted) != after
        wrong = np.roll(before, 2, -3 - shifted) != after
        assert moved.mean() < 0.05 * wrong.mean()


@needs_data
def test_areas_are_those_of_the_shapes(real):
    areas = real.sum((-1, -2), dtype=np.int64)
    scales = np.linspace(0.5, 1, 6)
    for shape, largest in enumerate((361, 283, 220)):
        mean = areas[shape].mean((1, 2, 3))
        np.testing.assert_allclose(mean, largest * scales**2, rtol=0.05)
    # Squares at rest are squares of whole sides.
    assert set(np.unique(areas[0, :, 0])) <= {side**2 for side in range(9, 21)} | {s * (s + 1) for s in range(9, 21)}


@needs_data
def test_orientations_turn(real):
    """A neighbour in orientation alone is another image of the same place and size."""
    middle = real[:, 5, :, 8, 8]
    assert len({image.tobytes() for image in middle[1:].reshape(20, -1)}) == 20
    distance = (middle[1:, 1:] != middle[1:, :-1]).sum((-1, -2))
    assert distance.min() > 80
    assert distance.max() < 150


@needs_data
def test_scales_grow(real):
    """A sprite covers the next smaller one of the same place and angle."""
    sizes = real[:, :, :, 8, 8].astype(int)
    assert not np.any(sizes[:, :-1] > sizes[:, 1:])
    assert (sizes[:, 1:] > sizes[:, :-1]).sum((-1, -2)).min() >= 15
