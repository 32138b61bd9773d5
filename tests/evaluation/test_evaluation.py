"""Figures with their errors, and what latents are used for."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as numpyro
import pytest

import vaejax
from vaejax import Bernoulli, Normal, evaluation


def noisy(key, x):
    return {"value": x["a"] + jax.random.normal(key), "square": x["a"] ** 2}


@pytest.mark.parametrize("batch_size", [1, 7, 10, 103, 200])
def test_the_mean_is_over_all_examples_whatever_the_batch(batch_size):
    x = {"a": jnp.linspace(-1.0, 3.0, 103)}
    result = evaluation.evaluate(jax.random.key(0), x, noisy, batch_size=batch_size)
    keys = [jax.random.fold_in(jax.random.key(0), i) for i in range(103)]
    values = np.array([noisy(k, {"a": a})["value"] for k, a in zip(keys, x["a"], strict=True)])
    chex.assert_trees_all_close(result["value"].mean, values.mean(), atol=1e-6)
    chex.assert_trees_all_close(result["value"].standard_error, values.std(ddof=1) / np.sqrt(103), rtol=1e-5)
    chex.assert_trees_all_close(result["square"].mean, np.mean(np.linspace(-1.0, 3.0, 103) ** 2), rtol=1e-5)


def test_one_example_has_no_spread():
    result = evaluation.evaluate(jax.random.key(0), jnp.ones(1), lambda key, x: {"x": x})
    assert result["x"].mean == 1.0
    assert jnp.isnan(result["x"].standard_error)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="number of examples must be at least 1"):
        evaluation.evaluate(jax.random.key(0), {"a": jnp.ones(0)}, noisy)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        evaluation.evaluate(jax.random.key(0), {"a": jnp.ones(3)}, noisy, batch_size=0)
    with pytest.raises(TypeError, match="typed PRNG key"):
        evaluation.evaluate(jax.random.PRNGKey(0), {"a": jnp.ones(3)}, noisy)


def terms(beta=1.0):
    x = jnp.ones((8, 4))
    q = Normal(jnp.arange(16.0).reshape(8, 2) / 10, jnp.array([0.5, 1.0]))
    return vaejax.elbo(jax.random.key(0), x, lambda x: q, lambda z: Bernoulli(jnp.tile(z, (1, 2))), beta=beta)


def test_figures_are_costs_that_ignore_the_beta_of_training():
    one, four = evaluation.per_example(terms(1.0)), evaluation.per_example(terms(4.0))
    chex.assert_trees_all_equal(one, four)
    chex.assert_trees_all_close(one["negative_elbo"], -terms(1.0).value, rtol=1e-6)
    chex.assert_trees_all_close(one["reconstruction"] + one["kl"], one["negative_elbo"], rtol=1e-6)


def test_the_figures_of_an_autoencoder():
    x = jnp.ones((8, 4))
    plain = vaejax.autoencode(
        jax.random.key(0), x, lambda x: vaejax.Delta(x[:, :2]), lambda z: Bernoulli(jnp.tile(z, (1, 2))), vaejax.none
    )
    figures = evaluation.per_example(plain)
    assert set(figures) == {"reconstruction", "penalty"}
    chex.assert_trees_all_equal(figures["penalty"], jnp.zeros(8))
    assert evaluation.batch_metrics(plain, prior=None)["active_units"] == 0


def test_kl_per_axis_adds_up_for_ours_and_numpyros():
    loc, scale = jnp.array([[0.0, 1.0, -2.0]]), jnp.array([1.0, 0.5, 2.0])
    expected = vaejax.kl_divergence(Normal(loc, scale), vaejax.standard_normal)
    for q in (Normal(loc, scale), numpyro.Normal(loc, scale).to_event(1)):
        axes = evaluation.kl_per_axis(q)
        chex.assert_shape(axes, (1, 3))
        assert axes[0, 0] == 0
        chex.assert_trees_all_close(jnp.sum(axes, axis=-1), expected, rtol=1e-6)


def test_axes_that_are_not_independent_have_no_kl_of_their_own():
    with pytest.raises(TypeError, match="axes of MultivariateNormal are not known to be independent"):
        evaluation.kl_per_axis(vaejax.MultivariateNormal(jnp.zeros(2), jnp.eye(2)))


def test_active_units_of_constructed_encoders(key):
    """A collapsed encoder has none, an oracle all of its own, and the threshold is on the variance."""
    data = jax.random.normal(key, (1000, 3))
    assert evaluation.active_units(jnp.zeros((1000, 3))) == 0
    assert evaluation.active_units(5.0 + 1e-3 * data) == 0
    assert evaluation.active_units(data) == 3
    assert evaluation.active_units(data * jnp.array([1.0, 0.2, 0.05])) == 2
    assert evaluation.active_units(data * jnp.array([1.0, 0.2, 0.05]), threshold=0.1) == 1


def test_latents_with_several_axes_keep_them():
    q = Normal(jnp.arange(48.0).reshape(8, 3, 2) / 20, jnp.array([0.5, 1.0]), 2)
    prior = Normal(0.0, 1.0, 2)
    several = vaejax.elbo(jax.random.key(0), jnp.ones((8, 2)), lambda x: q, lambda z: Bernoulli(z[:, 0]), prior)
    metrics = evaluation.batch_metrics(several, prior)
    chex.assert_shape(metrics["kl_per_axis"], (3, 2))
    chex.assert_trees_all_close(jnp.sum(metrics["kl_per_axis"]), metrics["kl"], rtol=1e-5)
    assert metrics["active_units"] == 6


def test_arrays_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match=r"arrays of one length; got lengths \[3, 4\]"):
        evaluation.evaluate(jax.random.key(0), {"a": jnp.ones(3), "b": jnp.ones(4)}, noisy)
    with pytest.raises(ValueError, match=r"arrays of one length; got lengths \[\]"):
        evaluation.evaluate(jax.random.key(0), {}, noisy)
