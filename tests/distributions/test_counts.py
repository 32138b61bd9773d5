"""Counts against scipy in double precision, their sums, their limits and their draws."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as numpyro
import pytest
import scipy.special
import scipy.stats

import vaejax
from vaejax.distributions._gamma import log_gamma_ratio, stirling_error
from vaejax.distributions.counts import NegativeBinomial, Poisson

log_prob = jax.jit(lambda d, value: d.log_prob(value))


def log_probs(family, *arrays):
    """`family(*parameters, 0).log_prob(value)` of arrays that broadcast, which end in the value.

    Always of 3,072 elements, so that one program computes the log-densities of all tests in one precision.
    """
    dtype = jnp.result_type(float)
    arrays = np.broadcast_arrays(*arrays)
    padded = [np.concatenate([each.ravel(), np.ones(3_072 - each.size)]).astype(dtype) for each in arrays]
    found = np.asarray(log_prob(family(*padded[:-1], 0), padded[-1]))
    assert found.dtype == dtype
    return found[: arrays[0].size].reshape(arrays[0].shape).astype(np.float64)


COUNTS = np.array([0, 1, 2, 3, 7, 9, 10, 11, 100, 12_345, 10**6])
RATES = np.array([1e-30, 1e-3, 0.7, 5.0, 9.9, 100.0, 12_000.0, 1e6])[:, None]
# Total counts and means.
PAIRS = np.array([(1e-3, 0.7), (0.5, 1e-3), (3.0, 2.0), (20.0, 1e4), (1e4, 1e4), (1e6, 1e6), (0.1, 1e6)])
TOTAL, MEAN = PAIRS.T[..., None]


def test_poisson_is_scipys(x64):
    found = log_probs(Poisson, np.log(RATES), COUNTS)
    chex.assert_trees_all_close(found, scipy.stats.poisson(RATES).logpmf(COUNTS), rtol=1e-10, atol=1e-8)


def test_negative_binomial_is_its_formula_in_high_precision(x64):
    """scipy's terms cancel at the largest counts: these are sums over the factors of the gamma ratio."""
    found = log_probs(NegativeBinomial, TOTAL, np.log(MEAN) - np.log(TOTAL), COUNTS)
    for (total, mean), values in zip(PAIRS, found, strict=True):
        for count, value in list(zip(COUNTS, values, strict=True))[:-2]:
            ratio = np.sum(np.log(total + np.arange(count, dtype=float)) - np.log(1.0 + np.arange(count)))
            expected = ratio - total * np.log1p(mean / total) + count * np.log(mean / (mean + total))
            chex.assert_trees_all_close(value, expected, rtol=1e-9, atol=1e-8)


def test_negative_binomial_is_numpyros(x64):
    theirs = lambda: numpyro.NegativeBinomialLogits(TOTAL, np.log(MEAN / TOTAL), validate_args=False)
    expected = jax.jit(lambda: theirs().log_prob(COUNTS[:9]))()
    found = log_probs(NegativeBinomial, TOTAL, np.log(MEAN) - np.log(TOTAL), COUNTS)[:, :9]
    chex.assert_trees_all_close(found, expected, rtol=1e-8, atol=1e-6)


def test_single_precision_keeps_its_digits_for_large_counts():
    """The textbook formula is off by whole nats here."""
    counts = np.array([10**4, 10**6, 10**6 + 3000])
    expected = scipy.stats.poisson(counts).logpmf(counts)
    chex.assert_trees_all_close(log_probs(Poisson, np.log(counts), counts), expected, atol=2e-3)
    expected = scipy.stats.nbinom(1e6, 1e6 / (1e6 + counts)).logpmf(counts)
    found = log_probs(NegativeBinomial, 1e6, np.log(counts / 1e6), counts)
    chex.assert_trees_all_close(found, expected, atol=2e-3)


def from_mean(*means_and_dispersions):
    """The parameters of `NegativeBinomial.from_mean`, and its mean."""
    q = jax.jit(lambda mean, dispersion: NegativeBinomial.from_mean(mean, dispersion, 0))(*means_and_dispersions)
    return np.asarray(q.total_count), np.asarray(q.logits), np.asarray(jax.jit(lambda q: q.mean)(q))


def test_probabilities_sum_to_one_with_the_mean_and_variance(x64):
    levels = np.arange(3000)
    total, logits, mean = from_mean(6.0, 2.5)
    rate = jax.jit(lambda log_rate: Poisson(log_rate, 0).mean)(np.log(6.0))
    for log_p, expected, variance in [
        (log_probs(Poisson, np.log(6.0), levels), rate, 6.0),
        (log_probs(NegativeBinomial, total, logits, levels), mean, 6 + 36 / 2.5),
    ]:
        p = np.exp(log_p)
        chex.assert_trees_all_close(np.sum(p), 1.0, rtol=1e-10)
        chex.assert_trees_all_close(np.sum(p * levels), expected, rtol=1e-10)
        chex.assert_trees_all_close(np.sum(p * (levels - 6) ** 2), variance, rtol=1e-9)


def test_negative_binomial_tends_to_the_poisson():
    levels = np.arange(40)
    total, logits, _ = from_mean(np.float32(7.0), np.float32([1e4, 1e8, 1e20]))
    found = log_probs(NegativeBinomial, total[:, None], logits[:, None], levels)
    expected = scipy.stats.poisson(7.0).logpmf(levels)
    for values, tolerance in zip(found, (0.06, 1e-4, 1e-4), strict=True):
        chex.assert_trees_all_close(values, expected, atol=tolerance)


def test_gradients_of_the_poisson_are_those_of_the_formula_and_finite_at_the_extremes():
    slopes = jax.jit(jax.vmap(jax.value_and_grad(lambda l, v: Poisson(l, 0).log_prob(v))))
    log_rates, counts = np.meshgrid(np.float32([-1e4, -80.0, -3.0, 0.0, 4.0, 80.0]), np.float32([0, 1, 50]))
    value, slope = slopes(log_rates.ravel(), counts.ravel())
    chex.assert_tree_all_finite((value, slope))
    chex.assert_trees_all_close(slope, (counts - np.exp(log_rates)).ravel(), rtol=1e-5, atol=1e-5)


def test_gradients_of_the_negative_binomial_are_those_of_the_formula_and_finite_at_the_extremes():
    density = lambda r, l, v: NegativeBinomial(r, l, 0).log_prob(v)
    grid = np.meshgrid(np.float32([1e-6, 0.3, 9.0, 11.0, 1e8]), np.float32([-80, -2, 0, 80]), np.float32([0, 1, 50]))
    parameters = [each.ravel() for each in grid]
    value, slopes = jax.jit(jax.vmap(jax.value_and_grad(density, (0, 1))))(*parameters)
    chex.assert_tree_all_finite((value, slopes))
    slope_total, slope_logits = (np.asarray(each, np.float64) for each in slopes)
    total, logits, count = (each.astype(np.float64) for each in parameters)
    expected = count - (count + total) * scipy.special.expit(logits)
    chex.assert_trees_all_close(slope_logits, expected, rtol=2e-5, atol=2e-5)
    expected = scipy.special.digamma(total + count) - scipy.special.digamma(total) - np.logaddexp(0, logits)
    chex.assert_trees_all_close(slope_total, expected, rtol=1e-3, atol=1e-5)


def test_gamma_functions_are_scipys(x64):
    x = np.concatenate([np.geomspace(1e-6, 1e8, 57), [9.999999, 10.0, 10.000001]])
    steps = np.array([0.0, 0.5, 1.0, 7.5])[:, None]
    error, ratio = jax.jit(lambda x, steps: (stirling_error(x), log_gamma_ratio(x, steps)))(x, steps)
    direct = scipy.special.gammaln(x) - (x - 0.5) * np.log(x) + x - 0.5 * np.log(2 * np.pi)
    near, far = x < 100, x > 1e3
    chex.assert_trees_all_close(error[near], direct[near], rtol=1e-10, atol=2e-13)
    chex.assert_trees_all_close(x[far] * error[far], np.full(far.sum(), 1 / 12), rtol=1e-6)
    expected = scipy.special.gammaln(x + steps) - scipy.special.gammaln(x)
    chex.assert_trees_all_close(ratio, expected, rtol=1e-9, atol=1e-6)
    chex.assert_trees_all_close(ratio[2], np.log(x), rtol=1e-12, atol=1e-12)


def test_gamma_ratios_of_large_arguments_keep_their_digits_in_single_precision():
    found = jax.jit(log_gamma_ratio)(np.float32(1e6), np.float32(1.0))
    chex.assert_trees_all_close(found, np.float32(np.log(1e6)), rtol=1e-6)


@pytest.mark.parametrize(
    "likelihood",
    [
        # Draws of the negative binomial are Poisson's.
        pytest.param(Poisson(np.float32([1.2]), 0), marks=pytest.mark.slow("draws of the sampler of the other family")),
        NegativeBinomial(np.float32([2.0, 0.2]), np.float32([np.log(1.5), 1.0]), 0),
    ],
)
def test_draws_have_the_frequencies_of_the_log_prob(likelihood, key):
    assert (likelihood.has_rsample, likelihood.is_discrete) == (False, True)
    draws, mean = jax.device_get(jax.jit(lambda q, key: (q.sample(key, (50_000,)), q.mean))(likelihood, key))
    assert np.all(draws == np.floor(draws))
    log_p = log_probs(type(likelihood), *jax.tree.leaves(likelihood), np.arange(12)[:, None])
    for own, p, expected in zip(draws.T, np.exp(log_p.T), mean, strict=True):
        deviation = (np.bincount(own.astype(int), minlength=12)[:12] - 50_000 * p) / np.sqrt(50_000 * p * (1 - p))
        assert np.all(np.abs(deviation) < 5)
        assert abs(own.mean() - expected) < 5 * own.std() / 50_000**0.5


def test_draws_of_any_rate_have_its_moments(key):
    """Beyond 32 bits too; an infinite rate has infinite counts, and one that is not known none."""

    @jax.jit
    def draw(log_rate, key):
        first, second = jax.random.split(key)
        many = NegativeBinomial.from_mean(jnp.exp(log_rate), 4.0)
        return Poisson(log_rate).sample(first, (2000,)), many.sample(second, (2000,))

    rates = np.array([1e6, 2e9, 1e12, np.inf, np.nan])
    poisson, negative_binomial = (
        np.asarray(draws, np.float64) for draws in draw(np.log(rates.astype(np.float32)), key)
    )
    assert np.all(poisson[:, 3] == np.inf)
    assert np.all(np.isnan(poisson[:, 4]))
    assert np.all(np.isnan(negative_binomial[:, 4]))
    mean, deviation = rates[:3], np.sqrt(rates[:3])
    # The logarithm of the rate is rounded.
    assert np.all(np.abs(poisson[:, :3].mean(0) - mean) < 5 * deviation / np.sqrt(2000) + 3e-6 * mean)
    standardized = (poisson[:, :3] - poisson[:, :3].mean(0)) / deviation
    assert np.all(np.abs(np.mean(standardized**2, axis=0) - 1) < 5 * np.sqrt(2 / 2000))
    relative = negative_binomial[:, :3] / mean
    assert np.all(np.abs(relative.mean(0) - 1) < 5 * 0.5 / np.sqrt(2000))
    assert np.all(np.abs(relative.var(0) - 0.25) < 0.1)


def test_traced_values_that_are_no_counts_have_no_probability():
    values = np.array([-1.0, 0.5, np.inf, np.nan, 3.0])

    @jax.jit
    def figures(values):
        return Poisson(jnp.zeros(5), 0).log_prob(values), NegativeBinomial(jnp.ones(5), jnp.zeros(5), 0).log_prob(
            values
        )

    for found in figures(values):
        np.testing.assert_array_equal(np.isnan(found), [True, True, True, True, False])


def test_kl_of_poissons_is_its_sum(x64):
    rate_q, rate_p = np.array([(3.0, 5.0), (5.0, 3.0), (0.1, 0.1001), (40.0, 0.5)]).T
    found = jax.jit(lambda a, b: vaejax.kl_divergence(Poisson(a, 0), Poisson(b, 0)))(np.log(rate_q), np.log(rate_p))
    levels = np.arange(400)[:, None]
    log_q, log_p = scipy.stats.poisson(rate_q).logpmf(levels), scipy.stats.poisson(rate_p).logpmf(levels)
    chex.assert_trees_all_close(found, np.sum(np.exp(log_q) * (log_q - log_p), axis=0), rtol=1e-9, atol=1e-14)


def test_kl_of_poissons_is_exact_between_neighbours_and_finite_at_the_extremes():
    divergence = lambda a, b: vaejax.kl_divergence(Poisson(a, 0), Poisson(b, 0))
    value, slopes = jax.jit(jax.vmap(jax.value_and_grad(divergence, (0, 1))))(
        np.float32([2.0, 2.0, -80.0, 80.0]), np.float32([2.0, 2.0 + 2**-12, 80.0, -80.0])
    )
    chex.assert_trees_all_close(value[:2], np.float32([0.0, np.exp(2.0) * 2.0**-25]), rtol=2e-3, atol=1e-12)
    chex.assert_trees_all_close(value[2:], np.exp(np.float32([80.0, 80.0])) * np.float32([1.0, 159.0]), rtol=1e-5)
    chex.assert_trees_all_close(slopes[0][0], 0.0)
    chex.assert_tree_all_finite(slopes)


def test_kl_of_poissons_is_smooth_where_they_are_equal_and_known_at_rate_0():
    """Its second derivative to the log-rate of q is the rate; a rate of 0 has no logarithm, but a divergence."""
    divergence = lambda a, b: vaejax.kl_divergence(Poisson(a, 0), Poisson(b, 0))

    @jax.jit
    def figures(log_rate):
        hessian = jax.vmap(jax.hessian(divergence))(log_rate, log_rate)
        none, one = -jnp.inf, jnp.zeros(())
        values = [divergence(a, b) for a, b in ((none, one), (none, none), (one, none))]
        return hessian, values, jax.grad(divergence, (0, 1))(none, one)

    hessian, values, slopes = figures(np.log(np.float32([1.0, 7.0])))
    chex.assert_trees_all_close(hessian, np.float32([1.0, 7.0]), rtol=1e-5)
    chex.assert_trees_all_equal(values, [np.float32(1.0), np.float32(0.0), np.float32(np.inf)])
    chex.assert_trees_all_equal(slopes, (np.float32(0.0), np.float32(1.0)))


def test_kl_refuses_other_partners_and_other_events():
    q = Poisson(np.zeros((4, 3)))
    chex.assert_shape(jax.eval_shape(lambda: vaejax.kl_divergence(q, Poisson(jnp.zeros(3)))), (4,))
    with pytest.raises(TypeError, match=r"Poisson to Normal.*monte_carlo_kl"):
        vaejax.kl_divergence(q, vaejax.standard_normal)
    with pytest.raises(ValueError, match="event axes; got 1 and 0"):
        vaejax.kl_divergence(q, Poisson(0.0, 0))
    with pytest.raises(ValueError, match=r"event shape \(2,\)"):
        vaejax.kl_divergence(q, Poisson(np.zeros(2)))


@pytest.mark.slow("aligned by the function that test_densities maps over")
@pytest.mark.parametrize("rank", [0, 1])
def test_a_mapped_constructor_is_the_batched_one(rank):
    logits = np.random.default_rng(0).normal(size=(4, 4, 4)).astype(np.float32)
    total = np.linspace(0.5, 9.0, 4 ** (rank + 1)).reshape((4,) * (rank + 1)).astype(np.float32)
    value = np.arange(64).reshape(4, 4, 4)

    @jax.jit
    def figures(total, logits):
        mapped = jax.vmap(lambda total, logits: NegativeBinomial(total, logits, 2))(total, logits)
        return mapped.log_prob(value), mapped.mean

    found, mean = figures(total, logits)
    # The total counts are those of the examples, or of the rows of each.
    full = np.broadcast_to(total.reshape(total.shape[:1] + (1,) * (2 - rank) + total.shape[1:]), logits.shape)
    expected = scipy.stats.nbinom(full, scipy.special.expit(-logits.astype(np.float64))).logpmf(value)
    chex.assert_trees_all_close(np.asarray(found, np.float64), expected.sum((1, 2)), rtol=1e-5)
    chex.assert_trees_all_close(mean, full * np.exp(logits), rtol=1e-5)


@pytest.mark.parametrize("likelihood", [Poisson(np.zeros(3)), NegativeBinomial(np.ones(3), 0.0)])
@pytest.mark.parametrize(
    ("value", "found"), [(-1.0, "from -1.0"), (0.5, "from 0.0"), (np.nan, "NaN"), (np.inf, "to inf")]
)
def test_values_outside_the_support_raise(likelihood, value, found):
    with pytest.raises(ValueError, match=f"counts.*{found}"):
        likelihood.log_prob(np.array([0.0, value, 1.0]))


def test_bad_parameters_raise():
    with pytest.raises(ValueError, match="total_count must be positive"):
        NegativeBinomial(np.array([1.0, 0.0]), 0.0)
    with pytest.raises(ValueError, match="mean must be positive"):
        NegativeBinomial.from_mean(np.array([1.0, 0.0]), 1.0)
    with pytest.raises(ValueError, match="dispersion must be positive"):
        NegativeBinomial.from_mean(1.0, -1.0)
