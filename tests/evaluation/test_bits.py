"""Bits per dimension: the uniform model of 8-bit images costs 8 on every path."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as numpyro
import pytest

import vaejax
from vaejax import Bernoulli, Categorical, ContinuousBernoulli, Normal, evaluation

SIZE = 6
LEVELS = np.random.default_rng(5).integers(0, 256, (3, SIZE)).astype(np.int32)
UNIT = ((LEVELS + 0.5) / 256).astype(np.float32)


class UniformTo256:
    """A density on [0, 256)."""

    event_ndims = 1

    def sample(self, key, sample_shape=()):
        return jax.random.uniform(key, (*sample_shape, 3, SIZE), maxval=256.0)

    def log_prob(self, value):
        return jnp.full(value.shape[:-1], -SIZE * math.log(256))


# Data, the uniform model of them, and the width of a level.
UNIFORM = {
    "levels": (LEVELS, lambda: Categorical(jnp.zeros((3, SIZE, 256))), None),
    "numpyro's levels": (LEVELS, lambda: numpyro.Categorical(logits=jnp.zeros((3, SIZE, 256))).to_event(1), None),
    "another of numpyro's": (LEVELS, lambda: numpyro.DiscreteUniform(0, 255).expand((3, SIZE)).to_event(1), None),
    "a density in [0, 1]": (UNIT, lambda: ContinuousBernoulli(jnp.zeros((3, SIZE))), 1 / 256),
    "numpyro's density": (UNIT, lambda: numpyro.Uniform(0.0, 1.0).expand((3, SIZE)).to_event(1), 1 / 256),
    "a density in [0, 256)": (256 * UNIT, UniformTo256, 1.0),
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


OTHER = pytest.mark.slow("another model of the same objective")


@pytest.mark.parametrize(
    ("objective", "name"),
    [
        *(pytest.param("elbo", name, marks=OTHER if "numpyro's" in name else ()) for name in UNIFORM),
        *(
            pytest.param(objective, name, marks=() if name == "a density in [0, 1]" else OTHER)
            for objective in ("importance", "ladder")
            for name in UNIFORM
        ),
    ],
)
def test_the_uniform_model_costs_8_bits(objective, name):
    x, make, bin_width = UNIFORM[name]

    @jax.jit
    def bits(x):
        likelihood = make()
        terms = terms_of(objective, x, likelihood)
        return evaluation.bits_per_dimension(terms, likelihood, SIZE, bin_width=bin_width)

    np.testing.assert_allclose(bits(x), np.full(3, 8.0), rtol=1e-6)


def test_it_is_the_bound_in_bits_for_each_element():
    """With a divergence that is not 0, and another number of bits for each example."""
    x = np.array([[0.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]], np.float32)
    loc = np.array([[0.0, 2.0], [1.0, 0.0]], np.float32)

    @jax.jit
    def bits(x):
        likelihood = Bernoulli(jnp.ones((2, 4)))
        terms = vaejax.elbo(jax.random.key(0), x, lambda x: Normal(loc, 0.5), lambda z: likelihood)
        return evaluation.bits_per_dimension(terms, likelihood, 4)

    kl = np.sum(0.5 * (loc**2 + 0.25 - 1) - np.log(0.5), axis=1)
    nats = kl - np.sum(x - np.logaddexp(0, 1.0), axis=1)
    np.testing.assert_allclose(bits(x), nats / 4 / np.log(2.0), rtol=1e-6)
    assert nats[0] != nats[1]


def shifted(x):
    return Normal(jnp.full((3, 2), 2.0), 0.5)


def test_beta_and_free_bits_of_training_are_left_out():
    x, make, _ = UNIFORM["levels"]

    @jax.jit
    def bits(x):
        likelihood, key = make(), jax.random.key(0)
        of_terms = lambda terms: evaluation.bits_per_dimension(terms, likelihood, SIZE)
        priors, layers = [lambda above: vaejax.standard_normal], [lambda above, p: shifted(x)]
        elbo = lambda beta: vaejax.elbo(jax.random.clone(key), x, shifted, lambda z: likelihood, beta=beta)
        ladder = lambda **options: vaejax.ladder_elbo(
            jax.random.clone(key), x, lambda x: layers, lambda z: likelihood, priors, **options
        )
        ladders = ladder(beta=4.0), ladder(free_bits=100.0)
        return [of_terms(elbo(beta)) for beta in (1.0, 4.0, 0.0)], [of_terms(terms) for terms in ladders]

    (one, *others), ladders = bits(x)
    for other in others:
        np.testing.assert_array_equal(other, one)
    assert np.all(one > 8.1)
    for other in ladders:
        np.testing.assert_allclose(other, one, rtol=1e-6)


def test_an_importance_bound_counts_with_its_value():
    """Not with the mean of its log-weights, which is larger a cost."""
    x, make, _ = UNIFORM["levels"]

    @jax.jit
    def figures(x):
        likelihood = make()
        terms = vaejax.importance_bound(jax.random.key(0), x, shifted, lambda z: likelihood, num_samples=50)
        return evaluation.bits_per_dimension(terms, likelihood, SIZE), terms.value, terms.kl - terms.log_likelihood

    bits, value, mean_cost = figures(x)
    np.testing.assert_allclose(bits, -value / SIZE / np.log(2.0), rtol=1e-6)
    assert np.all(bits < mean_cost / SIZE / np.log(2.0) - 0.01)


def test_the_width_of_a_level_is_in_the_units_of_the_data():
    """Data and density stretched together cost the same, with the width stretched too."""

    @jax.jit
    def costs(x):
        def cost(stretch):
            likelihood = Normal(0.4 * stretch * jnp.ones((3, SIZE)), 0.3 * stretch)
            terms = vaejax.elbo(jax.random.key(0), x * stretch, encode, lambda z: likelihood)
            return evaluation.bits_per_dimension(terms, likelihood, SIZE, bin_width=stretch / 256)

        return [cost(stretch) for stretch in (1.0, 255.0)]

    chex.assert_trees_all_close(*costs(UNIT), rtol=1e-5)


def call(objective="elbo", likelihood=UNIFORM["a density in [0, 1]"][1], bin_width=None, num_dimensions=SIZE, x=UNIT):
    def bits():
        made = likelihood()
        return evaluation.bits_per_dimension(terms_of(objective, x, made), made, num_dimensions, bin_width=bin_width)

    return jax.eval_shape(bits)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "ContinuousBernoulli .*bin_width .*got None"),
        ({"bin_width": 0.0}, ValueError, "is a density, so bin_width must be.*got 0.0"),
        ({"bin_width": -1.0}, ValueError, "is a density, so bin_width must be.*got -1.0"),
        ({"bin_width": float("nan")}, ValueError, "is a density, so bin_width must be.*got nan"),
        ({"likelihood": UNIFORM["numpyro's density"][1]}, ValueError, "is a density"),
        ({"likelihood": UNIFORM["levels"][1], "x": LEVELS, "bin_width": 1.0}, ValueError,
         "Categorical is discrete, so bin_width must be None; got 1.0"),
        ({"likelihood": UNIFORM["numpyro's levels"][1], "x": LEVELS, "bin_width": 1.0}, ValueError, "is discrete"),
        ({"likelihood": UNIFORM["another of numpyro's"][1], "x": LEVELS, "bin_width": 1.0}, ValueError, "is discrete"),
        ({"likelihood": lambda: vaejax.OptimalNormal(np.zeros((3, SIZE))), "bin_width": 1 / 256}, TypeError,
         "OptimalNormal is no normalised likelihood"),
        ({"num_dimensions": 0, "bin_width": 1 / 256}, ValueError, "num_dimensions must be at least 1; got 0"),
        ({"num_dimensions": (28, 28), "bin_width": 1 / 256}, TypeError, "num_dimensions must be an integer"),
    ],
)  # fmt: skip
def test_what_has_no_bits_is_refused_with_the_reason(arguments, error, message):
    with pytest.raises(error, match=message):
        call(**arguments)


def test_a_penalised_reconstruction_is_no_bound():
    def bits(part):
        likelihood = ContinuousBernoulli(jnp.zeros((3, SIZE)))
        terms = vaejax.autoencode(jax.random.key(0), UNIT, encode, lambda z: likelihood, vaejax.none)
        return evaluation.bits_per_dimension(part(terms), likelihood, SIZE, bin_width=1 / 256)

    for part in (lambda terms: terms, lambda terms: terms.value):
        with pytest.raises(TypeError, match="is no bound on log p"):
            jax.eval_shape(lambda part=part: bits(part))


# A point has no divergence.
NO_BOUND = {
    "a point": lambda: (vaejax.Delta(jnp.zeros((5, 2))), vaejax.standard_normal),
    "a quantized point": lambda: (vaejax.vector_quantize(jnp.zeros((4, 2)), jnp.zeros((5, 2))), vaejax.standard_normal),
}


def uniform(z):
    return Categorical(jnp.zeros((5, 3, 256)))


@pytest.mark.parametrize("name", NO_BOUND)
def test_formulas_that_are_no_bound_have_no_bits(name):
    def figures(figure):
        q, prior = NO_BOUND[name]()
        terms = vaejax.elbo(jax.random.key(0), np.zeros((5, 3), np.uint8), lambda x: q, uniform, prior)
        return figure(terms)

    with pytest.raises(TypeError, match="no bound on log p"):
        jax.eval_shape(lambda: figures(lambda terms: evaluation.bits_per_dimension(terms, uniform(None), 3)))
    assert set(jax.eval_shape(lambda: figures(evaluation.per_example))) == {"reconstruction", "penalty"}


def test_a_mask_hides_dimensions():
    def bits():
        encode = lambda x: Normal(jnp.zeros((5, 2)), 1.0)
        terms = vaejax.elbo(jax.random.key(0), np.zeros((5, 3), np.uint8), encode, uniform)
        return evaluation.bits_per_dimension(terms, vaejax.Masked(uniform(None), jnp.ones((5, 3))), 3)

    with pytest.raises(TypeError, match="Masked is no normalised likelihood"):
        jax.eval_shape(bits)
