"""Arrays as people have them: each is loaded as what it is, or refused or warned of in a line that names the remedy."""

import contextlib
import warnings

import numpy as np
import pytest
import scipy.sparse

from vaejax.checks import check_array
from vaejax.data import Dataset, Lazy, Meaning, Split, from_arrays, load_npy, load_npz, threshold
from vaejax.data.axes import understood

RANDOM = np.random.default_rng(0)
BINARY, INTENSITY, COUNTS, REAL = Meaning.BINARY, Meaning.INTENSITY, Meaning.COUNTS, Meaning.REAL


def grey(*shape, kind=np.uint8):
    array = RANDOM.integers(0, 256, shape).astype(kind)
    array.flat[0] = 255
    return array


def normal(*shape):
    return RANDOM.normal(size=shape)


def with_nan(array):
    array = array.astype(np.float64)
    array[1::2, 0] = np.nan
    return array


def masked(array):
    return np.ma.masked_array(array, np.isnan(with_nan(array)))


class Dtype:
    """What NumPy knows nothing of, as torch.float32 is."""

    def __repr__(self):
        return "foreign.float32"


class Tensor:
    """An array of another library, which speaks DLPack alone."""

    def __init__(self, array, fails=False):
        self.array, self.shape, self.dtype, self.fails = array, array.shape, Dtype(), fails

    def __dlpack__(self, **options):
        if self.fails:
            raise BufferError("it is on\nanother device")
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


class Frame:
    """A table, which NumPy reads, without a dtype of its own."""

    def __init__(self, array):
        self.array, self.shape = array, array.shape

    def __array__(self, dtype=None, copy=None):
        return self.array


# The array with how it is said to be, and the shape of an example, the meaning, the largest value, what is missing,
# and what is warned of.
KINDS = {
    "units of a table": (normal(40, 7) * [1, 10, 1e3, 1e6, 1, 1, 1], {}, (7,), REAL, None, False, None),
    "counts up to a million": (RANDOM.integers(0, 10**6, (40, 9)), {}, (9,), COUNTS, None, False, None),
    "a few counts": (RANDOM.integers(0, 9, (40, 9)), {}, (9,), COUNTS, None, False, None),
    "floats of 0 to 255": (grey(40, 8, 8, kind=np.float64), {}, (8, 8, 1), REAL, 255, False, "INTENSITY, max_value=255"),
    "int64 of 0 to 255": (grey(40, 8, 8, kind=np.int64), {}, (8, 8, 1), COUNTS, 255, False, "--max-value 255"),
    "uint16 of 0 to 60000": (
        200 * grey(40, 8, 8, kind=np.uint16), {}, (8, 8, 1), COUNTS, 51000, False, "max_value=65535",
    ),
    "such floats as intensities": (
        grey(40, 8, 8, kind=np.float32), {"max_value": 255}, (8, 8, 1), INTENSITY, 255, False, None,
    ),
    "images of large counts": (RANDOM.integers(0, 10**6, (40, 8, 8)), {}, (8, 8, 1), COUNTS, None, False, None),
    "grey images": (grey(40, 28, 28), {}, (28, 28, 1), INTENSITY, 255, False, None),
    "small grey images": (grey(40, 8, 8), {}, (8, 8, 1), INTENSITY, 255, False, None),
    "grey images of faces": (grey(40, 28, 20), {}, (28, 20, 1), INTENSITY, 255, False, None),
    "with a channel": (grey(40, 28, 28, 1), {}, (28, 28, 1), INTENSITY, 255, False, None),
    "colour": (grey(40, 32, 32, 3), {}, (32, 32, 3), INTENSITY, 255, False, None),
    "with transparency": (grey(40, 16, 16, 4), {}, (16, 16, 4), INTENSITY, 255, False, None),
    "channels first": (grey(40, 3, 16, 16), {}, (3, 16, 16), INTENSITY, 255, False, 'axes="NCHW" .--axes NCHW'),
    "channels first, said": (grey(40, 3, 16, 12), {"axes": "NCHW"}, (16, 12, 3), INTENSITY, 255, False, None),
    "examples last": (grey(16, 16, 3, 40), {}, (16, 3, 40), INTENSITY, 255, False, 'axes="HWCN"'),
    "examples last, said": (grey(16, 12, 3, 40), {"axes": "hwcn"}, (16, 12, 3), INTENSITY, 255, False, None),
    "grey, examples last": (grey(28, 28, 100), {}, (28, 100, 1), INTENSITY, 255, False, 'axes="HWN"'),
    "grey, examples last, said": (grey(16, 12, 40), {"axes": "HWN"}, (16, 12, 1), INTENSITY, 255, False, None),
    "frames first": (grey(5, 40, 16, 16), {}, (40, 16, 16), INTENSITY, 255, False, 'axes="TNHW"'),
    "frames first, said": (grey(5, 40, 16, 16), {"axes": "TNHW"}, (5, 16, 16, 1), INTENSITY, 255, False, None),
    "films": (grey(40, 20, 16, 16), {}, (20, 16, 16), INTENSITY, 255, False, 'axes="NTHW"'),
    "series": (normal(40, 20, 6), {}, (20, 6, 1), REAL, None, False, 'axes="NTC"'),
    "series, said": (normal(40, 20, 6), {"axes": "NTC"}, (20, 6), REAL, None, False, None),
    "features of series": (normal(40, 20, 6), {"axes": "NTF"}, (20, 6), REAL, None, False, None),
    "volumes": (grey(5, 28, 28, 28), {}, (28, 28, 28), INTENSITY, 255, False, 'axes="NDHW"'),
    "volumes, said": (grey(5, 9, 9, 9, 1), {"axes": "NDHWC"}, (9, 9, 9, 1), INTENSITY, 255, False, None),
    "many channels": (normal(40, 16, 16, 13), {}, (16, 16, 13), REAL, None, False, 'axes="NHWC"'),
    "many channels, said": (normal(40, 16, 16, 13), {"axes": "NHWC"}, (16, 16, 13), REAL, None, False, None),
    "missing numbers": (with_nan(normal(40, 7)), {}, (7,), REAL, None, True, None),
    "missing truths": (with_nan(normal(40, 7) > 0), {}, (7,), BINARY, 1, True, None),
    "a mask on bytes": (masked(grey(40, 8, 8)), {}, (8, 8, 1), INTENSITY, 255, True, None),
    "a mask on counts": (masked(RANDOM.integers(0, 999, (40, 7))), {}, (7,), COUNTS, None, True, None),
    "a mask on nothing": (np.ma.masked_array(grey(40, 9)), {}, (9,), INTENSITY, 255, False, None),
    "a mask on channels first": (masked(grey(40, 3, 8, 8)), {"axes": "NCHW"}, (8, 8, 3), INTENSITY, 255, True, None),
    "a tensor": (Tensor(normal(40, 7).astype(np.float32)), {}, (7,), REAL, None, False, None),
    "a frame": (Frame(normal(40, 7)), {}, (7,), REAL, None, False, None),
}  # fmt: skip


@pytest.mark.parametrize(("array", "options", "shape", "meaning", "most", "missing", "hint"), KINDS.values(), ids=KINDS)
def test_each_is_loaded_as_what_it_is(array, options, shape, meaning, most, missing, hint):
    expecting = pytest.warns(UserWarning, match=hint) if hint else contextlib.nullcontext()
    with expecting:
        dataset = from_arrays(array, **options)
    assert (dataset.shape, dataset.meaning, dataset.missing) == (shape, meaning, missing)
    assert most is None or dataset.max_value == most
    values = np.concatenate([split.examples.ravel() for split in dataset.splits.values()])
    assert np.isnan(values).any() == missing


@pytest.mark.parametrize(
    ("array", "options", "error", "message"),
    [
        (scipy.sparse.csr_matrix(np.eye(4)), {}, TypeError, r"train must.*csr_matrix.*\.toarray\(\)"),
        (Tensor(normal(4, 3), fails=True), {}, TypeError, "train must.*Tensor: it is on another device"),
        (with_nan(normal(4, 1)), {}, ValueError, "train must.*missing.* in example 1"),
        (normal(4, 3), {"axes": "NCHW"}, ValueError, r"axes must name the 2 axes of train, of shape \(4, 3\).*'NCHW'"),
        (normal(4, 3), {"axes": "NN"}, ValueError, "axes must.*'NN'"),
        (normal(4, 3), {"axes": "HW"}, ValueError, "axes must.*'HW'"),
        (normal(4, 3), {"axes": "N3"}, ValueError, "axes must.*'N3'"),
        (normal(4, 3), {"axes": ["N", "D"]}, TypeError, "axes must.*list"),
        (Lazy(None, (3, 4, 4), np.dtype(np.uint8), ""), {"axes": "HNW"}, ValueError, "axes must begin with N.*got N at 1"),
    ],
    ids=["sparse", "elsewhere", "nothing known", "count", "twice", "no N", "digit", "list", "lazy"],
)  # fmt: skip
def test_each_is_refused_in_a_line(array, options, error, message):
    with pytest.raises(error, match=message) as raised:
        from_arrays(array, **options)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", [np.asarray, "lazy", "mapped"])
def test_axes_are_put_in_order_and_nothing_is_read_for_it(tmp_path, kind):
    array = grey(30, 3, 5, 4)
    source, expected = array, array.transpose(0, 2, 3, 1)
    if kind == "lazy":
        source = Lazy(lambda rows: array[rows], array.shape, array.dtype, "array")
    if kind == "mapped":
        np.save(tmp_path / "array.npy", array.transpose(1, 3, 2, 0))
        source = np.load(tmp_path / "array.npy", mmap_mode="r")
    dataset = from_arrays(source, source, axes="CWHN" if kind == "mapped" else "NCHW")
    examples = dataset.train.examples
    np.testing.assert_array_equal(examples[:], expected)
    np.testing.assert_array_equal(examples[np.array([4, 2])], expected[[4, 2]])
    assert isinstance(examples, {"lazy": Lazy, "mapped": np.memmap}.get(kind, np.ndarray))
    assert kind == "lazy" or np.shares_memory(examples, source)


def test_the_checksum_of_lazy_examples_knows_their_order():
    array = grey(9, 4, 4, 3)
    source = Lazy(lambda rows: array[rows], array.shape, array.dtype, "array")
    assert len({from_arrays(source, source, axes=axes).sha256 for axes in ("NHWC", "NWHC")}) == 2


def test_axes_of_files(tmp_path):
    array = grey(3, 16, 12, 40)
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "b.npz", array)
    for load, name in ((load_npy, "a.npy"), (load_npz, "b.npz")):
        dataset = load(tmp_path / name, axes="CHWN")
        assert (dataset.shape, len(dataset.train.examples)) == ((16, 12, 3), 36)
    order = np.random.RandomState(0).permutation(40)
    np.testing.assert_array_equal(dataset.train.examples[0], array[..., order[0]].transpose(1, 2, 0))


def test_what_is_missing_is_where_it_was_and_the_other_split_may_be_complete():
    train, test = masked(grey(20, 4, 4)), grey(5, 4, 4)
    dataset = from_arrays(train, test)
    assert dataset.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(dataset.train.examples[..., 0]), train.mask)
    np.testing.assert_array_equal(dataset.train.examples[~train.mask], train.data[~train.mask][..., None])
    np.testing.assert_array_equal(dataset.test.examples[..., 0], test)
    with pytest.raises(ValueError, match=r"images must be.*got NaN"):
        threshold(dataset.train.examples, 255)


LABELS = {
    "unlabelled": (np.array([0, -1, 2, 1]), [0, -1, 2, 1], None, ()),
    "none is labelled": (np.full(4, -1.0), [-1] * 4, None, ()),
    "strings of bytes": (np.array([b"cat", b"ape", b"cat", b"ape"]), [1, 0, 1, 0], None, ()),
    "several": (np.array([[0, 4], [1, 3], [0, 0], [1, 1]]), None, [[0, 4], [1, 3], [0, 0], [1, 1]], ("label 0", "label 1")),
    "several, yes or no": (np.eye(4)[:, :3], None, np.eye(4)[:, :3].tolist(), ("label 0", "label 1", "label 2")),
    "a single one": (np.eye(4), [0, 1, 2, 3], None, ()),
    "a tensor": (Tensor(np.array([0, 1, 2, 1])), [0, 1, 2, 1], None, ()),
}  # fmt: skip


@pytest.mark.parametrize(("given", "labels", "factors", "names"), LABELS.values(), ids=LABELS)
def test_labels_come_in_the_usual_ways(given, labels, factors, names):
    split = from_arrays(Split(normal(4, 3), given), normal(4, 3))
    found = [None if array is None else array.tolist() for array in split.train[1:]]
    assert (*found, split.factor_names) == (labels, factors, names)


def test_rows_are_classes_only_where_all_splits_have_a_single_one():
    several = np.array([[1, 1], [0, 1], [0, 0]])
    dataset = from_arrays(Split(normal(3, 2), several), Split(normal(2, 2), np.eye(2)), factor_names=("hat", "beard"))
    assert (dataset.test.labels, dataset.test.factors.tolist()) == (None, [[1, 0], [0, 1]])
    assert dataset.factor_names == ("hat", "beard")


def test_what_was_understood_is_said_in_words():
    words = {(200, 16, 16, 3): "200 images of 16 x 16 x 3", (1797, 64): "1,797 vectors of 64 numbers"}
    words |= {(500, 20, 6): "500 arrays of 20 x 6"}
    for shape, expected in words.items():
        split = Split(np.zeros(shape, np.uint8))
        assert understood(Dataset("zeros", split, split, 1)) == expected


def test_arrays_of_other_libraries_are_named_by_what_computes():
    with pytest.raises(TypeError, match=r"x must.*Tensor of foreign.float32 .*jnp.asarray\(x\)"):
        check_array("x", Tensor(normal(4)))
    with pytest.raises(TypeError, match=r"x must.*csr_matrix.*\.toarray\(\)"):
        check_array("x", scipy.sparse.csr_matrix(np.eye(4)))


def test_no_warning_is_given_twice():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        from_arrays(grey(40, 3, 16, 16), grey(4, 3, 16, 16), validation=grey(4, 3, 16, 16))
    assert len(caught) == 1
