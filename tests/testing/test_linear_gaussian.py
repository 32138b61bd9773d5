"""The oracle itself, against direct computations that share nothing with it."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from vaejax import Normal
from vaejax.testing import linear_gaussian


def test_marginal_is_scipys(x64, key):
    oracle = linear_gaussian(key, 5, 2)
    x = oracle.marginal().sample(jax.random.key(1), (20,))
    covariance = oracle.weight @ oracle.weight.T + oracle.scale**2 * jnp.eye(5)
    expected = scipy.stats.multivariate_normal(oracle.bias, covariance).logpdf(x)
    chex.assert_trees_all_close(oracle.marginal().log_prob(x), expected, rtol=1e-10)


def test_marginal_and_posterior_are_what_integration_over_the_latent_gives(x64, key):
    oracle = linear_gaussian(key, 3, 1)
    x = oracle.marginal().sample(jax.random.key(1), (4,))
    grid = jnp.linspace(-8.0, 8.0, 4001)
    log_joint = oracle.decode(grid[:, None, None]).log_prob(x) + Normal(0.0, 1.0, 0).log_prob(grid)[:, None]
    evidence = jnp.trapezoid(jnp.exp(log_joint), grid, axis=0)
    chex.assert_trees_all_close(oracle.marginal().log_prob(x), jnp.log(evidence), rtol=1e-8)
    posterior = jnp.exp(log_joint) / evidence
    chex.assert_trees_all_close(
        oracle.posterior(x).mean[:, 0], jnp.trapezoid(posterior * grid[:, None], grid, axis=0), rtol=1e-8
    )
    chex.assert_trees_all_close(jnp.exp(oracle.posterior(x).log_prob(grid[:, None, None])), posterior, atol=1e-8)


def test_exact_elbo_is_log_p_minus_the_divergence_from_the_posterior(x64, key):
    """ln p(x) = KL(q || p(z|x)) + ELBO, with the KL by quadrature over a plane."""
    oracle = linear_gaussian(key, 4, 2)
    x = oracle.marginal().sample(jax.random.key(1))
    q = Normal(jnp.array([0.3, -0.8]), jnp.array([0.4, 0.7]))
    axis = np.linspace(-7.0, 7.0, 801)
    plane = jnp.stack(jnp.meshgrid(axis, axis), axis=-1)
    log_q = q.log_prob(plane)
    integrand = jnp.exp(log_q) * (log_q - oracle.posterior(x).log_prob(plane))
    divergence = jnp.trapezoid(jnp.trapezoid(integrand, axis), axis)
    chex.assert_trees_all_close(oracle.elbo(x, q), oracle.marginal().log_prob(x) - divergence, rtol=1e-8)


def test_exact_elbo_is_tight_at_the_posterior(x64, key):
    oracle = linear_gaussian(key, 5, 3)
    x = oracle.marginal().sample(jax.random.key(1), (10,))
    chex.assert_trees_all_close(oracle.elbo(x, oracle.posterior(x)), oracle.marginal().log_prob(x), rtol=1e-10)
