"""The oracle itself, against direct computations that share nothing with it."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from vaejax import MultivariateNormal, Normal
from vaejax.testing import LinearGaussian, linear_gaussian

RANDOM = np.random.default_rng(0)


def model(data_size, latent_size):
    """A model, its exact covariance of the data, and examples."""
    weight, bias = RANDOM.normal(size=(data_size, latent_size)), 1 + RANDOM.normal(size=data_size)
    oracle = LinearGaussian(weight, bias, np.float64(0.5))
    covariance = weight @ weight.T + 0.25 * np.eye(data_size)
    return oracle, covariance, RANDOM.multivariate_normal(bias, covariance, 20)


def test_a_model_has_the_sizes_that_it_was_asked_for(x64, key):
    oracle = jax.jit(lambda key: linear_gaussian(key, 5, 2, 0.3))(key)
    assert [leaf.shape for leaf in oracle] == [(5, 2), (5,), ()]
    assert oracle.scale == 0.3
    # No symmetry hides a sign.
    assert len(np.unique(np.abs(np.concatenate([oracle.weight.ravel(), oracle.bias])))) == 15


def test_marginal_is_scipys(x64):
    oracle, covariance, x = model(5, 2)
    expected = scipy.stats.multivariate_normal(oracle.bias, covariance).logpdf(x)
    log_prob = jax.jit(lambda x: oracle.marginal().log_prob(x))(x)
    np.testing.assert_allclose(log_prob, expected, rtol=1e-10)


def test_marginal_and_posterior_are_what_integration_over_the_latent_gives(x64):
    oracle, _, x = model(3, 1)
    grid = np.linspace(-8.0, 8.0, 4001)

    @jax.jit
    def densities(x):
        posterior = oracle.posterior(x)
        return oracle.marginal().log_prob(x), posterior.mean, posterior.log_prob(grid[:, None, None])

    log_likelihood = scipy.stats.norm(grid[:, None, None] * oracle.weight[:, 0] + oracle.bias, 0.5).logpdf(x).sum(-1)
    log_joint = log_likelihood + scipy.stats.norm.logpdf(grid)[:, None]
    evidence = np.trapezoid(np.exp(log_joint), grid, axis=0)
    marginal, mean, log_posterior = densities(x)
    np.testing.assert_allclose(marginal, np.log(evidence), rtol=1e-8)
    posterior = np.exp(log_joint) / evidence
    np.testing.assert_allclose(mean[:, 0], np.trapezoid(posterior * grid[:, None], grid, axis=0), rtol=1e-8)
    np.testing.assert_allclose(np.exp(log_posterior), posterior, atol=1e-8)


def test_exact_elbo_is_log_p_minus_the_divergence_from_the_posterior(x64):
    """ln p(x) = KL(q || p(z|x)) + ELBO, with the KL by quadrature over a plane; at the posterior it is log p(x)."""
    oracle, covariance, x = model(4, 2)
    loc, scale = np.array([0.3, -0.8]), np.array([0.4, 0.7])
    axis = np.linspace(-7.0, 7.0, 401)
    plane = np.stack(np.meshgrid(axis, axis), axis=-1)

    @jax.jit
    def elbos(x):
        posterior = oracle.posterior(x)
        of_one = oracle.posterior(x[0]).log_prob(plane)
        full = MultivariateNormal(loc, jnp.diag(scale))
        return oracle.elbo(x[0], Normal(loc, scale)), oracle.elbo(x[0], full), of_one, oracle.elbo(x, posterior)

    elbo, same, log_posterior, tight = elbos(x)
    log_p = scipy.stats.multivariate_normal(oracle.bias, covariance).logpdf(x)
    log_q = scipy.stats.norm(loc, scale).logpdf(plane).sum(-1)
    integrand = np.exp(log_q) * (log_q - log_posterior)
    divergence = np.trapezoid(np.trapezoid(integrand, axis), axis)
    np.testing.assert_allclose(elbo, log_p[0] - divergence, rtol=1e-8)
    np.testing.assert_allclose(same, elbo, rtol=1e-12)
    np.testing.assert_allclose(tight, log_p, rtol=1e-10)
