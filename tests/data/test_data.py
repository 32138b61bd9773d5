"""Data sets, binarization and the order of the examples."""

import functools
import subprocess
import sys

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaejax import data
from vaejax.data import digits


def test_digits_are_the_known_ones():
    dataset = data.load_digits()
    assert dataset.train.examples.shape == (1437, 8, 8, 1)
    assert dataset.test.examples.shape == (360, 8, 8, 1)
    assert dataset.train.examples.dtype == np.uint8
    assert (dataset.train.examples.min(), dataset.train.examples.max(), dataset.max_value) == (0, 16, 16)
    # The counts of the ten classes in the published test set.
    labels = np.concatenate([dataset.train.labels, dataset.test.labels])
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert np.bincount(dataset.test.labels).min() > 20
    assert dataset.sha256 == data.load_digits().sha256


def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    theirs = load_digits()
    ours = data.load_digits()
    images = np.concatenate([ours.train.examples, ours.test.examples])
    order = np.random.RandomState(0).permutation(1797)
    np.testing.assert_array_equal(images[..., 0], theirs.images[order])
    np.testing.assert_array_equal(np.concatenate([ours.train.labels, ours.test.labels]), theirs.target[order])


@pytest.mark.slow("a process of its own")
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


def test_binarization_draws_each_pixel_with_its_intensity(key):
    images = np.repeat(np.arange(17, dtype=np.uint8)[:, None], 20_000, axis=1)
    drawn = np.asarray(jax.jit(data.binarize)(key, images, 16))
    assert set(np.unique(drawn)) == {0.0, 1.0}
    p = np.arange(17) / 16
    deviation = (drawn.mean(axis=1) - p) * np.sqrt(20_000) / np.sqrt(np.maximum(p * (1 - p), 1e-9))
    assert np.all(np.abs(deviation) < 5)
    assert drawn[0].max() == 0.0
    assert drawn[16].min() == 1.0


def test_binarization_is_a_function_of_its_key():
    images = np.full((4, 8, 8, 1), 8, np.uint8)
    compiled = jax.jit(data.binarize)
    draw = lambda seed: np.asarray(compiled(jax.random.key(seed), images, 16))
    np.testing.assert_array_equal(draw(0), draw(0))
    assert np.any(draw(0) != draw(1))


def rows_of(seed, epoch, count, batch):
    return np.asarray(data.epoch_indices(jax.random.key(seed), epoch, num_examples=count, batch_size=batch))


@functools.cache
def compiled_rows(count, batch):
    return jax.jit(
        lambda seed, epoch: data.epoch_indices(jax.random.key(seed), epoch, num_examples=count, batch_size=batch)
    )


OTHER = pytest.mark.slow("other sizes")


@pytest.mark.parametrize(
    ("count", "batch"), [(10, 3), *(pytest.param(*sizes, marks=OTHER) for sizes in [(12, 4), (7, 7), (5, 1)])]
)
@given(seed=st.integers(0, 1000))
def test_every_epoch_is_a_fresh_permutation(count, batch, seed):
    compiled = compiled_rows(count, batch)
    epochs = [np.asarray(compiled(seed, epoch)) for epoch in range(3)]
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 11}, r"batch_size must.*got 11"),
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
    with pytest.raises(ValueError, match="intensities from 0 to max_value=16; got 255"):
        data.binarize(key, np.full((2, 3), 255, np.uint8), 16)
    with pytest.raises(ValueError, match="intensities from 0 to max_value=1; got NaN"):
        data.binarize(key, np.full((2, 3), np.nan), 1)
    with pytest.raises(TypeError, match="typed PRNG key"):
        data.binarize(jax.random.PRNGKey(0), np.zeros((2, 3)), 1)


@pytest.mark.slow("another type")
def test_plans_in_double_precision_are_those_in_single(x64):
    double = rows_of(3, 5, 10, 3)
    with jax.enable_x64(False):
        single = rows_of(3, 5, 10, 3)
    assert double.dtype == single.dtype == np.int32
    np.testing.assert_array_equal(double, single)
