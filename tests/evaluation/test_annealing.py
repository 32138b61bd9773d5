"""Annealed importance sampling against the linear-Gaussian oracle, and the moves it is made of."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vaejax
from vaejax import Normal, standard_normal
from vaejax.evaluation import annealing
from vaejax.evaluation.annealing import annealed_log_likelihood, bidirectional
from vaejax.evaluation.hmc import hamiltonian_step
from vaejax.testing import linear_gaussian


@pytest.fixture
def oracle():
    return linear_gaussian(jax.random.key(7), 5, 2)


PRIOR = standard_normal.expand((2,))


def is_zero(values, errors=5.0):
    """Whether the mean over the leading axis is zero to within its error."""
    return jnp.all(jnp.abs(jnp.mean(values, axis=0)) < errors * jnp.std(values, axis=0) / len(values) ** 0.5)


def test_a_step_keeps_its_target_and_is_reversible(key):
    """A correlated Normal: draws stay draws, and pairs (before, after) are as likely as (after, before)."""
    target = vaejax.MultivariateNormal(jnp.array([1.0, -2.0]), jnp.array([[0.5, 0.0], [0.9, 0.7]]))
    start_key, key = jax.random.split(key)
    z = target.sample(start_key, (200_000,))
    # So large a step that a third is rejected; each example has its own.
    sizes = jnp.where(jnp.arange(len(z)) % 2 == 0, 0.45, 0.35)
    moved = jax.jit(partial(hamiltonian_step, log_density=target.log_prob, num_leapfrog=3))(key, z, step_size=sizes)
    assert 0.4 < jnp.mean(moved.acceptance) < 0.9
    before, after = ((each - target.loc) @ jnp.linalg.inv(target.scale_tril).T for each in (z, moved.z))
    assert is_zero(after)
    assert is_zero(after**2 - 1)
    assert is_zero(after[:, 0] * after[:, 1])
    assert jnp.mean(jnp.any(z != moved.z, axis=1)) == pytest.approx(float(jnp.mean(moved.acceptance)), abs=0.01)
    for f, g in [(0, 1), (1, 0), (0, 0)]:
        assert is_zero(before[:, f] * after[:, g] ** 2 - after[:, f] * before[:, g] ** 2)
        assert is_zero(before[:, f] ** 3 * after[:, g] - after[:, f] ** 3 * before[:, g])


def test_small_steps_conserve_energy_and_wild_ones_stay(key):
    small_key, wild_key = jax.random.split(key)
    target = Normal(jnp.array([1.0, -2.0]), jnp.array([0.5, 2.0]))
    z = target.sample(jax.random.key(0), (500,))
    step = jax.jit(partial(hamiltonian_step, log_density=target.log_prob))
    small = step(small_key, z, step_size=0.02)
    # The error of the energy falls with the square of the step.
    assert jnp.min(small.acceptance) > 0.99
    assert jnp.mean(jnp.abs(small.z - z)) > 0.1
    # 1e30 squared is no number in single precision.
    wild = step(wild_key, z, step_size=1e30)
    chex.assert_trees_all_equal(wild.z, z)
    chex.assert_trees_all_equal(wild.acceptance, jnp.zeros(500))


def sandwich(oracle, num_temperatures):
    """400 examples with a key each."""
    run = lambda key: bidirectional(
        key, oracle.decode, PRIOR, 1, num_temperatures=num_temperatures, num_chains=4, num_leapfrog=3, step_size=0.4
    )
    keys = jax.random.split(jax.random.key(num_temperatures), 400)
    return jax.tree.map(lambda leaf: leaf[:, 0], jax.jit(jax.vmap(run))(keys))


def test_bounds_enclose_log_p_and_close_in_on_it(oracle):
    gaps = []
    for num_temperatures in (8, 80):
        bounds = sandwich(oracle, num_temperatures)
        exact = oracle.marginal().log_prob(bounds.x)
        # Exactly, however few the temperatures: E[w] = p(x) forwards, E[1 / w] = 1 / p(x) backwards.
        assert is_zero(jnp.exp(bounds.lower.value - exact) - 1)
        assert is_zero(jnp.exp(exact - bounds.upper.value) - 1)
        below, above = exact - bounds.lower.value, bounds.upper.value - exact
        error = lambda values: jnp.std(values) / len(values) ** 0.5
        for each in (below, above):
            assert jnp.mean(each) > (3 if num_temperatures == 8 else -5) * error(each)
        gaps.append(jnp.mean(below + above))
        for each in (bounds.lower, bounds.upper):
            assert jnp.all((each.effective_sample_size >= 1) & (each.effective_sample_size <= 4.0001))
    assert gaps[1] < gaps[0] / 3
    # The pilots have found the acceptance that they looked for, and the chains have it too.
    assert abs(jnp.mean(bounds.lower.acceptance) - 0.65) < 0.2
    assert abs(jnp.mean(bounds.upper.acceptance) - jnp.mean(bounds.lower.acceptance)) < 0.1
    # The latents that are given are those of which x was made.
    assert is_zero(bounds.x - oracle.decode(bounds.latents).mean)
    assert jnp.std(bounds.x - oracle.decode(bounds.latents).mean) == pytest.approx(0.5, rel=0.1)


def near_posterior(oracle, x):
    exact = oracle.posterior(x)
    return Normal(exact.mean + 0.2, 1.5 * jnp.linalg.norm(exact.scale_tril, axis=-1))


def test_chains_may_start_from_an_encoder_and_end_there(oracle, key):
    """A batch at once; starting near, a few temperatures are enough."""
    run = partial(
        bidirectional, decode=oracle.decode, prior=PRIOR, count=400, encode=partial(near_posterior, oracle),
        num_temperatures=6, num_chains=5, num_leapfrog=3,
    )  # fmt: skip
    bounds = jax.jit(lambda key: run(key, step_size=0.3))(key)
    chex.assert_shape((*bounds.lower, *bounds.upper), (400,))
    exact = oracle.marginal().log_prob(bounds.x)
    assert is_zero(jnp.exp(bounds.lower.value - exact) - 1)
    assert is_zero(jnp.exp(exact - bounds.upper.value) - 1)
    assert jnp.std(bounds.lower.value - exact) < 0.5
    assert jnp.std((bounds.lower.value - exact) / bounds.lower.standard_error) < 3


def test_step_sizes_know_nothing_of_the_chains_that_count(oracle):
    """Wherever those start: that is why their weights are unbiased."""
    path, z = annealing._begin(jax.random.key(0), oracle.bias, oracle.decode, PRIOR, None, 7)

    @jax.jit
    def step_sizes(z):
        return annealing._forward(jax.random.key(1), z, path, 20, 0.4, num_pilots=3, num_leapfrog=2)[1]

    first = step_sizes(z)
    chex.assert_trees_all_equal(step_sizes(z.at[3:].multiply(5.0)), first)
    assert jnp.all(step_sizes(z.at[:3].multiply(5.0))[1:] != first[1:])
    assert len(jnp.unique(first)) == 19


@pytest.mark.parametrize("near", [False, True])
def test_one_temperature_is_importance_sampling(oracle, key, near):
    """Of a batch, from the prior over one latent or from a posterior for each: the chains do not move."""
    x = oracle.marginal().sample(jax.random.key(1), (3,))
    prior, base = (standard_normal, near_posterior(oracle, x)) if near else (PRIOR, None)
    options = {"base": base, "num_temperatures": 1, "num_chains": 20_000, "num_leapfrog": 1}
    result = jax.jit(partial(annealed_log_likelihood, decode=oracle.decode, prior=prior, **options))(key, x)
    error = np.abs(result.value - oracle.marginal().log_prob(x)) / result.standard_error
    assert np.all(error < 5)
    assert np.all(result.standard_error < (0.02 if near else 0.2))
    assert np.all(np.isnan(result.acceptance))


BAD = {
    "no size": ({"prior": standard_normal}, ValueError, "give it a shape first, as in standard_normal.expand"),
    "discrete": ({"prior": vaejax.Bernoulli(jnp.zeros(2))}, TypeError, "prior must be continuous.*Bernoulli, which is disc"),
    "a point": ({"base": vaejax.Delta(jnp.zeros(2))}, TypeError, "base must be continuous.*Delta, which is a point"),
    "a sphere": ({"prior": vaejax.SphericalUniform(2)}, TypeError, "SphericalUniform, which is not a density on all"),
    "steps": ({"step_size": 0.0}, ValueError, "step_size must be positive"),
    "temperatures": ({"num_temperatures": 0}, ValueError, "num_temperatures must be at least 1; got 0"),
    "pilots": ({"num_pilots": 0}, ValueError, "num_pilots must be at least 1; got 0"),
    "no distribution": ({"base": 3.0}, TypeError, "base must be a distribution with sample and log_prob; got float"),
    "events": (
        {"decode": lambda z: Normal(jnp.ones((4, 5)), 1.0), "base": standard_normal.expand((3, 2))},
        ValueError, r"one log-probability per example; got shape \(4,\) where the log-density of base has \(3,\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_with_its_reason(oracle, key, name):
    changes, error, message = BAD[name]
    options = {"decode": oracle.decode, "prior": PRIOR} | changes
    with pytest.raises(error, match=message):
        annealed_log_likelihood(key, oracle.bias, **options)
