"""Closed-form divergences against quadrature, Monte Carlo and their own laws."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vaejax
from vaejax import Bernoulli, Categorical, ContinuousBernoulli, Delta, Laplace, MultivariateNormal, Normal

# Two asymmetric members of each family: a swapped order or a lost sign shows.
CONTINUOUS = {
    "normal": (Normal(0.7, 0.6, 0), Normal(-0.4, 1.5, 0)),
    "laplace": (Laplace(-0.3, 0.5, 0), Laplace(0.9, 1.2, 0)),
}


def integrate(function, low, high, count=400_001):
    grid = jnp.linspace(low, high, count)
    return jnp.trapezoid(function(grid), grid)


def test_normal_is_gauss_hermite_quadrature(x64):
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    q, p = CONTINUOUS["normal"]
    z = q.loc + q.scale * nodes
    expected = np.sum(weights * (q.log_prob(z) - p.log_prob(z))) / np.sqrt(2 * np.pi)
    chex.assert_trees_all_close(vaejax.kl_divergence(q, p), expected, rtol=1e-12)


@pytest.mark.parametrize("family_q", CONTINUOUS)
@pytest.mark.parametrize("family_p", CONTINUOUS)
def test_every_pair_of_densities_is_its_integral(x64, family_q, family_p):
    q, p = CONTINUOUS[family_q][0], CONTINUOUS[family_p][1]
    expected = integrate(lambda z: jnp.exp(q.log_prob(z)) * (q.log_prob(z) - p.log_prob(z)), -30.0, 30.0)
    chex.assert_trees_all_close(vaejax.kl_divergence(q, p), expected, rtol=1e-6)


@pytest.mark.parametrize(("a", "b"), [(2.0, -1.0), (0.1, -0.2), (0.0, 3.0), (40.0, -40.0)])
def test_continuous_bernoulli_is_its_integral(x64, a, b):
    q, p = ContinuousBernoulli(a, 0), ContinuousBernoulli(b, 0)
    expected = integrate(lambda x: jnp.exp(q.log_prob(x)) * (q.log_prob(x) - p.log_prob(x)), 0.0, 1.0)
    chex.assert_trees_all_close(vaejax.kl_divergence(q, p), expected, rtol=1e-6)


def test_discrete_families_are_their_sums(x64):
    q, p = Bernoulli(1.3, 0), Bernoulli(-0.4, 0)
    x = jnp.array([0.0, 1.0])
    expected = jnp.sum(jnp.exp(q.log_prob(x)) * (q.log_prob(x) - p.log_prob(x)))
    chex.assert_trees_all_close(vaejax.kl_divergence(q, p), expected, rtol=1e-12)
    q, p = Categorical(jnp.array([1.0, -2.0, 0.5]), 0), Categorical(jnp.array([0.0, 1.0, 2.0]), 0)
    x = jnp.arange(3)
    expected = jnp.sum(jnp.exp(q.log_prob(x)) * (q.log_prob(x) - p.log_prob(x)))
    chex.assert_trees_all_close(vaejax.kl_divergence(q, p), expected, rtol=1e-12)


def test_full_covariance_agrees_with_the_diagonal_and_with_monte_carlo(x64, key):
    loc, scale = jnp.array([0.3, -1.0]), jnp.array([0.5, 2.0])
    diagonal = Normal(loc, scale)
    full = MultivariateNormal(loc, jnp.diag(scale))
    chex.assert_trees_all_close(
        vaejax.kl_divergence(full, vaejax.standard_normal),
        vaejax.kl_divergence(diagonal, vaejax.standard_normal),
        rtol=1e-12,
    )
    q = MultivariateNormal(loc, jnp.array([[0.5, 0.0], [0.9, 1.1]]))
    p = MultivariateNormal(-loc, jnp.array([[1.5, 0.0], [-0.2, 0.7]]))
    z = q.sample(key, (100_000,))
    draws = q.log_prob(z) - p.log_prob(z)
    deviation = (jnp.mean(draws) - vaejax.kl_divergence(q, p)) / (jnp.std(draws) / len(draws) ** 0.5)
    assert abs(deviation) < 5


@given(st.integers(0, 10**6))
def test_is_nonnegative_zero_only_between_equals_and_additive(seed):
    keys = jax.random.split(jax.random.key(seed), 4)
    loc_q, loc_p = jax.random.normal(keys[0], (3,)), jax.random.normal(keys[1], (3,))
    scale_q, scale_p = jnp.exp(jax.random.normal(keys[2], (3,))), jnp.exp(jax.random.normal(keys[3], (3,)))
    for family in (Normal, Laplace):
        q, p = family(loc_q, scale_q), family(loc_p, scale_p)
        assert vaejax.kl_divergence(q, p) > 1e-6
        chex.assert_trees_all_close(vaejax.kl_divergence(q, q), 0.0, atol=1e-6)
        axes = vaejax.kl_divergence(family(loc_q, scale_q, 0), family(loc_p, scale_p, 0))
        assert axes.shape == (3,)
        chex.assert_trees_all_close(jnp.sum(axes), vaejax.kl_divergence(q, p), rtol=1e-5)


@pytest.mark.parametrize("family_q", CONTINUOUS)
@pytest.mark.parametrize("family_p", CONTINUOUS)
def test_is_the_mean_of_monte_carlo(key, family_q, family_p):
    q, p = CONTINUOUS[family_q][0], CONTINUOUS[family_p][1]
    z = q.sample(key, (200_000,))
    draws = q.log_prob(z) - p.log_prob(z)
    deviation = (jnp.mean(draws) - vaejax.kl_divergence(q, p)) / (jnp.std(draws) / len(draws) ** 0.5)
    assert abs(deviation) < 5


def test_of_a_point_is_minus_its_log_density():
    z = jnp.array([[0.5, -1.0], [2.0, 0.0]])
    chex.assert_trees_all_equal(
        vaejax.kl_divergence(Delta(z), vaejax.standard_normal), -vaejax.standard_normal.log_prob(z)
    )


def test_a_method_of_the_users_own_distribution_is_used():
    class Mine:
        def sample(self, key, sample_shape=()): ...
        def log_prob(self, value): ...
        def kl_divergence(self, other):
            return jnp.array([42.0])

    assert vaejax.kl_divergence(Mine(), vaejax.standard_normal) == 42.0


def test_without_a_closed_form_monte_carlo_kl_is_named():
    with pytest.raises(TypeError, match=r"Bernoulli to Normal.*monte_carlo_kl"):
        vaejax.kl_divergence(Bernoulli(jnp.zeros(2)), vaejax.standard_normal)


def test_event_axes_and_sizes_must_agree():
    q = Normal(jnp.zeros((4, 3)), 1.0)
    with pytest.raises(ValueError, match="same number of event axes; got 1 and 0"):
        vaejax.kl_divergence(q, Normal(0.0, 1.0, 0))
    with pytest.raises(ValueError, match=r"event shape \(1,\); got shape \(4, 3\)"):
        vaejax.kl_divergence(q, Normal(jnp.zeros(1), 1.0))


def test_levels_that_never_occur_cost_nothing():
    q, p = Categorical(jnp.log(jnp.array([0.0, 0.5, 0.5])), 0), Categorical(jnp.zeros(3), 0)
    chex.assert_trees_all_close(vaejax.kl_divergence(q, p), jnp.log(1.5), rtol=1e-6)
    chex.assert_trees_all_close(vaejax.kl_divergence(q, q), 0.0, atol=1e-6)
    assert vaejax.kl_divergence(p, q) == jnp.inf


def test_a_diagonal_posterior_and_a_correlated_prior(x64, key):
    q = Normal(jnp.array([[0.3, -1.0]]), jnp.array([0.5, 2.0]))
    p = MultivariateNormal(jnp.array([0.1, 0.2]), jnp.array([[1.5, 0.0], [-0.2, 0.7]]))
    z = q.sample(key, (100_000,))
    draws = (q.log_prob(z) - p.log_prob(z))[:, 0]
    deviation = (jnp.mean(draws) - vaejax.kl_divergence(q, p)) / (jnp.std(draws) / len(draws) ** 0.5)
    assert jnp.all(jnp.abs(deviation) < 5)


@pytest.mark.parametrize("batch_q", [(), (3,), (2, 1)])
@pytest.mark.parametrize("batch_p", [(), (3,), (2, 3)])
def test_full_covariances_of_any_batches(x64, batch_q, batch_p):
    """As many vectors as axes: a batch axis taken for an event axis gives numbers, and wrong ones."""
    keys = jax.random.split(jax.random.key(0), 4)

    def draw(loc_key, factor_key, batch):
        factor = jnp.eye(3) + jnp.tril(jax.random.uniform(factor_key, (*batch, 3, 3)))
        return MultivariateNormal(jax.random.normal(loc_key, (*batch, 3)), factor)

    q, p = draw(keys[0], keys[1], batch_q), draw(keys[2], keys[3], batch_p)
    batch = jnp.broadcast_shapes(batch_q, batch_p)
    parts = [jnp.broadcast_to(a, (*batch, *a.shape[-n:])) for d in (q, p) for a, n in ((d.loc, 1), (d.scale_tril, 2))]
    expected = jnp.empty(batch)
    for index in np.ndindex(*batch):
        loc_q, factor_q, loc_p, factor_p = (np.asarray(part[index]) for part in parts)
        precision = np.linalg.inv(factor_p @ factor_p.T)
        covariance = factor_q @ factor_q.T
        quadratic = np.trace(precision @ covariance) + (loc_q - loc_p) @ precision @ (loc_q - loc_p)
        log_ratio = np.linalg.slogdet(factor_p @ factor_p.T)[1] - np.linalg.slogdet(covariance)[1]
        expected = expected.at[index].set(0.5 * (quadratic - 3 + log_ratio))
    chex.assert_trees_all_close(vaejax.kl_divergence(q, p), expected, rtol=1e-10)
