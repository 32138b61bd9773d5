"""Arrays from outside: what their numbers are taken for, how they are split, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vaejax import data
from vaejax.data import arrays
from vaejax.data.arrays import from_arrays
from vaejax.data.dataset import Meaning, Split
from vaejax.data.lazy import Lazy

GREY = np.arange(2 * 20 * 3 * 5, dtype=np.uint16).reshape(40, 3, 5).astype(np.uint8)


def lazy(array, fingerprint="array"):
    return Lazy(lambda rows: array[rows], array.shape, array.dtype, fingerprint)


def mapped(path, array):
    np.save(path, array)
    return np.load(path, mmap_mode="r")


def everything(dataset):
    return np.concatenate([dataset.train.examples[:], dataset.test.examples[:]])


KINDS = st.sampled_from([np.bool_, np.uint8, np.int8, np.uint16, np.int64, np.float16, np.float32, np.float64])


@pytest.mark.filterwarnings("ignore:.*uint8 are taken for intensities")
@given(KINDS, st.sampled_from([(0, 1), (0, 2), (-2, 1), (0, 200)]), st.booleans(), st.integers(0, 99))
@example(np.int8, (-1, 1), False, 0)
def test_the_meaning_is_what_the_definitions_say(kind, ends, fractions, seed):
    random = np.random.default_rng(seed)
    values = random.integers(ends[0], ends[1] + 1, (6, 4)) / (2 if fractions else 1)
    values.flat[random.permutation(24)[:2]] = ends
    array = values.clip(0 if kind in (np.uint8, np.uint16) else -128, 127 if kind == np.int8 else 200).astype(kind)
    dataset = from_arrays(array, array[:2])
    kept = dataset.train.examples
    integers, low, high = kept.dtype.kind in "iu", float(kept.min()), float(kept.max())
    if set(kept.ravel().tolist()) <= {0, 1}:
        expected = (Meaning.BINARY, 1)
    elif kind == np.uint8:
        expected = (Meaning.INTENSITY, 255)
    elif not integers and low >= 0 and high <= 1:
        expected = (Meaning.INTENSITY, 1)
    elif integers and low >= 0:
        expected = (Meaning.COUNTS, high)
    else:
        expected = (Meaning.REAL, max(abs(low), abs(high)))
    assert (dataset.meaning, dataset.max_value) == expected
    np.testing.assert_array_equal(kept.astype(np.float64), array.astype(np.float64))
    # What was found out is accepted where it is given.
    assert from_arrays(array, array[:2], meaning=dataset.meaning, max_value=dataset.max_value)[3:5] == dataset[3:5]


@pytest.mark.parametrize(
    ("given_as", "kept_as"),
    [
        ("?", "uint8"), ("u1", "uint8"), ("i1", "int8"), (">u2", "uint16"), ("i2", "int16"), ("<i4", "int32"),
        ("u4", "int32"), ("i8", "int32"), ("u8", "int32"), ("f2", "float32"), (">f4", "float32"), ("f8", "float32"),
    ],
)  # fmt: skip
def test_numbers_are_kept_as_types_of_jax_however_they_come(tmp_path, given_as, kept_as):
    array = np.array([[0, 1], [1, 0], [1, 1]], given_as)
    for source in (array, lazy(array), mapped(tmp_path / "array.npy", array)):
        dataset = from_arrays(source, source)
        assert dataset.dtype == dataset.train.examples[:].dtype == np.dtype(kept_as)
        np.testing.assert_array_equal(dataset.train.examples[:], [[0, 1], [1, 0], [1, 1]])


def test_truth_in_a_file_may_be_another_byte_than_one(tmp_path):
    array = np.array([[0, 2], [255, 1]], np.uint8).view(np.bool_)
    for source in (array, lazy(array), mapped(tmp_path / "array.npy", array)):
        dataset = from_arrays(source, source)
        assert dataset.train.examples[:].tolist() == [[0, 1], [1, 1]]
        assert dataset.meaning is Meaning.BINARY


def test_arrays_of_jax_and_bfloat16():
    values = jnp.array([[0.5, -3.0], [1.0, 2.0]])
    for array in (values, values.astype(jnp.bfloat16)):
        dataset = from_arrays(array, array)
        assert isinstance(dataset.train.examples, np.ndarray)
        np.testing.assert_array_equal(dataset.train.examples, values)
        assert (dataset.dtype, dataset.meaning, dataset.max_value) == (np.float32, Meaning.REAL, 3)


def test_grey_images_get_a_channel_and_nothing_else_changes(tmp_path):
    for source in (GREY, lazy(GREY), mapped(tmp_path / "grey.npy", GREY)):
        dataset = from_arrays(source, source[:4])
        assert dataset.shape == (3, 5, 1)
        np.testing.assert_array_equal(dataset.train.examples[:], GREY[..., None])
        assert dataset.train.examples[np.array([], int)].shape == (0, 3, 5, 1)
    for shape in [(40, 15), (40, 3, 5, 1), (10, 2, 2, 3, 5)]:
        assert from_arrays(GREY.reshape(shape)).shape == shape[1:]


def test_arrays_in_memory_are_not_copied():
    assert np.shares_memory(from_arrays(GREY, GREY[:4]).train.examples, GREY)


def test_the_test_split_is_drawn_by_the_fixed_permutation(tmp_path):
    labels = np.arange(40)
    order = np.random.RandomState(0).permutation(40)
    for source in (GREY, lazy(GREY), mapped(tmp_path / "grey.npy", GREY)):
        dataset = from_arrays(Split(source, labels, labels[:, None]), test_fraction=0.2)
        assert (len(dataset.train.examples), len(dataset.test.examples)) == (32, 8)
        np.testing.assert_array_equal(everything(dataset), GREY[order][..., None])
        for split, rows in ((dataset.train, order[:32]), (dataset.test, order[32:])):
            np.testing.assert_array_equal(split.labels, rows)
            np.testing.assert_array_equal(split.factors[:, 0], rows)
        assert isinstance(dataset.train.examples, np.ndarray if source is GREY else Lazy)
    # At least one, and always one that is left.
    assert len(from_arrays(GREY[10:13], test_fraction=0.01).test.examples) == 1
    with pytest.raises(ValueError, match=r"test_fraction must.*got 0.1"):
        from_arrays(GREY[16:17])
    for fraction in (0.0, 1.0, -0.5, 0.99, float("nan")):
        with pytest.raises(ValueError, match="test_fraction must leave examples in both splits of the 40"):
            from_arrays(GREY, test_fraction=fraction)


def test_fingerprints_differ_where_the_examples_do(tmp_path):
    first = mapped(tmp_path / "a.npy", GREY)
    again = mapped(tmp_path / "b.npy", GREY)
    other = GREY.copy()
    other[39, 2, 4] += 1
    other = mapped(tmp_path / "c.npy", other)
    sums = [from_arrays(source).sha256 for source in (first, again, other)]
    assert sums[0] == sums[1] != sums[2]
    drawn = from_arrays(lazy(GREY))
    prints = {drawn.train.examples.fingerprint, drawn.test.examples.fingerprint, "array"}
    prints.add(from_arrays(lazy(GREY), test_fraction=0.2).train.examples.fingerprint)
    assert len(prints) == 4


def test_mapped_arrays_stay_in_their_file(tmp_path):
    source = mapped(tmp_path / "grey.npy", GREY)
    dataset = from_arrays(source, source[:4])
    assert isinstance(dataset.train.examples, np.memmap)
    assert np.shares_memory(dataset.train.examples, source)
    # float64 has to become float32: what is asked for is converted, not the whole.
    wide = mapped(tmp_path / "wide.npy", GREY.astype(np.float64))
    assert isinstance(from_arrays(wide, wide, max_value=255).train.examples, Lazy)


def test_all_chunks_of_arrays_are_looked_at_and_only_the_start_of_lazy_ones(monkeypatch, tmp_path):
    array = np.zeros((50, 4), np.float32)
    array[49, 3] = 7.5
    monkeypatch.setattr(arrays, "BYTES_AT_ONCE", 64)
    for source in (array, mapped(tmp_path / "array.npy", array)):
        dataset = from_arrays(source, array[:1])
        assert (dataset.meaning, dataset.max_value) == (Meaning.REAL, 7.5)
    array[49, 3] = 0.5
    assert from_arrays(array, array[:1]).meaning is Meaning.INTENSITY
    array[49, 3] = 7.5
    read = []
    counted = Lazy(lambda rows: read.extend(rows) or array[rows], array.shape, array.dtype, "")
    assert from_arrays(counted, array[:1]).meaning is Meaning.BINARY
    assert read == [0, 1, 2, 3]
    array[2, 0] = np.nan
    assert not from_arrays(array[3:9], array[3:]).missing
    assert from_arrays(array[3:9], array).missing
    array[2] = np.nan
    with pytest.raises(ValueError, match=r"test must.*missing.* in example 2"):
        from_arrays(array[3:9], array)
    array[21, 1] = np.inf
    with pytest.raises(ValueError, match="train must be finite in float32; got infinity in example 18"):
        from_arrays(array[3:])


def test_lazy_bytes_of_known_meaning_are_not_read():
    def read(rows):
        raise AssertionError("read")

    source = Lazy(read, (40, 3, 5, 3), np.dtype(np.uint8), "images")
    assert from_arrays(source, meaning=Meaning.INTENSITY).max_value == 255
    with pytest.raises(AssertionError, match="read"):
        from_arrays(source, meaning=Meaning.INTENSITY, max_value=16)


def test_lazy_integers_that_do_not_fit_are_found_when_they_are_read():
    source = np.zeros((2000, 2), np.int64)
    source[1999] = 2**31
    dataset = from_arrays(lazy(source), source[:1])
    with pytest.raises(ValueError, match=r"train must.*got values from 0 to 2147483648"):
        dataset.train.examples[1990:]


@pytest.mark.parametrize(
    ("array", "options", "expected"),
    [
        # The digits of scikit-learn: bytes, of which 16 is white.
        ([[0, 16], [3, 1]], {"max_value": 16}, (Meaning.INTENSITY, 16)),
        ([[0, 1], [1, 1]], {"max_value": 255}, (Meaning.INTENSITY, 255)),
        ([[0, 1], [1, 1]], {"max_value": 1}, (Meaning.BINARY, 1)),
        ([[0, 9], [3, 1]], {"meaning": Meaning.COUNTS}, (Meaning.COUNTS, 9)),
        ([[0, 9], [3, 1]], {"meaning": Meaning.COUNTS, "max_value": 10}, (Meaning.COUNTS, 10)),
        ([[0, 9], [3, 1]], {"meaning": Meaning.REAL}, (Meaning.REAL, 9)),
        # A limit of 0 would be divided by.
        ([[0, 0], [0, 0]], {"meaning": Meaning.REAL}, (Meaning.REAL, 1)),
        ([[0, 0], [0, 0]], {"meaning": Meaning.COUNTS}, (Meaning.COUNTS, 1)),
        ([[0, 1], [1, 1]], {"meaning": Meaning.INTENSITY}, (Meaning.INTENSITY, 255)),
    ],
)
def test_what_is_given_is_kept(array, options, expected):
    dataset = from_arrays(np.array(array, np.uint8), **options)
    assert (dataset.meaning, dataset.max_value) == expected


@pytest.mark.parametrize(
    ("array", "options", "message"),
    [
        ([[0, 2]], {"meaning": Meaning.BINARY}, r"BINARY values must.*got whole numbers from 0.0 to 2.0"),
        ([[0.5, 1]], {"meaning": Meaning.BINARY}, "BINARY values must be 0 and 1; got numbers from 0.5 to 1"),
        ([[0, 1]], {"meaning": Meaning.BINARY, "max_value": 255}, "BINARY values must be 0 and 1"),
        ([[-1, 1]], {"meaning": Meaning.INTENSITY}, r"INTENSITY values must.*got.*from -1"),
        ([[0, 200.5]], {"meaning": Meaning.INTENSITY}, "max_value must say the intensity of white; got None.*200.5"),
        ([[0, 200.5]], {"max_value": 100}, r"INTENSITY values must.*got numbers from 0"),
        ([[0, 1.5]], {"meaning": Meaning.COUNTS}, "COUNTS values must be whole, from 0 to 1.5; got numbers"),
        (
            [[0, -2]],
            {"meaning": Meaning.COUNTS},
            r"COUNTS values must.*got whole numbers from -2",
        ),
        ([[0, 5]], {"meaning": Meaning.COUNTS, "max_value": 4}, "COUNTS values must be whole, from 0 to 4; got"),
        ([[0, -5]], {"meaning": Meaning.REAL, "max_value": 4}, "REAL values must be from -4 to 4; got whole numbers"),
        ([[0, 1e39]], {}, "train must be finite in float32; got infinity in example 0"),
        ([[0, 1]], {"max_value": 0}, "max_value must be positive"),
        ([[0, 1]], {"max_value": float("inf")}, "max_value must be one finite number; got inf"),
        ([[0, 1]], {"max_value": np.ones(2)}, "max_value must be one finite number"),
    ],
)
def test_values_that_do_not_fit_are_refused(array, options, message):
    with pytest.raises(ValueError, match=message):
        from_arrays(np.array(array, np.float64), np.array(array, np.float64), **options)


ONES = np.ones((4, 3), np.uint8)


@pytest.mark.parametrize(
    ("train", "error", "message"),
    [
        ([[0, 1]], TypeError, "train must be an array; got list"),
        ((ONES, ONES), TypeError, "train must be an array; got tuple"),
        (ONES.astype(object), TypeError, "train must hold numbers; got dtype object"),
        (ONES.astype(str), TypeError, "train must hold numbers; got dtype <U3"),
        (np.zeros((4, 3), [("a", "i4")]), TypeError, "train must hold numbers; got dtype"),
        (np.zeros((4, 3), "M8[s]"), TypeError, "train must hold numbers; got dtype datetime"),
        (ONES + 0j, TypeError, "train must hold real numbers; got dtype complex128"),
        (np.ma.masked_array(ONES, ONES), ValueError, "train must.*missing.* in example 0"),
        (np.ones(4), ValueError, r"train must hold examples \[N, D\].*got shape \(4,\)"),
        (np.ones((0, 3)), ValueError, r"train must hold examples .*got shape \(0, 3\)"),
        (np.ones((4, 0)), ValueError, r"train must hold examples .*got shape \(4, 0\)"),
        (np.full((4, 3), 2**31), ValueError, r"train must.*got values from 2147483648"),
        (np.full((4, 3), -(2**31) - 1), ValueError, r"train must.*got values from -2147483649"),
        (np.full((4, 3), 2**63, np.uint64), ValueError, "train must fit into 32-bit integers"),
        (Split(ONES, [0, 1, 0, 1]), TypeError, "train.labels must be an array; got list"),
        (Split(ONES, np.array([0, 1, 2.5, 1])), ValueError, "train.labels must hold integers; got 2.5"),
        (Split(ONES, np.array([0, 1, np.nan, 1])), ValueError, "train.labels must hold integers; got nan"),
        (Split(ONES, np.array([0, 1, np.inf, 1])), ValueError, "train.labels must hold integers; got inf"),
        (Split(ONES, np.array([0, 1, -2.0, 1])), ValueError, "train.labels must be at least -1.*got values down to -2"),
        (Split(ONES, np.full(4, 2.0**31)), ValueError, "train.labels must fit into 32-bit integers"),
        (Split(ONES, np.array(["a", "b"])), ValueError, r"labels must have shape \(4,\) for 4 examples; got shape \(2"),
        (Split(ONES, np.array([b"\xff"] * 4)), ValueError, "train.labels must be strings"),
        (Split(ONES, np.array([0xD800] * 4, "<u4").view("<U1")), ValueError, "train.labels must be strings"),
        (
            Split(ONES, np.ma.masked_array(np.arange(4), np.ones(4))),
            TypeError,
            "labels must be an array without a mask",
        ),
        (Split(ONES, 2 * np.eye(4), np.ones((4, 1))), ValueError, r"train.labels must.*got.*\(4, 4\)"),
        (Split(ONES, np.eye(4)[:3]), ValueError, r"train.labels must.*got.*\(3,\)"),
        (
            Split(ONES, np.ones((4, 2)) / 2),
            ValueError,
            "train.labels must hold integers; got 0.5",
        ),
        (Split(ONES, np.zeros(3, int)), ValueError, r"labels must.*got shape \(3,\)"),
        (
            Split(ONES, np.zeros((3, 2), int)),
            ValueError,
            r"labels must have shape \(4, F\) for 4 examples; got.*\(3, 2\)",
        ),
        (Split(ONES, np.array([[0, 1], [1, -1]] * 2)), ValueError, "train.labels must be at least 0; got.*-1"),
        (Split(ONES, None, np.zeros(4, int)), ValueError, r"factors must have shape \(4, F\) for 4 examples; got"),
        (Split(ONES, None, -np.ones((4, 1), int)), ValueError, "train.factors must be at least 0"),
    ],
)
def test_what_is_no_array_of_examples_is_refused(train, error, message):
    with pytest.raises(error, match=message):
        from_arrays(train)
    # The split that is wrong is the one that is named.
    with pytest.raises(error, match=message.replace("train", "validation")):
        from_arrays(np.ones((4, 3), np.float32), validation=train)


def test_traced_arrays_are_refused():
    with pytest.raises(TypeError, match="traced"):
        jax.jit(lambda x: from_arrays(x).train.examples)(jnp.ones((4, 3)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((ONES, ONES[:, :2]), r"test must hold examples of shape \(3,\) and dtype uint8.*got \(2,\) and uint8"),
        ((ONES, ONES.astype(float)), r"test must.*got .* and float32"),
        (
            (Split(ONES, None, np.ones((4, 2), int)), Split(ONES, None, np.ones((4, 1), int))),
            "test.factors must have 2 columns as train; got 1",
        ),
    ],
)
def test_splits_must_fit_together(arguments, message):
    with pytest.raises(ValueError, match=message):
        from_arrays(*arguments)


def test_names_must_fit_to_labels_and_factors():
    split = Split(ONES, np.arange(4)[:, None], np.ones((4, 2), np.int64))
    dataset = from_arrays(split, split, label_names=list("abcd"), factor_names=("x", "y"), name="ones", origin="here")
    assert (dataset.label_names, dataset.factor_names, dataset.name, dataset.origin) == (
        ("a", "b", "c", "d"), ("x", "y"), "ones", "here",
    )  # fmt: skip
    # A column of labels, as some archives have them; and no 64 bits anywhere.
    assert (dataset.train.labels.tolist(), dataset.train.labels.dtype) == ([0, 1, 2, 3], np.int32)
    assert dataset.train.factors.dtype == np.int32
    with pytest.raises(ValueError, match=r"label_names must be 4 for test.labels; got 3"):
        from_arrays(ONES, split, label_names=("a", "b", "c"))
    with pytest.raises(ValueError, match=r"factor_names must be 2 for train.factors; got 1"):
        from_arrays(split, ONES, factor_names=("x",))
    with pytest.raises(TypeError, match="label_names must be a sequence of strings; got 'abcd'"):
        from_arrays(split, label_names="abcd")
    with pytest.raises(TypeError, match=r"meaning must be a vaejax.data.Meaning; got str 'grey'"):
        from_arrays(split, meaning="grey")


def test_the_meaning_is_that_of_all_splits_together():
    real = np.array([[0.5, -1.5]], np.float32)
    unit = np.array([[0.5, 0.1], [0.2, 0.3]], np.float32)
    assert from_arrays(unit, unit).meaning is Meaning.INTENSITY
    for options in ({"test": real}, {"validation": real, "test": unit}, {"validation": real}):
        dataset = from_arrays(unit, **options)
        assert (dataset.meaning, dataset.max_value) == (Meaning.REAL, 1.5)
    assert set(data.Dataset._fields) >= set(dataset.splits)


@pytest.mark.parametrize("one", [np.bool_, np.uint8, np.int64, np.float32, np.float64])
def test_labels_come_as_integers_floats_or_rows_with_a_single_one(one):
    labels = np.array([2, 0, 1, 2, 1, 0])
    examples = np.zeros((6, 3), np.float32)
    ways = [np.eye(3)[labels].astype(one)]
    ways += [labels.astype(one), labels[:, None].astype(one)] if one is not np.bool_ else []
    for way in [*ways, jnp.asarray(ways[0])]:
        split = from_arrays(Split(examples, way), examples, label_names=("a", "b", "c")).train
        assert split.labels.tolist() == labels.tolist()
        assert split.labels.dtype.kind in "iu"
        assert split.labels.dtype.itemsize <= 4


def test_rows_with_a_single_one_have_as_many_columns_in_all_splits():
    train, test = (Split(np.zeros((3, 2)), np.eye(n)[:3]) for n in (3, 4))
    with pytest.raises(ValueError, match=r"test.labels must have 3 columns as train; got 4"):
        from_arrays(train, test)


def test_labels_that_are_strings_are_numbered_in_their_order_over_all_splits():
    train, test = Split(np.zeros((3, 2)), np.array(["dog", "ape", "dog"])), Split(np.zeros((1, 2)), np.array([["cat"]]))
    dataset = from_arrays(train, test, validation=np.zeros((1, 2)))
    assert dataset.label_names == ("ape", "cat", "dog")
    assert (dataset.train.labels.tolist(), dataset.test.labels.tolist()) == ([2, 0, 2], [1])
    # Names that are given say the numbers.
    dataset = from_arrays(train, test, label_names=("dog", "cow", "cat", "ape"))
    assert dataset.label_names == ("dog", "cow", "cat", "ape")
    assert (dataset.train.labels.tolist(), dataset.test.labels.tolist()) == ([0, 3, 0], [2])
    with pytest.raises(ValueError, match=r"label_names must.*got none that is 'cat'"):
        from_arrays(train, test, label_names=("dog", "ape"))
    with pytest.raises(TypeError, match=r"labels must.*got strings in train"):
        from_arrays(train, Split(np.zeros((1, 2)), np.array([0])))


def test_bytes_that_are_all_dark_are_warned_of():
    dark = np.array([[0, 16], [3, 1]], np.uint8)
    with pytest.warns(UserWarning, match=r"tiny: uint8 .* up to 255, and the largest value is 16: .* say max_value=16"):
        assert from_arrays(dark, name="tiny").max_value == 255
    with pytest.warns(UserWarning, match="the largest value is 63:"):
        from_arrays(np.full((2, 2), 63, np.uint8))
    # Elsewhere a warning is an error.
    from_arrays(np.full((2, 2), 64, np.uint8))
    from_arrays(dark, np.full((1, 2), 200, np.uint8))
    from_arrays(dark, meaning=Meaning.INTENSITY)
    from_arrays(dark, max_value=16)
    from_arrays(dark.astype(np.int32))


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (700, np.int64, (Meaning.COUNTS, 700)),
        (0, np.int64, (Meaning.BINARY, 1)),
        (True, np.bool_, (Meaning.BINARY, 1)),
        (0.25, np.float64, (Meaning.INTENSITY, 1)),
        (-2.5, np.float64, (Meaning.REAL, 2.5)),
        (200, np.uint8, (Meaning.INTENSITY, 255)),
    ],
)
def test_constant_arrays(tmp_path, value, kind, expected):
    array = np.full((5, 3, 3), value, kind)
    for source in (array, lazy(array), mapped(tmp_path / "array.npy", array)):
        dataset = from_arrays(Split(source, np.zeros(5, np.int32)))
        assert (dataset.meaning, dataset.max_value) == expected
        np.testing.assert_array_equal(everything(dataset), array[..., None])
