"""IDX files, and the sets that are published as four of them."""

import gzip
import hashlib
import os

import numpy as np
import pytest

from vaejax import data
from vaejax.data import idx

FOUR = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def idx_bytes(array):
    header = b"\0\0\x08" + bytes([array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return header + array.astype(np.uint8).tobytes()


def test_idx_round_trip(tmp_path):
    array = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "plain").write_bytes(idx_bytes(array))
    (tmp_path / "packed.gz").write_bytes(gzip.compress(idx_bytes(array)))
    np.testing.assert_array_equal(data.read_idx(tmp_path / "plain"), array)
    np.testing.assert_array_equal(data.read_idx(tmp_path / "packed.gz"), array)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "starts with nothing"),
        (b"\x89PNG", "is no IDX file of unsigned bytes: it starts with 89504e47"),
        (b"\0\0\x0d\x01\0\0\0\x01\0\0\0\0", "is no IDX file of unsigned bytes"),
        (b"\0\0\x08\x02\0\0\0\x01", "damaged header"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "damaged header"),
        (b"\0\0\x08\x01\0\0\0\x05abc", "must hold 5 bytes.*got 3"),
        (b"\0\0\x08\x01\0\0\0\x02abc", "must hold 2 bytes.*got more"),
    ],
)
def test_damaged_idx_files_are_named(tmp_path, content, message):
    for name, packed in [("file", content), ("file.gz", gzip.compress(content))]:
        (tmp_path / name).write_bytes(packed)
        with pytest.raises(ValueError, match=rf"{name}.* {message}|{name} {message}"):
            data.read_idx(tmp_path / name)


def test_truncated_gzip_is_named(tmp_path):
    packed = gzip.compress(idx_bytes(np.random.default_rng(0).integers(0, 255, (50, 28, 28))))
    for name, content in [("cut.gz", packed[: len(packed) // 2]), ("none.gz", b""), ("text.gz", b"hello, no gzip")]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name):
            data.read_idx(tmp_path / name)


def write_four(folder, images=7, labels=7, size=(5, 4), end=""):
    random = np.random.default_rng(1)
    for name in FOUR:
        shape = (images, *size) if "images" in name else (labels,)
        content = idx_bytes(random.integers(0, 10 if len(shape) == 1 else 256, shape))
        (folder / f"{name}{end}").write_bytes(gzip.compress(content) if end else content)


@pytest.mark.parametrize("end", ["", ".gz"])
def test_a_set_of_ones_own_is_read_from_its_folder(tmp_path, end):
    write_four(tmp_path, end=end)
    dataset = data.load_idx(tmp_path)
    assert (dataset.name, dataset.shape) == (tmp_path.name, (5, 4, 1))
    assert (dataset.max_value, dataset.meaning) == (255, "intensity")
    for split, name in ((dataset.train, "train"), (dataset.test, "t10k")):
        np.testing.assert_array_equal(
            split.examples[..., 0], data.read_idx(tmp_path / f"{name}-images-idx3-ubyte{end}")
        )
        np.testing.assert_array_equal(split.labels, data.read_idx(tmp_path / f"{name}-labels-idx1-ubyte{end}"))


@pytest.mark.parametrize("name", FOUR)
def test_a_missing_file_is_named(tmp_path, name):
    write_four(tmp_path)
    (tmp_path / name).unlink()
    assert idx.has_idx_files(tmp_path)
    with pytest.raises(FileNotFoundError, match=rf"{name}\[.gz\] is missing: the four IDX files"):
        data.load_idx(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": 6}, r"train-labels-idx1-ubyte must hold a label of each of the 7 images .* got shape \(6,\)"),
        ({"images": 0, "labels": 0}, r"must hold images \[N, H, W\], at least one; got shape \(0, 5, 4\)"),
        ({"size": (5,)}, r"must hold images \[N, H, W\], at least one; got shape \(7, 5\)"),
    ],
)
def test_files_that_do_not_fit_each_other_are_refused(tmp_path, options, message):
    write_four(tmp_path, **options)
    with pytest.raises(ValueError, match=message):
        data.load_idx(tmp_path)


def test_what_is_called_mnist_must_be_mnist(tmp_path):
    """Also where every file is whole and the four fit each other."""
    write_four(tmp_path)
    with pytest.raises(ValueError, match="train-images-idx3-ubyte is not the published file of mnist: its checksum"):
        data.load_idx(tmp_path, "mnist")
    with pytest.raises(ValueError, match=r"must have shape \(60000, 28, 28\); got \(7, 5, 4\)"):
        data.load_idx(tmp_path, "kmnist")


needs_data = pytest.mark.skipif("VAEJAX_DATA" not in os.environ, reason="VAEJAX_DATA names no folder of data sets")


@pytest.mark.data
@needs_data
def test_mnist_is_mnist():
    dataset = data.load_idx(os.environ["VAEJAX_DATA"], "mnist")
    assert dataset.shape == (28, 28, 1)
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(dataset.train.labels).tolist() == counts
    # The mean intensity that everybody's normalisation constants say.
    assert abs(dataset.train.examples.mean() / 255 - 0.1307) < 1e-4


@pytest.mark.data
@needs_data
@pytest.mark.slow("another published set")
def test_fashion_mnist_is_fashion_mnist():
    dataset = data.load_idx(os.environ["VAEJAX_DATA"], "fashion_mnist")
    assert np.bincount(dataset.train.labels).tolist() == [6000] * 10
    assert abs(dataset.train.examples.mean() / 255 - 0.2860) < 1e-4
    # Trousers are dark between the legs; the names go with the right numbers.
    trousers = dataset.train.examples[dataset.train.labels == dataset.label_names.index("trouser")]
    assert trousers[:, 22:26, 13:15].mean() < 0.5 * trousers[:, 22:26, 9:12].mean()


@pytest.mark.data
@needs_data
@pytest.mark.parametrize(
    "name", [*(pytest.param(name, marks=pytest.mark.slow("another file")) for name in FOUR[:3]), FOUR[3]]
)
def test_one_altered_byte_of_a_published_file_is_noticed(tmp_path, name):
    for each in FOUR:
        (tmp_path / f"{each}.gz").symlink_to(os.path.join(os.environ["VAEJAX_DATA"], "mnist", f"{each}.gz"))
    content = bytearray(gzip.decompress((tmp_path / f"{name}.gz").read_bytes()))
    content[-1] ^= 1
    (tmp_path / f"{name}.gz").unlink()
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(bytes(content), 1))
    with pytest.raises(ValueError, match=rf"{name}.gz is not the published file of mnist: its checksum differs"):
        data.load_idx(tmp_path, "mnist")


def test_the_checksum_is_that_of_the_file(tmp_path):
    write_four(tmp_path)
    for name in FOUR:
        content = (tmp_path / name).read_bytes()
        assert idx._checksum(data.read_idx(tmp_path / name)) == hashlib.sha256(content).hexdigest()
