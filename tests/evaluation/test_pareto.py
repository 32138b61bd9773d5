"""The tail index against laws whose index is known."""

import jax
import numpy as np
import pytest

from vaejax.evaluation.pareto import pareto_k, pareto_threshold, tail_length

# One program for each shape, and not one for each operation.
fitted = jax.jit(pareto_k)

SHAPES = np.array([-0.4, 0.0, 0.3, 0.7, 1.2])


def exceedances(seed, size, shapes=SHAPES):
    """Of generalised Pareto laws with scale 3, by the inverse of their distribution function, `[size, len(shapes)]`."""
    logs = np.log(np.random.default_rng(seed).uniform(size=(size, len(shapes))))
    return 3 * np.where(shapes == 0, -logs, np.expm1(-shapes * logs) / np.where(shapes == 0, 1, shapes))


def log_weights_over(cutoff, exceedance):
    """log(exp(cutoff) + exceedance)."""
    return (cutoff + np.log1p(exceedance * np.exp(-cutoff))).astype(np.float32)


def published(exceedance, given=None):
    """k of sorted exceedances as Zhang and Stephens write it, in double precision, with the prior of PSIS."""
    size, points = len(exceedance), 30 + int(np.sqrt(given or len(exceedance)))
    quartile = exceedance[int(size / 4 + 0.5) - 1]
    grid = 1 / exceedance[-1] + (1 - np.sqrt(points / (np.arange(points) + 0.5))) / (3 * quartile)
    k = np.log1p(-grid[:, None] * exceedance).mean(axis=1)
    profile = size * (np.log(-grid / k) - k - 1)
    weights = np.exp(profile - profile.max())
    k = np.log1p(-np.sum(grid * weights) / weights.sum() * exceedance).mean()
    return (size * k + 5) / (size + 10)


@pytest.mark.slow("statistics of the published estimator, which is compared below")
def test_the_index_of_a_pareto_law_is_found():
    """To five of its asymptotic errors, (1 + k) / sqrt(M), apart from the pull towards 0.5."""
    size = 4000
    tail = log_weights_over(0.0, exceedances(0, size))
    found = np.asarray(fitted(tail, np.zeros(len(SHAPES), np.float32)))
    pulled = (size * SHAPES + 5) / (size + 10)
    assert np.all(np.abs(found - pulled) < 5 * (1 + SHAPES) / np.sqrt(size)), found


@pytest.mark.parametrize("size", [21, pytest.param(5, marks=pytest.mark.slow("the shortest tail"))])
def test_it_is_the_published_estimator(size):
    """Whatever the order and the scale of the weights; weights that equal the cutoff are none of the tail."""
    drawn = exceedances(size, size)
    tail = log_weights_over(2.0, drawn)
    expected = [published(np.sort(each)) for each in drawn.T]
    cutoff = np.full(len(SHAPES), 2.0, np.float32)
    np.testing.assert_allclose(fitted(tail, cutoff), expected, atol=2e-4)
    np.testing.assert_allclose(fitted(tail - 64.0, cutoff - 64.0), expected, atol=2e-3)
    # Where the two smallest equal the cutoff, the tail is shorter by them; the grid is that of the tail as given.
    tied = np.sort(tail, axis=0)
    tied[:2] = 2.0
    kept = [published(np.sort(each)[2:], len(each)) for each in drawn.T]
    np.testing.assert_allclose(fitted(tied, cutoff), kept if size > 6 else np.full(len(SHAPES), np.nan), atol=2e-4)


@pytest.mark.slow("statistics of the published estimator, which is compared above")
def test_the_index_of_weights_between_normals():
    """w = N(z; 0, 1) / N(z; 0, s^2), z ~ N(0, s^2): P(w > t) falls like t^(-1/k), k = 1 - s^2; bounded for s > 1."""
    scales = np.array([0.4, 0.6, 0.8, 1.25])
    z = np.random.default_rng(1).normal(size=(400_000, 1)) * scales
    log_weights = np.sort(-0.5 * z**2 * (1 - 1 / scales**2), axis=0).astype(np.float32)
    length = tail_length(len(z))
    found = fitted(log_weights[-length:], log_weights[-length - 1])
    np.testing.assert_allclose(found[:3], 1 - scales[:3] ** 2, atol=0.15)
    assert found[3] < 0


def test_weights_that_differ_by_hundreds_of_nats_have_a_finite_index():
    """In single precision most of them are zero relative to the largest; double precision has room for all."""
    tail = 50 * np.random.default_rng(0).exponential(size=200).astype(np.float32)
    expected = published(np.sort(np.expm1(np.asarray(tail, np.float64))))
    assert expected > 20
    np.testing.assert_allclose(fitted(tail, np.float32(0)), expected, rtol=1e-4)


def test_tails_that_are_none():
    rising = np.arange(8, dtype=np.float32)
    third = np.arange(8) == 3
    cases = [
        (rising, 3.0, np.nan),  # four above
        (np.full(8, 2.0), 2.0, -np.inf),
        (np.full(8, -np.inf), -np.inf, np.nan),
        (np.where(third, np.nan, rising), -1.0, np.nan),
        (np.where(third, np.inf, rising), -1.0, np.nan),
        (rising, np.nan, np.nan),
    ]
    tails, cutoffs, expected = (np.stack(each, axis=-1).astype(np.float32) for each in zip(*cases, strict=True))
    np.testing.assert_array_equal(fitted(tails, cutoffs), expected)
    # Other weights that are zero are no reason to have no tail.
    others = np.full(len(cases), -np.inf, np.float32)
    assert np.all(np.isfinite(fitted(np.tile(rising[:, None], len(cases)), others)))
    # Too few.
    np.testing.assert_array_equal(jax.jit(pareto_k)(rising[:4], np.float32(-1.0)), np.nan)


def test_lengths_thresholds_and_bad_arguments():
    assert [tail_length(k) for k in (1, 25, 5000, 100_000)] == [1, 5, 213, 949]
    np.testing.assert_allclose([pareto_threshold(k) for k in (10, 100, 1000, 10**6)], [0, 0.5, 2 / 3, 0.7])
    with pytest.raises(ValueError, match="num_samples must be at least 2; got 1"):
        pareto_threshold(1)
    with pytest.raises(ValueError, match=r"tail must have shape \[M, \*B\].*got \(8, 2\) and \(3,\)"):
        pareto_k(np.ones((8, 2)), np.ones(3))


def test_weights_that_differ_by_rounding_have_no_tail():
    """As those of the exact posterior: one log-weight for all, but for float32."""
    noise = np.sort(1e-7 * np.random.default_rng(9).uniform(size=60) ** -0.9)
    equal, apart = (np.float32(-100 + factor * noise) for factor in (1.0, 1e3))
    found = fitted(np.stack([equal[1:], apart[1:]], axis=-1), np.stack([equal[0], apart[0]]))
    assert found[0] == -np.inf
    assert np.isfinite(found[1])
