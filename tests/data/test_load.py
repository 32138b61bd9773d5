"""One way to every data set: names, paths, and what is said of those that are neither."""

import gzip
import os
import re
from pathlib import Path

import numpy as np
import pytest

from vaejax import data
from vaejax.data import binarized_mnist, download
from vaejax.data import load as loading_function

# The function hides the module of its name.
loading = __import__("sys").modules["vaejax.data.load"]
assert loading_function is data.load

FOUR = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
IMAGES = np.random.default_rng(0).integers(0, 256, (20, 6, 5)).astype(np.uint8)


@pytest.fixture(autouse=True)
def nowhere(monkeypatch, tmp_path, request):
    """No folders but those that a test names."""
    if request.node.get_closest_marker("data") is None:
        monkeypatch.delenv("VAEJAX_DATA", raising=False)
        monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
        monkeypatch.setattr(download, "PATIENCE", 0.2)


def write_four(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for name in FOUR:
        array = IMAGES if "images" in name else np.arange(20, dtype=np.uint8) % 3
        header = b"\0\0\x08" + bytes([array.ndim]) + np.array(array.shape, ">u4").tobytes()
        (folder / f"{name}.gz").write_bytes(gzip.compress(header + array.tobytes()))


@pytest.mark.parametrize(
    "name", ["digits", "sprites", pytest.param("color_sprites", marks=pytest.mark.slow("another set of sprites"))]
)
def test_what_needs_no_files_is_there(name):
    dataset = data.load(name)
    assert dataset.name == name
    assert len(dataset.train.examples) > 1000
    assert name in data.names()


def test_paths_of_every_kind(tmp_path):
    from PIL import Image

    np.savez(tmp_path / "some.npz", train=IMAGES, test=IMAGES[:3])
    np.save(tmp_path / "some.npy", IMAGES)
    write_four(tmp_path / "idx")
    (tmp_path / "images").mkdir()
    for number, image in enumerate(IMAGES):
        Image.fromarray(image).save(tmp_path / "images" / f"{number:02}.png")
    order = np.random.RandomState(0).permutation(20)[:-2]
    for name, expected in [
        ("some.npz", IMAGES),
        ("some.npy", IMAGES[order]),
        ("idx", IMAGES),
        ("images", IMAGES[order]),
    ]:
        for path in (tmp_path / name, str(tmp_path / name)):
            dataset = data.load(path)
            assert dataset.shape == (6, 5, 1)
            np.testing.assert_array_equal(dataset.train.examples[..., 0], expected)


def test_relative_paths_and_names_that_are_also_folders(tmp_path, monkeypatch):
    """A folder that is called as a known set does not hide it; ./ says that it is meant."""
    monkeypatch.chdir(tmp_path)
    write_four(tmp_path / "digits")
    assert data.load("digits").shape == (8, 8, 1)
    assert data.load("./digits").shape == (6, 5, 1)
    write_four(tmp_path / "mine")
    assert data.load("mine").shape == (6, 5, 1)


@pytest.mark.parametrize("given", ["argument", "environment"])
@pytest.mark.parametrize("place", ["", "mnist"])
def test_published_files_are_looked_for_in_the_folder(tmp_path, monkeypatch, given, place):
    write_four(tmp_path / "data" / place)
    if given == "environment":
        monkeypatch.setenv("VAEJAX_DATA", str(tmp_path / "data"))
    folder = tmp_path / "data" if given == "argument" else None
    # They are found, and are not what they are called.
    with pytest.raises(ValueError, match="is not the published file of mnist: its checksum differs"):
        data.load("mnist", folder)


def test_an_incomplete_set_in_the_folder_is_not_downloaded_over(tmp_path):
    write_four(tmp_path / "mnist")
    (tmp_path / "mnist" / f"{FOUR[2]}.gz").unlink()
    with pytest.raises(FileNotFoundError, match=rf"{FOUR[2]}\[.gz\] is missing"):
        data.load("mnist", tmp_path)


def test_static_mnist_in_either_form(tmp_path, monkeypatch):
    counts = {"train": 4, "valid": 3, "test": 2}
    monkeypatch.setattr(binarized_mnist, "COUNTS", counts)
    bits = {
        part: np.random.default_rng(1).integers(0, 2, (count, 784)).astype(np.uint8) for part, count in counts.items()
    }
    np.savez(tmp_path / "binarized_mnist.npz", **bits)
    dataset = data.load("binarized_mnist", tmp_path)
    assert {name: len(split.examples) for name, split in dataset.splits.items()} == {
        "train": 4, "validation": 3, "test": 2,
    }  # fmt: skip
    assert (dataset.meaning, dataset.max_value) == ("binary", 1)


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("./none", {}, FileNotFoundError, "there is no file or folder none"),
        ("/none/at/all.npz", {}, FileNotFoundError, "there is no file or folder /none/at/all.npz"),
        ("none.npy", {}, FileNotFoundError, "there is no file or folder none.npy"),
        ("digits", {"size": (4, 4)}, ValueError, r"size is not for digits: .*data.resize .* for arrays"),
        ("digits", {"crop": 4}, ValueError, r"crop is not for digits"),
        (
            "digits",
            {"splits": {"train": "train"}},
            ValueError,
            "splits is not for digits: it is for tensorflow-datasets",
        ),
        ("digit", {}, ValueError, "unknown data set digit: perhaps digits"),
        ("sprits", {}, ValueError, "unknown data set sprits: perhaps .*sprites"),
        ("mnits", {}, ValueError, "unknown data set mnits: perhaps .*mnist"),
        ("tfds:mnits", {}, ValueError, "mnits.*mnist"),
        ("cifar1", {}, ValueError, "unknown data set cifar1: perhaps .*cifar10"),
        ("qqqqqqq", {}, ValueError, "unknown data set qqqqqqq: .*binarized_mnist, .*sprites.* tensorflow-datasets"),
        ("", {}, ValueError, "unknown data set : there are"),
        ("a b;c", {}, ValueError, "unknown data set a b;c"),
        ("dsprites", {}, FileNotFoundError, "dsprites needs the folder of its file: folder, or .* VAEJAX_DATA"),
    ],
)
def test_what_cannot_be_loaded_is_said_in_one_line(name, options, error, message):
    with pytest.raises(error) as caught:
        data.load(name, **options)
    assert re.search(message, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"notes.txt must.*got .* '.txt'"):
        data.load(tmp_path / "notes.txt")


@pytest.mark.parametrize("name", ["mnist", "binarized_mnist"])
def test_without_files_and_network_it_says_what_it_wanted(name, tmp_path, no_network):
    with pytest.raises(OSError, match=name) as caught:
        data.load(name, tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(tmp_path) in message
    assert ("idx3-ubyte" if name == "mnist" else ".amat") in message


@pytest.fixture
def no_network(monkeypatch):
    import socket

    def refuse(*_, **__):
        raise OSError("the network is unreachable")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize(("room", "kept"), [(2**20, True), (100, False)])
def test_what_fits_in_memory_is_kept_there_and_nothing_else(tmp_path, monkeypatch, room, kept):
    from PIL import Image

    for number, image in enumerate(IMAGES):
        Image.fromarray(image).save(tmp_path / f"{number:02}.png")
    monkeypatch.setattr(loading, "host_capacity", lambda: room)
    dataset = data.load(tmp_path)
    for split in dataset.splits.values():
        assert isinstance(split.examples, np.ndarray if kept else data.Lazy)
    monkeypatch.setattr(loading, "host_capacity", lambda: 2**40)
    np.testing.assert_array_equal(dataset.train.examples[:], data.load(tmp_path).train.examples)


def rows_of(split):
    examples = split.examples[:]
    return {row.tobytes() for row in examples.reshape(len(examples), -1)}


needs_data = pytest.mark.skipif("VAEJAX_DATA" not in os.environ, reason="VAEJAX_DATA names no folder of data sets")


@pytest.mark.data
@needs_data
@pytest.mark.slow("70,000 published images")
def test_the_splits_of_papers_are_disjoint():
    """50,000, 10,000 and 10,000; 59,600 and 400; and the fixed ones of static MNIST."""
    mnist = data.load("mnist")
    for count in (10_000, 400):
        split = data.hold_out(mnist, count)
        assert [len(each.examples) for each in split.splits.values()] == [60_000 - count, count, 10_000]
        np.testing.assert_array_equal(split.validation.examples, mnist.train.examples[-count:])
        np.testing.assert_array_equal(split.validation.labels, mnist.train.labels[-count:])
        rows = [rows_of(each) for each in split.splits.values()]
        assert not rows[0] & rows[1]
        assert not (rows[0] | rows[1]) & rows[2]
    static = data.load("binarized_mnist")
    assert [len(each.examples) for each in static.splits.values()] == [50_000, 10_000, 10_000]


@pytest.mark.parametrize("name", ["digits", "sprites"])
def test_splits_of_sets_with_their_own_are_disjoint_and_whole(name):
    dataset = data.load(name)
    train, test = (rows_of(each) for each in (dataset.train, dataset.test))
    assert not train & test
    assert len(train) == len(dataset.train.examples)
    assert len(test) == len(dataset.test.examples)


def test_holding_out_what_is_not_there_is_refused():
    digits = data.load("digits")
    for count in (0, -1, 1437, 9999):
        with pytest.raises(ValueError, match=f"held out must be from 1 to 1436 of the 1437 .*; got {count}"):
            data.hold_out(digits, count)
    with pytest.raises(ValueError, match="has a validation split of its own"):
        data.hold_out(data.hold_out(digits, 10), 10)


def test_the_checksum_tells_data_sets_apart():
    digits = data.load("digits")
    assert digits.sha256 == data.load("digits").sha256
    lazy = lambda name: data.Lazy(lambda rows: rows, digits.train.examples.shape, np.dtype(np.uint8), name)
    change = lambda **fields: digits._replace(train=digits.train._replace(**fields))
    examples = digits.train.examples.copy()
    examples[7, 3, 3, 0] ^= 1
    others = [
        change(examples=examples),
        change(examples=digits.train.examples.reshape(-1, 64, 1, 1)),
        change(labels=None),
        change(labels=digits.train.labels[::-1]),
        change(factors=digits.train.labels[:, None]),
        change(examples=lazy("a")),
        change(examples=lazy("b")),
        data.hold_out(digits, 10),
        digits._replace(train=digits.test, test=digits.train),
    ]
    assert len({digits.sha256, *(each.sha256 for each in others)}) == 1 + len(others)


def test_the_checksum_of_what_is_hashed_in_parts(monkeypatch):
    from vaejax.data import dataset as module

    whole = data.load("digits").sha256
    monkeypatch.setattr(module, "HASHED_AT_ONCE", 1000)
    assert data.load("digits").sha256 == whole


def test_a_path_object_is_a_path_and_a_word_is_a_name_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_four(tmp_path / "digits")
    write_four(tmp_path / "cifar10")
    assert data.load(Path("digits")).shape == (6, 5, 1)
    assert data.load(Path("cifar10")).shape == (6, 5, 1)
    # That of tensorflow-datasets, which has to be prepared.
    with pytest.raises((ModuleNotFoundError, OSError), match="tfds:cifar10"):
        data.load("cifar10")


def test_files_of_one_set_are_not_taken_for_another(tmp_path, no_network):
    """The files of MNIST and of Kuzushiji-MNIST have the same names, and of these no checksum is known here."""
    write_four(tmp_path)
    with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte.gz is not the published file"):
        data.load("kmnist", tmp_path)
    (tmp_path / "kmnist").mkdir()
    for name in FOUR:
        (tmp_path / f"{name}.gz").rename(tmp_path / "kmnist" / f"{name}.gz")
    with pytest.raises(ValueError, match=r"must have shape \(60000, 28, 28\); got \(20, 6, 5\)"):
        data.load("kmnist", tmp_path)


def test_a_folder_of_a_prepared_set_does_not_hide_the_files_beside_it(tmp_path):
    write_four(tmp_path)
    (tmp_path / "mnist" / "3.0.1").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte.gz is not the published file of mnist"):
        data.load("mnist", tmp_path)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    for name in ("mnist", "digits", "cifar10"):
        with pytest.raises(FileNotFoundError, match=f"there is no folder .*typo to look for {name} in"):
            data.load(name, tmp_path / "typo")


def test_what_numbers_mean_may_be_said_of_files_of_arrays(tmp_path):
    np.savez(tmp_path / "levels.npz", train=IMAGES % 17)
    write_four(tmp_path / "idx")
    with pytest.warns(UserWarning, match="the largest value is 16: if that is white, say max_value=16"):
        assert data.load(tmp_path / "levels.npz").max_value == 255
    assert data.load(tmp_path / "levels.npz", max_value=16).max_value == 16
    counts = data.load(tmp_path / "levels.npz", meaning=data.Meaning.COUNTS)
    assert (counts.meaning, counts.max_value) == ("counts", 16)
    assert data.load(tmp_path / "idx", max_value=300).max_value == 300
    for name in ("digits", "tfds:mnist"):
        with pytest.raises(ValueError, match=f"max_value is not for {name}: it is for files of arrays"):
            data.load(name, max_value=16)


def test_the_checksum_does_not_depend_on_the_memory_of_the_machine(tmp_path, monkeypatch):
    from PIL import Image

    for number, image in enumerate(IMAGES):
        Image.fromarray(image).save(tmp_path / f"{number:02}.png")
    held = data.load(tmp_path)
    monkeypatch.setattr(loading, "host_capacity", lambda: 100)
    read = data.load(tmp_path)
    assert isinstance(read.train.examples, data.Lazy)
    assert held.sha256 == read.sha256
    assert data.hold_out(held, 3).sha256 == data.hold_out(read, 3).sha256 != held.sha256
    # What is made of it is another array, of which nothing else is known than what is in it.
    changed = held._replace(train=held.train._replace(examples=held.train.examples[::-1]))
    assert changed.sha256 != held.sha256
    assert (
        changed.sha256
        == changed._replace(train=changed.train._replace(examples=np.array(changed.train.examples))).sha256
    )


def test_homes_are_looked_up_and_need_not_be_there(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_four(tmp_path / "mine")
    assert data.load("~/mine").shape == (6, 5, 1)
    with pytest.raises(FileNotFoundError, match="there is no file or folder ~nobody-of-this-name/x"):
        data.load("~nobody-of-this-name/x")
    write_four(tmp_path / "mnist")
    with pytest.raises(ValueError, match="is not the published file of mnist"):
        data.load("mnist", "~")
    monkeypatch.setenv("VAEJAX_DATA", "~")
    with pytest.raises(ValueError, match="is not the published file of mnist"):
        data.load("mnist")
