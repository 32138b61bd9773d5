"""Importance-weighted likelihoods against the linear-Gaussian oracle and against sums in double precision."""

from functools import cache, partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import vaejax
from tests.linear_gaussian import marginal_covariance, posterior
from vaejax import MultivariateNormal, Normal
from vaejax.evaluation.likelihood import importance_log_likelihood
from vaejax.evaluation.pareto import pareto_k, tail_length
from vaejax.testing import LinearGaussian

ORACLE = LinearGaussian(
    np.array([[0.9, -0.4], [-1.1, 0.3], [0.2, 1.2], [0.7, 0.6], [-0.5, 0.8]], np.float32),
    np.array([0.4, 1.9, 1.2, -0.3, 2.1], np.float32),
    np.float32(0.5),
)
X = np.array([[1.3, 0.7, 1.9, 0.2, 1.4], [0.1, 2.9, 0.4, -0.9, 2.0], [-0.5, 3.1, 2.6, 0.3, 3.3]], np.float32)


def too_wide(x):
    exact = ORACLE.posterior(x)
    return Normal(exact.mean + 0.1, 1.4 * jnp.linalg.norm(exact.scale_tril, axis=-1))


@pytest.mark.slow("statistics of the weights that are computed by hand below")
def test_it_is_below_log_p_and_its_weights_have_the_right_mean(key):
    """One example at a time with a key each, as it is used on a data set."""

    @jax.jit
    def estimates(key):
        data_key, key = jax.random.split(key)
        x = ORACLE.marginal().sample(data_key, (500,))
        estimate = lambda key, x: importance_log_likelihood(
            key, x, too_wide, ORACLE.decode, num_samples=130, chunk_size=50
        )
        exact, elbo = ORACLE.marginal().log_prob(x), ORACLE.elbo(x, too_wide(x))
        return jax.vmap(estimate)(jax.random.split(key, 500), x), exact, elbo

    result, exact, elbo = jax.tree.map(np.asarray, estimates(key))
    error = lambda values: np.std(values) / len(values) ** 0.5
    # p(x) without bias, so log p(x) from below; and the ELBO, further below.
    weights = np.exp(result.value - exact)
    assert abs(np.mean(weights) - 1) < 5 * error(weights)
    assert np.mean(result.elbo) < np.mean(result.value) < np.mean(exact) + 5 * error(weights)
    assert abs(np.mean(result.elbo - elbo)) < 5 * error(result.elbo - elbo)
    assert np.mean(exact - elbo) > 20 * error(result.elbo - elbo)
    # The standard error is right for most, and on average.
    standardized = (result.value - exact) / result.standard_error
    assert 0.9 < np.std(standardized) < 1.2
    assert np.all((result.effective_sample_size > 1) & (result.effective_sample_size < 130))


@partial(jax.jit, static_argnames="chunk_size")
def estimate_with(key, q, chunk_size):
    """The figures of all examples from 40 draws of `q`."""
    return importance_log_likelihood(key, X, lambda x: q, ORACLE.decode, num_samples=40, chunk_size=chunk_size)


def wide():
    """`too_wide(X)` as a Normal with a factor for each example."""
    mean, covariance = posterior(ORACLE, X)
    return MultivariateNormal(
        mean.astype(np.float32) + np.float32(0.1),
        np.tile(1.4 * np.diag(np.diag(covariance) ** 0.5), (3, 1, 1)).astype(np.float32),
    )


@cache
def by_hand():
    """Each figure from the draws of `fold_in(key, k)`."""

    @jax.jit
    def log_weights(key):
        q = wide()
        z = jax.vmap(lambda k: q.sample(jax.random.fold_in(jax.random.clone(key), k)))(jnp.arange(40))
        log_weights = ORACLE.decode(z).log_prob(X) + vaejax.standard_normal.log_prob(z) - q.log_prob(z)
        ordered = jnp.sort(log_weights, axis=0)
        return log_weights, pareto_k(ordered[-8:], ordered[-9])

    drawn, tail_index = log_weights(jax.random.key(3))
    weights = np.exp(np.asarray(drawn, np.float64))
    return (
        np.log(weights.mean(0)),
        np.asarray(drawn).mean(0),
        weights.std(0, ddof=1) / np.sqrt(40) / weights.mean(0),
        weights.sum(0) ** 2 / (weights**2).sum(0),
        tail_index,
    )


OTHER = pytest.mark.slow("another size of the chunks")


@pytest.mark.parametrize("chunk_size", [7, *(pytest.param(size, marks=OTHER) for size in (1, 100))])
def test_it_is_the_same_whatever_the_chunks(chunk_size):
    """7 does not divide 40."""
    result = estimate_with(jax.random.key(3), wide(), chunk_size)
    for name, value, expected in zip(result._fields, result, by_hand(), strict=True):
        # The index may be near zero.
        np.testing.assert_allclose(value, expected, rtol=2e-5, atol=1e-4 * (name == "pareto_k"), err_msg=name)


def test_memory_does_not_grow_with_the_samples():
    """But for the tail: its log-weights, sorted and in use, are a few numbers for each."""
    wide = np.ones((2, 1000), np.float32) / 50
    decode = lambda z: Normal(jnp.tanh(z @ wide)[..., :5], 1.0)

    def needed(num_samples):
        estimate = partial(importance_log_likelihood, encode=lambda x: Normal(x[..., :2], 1.0), decode=decode)
        program = jax.jit(partial(estimate, num_samples=num_samples)).lower(
            jax.random.key(0), np.ones((4, 5), np.float32)
        )
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
    result = estimate(key, np.ones(5, np.float32))
    draw = lambda k: q.sample(jax.random.fold_in(jax.random.clone(key), k))[0, 0]
    draws = np.asarray(jax.jit(jax.vmap(draw))(np.arange(100)), np.float64)
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
        np.testing.assert_array_equal(np.isfinite(figure), finite)


def test_at_the_posterior_it_is_exact():
    mean, covariance = posterior(ORACLE, X)
    factor = np.tile(np.linalg.cholesky(covariance), (3, 1, 1)).astype(np.float32)
    found = estimate_with(jax.random.key(4), MultivariateNormal(mean.astype(np.float32), factor), 7)
    exact = scipy.stats.multivariate_normal(ORACLE.bias, marginal_covariance(ORACLE)).logpdf(X).astype(np.float32)
    chex.assert_trees_all_close((found.value, found.elbo), (exact, exact), rtol=1e-5)
    assert np.all(found.standard_error < 1e-3)
    assert np.all(found.effective_sample_size > 39.98)


@pytest.mark.slow("compiles three posteriors more")
def test_every_density_will_do(key):
    x = X[0]
    affine = vaejax.ElementwiseAffine(np.full(2, 0.05, np.float32), np.full(2, 0.05, np.float32))

    @jax.jit
    def estimates(key):
        q, log_joint = too_wide(x), lambda z: ORACLE.decode(z).log_prob(x) + vaejax.standard_normal.log_prob(z)
        posteriors = {
            "flow": vaejax.Transformed(q, affine),
            "Hamiltonian": vaejax.HamiltonianPosterior(q, log_joint, 0.1, num_steps=2),
            "mixture": vaejax.Mixture(jnp.zeros(1), jax.tree.map(lambda leaf: leaf[None], q)),
        }

        def estimate(q, num_samples):
            options = {"num_samples": num_samples}
            return importance_log_likelihood(jax.random.clone(key), x, lambda x: q, ORACLE.decode, **options)[:4]

        return {name: estimate(q, 2000) for name, q in posteriors.items()}, ORACLE.marginal().log_prob(x)

    others, exact = estimates(key)
    for name, (value, _, error, _) in others.items():
        assert abs(value - exact) < 5 * error < 0.5, name


def test_one_sample_has_no_error_and_bad_input_is_refused(key):
    x = ORACLE.bias

    def estimate(encode=lambda x: Normal(x[:2], 1.0), decode=ORACLE.decode, evaluate=jax.eval_shape, **options):
        return evaluate(lambda: importance_log_likelihood(jax.random.clone(key), x, encode, decode, **options))

    one = estimate(evaluate=lambda f: jax.jit(f)(), num_samples=1)
    assert one.value == one.elbo
    assert np.isnan(one.standard_error)
    assert np.isnan(one.pareto_k)
    with pytest.raises(TypeError, match="Delta is a point and has no density"):
        estimate(lambda x: vaejax.Delta(x[:2]))
    with pytest.raises(ValueError, match="num_samples must be at least 1; got 0"):
        estimate(num_samples=0)
    with pytest.raises(ValueError, match="chunk_size must be at least 1; got 0"):
        estimate(chunk_size=0)
    with pytest.raises(TypeError, match="decode must return a distribution"):
        estimate(decode=lambda z: (z, z))
    with pytest.raises(TypeError, match="normalised likelihood; got OptimalNormal"):
        estimate(decode=lambda z: vaejax.OptimalNormal(ORACLE.decode(z).mean))
    with pytest.raises(ValueError, match=r"per example, shape \(\) .*; got"):
        estimate(decode=lambda z: Normal(jnp.ones((3, 5)), 1.0))
