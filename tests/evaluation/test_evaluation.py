"""Figures with their errors, and what latents are used for."""

from functools import cache

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as numpyro
import pytest

import vaejax
from vaejax import Bernoulli, Normal, evaluation

X = {"a": np.linspace(-1.0, 3.0, 103, dtype=np.float32)}


def noisy(key, x):
    return {"value": x["a"] + jax.random.normal(key), "square": x["a"] ** 2}


@cache
def one_by_one():
    """The figure of each example, with the key of its index."""
    keys = jax.jit(jax.vmap(lambda index: jax.random.fold_in(jax.random.key(0), index)))(np.arange(103))
    return np.asarray(jax.jit(jax.vmap(noisy))(keys, X)["value"], np.float64)


OTHER = pytest.mark.slow("another size of the batch")


@pytest.mark.parametrize("batch_size", [7, *(pytest.param(size, marks=OTHER) for size in (1, 10, 103, 200))])
def test_the_mean_is_over_all_examples_whatever_the_batch(batch_size):
    result = jax.jit(lambda key, x: evaluation.evaluate(key, x, noisy, batch_size=batch_size))(jax.random.key(0), X)
    values = one_by_one()
    np.testing.assert_allclose(result["value"].mean, values.mean(), atol=1e-6)
    np.testing.assert_allclose(result["value"].standard_error, values.std(ddof=1) / np.sqrt(103), rtol=1e-5)
    np.testing.assert_allclose(result["square"].mean, np.mean(X["a"].astype(float) ** 2), rtol=1e-5)


def test_one_example_has_no_spread():
    evaluate = jax.jit(lambda key, x: evaluation.evaluate(key, x, lambda key, x: {"x": x}))
    result = evaluate(jax.random.key(0), np.ones(1, np.float32))
    assert result["x"].mean == 1.0
    assert np.isnan(result["x"].standard_error)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="number of examples must be at least 1"):
        evaluation.evaluate(jax.random.key(0), {"a": np.ones(0)}, noisy)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        evaluation.evaluate(jax.random.key(0), {"a": np.ones(3)}, noisy, batch_size=0)
    with pytest.raises(TypeError, match="typed PRNG key"):
        evaluation.evaluate(jax.random.PRNGKey(0), {"a": np.ones(3)}, noisy)
    with pytest.raises(ValueError, match=r"arrays of one length; got lengths \[3, 4\]"):
        evaluation.evaluate(jax.random.key(0), {"a": np.ones(3), "b": np.ones(4)}, noisy)
    with pytest.raises(ValueError, match=r"arrays of one length; got lengths \[\]"):
        evaluation.evaluate(jax.random.key(0), {}, noisy)


def terms(beta=1.0):
    x = jnp.ones((8, 4))
    q = Normal(jnp.arange(16.0).reshape(8, 2) / 10, jnp.array([0.5, 1.0]))
    return vaejax.elbo(jax.random.key(0), x, lambda x: q, lambda z: Bernoulli(jnp.tile(z, (1, 2))), beta=beta)


def test_figures_are_costs_that_ignore_the_beta_of_training():
    figures = jax.jit(lambda: [evaluation.per_example(terms(beta)) for beta in (1.0, 4.0)] + [terms(1.0).value])
    one, four, value = figures()
    chex.assert_trees_all_equal(one, four)
    np.testing.assert_allclose(one["negative_elbo"], -value, rtol=1e-6)
    np.testing.assert_allclose(one["reconstruction"] + one["kl"], one["negative_elbo"], rtol=1e-6)


def test_the_figures_of_an_autoencoder():
    @jax.jit
    def figures(x):
        encode, decode = lambda x: vaejax.Delta(x[:, :2]), lambda z: Bernoulli(jnp.tile(z, (1, 2)))
        plain = vaejax.autoencode(jax.random.key(0), x, encode, decode, vaejax.none)
        return evaluation.per_example(plain), evaluation.batch_metrics(plain, prior=None)["active_units"]

    each, active_units = figures(np.ones((8, 4), np.float32))
    assert set(each) == {"reconstruction", "penalty"}
    np.testing.assert_array_equal(each["penalty"], np.zeros(8))
    assert active_units == 0


def test_kl_per_axis_adds_up_for_ours_and_numpyros():
    loc, scale = np.array([[0.0, 1.0, -2.0]], np.float32), np.array([1.0, 0.5, 2.0], np.float32)

    @jax.jit
    def axes():
        posteriors = Normal(loc, scale), numpyro.Normal(loc, scale).to_event(1)
        return [evaluation.kl_per_axis(q) for q in posteriors]

    expected = 0.5 * (loc**2 + scale**2 - 1) - np.log(scale)
    for found in axes():
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        assert found[0, 0] == 0


def test_axes_that_are_not_independent_have_no_kl_of_their_own():
    with pytest.raises(TypeError, match="axes of MultivariateNormal are not known to be independent"):
        evaluation.kl_per_axis(vaejax.MultivariateNormal(np.zeros(2), np.eye(2)))


def test_active_units_of_constructed_encoders():
    """A collapsed encoder has none, an oracle all of its own, and the threshold is on the variance."""
    data = np.random.default_rng(0).normal(size=(1000, 3))
    unequal = data * [1.0, 0.2, 0.05]
    count = jax.jit(lambda means, threshold: evaluation.active_units(means, threshold=threshold))
    cases = [(0 * data, 0.01, 0), (5 + 1e-3 * data, 0.01, 0), (data, 0.01, 3), (unequal, 0.01, 2), (unequal, 0.1, 1)]
    for means, threshold, expected in cases:
        assert count(means.astype(np.float32), np.float32(threshold)) == expected
    # The threshold of Burda et al. is the one that is not given.
    assert jax.jit(evaluation.active_units)(unequal.astype(np.float32)) == 2


def test_latents_with_several_axes_keep_them():
    @jax.jit
    def metrics(x):
        q, prior = Normal(jnp.arange(48.0).reshape(8, 3, 2) / 20, jnp.array([0.5, 1.0]), 2), Normal(0.0, 1.0, 2)
        several = vaejax.elbo(jax.random.key(0), x, lambda x: q, lambda z: Bernoulli(z[:, 0]), prior)
        return evaluation.batch_metrics(several, prior)

    found = metrics(np.ones((8, 2), np.float32))
    chex.assert_shape(found["kl_per_axis"], (3, 2))
    np.testing.assert_allclose(np.sum(found["kl_per_axis"]), found["kl"], rtol=1e-5)
    assert found["active_units"] == 6
