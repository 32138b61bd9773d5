"""The fixed binarization of MNIST: both forms of its files, and what is said of damaged ones."""

import os

import numpy as np
import pytest

from vaejax import data
from vaejax.data import binarized_mnist

COUNTS = {"train": 12, "valid": 4, "test": 5}
RANDOM = np.random.default_rng(0)
IMAGES = {part: RANDOM.integers(0, 2, (count, 784)).astype(np.uint8) for part, count in COUNTS.items()}
LABELS = {f"{part}_labels": RANDOM.integers(0, 10, count).astype(np.uint8) for part, count in COUNTS.items()}


@pytest.fixture(autouse=True)
def small(monkeypatch, request):
    """Files of a few images, but where the real ones are read."""
    if request.node.get_closest_marker("data") is None:
        monkeypatch.setattr(binarized_mnist, "COUNTS", COUNTS)


def write_text(path, images, end="\n"):
    lines = [" ".join(str(pixel) for pixel in image) + end for image in images]
    path.write_bytes("".join(lines).encode())


def check(dataset, labels):
    """The three parts as they were written, with labels where there are some."""
    assert (dataset.name, dataset.max_value, dataset.shape) == ("binarized_mnist", 1, (28, 28, 1))
    assert dataset.meaning is data.Meaning.BINARY
    for split, part in ((dataset.train, "train"), (dataset.validation, "valid"), (dataset.test, "test")):
        assert split.examples.dtype == np.uint8
        np.testing.assert_array_equal(split.examples, IMAGES[part].reshape(-1, 28, 28, 1))
        if labels is None:
            assert split.labels is None
        else:
            assert split.labels.dtype == np.uint8
            np.testing.assert_array_equal(split.labels, labels[f"{part}_labels"])


@pytest.mark.parametrize("folder", ["", "binarized_mnist"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_packed_files_with_and_without_labels(tmp_path, folder, save):
    (tmp_path / folder).mkdir(exist_ok=True)
    save(tmp_path / folder / "binarized_mnist.npz", **IMAGES)
    check(data.load_binarized_mnist(tmp_path), None)
    save(tmp_path / folder / "binarized_mnist.npz", **IMAGES, **LABELS)
    check(data.load_binarized_mnist(str(tmp_path)), LABELS)


@pytest.mark.parametrize("kind", [np.float64, np.bool_, np.int32])
def test_pixels_may_be_stored_as_any_numbers(tmp_path, kind):
    np.savez(tmp_path / "binarized_mnist.npz", **{part: each.astype(kind) for part, each in IMAGES.items()}, **LABELS)
    check(data.load_binarized_mnist(tmp_path), LABELS)


@pytest.mark.parametrize("folder", ["", "binarized_mnist"])
@pytest.mark.parametrize("end", ["\n", " \r\n"])
def test_text_files(tmp_path, folder, end):
    (tmp_path / folder).mkdir(exist_ok=True)
    for part, images in IMAGES.items():
        write_text(tmp_path / folder / f"binarized_mnist_{part}.amat", images, end)
    check(data.load_binarized_mnist(tmp_path), None)


def test_text_files_of_any_name_and_place(tmp_path):
    files = {part: tmp_path / f"{i}.txt" for i, part in enumerate(IMAGES)}
    for part, path in files.items():
        write_text(path, IMAGES[part])
    check(binarized_mnist.read_binarized_text({part: str(path) for part, path in files.items()}), None)


def test_it_says_which_files_it_looks_for(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"neither binarized_mnist.npz nor binarized_mnist_train.amat"):
        data.load_binarized_mnist(tmp_path)
    write_text(tmp_path / "binarized_mnist_train.amat", IMAGES["train"])
    with pytest.raises(FileNotFoundError, match=r"binarized_mnist_valid.amat is missing"):
        data.load_binarized_mnist(tmp_path)


def test_damaged_archives_are_named(tmp_path):
    path = tmp_path / "binarized_mnist.npz"
    np.savez_compressed(path, **IMAGES)
    whole = path.read_bytes()
    # The compressed images begin after a header of some 60 bytes: zlib itself finds this one.
    middle = bytearray(whole)
    middle[80] ^= 0xFF
    for content in (b"", b"hello", whole[: len(whole) // 2], whole[1000:], bytes(middle)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"binarized_mnist.npz(: train is damaged| must be an npz.*damaged)"):
            data.load_binarized_mnist(tmp_path)
    # A bare array under the name of an archive.
    with path.open("wb") as file:
        np.save(file, IMAGES["train"])
    with pytest.raises(ValueError, match=r"binarized_mnist.npz must be an npz archive; it is one bare array"):
        data.load_binarized_mnist(tmp_path)


def test_any_flipped_byte_is_harmless_or_named(tmp_path):
    path = tmp_path / "binarized_mnist.npz"
    np.savez_compressed(path, **IMAGES)
    whole = path.read_bytes()
    refused = harmless = 0
    for position in range(0, len(whole), 11):
        content = bytearray(whole)
        content[position] ^= 0xFF
        path.write_bytes(content)
        try:
            dataset = data.load_binarized_mnist(tmp_path)
        except ValueError as error:
            refused += "binarized_mnist.npz" in str(error)
            continue
        # It lies in what the archive says of dates and the like.
        harmless += 1
        check(dataset, None)
    assert refused + harmless == len(range(0, len(whole), 11))
    assert refused > 100


def test_missing_and_pickled_arrays_are_named(tmp_path):
    path = tmp_path / "binarized_mnist.npz"
    np.savez(path, train=IMAGES["train"], valid=IMAGES["valid"])
    with pytest.raises(ValueError, match=r"binarized_mnist.npz has no array test; got train, valid"):
        data.load_binarized_mnist(tmp_path)
    np.savez(path, **IMAGES | {"train": IMAGES["train"].astype(object)})
    with pytest.raises(ValueError, match=r"binarized_mnist.npz: train must hold numbers; got objects"):
        data.load_binarized_mnist(tmp_path)
    np.savez(path, **IMAGES, test_labels=LABELS["test_labels"].astype(object))
    with pytest.raises(ValueError, match=r"binarized_mnist.npz: test_labels must.*got objects"):
        data.load_binarized_mnist(tmp_path)


@pytest.mark.parametrize(
    ("arrays", "found"),
    [
        ({"train": IMAGES["train"][:11]}, r"train must be 12 images.*got shape \(11, 784\)"),
        ({"train": IMAGES["train"].reshape(12, 28, 28)}, r"train must be 12 images.*got shape \(12, 28, 28\)"),
        ({"test": IMAGES["train"]}, r"test must be 5 images.*got shape \(12, 784\)"),
        ({"train": 2 * IMAGES["train"]}, "train must be 12 images of 784 pixels 0 or 1.*other values"),
        ({"test": 0.5 * IMAGES["test"]}, "test must be 5 images of 784 pixels 0 or 1.*other values"),
        ({"test": np.full((5, 784), np.nan)}, "test must be 5 images of 784 pixels 0 or 1.*other values"),
        ({"test": IMAGES["test"] + 0j}, "test must be an array of numbers; got.*c16"),
        ({"test": IMAGES["test"].astype(str)}, "test must be an array of numbers; got.*U3"),
        ({"test": np.zeros((5, 784), [("a", "i4")])}, "test must be an array of numbers; got.*i4"),
        ({"train_labels": np.zeros(5)}, r"train_labels must.*got shape \(5,\)"),
        ({"train_labels": np.full(12, 10)}, r"train_labels must.*got.*other values"),
        ({"test_labels": np.full(5, 0.5)}, "test_labels must be 5 digits from 0 to 9; got.*other values"),
        ({"test_labels": np.array(list("abcde"))}, "test_labels must be an array of numbers; got.*U1"),
    ],
)
def test_what_is_no_binarized_mnist_is_refused(tmp_path, arrays, found):
    np.savez(tmp_path / "binarized_mnist.npz", **IMAGES | arrays)
    with pytest.raises(ValueError, match=f"binarized_mnist.npz: {found}"):
        data.load_binarized_mnist(tmp_path)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (IMAGES["train"][:11], r"must hold 12 lines of 784 digits 0 or 1; got 8624 digits"),
        (IMAGES["train"] * 2, r"train must be 12 images of 784 pixels 0 or 1.*other values"),
        # A reader that skips what it does not know would take these for ones.
        (-IMAGES["train"].astype(int), r"must hold 12 lines of 784 digits 0 or 1"),
        (IMAGES["train"].astype(float), r"must hold 12 lines of 784 digits 0 or 1"),
        ([], "must hold 12 lines of 784 digits 0 or 1; got 0 digits"),
    ],
)
def test_damaged_text_is_named(tmp_path, images, message):
    write_text(tmp_path / "binarized_mnist_train.amat", images)
    for part in ("valid", "test"):
        write_text(tmp_path / f"binarized_mnist_{part}.amat", IMAGES[part])
    with pytest.raises(ValueError, match=f"binarized_mnist_train.amat:? {message}"):
        data.load_binarized_mnist(tmp_path)


@pytest.mark.data
@pytest.mark.skipif("VAEJAX_DATA" not in os.environ, reason="VAEJAX_DATA names no folder of data sets")
@pytest.mark.slow("70,000 published images")
def test_binarized_mnist_is_binarized_mnist():
    dataset = data.load_binarized_mnist(os.environ["VAEJAX_DATA"])
    assert dataset.train.examples.shape == (50_000, 28, 28, 1)
    assert dataset.validation.examples.shape == dataset.test.examples.shape == (10_000, 28, 28, 1)
    assert dataset.train.labels.shape == (50_000,)
    assert set(np.unique(dataset.train.examples)) == set(np.unique(dataset.test.examples)) == {0, 1}
    # The mean intensity of MNIST, of which these are draws; 28 corners' pixels are always black.
    assert abs(dataset.train.examples.mean() - 0.1307) < 1e-3
    assert abs(dataset.test.examples.mean() - 0.1325) < 1e-3
    assert dataset.train.examples[:, :2, :2].mean() < 1e-4
