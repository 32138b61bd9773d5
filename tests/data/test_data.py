"""Data sets, binarization and the order of the examples."""

import gzip
import itertools
import os
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaejax import data
from vaejax.data import digits


def test_digits_are_the_known_ones():
    dataset = data.load_digits()
    assert dataset.train.images.shape == (1437, 8, 8, 1)
    assert dataset.test.images.shape == (360, 8, 8, 1)
    assert dataset.train.images.dtype == np.uint8
    assert (dataset.train.images.min(), dataset.train.images.max(), dataset.max_value) == (0, 16, 16)
    # The counts of the ten classes in the published test set.
    labels = np.concatenate([dataset.train.labels, dataset.test.labels])
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert np.bincount(dataset.test.labels).min() > 20
    assert dataset.sha256 == data.load_digits().sha256


def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    theirs = load_digits()
    ours = data.load_digits()
    images = np.concatenate([ours.train.images, ours.test.images])
    order = np.random.RandomState(0).permutation(1797)
    np.testing.assert_array_equal(images[..., 0], theirs.images[order])
    np.testing.assert_array_equal(np.concatenate([ours.train.labels, ours.test.labels]), theirs.target[order])


def test_reading_digits_does_not_import_scikit_learn():
    code = "import sys; from vaejax import data; data.load_digits(); assert 'sklearn' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_digits_without_scikit_learn_or_altered(monkeypatch):
    monkeypatch.setattr(digits.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install scikit-learn"):
        data.load_digits()
    monkeypatch.undo()
    monkeypatch.setattr(digits, "SHA256", "0" * 64)
    with pytest.raises(ValueError, match="checksum differs"):
        data.load_digits()


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


def test_mnist_needs_its_four_files_in_its_shapes(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train-images-idx3-ubyte.*four IDX files"):
        data.load_mnist(tmp_path)
    for name, shape in [
        ("train-images-idx3-ubyte", (5, 28, 28)),
        ("train-labels-idx1-ubyte", (5,)),
        ("t10k-images-idx3-ubyte", (5, 28, 28)),
        ("t10k-labels-idx1-ubyte", (5,)),
    ]:
        (tmp_path / name).write_bytes(idx_bytes(np.zeros(shape)))
    with pytest.raises(ValueError, match=r"must have shape \(60000, 28, 28\) to be MNIST; got \(5, 28, 28\)"):
        data.load_mnist(tmp_path)


@pytest.mark.data
@pytest.mark.skipif("VAEJAX_DATA" not in os.environ, reason="VAEJAX_DATA names no folder of data sets")
def test_mnist_is_mnist():
    dataset = data.load_mnist(os.environ["VAEJAX_DATA"])
    assert dataset.shape == (28, 28, 1)
    assert np.bincount(dataset.train.labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    # The mean intensity that everybody's normalisation constants say.
    assert abs(dataset.train.images.mean() / 255 - 0.1307) < 1e-4


def test_binarization_draws_each_pixel_with_its_intensity(key):
    images = np.repeat(np.arange(17, dtype=np.uint8)[:, None], 20_000, axis=1)
    drawn = np.asarray(data.binarize(key, images, 16))
    assert set(np.unique(drawn)) == {0.0, 1.0}
    p = np.arange(17) / 16
    deviation = (drawn.mean(axis=1) - p) * np.sqrt(20_000) / np.sqrt(np.maximum(p * (1 - p), 1e-9))
    assert np.all(np.abs(deviation) < 5)
    assert drawn[0].max() == 0.0
    assert drawn[16].min() == 1.0


def test_binarization_is_a_function_of_its_key():
    images = np.full((4, 8, 8, 1), 8, np.uint8)
    draw = lambda seed: data.binarize(jax.random.key(seed), images, 16)
    chex.assert_trees_all_equal(draw(0), draw(0))
    assert jnp.any(draw(0) != draw(1))


def rows_of(seed, epoch, count, batch):
    return np.asarray(data.epoch_indices(jax.random.key(seed), epoch, num_examples=count, batch_size=batch))


@given(st.integers(0, 1000), st.sampled_from([(10, 3), (12, 4), (7, 7), (5, 1)]))
def test_every_epoch_is_a_fresh_permutation(seed, sizes):
    count, batch = sizes
    epochs = [rows_of(seed, epoch, count, batch) for epoch in range(3)]
    for rows in epochs:
        assert rows.shape == (data.count_steps(count, batch), batch) == (count // batch, batch)
        assert len(set(rows.ravel().tolist())) == rows.size
        assert 0 <= rows.min() <= rows.max() < count
    if count > 6:
        assert len({rows.tobytes() for rows in epochs}) > 1


def test_the_examples_that_an_epoch_leaves_over_are_not_always_the_same():
    left_over = {(set(range(10)) - set(rows_of(0, epoch, 10, 3).ravel().tolist())).pop() for epoch in range(100)}
    assert left_over == set(range(10))


def test_an_epoch_is_a_function_of_its_number_and_the_key():
    """Also where the number is traced, as in a loop on the device."""
    traced = jax.jit(lambda epoch: data.epoch_indices(jax.random.key(3), epoch, num_examples=20, batch_size=4))
    for epoch in (0, 7):
        np.testing.assert_array_equal(traced(epoch), rows_of(3, epoch, 20, 4))
    assert np.any(rows_of(3, 0, 20, 4) != rows_of(4, 0, 20, 4))


@pytest.mark.parametrize("first", [0, 2, 3, 7])
def test_batches_from_the_host_are_those_of_the_device(first):
    """From any step on, in a tree of arrays, whole or in the shares of two hosts."""
    examples = {"x": np.arange(20.0).reshape(10, 2), "label": np.arange(10)}
    rows = np.concatenate([rows_of(3, epoch, 10, 2) for epoch in range(3)])[first : first + 7]
    read = lambda **share: itertools.islice(
        data.batches_from(jax.random.key(3), examples, first, batch_size=2, **share), 7
    )
    for row, whole, left, right in zip(rows, read(), read(share=(0, 2)), read(share=(1, 2)), strict=True):
        np.testing.assert_array_equal(whole["label"], row)
        np.testing.assert_array_equal(whole["x"], examples["x"][row])
        chex.assert_trees_all_equal(whole, jax.tree.map(lambda *parts: np.concatenate(parts), left, right))
    with pytest.raises(ValueError, match="batch_size must be a multiple of the 3 hosts; got 2"):
        next(data.batches_from(jax.random.key(3), examples, first, batch_size=2, share=(0, 3)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 11}, "batch_size must be at most the 10 examples there are; got 11"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"num_examples": 0}, "num_examples must be at least 1"),
    ],
)
def test_impossible_plans_are_refused(options, message):
    arguments = {"num_examples": 10, "batch_size": 3} | options
    with pytest.raises(ValueError, match=message):
        data.epoch_indices(jax.random.key(0), 0, **arguments)
    with pytest.raises(ValueError, match=message):
        data.count_steps(*arguments.values())


def test_plans_take_one_typed_key():
    for key, error in [
        (0, TypeError),
        (jax.random.PRNGKey(0), TypeError),
        (jax.random.split(jax.random.key(0)), ValueError),
    ]:
        with pytest.raises(error, match="key must be"):
            data.epoch_indices(key, 0, num_examples=10, batch_size=3)


def test_binarization_refuses_what_has_no_probability(key):
    with pytest.raises(ValueError, match="intensities from 0 to max_value=16; got values from 255 to 255"):
        data.binarize(key, np.full((2, 3), 255, np.uint8), 16)
    with pytest.raises(ValueError, match="intensities from 0 to max_value=1; got NaN"):
        data.binarize(key, np.full((2, 3), np.nan), 1)
    with pytest.raises(TypeError, match="typed PRNG key"):
        data.binarize(jax.random.PRNGKey(0), np.zeros((2, 3)), 1)


def test_plans_in_double_precision_are_those_in_single(x64):
    double = rows_of(3, 5, 10, 3)
    with jax.enable_x64(False):
        single = rows_of(3, 5, 10, 3)
    assert double.dtype == single.dtype == np.int32
    np.testing.assert_array_equal(double, single)
