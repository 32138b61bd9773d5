"""Bits per dimension: the uniform model of 8-bit images costs 8 on every path."""

import math

import chex
import jax
import jax.numpy as jnp
import numpyro.distributions as numpyro
import pytest

import vaejax
from vaejax import Bernoulli, Categorical, ContinuousBernoulli, Normal, evaluation

SIZE = 6
LEVELS = jax.random.randint(jax.random.key(5), (3, SIZE), 0, 256)
UNIT = (LEVELS + 0.5) / 256


class UniformTo256:
    """A density on [0, 256)."""

    event_ndims = 1

    def sample(self, key, sample_shape=()):
        return jax.random.uniform(key, (*sample_shape, 3, SIZE), maxval=256.0)

    def log_prob(self, value):
        return jnp.full(value.shape[:-1], -SIZE * math.log(256))


UNIFORM = {
    "levels": (LEVELS, Categorical(jnp.zeros((3, SIZE, 256))), None),
    "numpyro's levels": (LEVELS, numpyro.Categorical(logits=jnp.zeros((3, SIZE, 256))).to_event(1), None),
    "another of numpyro's": (LEVELS, numpyro.DiscreteUniform(0, 255).expand((3, SIZE)).to_event(1), None),
    "a density in [0, 1]": (UNIT, ContinuousBernoulli(jnp.zeros((3, SIZE))), 1 / 256),
    "numpyro's density": (UNIT, numpyro.Uniform(0.0, 1.0).expand((3, SIZE)).to_event(1), 1 / 256),
    "a density in [0, 256)": (LEVELS + 0.5, UniformTo256(), 1.0),
}


def encode(x):
    """The prior itself, so that the divergence is 0 in each draw."""
    return Normal(jnp.zeros((3, 2)), 1.0)


def terms_of(objective, x, likelihood, **options):
    key, decode = jax.random.key(0), lambda z: likelihood
    if objective == "elbo":
        return vaejax.elbo(key, x, encode, decode, **options)
    if objective == "importance":
        return vaejax.importance_bound(key, x, encode, decode, num_samples=4)
    priors = [lambda above: vaejax.standard_normal, lambda above: Normal(above[0], 1.0)]
    layers = [lambda above, p: encode(x), lambda above, p: p]
    return vaejax.ladder_elbo(key, x, lambda x: layers, decode, priors, **options)


@pytest.mark.parametrize("objective", ["elbo", "importance", "ladder"])
@pytest.mark.parametrize("name", UNIFORM)
def test_the_uniform_model_costs_8_bits(objective, name):
    x, likelihood, bin_width = UNIFORM[name]
    terms = terms_of(objective, x, likelihood)
    bits = evaluation.bits_per_dimension(terms, likelihood, SIZE, bin_width=bin_width)
    chex.assert_shape(bits, (3,))
    chex.assert_trees_all_close(bits, jnp.full(3, 8.0), rtol=1e-6)


def test_it_is_the_bound_in_bits_for_each_element():
    """With a divergence that is not 0, and another number of bits for each example."""
    x = jnp.array([[0.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    q, likelihood = Normal(jnp.array([[0.0, 2.0], [1.0, 0.0]]), 0.5), Bernoulli(jnp.ones((2, 4)))
    terms = vaejax.elbo(jax.random.key(0), x, lambda x: q, lambda z: likelihood)
    nats = vaejax.kl_divergence(q, vaejax.standard_normal) - likelihood.log_prob(x)
    chex.assert_trees_all_close(
        evaluation.bits_per_dimension(terms, likelihood, 4), nats / 4 / jnp.log(2.0), rtol=1e-6
    )  # fmt: skip
    assert nats[0] != nats[1]


def shifted(x):
    return Normal(jnp.full((3, 2), 2.0), 0.5)


def test_beta_and_free_bits_of_training_are_left_out():
    x, likelihood, _ = UNIFORM["levels"]
    decode = lambda z: likelihood
    bits = [
        evaluation.bits_per_dimension(
            vaejax.elbo(jax.random.key(0), x, shifted, decode, beta=beta), likelihood, SIZE
        ) for beta in (1.0, 4.0, 0.0)
    ]  # fmt: skip
    chex.assert_trees_all_equal(bits[0], bits[1], bits[2])
    assert jnp.all(bits[0] > 8.1)
    layers = [lambda above, p: shifted(x)]
    for options in ({"beta": 4.0}, {"free_bits": 100.0}):
        terms = vaejax.ladder_elbo(
            jax.random.key(0), x, lambda x: layers, decode, [lambda above: vaejax.standard_normal], **options
        )
        chex.assert_trees_all_close(evaluation.bits_per_dimension(terms, likelihood, SIZE), bits[0], rtol=1e-6)


def test_an_importance_bound_counts_with_its_value():
    """Not with the mean of its log-weights, which is larger a cost."""
    x, likelihood, _ = UNIFORM["levels"]
    terms = vaejax.importance_bound(jax.random.key(0), x, shifted, lambda z: likelihood, num_samples=50)
    bits = evaluation.bits_per_dimension(terms, likelihood, SIZE)
    chex.assert_trees_all_close(bits, -terms.value / SIZE / jnp.log(2.0), rtol=1e-6)
    assert jnp.all(bits < (terms.kl - terms.log_likelihood) / SIZE / jnp.log(2.0) - 0.01)


def test_the_width_of_a_level_is_in_the_units_of_the_data():
    """Data and density stretched together cost the same, with the width stretched too."""
    x = jax.random.uniform(jax.random.key(1), (3, SIZE))
    costs = []
    for stretch in (1.0, 255.0):
        likelihood = Normal(0.4 * stretch * jnp.ones((3, SIZE)), 0.3 * stretch)
        terms = vaejax.elbo(jax.random.key(0), x * stretch, encode, lambda z, p=likelihood: p)
        costs.append(evaluation.bits_per_dimension(terms, likelihood, SIZE, bin_width=stretch / 256))
    chex.assert_trees_all_close(*costs, rtol=1e-5)


def call(objective="elbo", likelihood=None, bin_width=None, num_dimensions=SIZE, x=UNIT):
    likelihood = ContinuousBernoulli(jnp.zeros((3, SIZE))) if likelihood is None else likelihood
    terms = terms_of(objective, x, likelihood)
    return evaluation.bits_per_dimension(terms, likelihood, num_dimensions, bin_width=bin_width)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "ContinuousBernoulli is a density, so bin_width must be.*got None"),
        ({"bin_width": 0.0}, ValueError, "is a density, so bin_width must be.*got 0.0"),
        ({"bin_width": -1.0}, ValueError, "is a density, so bin_width must be.*got -1.0"),
        ({"bin_width": float("nan")}, ValueError, "is a density, so bin_width must be.*got nan"),
        ({"likelihood": numpyro.Uniform(0.0, 1.0).expand((3, SIZE)).to_event(1)}, ValueError, "is a density"),
        ({"likelihood": UNIFORM["levels"][1], "x": LEVELS, "bin_width": 1.0}, ValueError,
         "Categorical is discrete, so bin_width must be None; got 1.0"),
        ({"likelihood": UNIFORM["numpyro's levels"][1], "x": LEVELS, "bin_width": 1.0}, ValueError, "is discrete"),
        ({"likelihood": UNIFORM["another of numpyro's"][1], "x": LEVELS, "bin_width": 1.0}, ValueError, "is discrete"),
        ({"likelihood": vaejax.OptimalNormal(jnp.zeros((3, SIZE))), "bin_width": 1 / 256}, TypeError,
         "OptimalNormal is no normalised likelihood"),
        ({"num_dimensions": 0, "bin_width": 1 / 256}, ValueError, "num_dimensions must be at least 1; got 0"),
        ({"num_dimensions": (28, 28), "bin_width": 1 / 256}, TypeError, "num_dimensions must be an integer"),
    ],
)  # fmt: skip
def test_what_has_no_bits_is_refused_with_the_reason(arguments, error, message):
    with pytest.raises(error, match=message):
        call(**arguments)


def test_a_penalised_reconstruction_is_no_bound():
    likelihood = ContinuousBernoulli(jnp.zeros((3, SIZE)))
    terms = vaejax.autoencode(jax.random.key(0), UNIT, encode, lambda z: likelihood, vaejax.none)
    for wrong in (terms, terms.value):
        with pytest.raises(TypeError, match="is no bound on log p"):
            evaluation.bits_per_dimension(wrong, likelihood, SIZE, bin_width=1 / 256)


def test_formulas_that_are_no_bound_have_no_bits(key):
    """A point has no divergence, a relaxed posterior not that of its draws, and a mask hides dimensions."""
    uniform = lambda z: vaejax.Categorical(jnp.zeros((5, 3, 256)))
    x = jnp.zeros((5, 3), jnp.uint8)
    point, relaxed = vaejax.Delta(jnp.zeros((5, 2))), vaejax.RelaxedCategorical(jnp.zeros((5, 2, 4)), 0.5)
    quantized = vaejax.vector_quantize(jnp.zeros((4, 2)), jnp.zeros((5, 2)))
    discrete = vaejax.Categorical(jnp.zeros((2, 4)))
    for q, prior in ((point, vaejax.standard_normal), (quantized, vaejax.standard_normal), (relaxed, discrete)):
        terms = vaejax.elbo(jax.random.clone(key), x, lambda x, q=q: q, uniform, prior)
        with pytest.raises(TypeError, match="no bound on log p"):
            evaluation.bits_per_dimension(terms, uniform(None), 3)
        assert set(evaluation.per_example(terms)) == {"reconstruction", "penalty"}
    terms = vaejax.elbo(jax.random.clone(key), x, lambda x: vaejax.Normal(jnp.zeros((5, 2)), 1.0), uniform)
    masked = vaejax.Masked(uniform(None), jnp.ones((5, 3)))
    with pytest.raises(TypeError, match="Masked is no normalised likelihood of all of x"):
        evaluation.bits_per_dimension(terms, masked, 3)
