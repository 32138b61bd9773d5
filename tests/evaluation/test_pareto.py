"""The tail index against laws whose index is known."""

import jax
import jax.numpy as jnp
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
    return jnp.asarray(cutoff + np.log1p(exceedance * np.exp(-cutoff)), jnp.float32)


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


def test_the_index_of_a_pareto_law_is_found():
    """To five of its asymptotic errors, (1 + k) / sqrt(M), apart from the pull towards 0.5."""
    size = 4000
    tail = log_weights_over(0.0, exceedances(0, size))
    found = np.asarray(fitted(tail, jnp.zeros(len(SHAPES))))
    pulled = (size * SHAPES + 5) / (size + 10)
    assert np.all(np.abs(found - pulled) < 5 * (1 + SHAPES) / np.sqrt(size)), found


@pytest.mark.parametrize("size", [5, 21])
def test_it_is_the_published_estimator(size):
    """Whatever the order and the scale of the weights; weights that equal the cutoff are none of the tail."""
    drawn = exceedances(size, size)
    tail = log_weights_over(2.0, drawn)
    expected = [published(np.sort(each)) for each in drawn.T]
    cutoff = jnp.full(len(SHAPES), 2.0)
    np.testing.assert_allclose(fitted(tail, cutoff), expected, atol=2e-4)
    np.testing.assert_allclose(fitted(tail - 64.0, cutoff - 64.0), expected, atol=2e-3)
    # Where the two smallest equal the cutoff, the tail is shorter by them; the grid is that of the tail as given.
    tied = jnp.sort(tail, axis=0).at[:2].set(2.0)
    kept = [published(np.sort(each)[2:], len(each)) for each in drawn.T]
    np.testing.assert_allclose(fitted(tied, cutoff), kept if size > 6 else np.full(len(SHAPES), np.nan), atol=2e-4)


def test_the_index_of_weights_between_normals():
    """w = N(z; 0, 1) / N(z; 0, s^2), z ~ N(0, s^2): P(w > t) falls like t^(-1/k), k = 1 - s^2; bounded for s > 1."""
    scales = np.array([0.4, 0.6, 0.8, 1.25])
    z = np.random.default_rng(1).normal(size=(400_000, 1)) * scales
    log_weights = jnp.asarray(np.sort(-0.5 * z**2 * (1 - 1 / scales**2), axis=0), jnp.float32)
    length = tail_length(len(z))
    found = fitted(log_weights[-length:], log_weights[-length - 1])
    np.testing.assert_allclose(found[:3], 1 - scales[:3] ** 2, atol=0.15)
    assert found[3] < 0


def test_weights_that_differ_by_hundreds_of_nats_have_a_finite_index():
    """In single precision most of them are zero relative to the largest; double precision has room for all."""
    tail = 50.0 * jax.random.exponential(jax.random.key(0), (200,))
    expected = published(np.sort(np.expm1(np.asarray(tail, np.float64))))
    assert expected > 20
    np.testing.assert_allclose(fitted(tail, jnp.zeros(())), expected, rtol=1e-4)


def test_tails_that_are_none():
    rising = jnp.arange(8.0)
    for tail, cutoff, expected in [
        (rising[:4], -1.0, np.nan),  # too few
        (rising, 3.0, np.nan),  # four above
        (jnp.full(8, 2.0), 2.0, -np.inf),
        (jnp.full(8, -jnp.inf), -jnp.inf, np.nan),
        (rising.at[3].set(jnp.nan), -1.0, np.nan),
        (rising.at[3].set(jnp.inf), -1.0, np.nan),
        (rising, jnp.nan, np.nan),
    ]:
        np.testing.assert_array_equal(fitted(tail, jnp.asarray(cutoff)), np.float32(expected))
    # Other weights that are zero are no reason to have no tail.
    assert jnp.isfinite(fitted(rising, jnp.asarray(-jnp.inf)))


def test_lengths_thresholds_and_bad_arguments():
    assert [tail_length(k) for k in (1, 25, 5000, 100_000)] == [1, 5, 213, 949]
    np.testing.assert_allclose([pareto_threshold(k) for k in (10, 100, 1000, 10**6)], [0, 0.5, 2 / 3, 0.7])
    with pytest.raises(ValueError, match="num_samples must be at least 2; got 1"):
        pareto_threshold(1)
    with pytest.raises(ValueError, match=r"tail must have shape \[M, \*B\].*got \(8, 2\) and \(3,\)"):
        pareto_k(jnp.ones((8, 2)), jnp.ones(3))


def test_weights_that_differ_by_rounding_have_no_tail():
    """As those of the exact posterior: one log-weight for all, but for float32."""
    noise = 1e-5 * jax.random.uniform(jax.random.key(9), (60,)) ** -0.9 * 1e-2
    level = -100.0 + jnp.sort(noise)
    assert pareto_k(level[1:], level[0]) == -jnp.inf
    assert jnp.isfinite(pareto_k(-100.0 + 1e3 * (jnp.sort(noise)[1:]), -100.0 + 1e3 * jnp.min(noise)))
