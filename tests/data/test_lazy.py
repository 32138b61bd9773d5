"""What is read when it is asked for is indexed as an array is."""

import threading

import numpy as np
import pytest

from vaejax import data
from vaejax.data.dataset import slice_split

ARRAY = np.random.default_rng(0).integers(0, 256, (11, 3, 2, 1)).astype(np.uint8)


def lazy(array=ARRAY):
    return data.Lazy(lambda rows: array[rows], array.shape, array.dtype, "array")


@pytest.mark.parametrize(
    "rows",
    [0, 10, -1, np.int64(3), slice(None), slice(2, 5), slice(-3, None), slice(None, None, -2), slice(4, 4), [3, 1, 3],
     np.array([10, 0]), np.arange(11) % 2 == 0, np.array([], int)],
)  # fmt: skip
def test_every_index_gives_what_an_array_gives(rows):
    np.testing.assert_array_equal(lazy()[rows], ARRAY[rows])
    assert lazy()[rows].shape == ARRAY[rows].shape


@pytest.mark.parametrize("rows", [11, -12, [0, 11]])
def test_an_index_outside_is_an_error_as_of_an_array(rows):
    with pytest.raises(IndexError):
        lazy()[rows]


def test_it_says_what_an_array_says():
    for name in ("shape", "dtype", "ndim", "nbytes"):
        assert getattr(lazy(), name) == getattr(ARRAY, name)
    assert len(lazy()) == 11


def test_a_reader_that_returns_another_shape_is_found_out():
    wrong = data.Lazy(lambda rows: ARRAY[rows][:, 0], ARRAY.shape, ARRAY.dtype, "wrong")
    with pytest.raises(ValueError, match=r"must return shape \(2, 3, 2, 1\); got \(2, 2, 1\)"):
        wrong[:2]


@pytest.mark.parametrize("at_once", [1, 4, 256])
def test_all_of_it_is_read_by_several_threads(at_once):
    both, seen = threading.Barrier(2, timeout=30), []

    def read(rows):
        seen.append(rows)
        if at_once < 256 and len(seen) <= 2:
            both.wait()
        return ARRAY[rows]

    everything = data.Lazy(read, ARRAY.shape, ARRAY.dtype, "array")
    np.testing.assert_array_equal(data.read_all(everything, num_threads=2, at_once=at_once), ARRAY)
    assert sorted(np.concatenate(seen).tolist()) == list(range(11))


def test_reading_all_of_an_array_copies_nothing():
    assert data.read_all(ARRAY) is ARRAY


def test_what_a_thread_raises_is_raised():
    def broken(rows):
        raise ValueError("photo 7 is truncated")

    with pytest.raises(ValueError, match="photo 7 is truncated"):
        data.read_all(data.Lazy(broken, ARRAY.shape, ARRAY.dtype, "broken"))


@pytest.mark.parametrize("examples", [ARRAY, lazy()], ids=["array", "lazy"])
def test_a_slice_of_a_split_reads_what_it_says(examples):
    split = slice_split(data.Split(examples, np.arange(11), np.arange(22).reshape(11, 2)), 3, 8)
    assert isinstance(split.examples, type(examples))
    np.testing.assert_array_equal(split.examples[:], ARRAY[3:8])
    np.testing.assert_array_equal(split.examples[[-1, 0]], ARRAY[[7, 3]])
    np.testing.assert_array_equal(split.labels, np.arange(3, 8))
    assert split.factors.shape == (5, 2)
