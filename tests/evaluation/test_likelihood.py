"""Importance-weighted likelihoods against the linear-Gaussian oracle and against sums in double precision."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vaejax
from vaejax import Normal
from vaejax.evaluation.likelihood import importance_log_likelihood
from vaejax.evaluation.pareto import pareto_k, tail_length
from vaejax.testing import linear_gaussian


@pytest.fixture
def oracle():
    return linear_gaussian(jax.random.key(7), 5, 2)


def too_wide(oracle, x):
    exact = oracle.posterior(x)
    return Normal(exact.mean + 0.1, 1.4 * jnp.linalg.norm(exact.scale_tril, axis=-1))


def test_it_is_below_log_p_and_its_weights_have_the_right_mean(oracle, key):
    """One example at a time with a key each, as it is used on a data set."""
    data_key, key = jax.random.split(key)
    x = oracle.marginal().sample(data_key, (500,))
    estimate = lambda key, x: importance_log_likelihood(
        key, x, partial(too_wide, oracle), oracle.decode, num_samples=130, chunk_size=50
    )
    result = jax.jit(jax.vmap(estimate))(jax.random.split(key, 500), x)
    exact, elbo = oracle.marginal().log_prob(x), oracle.elbo(x, too_wide(oracle, x))
    error = lambda values: jnp.std(values) / len(values) ** 0.5
    # p(x) without bias, so log p(x) from below; and the ELBO, further below.
    weights = jnp.exp(result.value - exact)
    assert abs(jnp.mean(weights) - 1) < 5 * error(weights)
    assert jnp.mean(result.elbo) < jnp.mean(result.value) < jnp.mean(exact) + 5 * error(weights)
    assert abs(jnp.mean(result.elbo - elbo)) < 5 * error(result.elbo - elbo)
    assert jnp.mean(exact - elbo) > 20 * error(result.elbo - elbo)
    # The standard error is right for most, and on average.
    standardized = (result.value - exact) / result.standard_error
    assert 0.9 < jnp.std(standardized) < 1.2
    assert jnp.all((result.effective_sample_size > 1) & (result.effective_sample_size < 130))


@pytest.mark.parametrize("chunk_size", [1, 7, 100])
def test_it_is_the_same_whatever_the_chunks(oracle, chunk_size):
    """Each figure by hand from the draws of `fold_in(key, k)`; 7 does not divide 40."""
    key = jax.random.key(3)
    x = oracle.marginal().sample(jax.random.key(8), (3,))
    q = too_wide(oracle, x)
    options = {"num_samples": 40, "chunk_size": chunk_size}
    result = jax.jit(partial(importance_log_likelihood, encode=lambda x: q, decode=oracle.decode, **options))(key, x)
    z = jax.vmap(lambda k: q.sample(jax.random.fold_in(jax.random.clone(key), k)))(jnp.arange(40))
    log_weights = oracle.decode(z).log_prob(x) + vaejax.standard_normal.log_prob(z) - q.log_prob(z)
    weights = np.exp(np.asarray(log_weights, np.float64))
    by_hand = (
        np.log(weights.mean(0)),
        np.asarray(log_weights).mean(0),
        weights.std(0, ddof=1) / np.sqrt(40) / weights.mean(0),
        weights.sum(0) ** 2 / (weights**2).sum(0),
        pareto_k(jnp.sort(log_weights, axis=0)[-8:], jnp.sort(log_weights, axis=0)[-9]),
    )
    for name, value, expected in zip(result._fields, result, by_hand, strict=True):
        # The index may be near zero.
        np.testing.assert_allclose(value, expected, rtol=2e-5, atol=1e-4 * (name == "pareto_k"), err_msg=name)


def test_memory_does_not_grow_with_the_samples(oracle):
    """But for the tail: its log-weights, sorted and in use, are a few numbers for each."""
    wide = jnp.ones((2, 1000)) / 50
    decode = lambda z: Normal(jnp.tanh(z @ wide)[..., :5], 1.0)

    def needed(num_samples):
        estimate = partial(importance_log_likelihood, encode=lambda x: Normal(x[..., :2], 1.0), decode=decode)
        program = jax.jit(partial(estimate, num_samples=num_samples)).lower(jax.random.key(0), jnp.ones((4, 5)))
        return program.compile().memory_analysis().temp_size_in_bytes

    few, many = needed(1000), needed(100_000)
    longer = tail_length(100_000) - tail_length(1000)
    assert many - few < 30 * 4 * 4 * longer, (few, many)  # of four bytes, for four examples
    assert few > 100 * 4 * 1000 * 4  # one chunk, so that the figure means something


class Says:
    """A likelihood that is what it was told."""

    def __init__(self, value):
        self.log_prob, self.sample = lambda x: value, lambda key: None


def test_weights_that_are_zero_huge_or_unknown(key):
    """The posterior is the prior, so that a weight is what the decoder says."""

    def decode(z):
        say = lambda low, tilt: jnp.where(z[0, 0] > 0.5, low, tilt * z[0, 0])
        values = jnp.stack([say(-jnp.inf, 1.0), -jnp.inf, say(jnp.nan, 1.0), 1e4 + 2 * z[0, 0], -1e4 + 2 * z[0, 0]])
        return Says(values)

    q = vaejax.standard_normal.expand((5, 1))
    options = {"prior": q, "num_samples": 100, "chunk_size": 30}
    estimate = jax.jit(partial(importance_log_likelihood, encode=lambda x: q, decode=decode, **options))
    result = estimate(key, jnp.ones(5))
    draws = jax.vmap(lambda k: q.sample(jax.random.fold_in(jax.random.clone(key), k))[0, 0])(jnp.arange(100))
    draws = np.asarray(draws, np.float64)
    huge = np.log(np.exp(2 * draws).mean())
    some = np.log(np.where(draws > 0.5, 0, np.exp(draws)).mean())
    np.testing.assert_allclose(result.value, [some, -np.inf, np.nan, 1e4 + huge, -1e4 + huge], rtol=1e-6)
    np.testing.assert_allclose(
        result.elbo, [-np.inf, -np.inf, np.nan, 1e4 + 2 * draws.mean(), -1e4 + 2 * draws.mean()], rtol=1e-6
    )
    # At ten thousand, single precision has steps of a thousandth.
    weights = np.exp(2 * draws)
    size = weights.sum() ** 2 / (weights**2).sum()
    np.testing.assert_allclose(result.effective_sample_size[1:], [np.nan, np.nan, size, size], rtol=1e-2)
    finite = [True, False, False, True, True]
    for figure in (result.standard_error, result.effective_sample_size, result.pareto_k):
        np.testing.assert_array_equal(jnp.isfinite(figure), finite)


def test_at_the_posterior_it_is_exact_and_every_density_will_do(oracle, key):
    x = oracle.marginal().sample(jax.random.key(8))
    exact = oracle.marginal().log_prob(x)
    estimate = lambda encode, num_samples: jax.jit(
        partial(importance_log_likelihood, encode=encode, decode=oracle.decode, num_samples=num_samples)
    )(jax.random.clone(key), x)
    tight = estimate(oracle.posterior, 30)
    chex.assert_trees_all_close((tight.value, tight.elbo), (exact, exact), rtol=1e-5)
    assert tight.standard_error < 1e-3
    assert tight.effective_sample_size > 29.99

    posterior = too_wide(oracle, x)
    flow = vaejax.Transformed(posterior, vaejax.ElementwiseAffine(jnp.full(2, 0.05), jnp.full(2, 0.05)))
    log_joint = lambda z: oracle.decode(z).log_prob(x) + vaejax.standard_normal.log_prob(z)
    moved = vaejax.HamiltonianPosterior(posterior, log_joint, 0.1, num_steps=2)
    mixture = vaejax.Mixture(jnp.zeros(1), jax.tree.map(lambda leaf: leaf[None], posterior))
    for q in (flow, moved, mixture):
        result = estimate(lambda x, q=q: q, 2000)
        assert jnp.abs(result.value - exact) < 5 * result.standard_error < 0.5


def test_one_sample_has_no_error_and_bad_input_is_refused(oracle, key):
    x = oracle.bias
    estimate = lambda encode=lambda x: Normal(x[:2], 1.0), decode=oracle.decode, **options: importance_log_likelihood(
        jax.random.clone(key), x, encode, decode, **options
    )
    one = estimate(num_samples=1)
    assert one.value == one.elbo
    assert jnp.isnan(one.standard_error)
    assert jnp.isnan(one.pareto_k)
    with pytest.raises(TypeError, match="the posterior Delta is a point and has no density"):
        estimate(lambda x: vaejax.Delta(x[:2]))
    with pytest.raises(ValueError, match="num_samples must be at least 1; got 0"):
        estimate(num_samples=0)
    with pytest.raises(ValueError, match="chunk_size must be at least 1; got 0"):
        estimate(chunk_size=0)
    with pytest.raises(TypeError, match="decode must return a distribution"):
        estimate(decode=lambda z: (z, z))
    with pytest.raises(ValueError, match=r"one log-probability per example, shape \(\) as the posterior has; got"):
        estimate(decode=lambda z: Normal(jnp.ones((3, 5)), 1.0))
