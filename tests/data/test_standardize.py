"""Mean and scale of each element of training examples, against NumPy's in double precision."""

import numpy as np
import pytest

from vaejax import data
from vaejax.data import standardizer

RANDOM = np.random.default_rng(0)
# Units of a table: one constant, one of tiny numbers, one far from 0, and 0.1, which has no exact mean.
UNITS = np.array([1.0, 1000.0, 1e-6, 1.0, 0.0, 0.0])
TABLE = (RANDOM.normal(size=(501, 6)) * UNITS + [0, 1287, 0, 1e6, 7, 0.1]).astype(np.float32)


def expected(table):
    deviation = np.nanstd(table.astype(np.float64), axis=0)
    return np.nanmean(table.astype(np.float64), axis=0), np.where(UNITS > 0, deviation, 1)


@pytest.mark.parametrize("at_once", [2**22, 6 * 50, 1])
@pytest.mark.parametrize("kind", ["array", "lazy", "with missing numbers"])
def test_mean_and_scale_are_numpys_however_much_is_read_at_once(monkeypatch, kind, at_once):
    monkeypatch.setattr(standardizer, "NUMBERS_AT_ONCE", at_once)
    table = TABLE.copy()
    if kind == "with missing numbers":
        table[RANDOM.random(table.shape) < 0.3] = np.nan
        # A part in which everything is missing.
        table[50:100] = np.nan
    lazy = data.Lazy(lambda rows: table[rows], table.shape, table.dtype, "table")
    fitted = data.standardize(lazy if kind == "lazy" else table)
    mean, scale = expected(table)
    np.testing.assert_allclose(fitted.mean, mean, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(fitted.scale, scale, rtol=1e-5)
    assert fitted.mean.dtype == fitted.scale.dtype == np.float32


def test_it_is_a_prepare_with_an_inverse():
    fitted = data.standardize(TABLE)
    x = np.asarray(fitted(None, TABLE))
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=0.1)
    np.testing.assert_allclose(x.std(axis=0), UNITS > 0, atol=1e-3)
    rounding = 2e-7 * (np.abs(fitted.mean) + 4 * fitted.scale)
    np.testing.assert_array_less(np.abs(fitted.inverse(x) - TABLE), np.broadcast_to(rounding, TABLE.shape))


def test_what_comes_after_the_first_examples_does_not_count():
    far = np.concatenate([TABLE, TABLE + 1e9])
    np.testing.assert_array_equal(data.standardize(far, 501), data.standardize(TABLE))


def test_elements_that_are_always_missing_stay_as_they_are():
    fitted = data.standardize(np.full((5, 2), np.nan, np.float32))
    np.testing.assert_array_equal(fitted, [[0, 0], [1, 1]])


def test_a_constant_keeps_its_scale():
    """The mean of 49 numbers of 0.1 is not 0.1."""
    constant = np.full((49, 1), 0.1)
    assert constant.std(axis=0) > 0
    assert data.standardize(constant).scale == 1


def test_bad_input_is_named():
    with pytest.raises(TypeError, match=r"standardize: examples .*list"):
        data.standardize([[1.0]])
    with pytest.raises(ValueError, match=r"num_examples .*0"):
        data.standardize(TABLE, 0)
