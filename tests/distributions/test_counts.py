"""Counts against scipy in double precision, their sums, their limits and their draws."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as numpyro
import pytest
import scipy.stats

import vaejax
from vaejax.distributions._gamma import log_gamma_ratio, stirling_error
from vaejax.distributions.counts import NegativeBinomial, Poisson

log_prob = jax.jit(lambda d, value: d.log_prob(value))
sample = jax.jit(lambda d, key, shape=(): d.sample(key, shape), static_argnums=2)
kl = jax.jit(vaejax.kl_divergence)
COUNTS = np.array([0, 1, 2, 3, 7, 9, 10, 11, 100, 12_345, 10**6])
PAIRS = [(1e-3, 0.7), (0.5, 1e-3), (3.0, 2.0), (20.0, 1e4), (1e4, 1e4), (1e6, 1e6), (0.1, 1e6)]


@pytest.mark.parametrize("rate", [1e-30, 1e-3, 0.7, 5.0, 9.9, 100.0, 12_000.0, 1e6])
def test_poisson_is_scipys(x64, rate):
    expected = scipy.stats.poisson(rate).logpmf(COUNTS)
    chex.assert_trees_all_close(log_prob(Poisson(np.log(rate), 0), COUNTS), expected, rtol=1e-10, atol=1e-8)


@pytest.mark.parametrize(("total", "mean"), PAIRS)
def test_negative_binomial_is_its_formula_in_high_precision(x64, total, mean):
    """scipy's terms cancel at the largest counts: these are sums over the factors of the gamma ratio."""
    p = mean / (mean + total)
    for count in COUNTS[:-2]:
        ratio = np.sum(np.log(total + np.arange(count, dtype=float)) - np.log(1.0 + np.arange(count)))
        expected = ratio - total * np.log1p(mean / total) + count * np.log(p)
        found = log_prob(NegativeBinomial(total, np.log(mean) - np.log(total), 0), count)
        chex.assert_trees_all_close(found, expected, rtol=1e-9, atol=1e-8)
    theirs = numpyro.NegativeBinomialLogits(total, np.log(mean / total)).log_prob(COUNTS[:9])
    found = log_prob(NegativeBinomial(total, np.log(mean / total), 0), COUNTS[:9])
    chex.assert_trees_all_close(found, theirs, rtol=1e-8, atol=1e-6)


def test_single_precision_keeps_its_digits_for_large_counts():
    """The textbook formula is off by whole nats here."""
    counts = np.array([10**4, 10**6, 10**6 + 3000])
    expected = scipy.stats.poisson(counts).logpmf(counts)
    found = log_prob(Poisson(np.log(counts).astype(np.float32), 0), counts)
    chex.assert_trees_all_close(np.asarray(found, np.float64), expected, atol=2e-3)
    found = log_prob(NegativeBinomial(np.float32(1e6), np.log(counts / 1e6).astype(np.float32), 0), counts)
    expected = scipy.stats.nbinom(1e6, 1e6 / (1e6 + counts)).logpmf(counts)
    chex.assert_trees_all_close(np.asarray(found, np.float64), expected, atol=2e-3)


def test_probabilities_sum_to_one_with_the_mean_and_variance(x64):
    levels = np.arange(3000)
    for likelihood, variance in [
        (Poisson(np.log(6.0), 0), 6.0),
        (NegativeBinomial.from_mean(6.0, 2.5, 0), 6 + 36 / 2.5),
    ]:
        p = np.exp(log_prob(likelihood, levels))
        chex.assert_trees_all_close(np.sum(p), 1.0, rtol=1e-10)
        chex.assert_trees_all_close(np.sum(p * levels), likelihood.mean, rtol=1e-10)
        chex.assert_trees_all_close(np.sum(p * (levels - 6) ** 2), variance, rtol=1e-9)


def test_negative_binomial_tends_to_the_poisson():
    levels = np.arange(40)
    expected = scipy.stats.poisson(7.0).logpmf(levels)
    for total, tolerance in [(1e4, 0.06), (1e8, 1e-4), (1e20, 1e-4)]:
        found = log_prob(NegativeBinomial.from_mean(np.float32(7.0), np.float32(total), 0), levels)
        chex.assert_trees_all_close(np.asarray(found, np.float64), expected, atol=tolerance)


@pytest.mark.parametrize("name", ["poisson", "negative binomial"])
def test_gradients_are_those_of_the_formula_and_finite_at_the_extremes(name):
    if name == "poisson":
        slopes = jax.jit(jax.vmap(jax.value_and_grad(lambda l, v: Poisson(l, 0).log_prob(v)), (0, None)))
        for count in (0, 1, 50):
            log_rates = np.array([-1e4, -80.0, -3.0, 0.0, 4.0, 80.0], np.float32)
            value, slope = slopes(log_rates, count)
            chex.assert_tree_all_finite((value, slope))
            chex.assert_trees_all_close(slope, count - np.exp(log_rates), rtol=1e-5, atol=1e-5)
        return
    density = lambda r, l, v: NegativeBinomial(r, l, 0).log_prob(v)
    slopes = jax.jit(jax.vmap(jax.value_and_grad(density, (0, 1)), (0, 0, None)))
    total, logits = (
        a.ravel() for a in np.meshgrid(np.float32([1e-6, 0.3, 9.0, 11.0, 1e8]), np.float32([-80, -2, 0, 80]))
    )
    for count in (0, 1, 50):
        value, (slope_total, slope_logits) = slopes(total, logits, count)
        chex.assert_tree_all_finite((value, slope_total, slope_logits))
        expected = count - (count + total.astype(float)) * scipy.special.expit(logits.astype(float))
        chex.assert_trees_all_close(np.asarray(slope_logits, float), expected, rtol=2e-5, atol=2e-5)
        digamma = scipy.special.digamma(total.astype(float) + count) - scipy.special.digamma(total.astype(float))
        expected = digamma - np.logaddexp(0, logits)
        chex.assert_trees_all_close(np.asarray(slope_total, float), expected, rtol=1e-3, atol=1e-5)


def test_gamma_functions_are_scipys(x64):
    x = np.concatenate([np.geomspace(1e-6, 1e8, 57), [9.999999, 10.0, 10.000001]])
    direct = scipy.special.gammaln(x) - (x - 0.5) * np.log(x) + x - 0.5 * np.log(2 * np.pi)
    near = x < 100
    chex.assert_trees_all_close(stirling_error(x)[near], direct[near], rtol=1e-10, atol=2e-13)
    chex.assert_trees_all_close(x[x > 1e3] * stirling_error(x)[x > 1e3], np.full((x > 1e3).sum(), 1 / 12), rtol=1e-6)
    for step in (0.0, 0.5, 1.0, 7.5):
        expected = scipy.special.gammaln(x + step) - scipy.special.gammaln(x)
        chex.assert_trees_all_close(log_gamma_ratio(x, step), expected, rtol=1e-9, atol=1e-6)
    chex.assert_trees_all_close(log_gamma_ratio(x, 1.0), np.log(x), rtol=1e-12, atol=1e-12)
    single = log_gamma_ratio(jnp.float32(1e6), 1.0)
    chex.assert_trees_all_close(single, np.float32(np.log(1e6)), rtol=1e-6)


@pytest.mark.parametrize(
    "likelihood", [Poisson(1.2, 0), NegativeBinomial.from_mean(3.0, 2.0, 0), NegativeBinomial(0.2, 1.0, 0)]
)
def test_draws_have_the_frequencies_of_the_log_prob(likelihood, key):
    draws = np.asarray(sample(likelihood, key, (50_000,)))
    assert draws.dtype == np.int32
    assert (likelihood.has_rsample, likelihood.is_discrete) == (False, True)
    p = np.exp(np.asarray(log_prob(likelihood, np.arange(12)), np.float64))
    deviation = (np.bincount(draws, minlength=12)[:12] - 50_000 * p) / np.sqrt(50_000 * p * (1 - p))
    assert np.all(np.abs(deviation) < 5)
    assert abs(draws.mean() - likelihood.mean) < 5 * draws.std() / 50_000**0.5


@pytest.mark.parametrize(("rate_q", "rate_p"), [(3.0, 5.0), (5.0, 3.0), (0.1, 0.1001), (40.0, 0.5)])
def test_kl_of_poissons_is_its_sum(x64, rate_q, rate_p):
    q, p = Poisson(np.log(rate_q), 0), Poisson(np.log(rate_p), 0)
    levels = np.arange(400)
    log_q, log_p = log_prob(q, levels), log_prob(p, levels)
    chex.assert_trees_all_close(kl(q, p), jnp.sum(jnp.exp(log_q) * (log_q - log_p)), rtol=1e-9, atol=1e-14)


def test_kl_of_poissons_is_exact_between_neighbours_and_finite_at_the_extremes():
    divergence = lambda a, b: vaejax.kl_divergence(Poisson(a, 0), Poisson(b, 0))
    value, slopes = jax.jit(jax.vmap(jax.value_and_grad(divergence, (0, 1))))(
        np.float32([2.0, 2.0, -80.0, 80.0]), np.float32([2.0, 2.0 + 2**-12, 80.0, -80.0])
    )
    chex.assert_trees_all_close(value[:2], np.float32([0.0, np.exp(2.0) * 2.0**-25]), rtol=2e-3, atol=1e-12)
    chex.assert_trees_all_close(value[2:], np.exp(np.float32([80.0, 80.0])) * np.float32([1.0, 159.0]), rtol=1e-5)
    chex.assert_trees_all_close(slopes[0][0], 0.0)
    chex.assert_tree_all_finite(slopes)


def test_kl_refuses_other_partners_and_other_events():
    q = Poisson(np.zeros((4, 3)))
    chex.assert_shape(vaejax.kl_divergence(q, Poisson(np.zeros(3))), (4,))
    with pytest.raises(TypeError, match=r"Poisson to Normal; estimate it with monte_carlo_kl \(in elbo"):
        vaejax.kl_divergence(q, vaejax.standard_normal)
    with pytest.raises(ValueError, match="same number of event axes; got 1 and 0"):
        vaejax.kl_divergence(q, Poisson(0.0, 0))
    with pytest.raises(ValueError, match=r"event shape \(2,\)"):
        vaejax.kl_divergence(q, Poisson(np.zeros(2)))


@pytest.mark.parametrize("rank", [0, 1])
def test_a_mapped_constructor_is_the_batched_one(rank, key):
    logits = jax.random.normal(key, (4, 4, 4))
    total = np.linspace(0.5, 9.0, 4 ** (rank + 1)).reshape((4,) * (rank + 1)).astype(np.float32)
    make = lambda total, logits: NegativeBinomial(total, logits, 2)
    value = np.arange(64).reshape(4, 4, 4)
    expected = jnp.stack([log_prob(make(t, l), v) for t, l, v in zip(total, logits, value, strict=True)])
    mapped = jax.vmap(make)(total, logits)
    chex.assert_trees_all_close(log_prob(mapped, value), expected, rtol=1e-5)
    chex.assert_shape(mapped.mean, (4, 4, 4))
    summed = log_prob(NegativeBinomial(mapped.total_count, mapped.logits, 0), value).sum((1, 2))
    chex.assert_trees_all_close(summed, expected, rtol=1e-5)


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
