"""Annealed importance sampling against the linear-Gaussian oracle, and the moves it is made of."""

from functools import cache, partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import vaejax
from vaejax import Normal, standard_normal
from vaejax.evaluation import annealing
from vaejax.evaluation.annealing import annealed_log_likelihood, bidirectional
from vaejax.evaluation.hmc import hamiltonian_step
from vaejax.testing import LinearGaussian

ORACLE = LinearGaussian(
    np.array([[0.9, -0.4], [-1.1, 0.3], [0.2, 1.2], [0.7, 0.6], [-0.5, 0.8]], np.float32),
    np.array([0.4, 1.9, 1.2, -0.3, 2.1], np.float32),
    np.float32(0.5),
)
PRIOR = standard_normal.expand((2,))


def log_p(x):
    """The exact log-likelihoods."""
    covariance = ORACLE.weight @ ORACLE.weight.T + ORACLE.scale**2 * np.eye(5)
    return scipy.stats.multivariate_normal(ORACLE.bias, covariance).logpdf(x)


def reconstruction(z):
    return z @ ORACLE.weight.T + ORACLE.bias


def is_zero(values, errors=5.0):
    """Whether the mean over the leading axis is zero to within its error."""
    return np.all(np.abs(np.mean(values, axis=0)) < errors * np.std(values, axis=0) / len(values) ** 0.5)


def test_a_step_keeps_its_target_and_is_reversible(key):
    """A correlated Normal: draws stay draws, and pairs (before, after) are as likely as (after, before)."""
    loc, factor = np.float32([1.0, -2.0]), np.float32([[0.5, 0.0], [0.9, 0.7]])
    noise = np.random.default_rng(0).normal(size=(200_000, 2)).astype(np.float32)
    z = loc + noise @ factor.T
    # So large a step that a third is rejected; each example has its own.
    sizes = np.where(np.arange(len(z)) % 2 == 0, 0.45, 0.35).astype(np.float32)

    @jax.jit
    def step(key, z):
        target = vaejax.MultivariateNormal(loc, factor)
        return hamiltonian_step(key, z, log_density=target.log_prob, num_leapfrog=3, step_size=sizes)

    moved = jax.tree.map(np.asarray, step(key, z))
    assert 0.4 < np.mean(moved.acceptance) < 0.9
    before, after = ((each - loc) @ np.linalg.inv(factor).T for each in (z, moved.z))
    assert is_zero(after)
    assert is_zero(after**2 - 1)
    assert is_zero(after[:, 0] * after[:, 1])
    assert np.mean(np.any(z != moved.z, axis=1)) == pytest.approx(np.mean(moved.acceptance), abs=0.01)
    for f, g in [(0, 1), (1, 0), (0, 0)]:
        assert is_zero(before[:, f] * after[:, g] ** 2 - after[:, f] * before[:, g] ** 2)
        assert is_zero(before[:, f] ** 3 * after[:, g] - after[:, f] ** 3 * before[:, g])


def test_small_steps_conserve_energy_and_wild_ones_stay(key):
    loc, scale = np.float32([1.0, -2.0]), np.float32([0.5, 2.0])
    z = loc + scale * np.random.default_rng(0).normal(size=(500, 2)).astype(np.float32)
    step = jax.jit(lambda key, size: hamiltonian_step(key, z, log_density=Normal(loc, scale).log_prob, step_size=size))
    small = step(key, np.float32(0.02))
    # The error of the energy falls with the square of the step.
    assert np.min(small.acceptance) > 0.99
    assert np.mean(np.abs(small.z - z)) > 0.1
    # 1e30 squared is no number in single precision.
    wild = step(jax.random.key(1), np.float32(1e30))
    np.testing.assert_array_equal(wild.z, z)
    np.testing.assert_array_equal(wild.acceptance, np.zeros(500))


@cache
def sandwich(num_temperatures):
    """400 examples with a key each."""
    run = lambda key: bidirectional(
        key, ORACLE.decode, PRIOR, 1, num_temperatures=num_temperatures, num_chains=4, num_leapfrog=3, step_size=0.4
    )
    keys = jax.random.split(jax.random.key(num_temperatures), 400)
    return jax.tree.map(lambda leaf: np.asarray(leaf)[:, 0], jax.jit(jax.vmap(run))(keys))


def check_bounds(bounds, least):
    """Both sides hold log p(x) between them; `least` errors of the mean are the least distance from it."""
    exact = log_p(bounds.x)
    # Exactly, however few the temperatures: E[w] = p(x) forwards, E[1 / w] = 1 / p(x) backwards.
    assert is_zero(np.exp(bounds.lower.value - exact) - 1)
    assert is_zero(np.exp(exact - bounds.upper.value) - 1)
    for each in (exact - bounds.lower.value, bounds.upper.value - exact):
        assert np.mean(each) > least * np.std(each) / len(each) ** 0.5
    for each in (bounds.lower, bounds.upper):
        assert np.all((each.effective_sample_size >= 1) & (each.effective_sample_size <= 4.0001))
    assert abs(np.mean(bounds.upper.acceptance) - np.mean(bounds.lower.acceptance)) < 0.1
    # The latents that are given are those of which x was made.
    assert is_zero(bounds.x - reconstruction(bounds.latents))
    assert np.std(bounds.x - reconstruction(bounds.latents)) == pytest.approx(0.5, rel=0.1)


def test_bounds_enclose_log_p():
    check_bounds(sandwich(8), least=3)


@pytest.mark.slow("compiles the chains again for more temperatures")
def test_bounds_of_more_temperatures_close_in_on_log_p():
    few, many = sandwich(8), sandwich(80)
    check_bounds(many, least=-5)
    width = lambda bounds: np.mean(bounds.upper.value - bounds.lower.value)
    assert width(many) < width(few) / 3
    # The pilots have found the acceptance that they looked for, and the chains have it too.
    assert abs(np.mean(many.lower.acceptance) - 0.65) < 0.2


def near_posterior(x):
    exact = ORACLE.posterior(x)
    return Normal(exact.mean + 0.2, 1.5 * jnp.linalg.norm(exact.scale_tril, axis=-1))


@pytest.mark.slow("another start of the chains")
def test_chains_may_start_from_an_encoder_and_end_there(key):
    """A batch at once; starting near, a few temperatures are enough."""
    run = partial(
        bidirectional, decode=ORACLE.decode, prior=PRIOR, count=400, encode=near_posterior,
        num_temperatures=6, num_chains=5, num_leapfrog=3,
    )  # fmt: skip
    bounds = jax.tree.map(np.asarray, jax.jit(lambda key: run(key, step_size=0.3))(key))
    chex.assert_shape((*bounds.lower, *bounds.upper), (400,))
    exact = log_p(bounds.x)
    assert is_zero(np.exp(bounds.lower.value - exact) - 1)
    assert is_zero(np.exp(exact - bounds.upper.value) - 1)
    assert np.std(bounds.lower.value - exact) < 0.5
    assert np.std((bounds.lower.value - exact) / bounds.lower.standard_error) < 3


def test_step_sizes_know_nothing_of_the_chains_that_count():
    """Wherever those start: that is why their weights are unbiased."""

    @jax.jit
    def step_sizes(chains, pilots):
        path, z = annealing._begin(jax.random.key(0), ORACLE.bias, ORACLE.decode, PRIOR, None, 7)
        z = z * jnp.where(np.arange(7)[:, None] < 3, pilots, chains)
        return annealing._forward(jax.random.key(1), z, path, 20, 0.4, num_pilots=3, num_leapfrog=2)[1]

    one, five = np.float32(1.0), np.float32(5.0)
    first = step_sizes(one, one)
    np.testing.assert_array_equal(step_sizes(five, one), first)
    assert np.all(step_sizes(one, five)[1:] != first[1:])
    assert len(np.unique(first)) == 19


@pytest.mark.parametrize("near", [True, pytest.param(False, marks=pytest.mark.slow("another start of the chains"))])
def test_one_temperature_is_importance_sampling(key, near):
    """Of a batch, from the prior over one latent or from a posterior for each: the chains do not move."""
    noise = np.random.default_rng(1).normal(size=(3, 5))
    x = (ORACLE.bias + noise).astype(np.float32)

    @jax.jit
    def estimate(key, x):
        prior, base = (standard_normal, near_posterior(x)) if near else (PRIOR, None)
        options = {"base": base, "num_temperatures": 1, "num_chains": 20_000, "num_leapfrog": 1}
        return annealed_log_likelihood(key, x, ORACLE.decode, prior, **options)

    result = estimate(key, x)
    assert np.all(np.abs(result.value - log_p(x)) < 5 * result.standard_error)
    assert np.all(result.standard_error < (0.02 if near else 0.2))
    assert np.all(np.isnan(result.acceptance))


BAD = {
    "no size": ({"prior": standard_normal}, ValueError, "give it a shape first, as in standard_normal.expand"),
    "discrete": ({"prior": vaejax.Bernoulli(np.zeros(2))}, TypeError, "prior must be continuous.*Bernoulli, which is disc"),
    "a point": ({"base": vaejax.Delta(np.zeros(2))}, TypeError, "base must be continuous.*Delta, which is a point"),
    "a sphere": ({"prior": vaejax.SphericalUniform(2)}, TypeError, "SphericalUniform, which is not a density on all"),
    "no likelihood": (
        {"decode": lambda z: vaejax.OptimalNormal(ORACLE.decode(z).mean)}, TypeError, "normalised.*OptimalNormal"
    ),
    "steps": ({"step_size": 0.0}, ValueError, "step_size must be positive"),
    "temperatures": ({"num_temperatures": 0}, ValueError, "num_temperatures must be at least 1; got 0"),
    "pilots": ({"num_pilots": 0}, ValueError, "num_pilots must be at least 1; got 0"),
    "no distribution": ({"base": 3.0}, TypeError, "base .*got float"),
    "events": (
        {"decode": lambda z: Normal(np.ones((4, 5)), 1.0), "base": standard_normal.expand((3, 2))},
        ValueError, r"per example; got shape \(4,\) .*base has \(3,\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_with_its_reason(key, name):
    changes, error, message = BAD[name]
    options = {"decode": ORACLE.decode, "prior": PRIOR} | changes
    with pytest.raises(error, match=message):
        jax.eval_shape(lambda: annealed_log_likelihood(key, ORACLE.bias, **options))
