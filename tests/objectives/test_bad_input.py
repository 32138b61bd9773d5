"""What is wrong is said at once: the argument, what was expected, what came."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions
import pytest

import vaejax
from vaejax import Bernoulli, Normal, nets
from vaejax.evaluation import importance_log_likelihood, information

X = np.ones((8, 4), np.float32)


def encode(x):
    return Normal(x[:, :2], 1.0)


def decode(z):
    return Bernoulli(jnp.tile(z, (1, 2)))


def call(**changes):
    """The value of the bound, traced only; data keep their values."""
    arguments = {"key": jax.random.key(0), "x": X, "encode": encode, "decode": decode} | changes
    # A key or other data may be a function, so that nothing is computed before the test.
    arguments["key"] = arguments["key"]() if callable(arguments["key"]) else arguments["key"]
    return jax.eval_shape(lambda: vaejax.elbo(**arguments).value)


BAD = {
    "no key": ({"key": None}, TypeError, r"key must be a typed PRNG key from jax.random.key.*got NoneType"),
    "seed for key": ({"key": 0}, TypeError, r"key must be a typed PRNG key.*got int"),
    "legacy key": ({"key": lambda: jax.random.PRNGKey(0)}, TypeError, r"typed PRNG key.*uint32.*\(2,\).*wrap_key_data"),
    "many keys": ({"key": lambda: jax.random.split(jax.random.key(0), 3)}, ValueError, r"key must be one key.*got shape \(3,\)"),
    "arguments swapped": ({"x": encode, "encode": X}, TypeError, "x must be an array.*argument order"),
    "no data": ({"x": None}, TypeError, "x must be an array of data; got NoneType"),
    "empty data": ({"x": np.ones((0, 4))}, ValueError, r"x must not be empty; got shape \(0, 4\)"),
    "NaN data": ({"x": np.where(np.eye(8, 4), np.nan, X)}, ValueError, "value must be 0 or 1.*got NaN"),
    "grey data": ({"x": 0.5 * X}, ValueError, r"value must be 0 or 1 \(binarize.*from 0.5 to 0.5"),
    "pixels to 16": ({"x": 16 * X}, ValueError, "value must be 0 or 1.*to 16.0"),
    "pixels to 255": ({"x": np.full((8, 4), 255, np.uint8)}, ValueError, "value must be 0 or 1.*to 255"),
    "wrong data size": (
        {"x": np.ones((8, 5))}, ValueError, r"value must have event shape \(4,\); got shape \(8, 5\)"
    ),
    "wrong data rank": (
        {"x": np.ones((8, 2, 4)), "encode": lambda x: Normal(x[:, 0, :2], 1.0)}, ValueError,
        r"value must.*got shape \(8, 2, 4\)",
    ),
    "encode no function": ({"encode": 3}, TypeError, "encode must be a function; got int"),
    "decode no function": ({"decode": None}, TypeError, "decode must be a function; got NoneType"),
    "mean and log-variance": (
        {"encode": lambda x: (x, x)}, TypeError, "encode must return a distribution.*got tuple.*from_log_variance"
    ),
    "array for likelihood": (
        {"decode": lambda z: z}, TypeError, "decode must return a distribution with sample and log_prob"
    ),
    "zero samples": ({"num_samples": 0}, ValueError, "num_samples must be at least 1; got 0"),
    "half a sample": ({"num_samples": 1.5}, TypeError, "num_samples must be an integer; got float 1.5"),
    "true samples": ({"num_samples": True}, TypeError, "num_samples must be an integer; got bool"),
    "zero latents": ({"encode": lambda x: Normal(x[:, :0], 1.0)}, ValueError, "at least one latent"),
    "negative beta": ({"beta": -0.1}, ValueError, "beta must be at least 0 and finite; got -0.1"),
    "NaN beta": ({"beta": float("nan")}, ValueError, "beta must be at least 0 and finite; got nan"),
    "beta as text": ({"beta": "1"}, TypeError, "beta must be an array; got str"),
    "beta of another shape": ({"beta": np.ones(3)}, ValueError, r"beta must have shape \(\) or \(8,\); got \(3,\)"),
    "kl as text": ({"kl": "mc"}, TypeError, "kl must be a function; got str"),
    "log-variance for scale": (
        {"encode": lambda x: Normal(x[:, :2], -x[:, :2])}, ValueError, "scale must be positive.*from_log_variance"
    ),
    "no closed form": ({"encode": lambda x: vaejax.ContinuousBernoulli(x[:, :2])}, TypeError, "monte_carlo_kl"),
    "discrete posterior": (
        {"encode": lambda x: Bernoulli(x[:, :2])}, TypeError, "can be reparameterized.*Bernoulli have no gradient"
    ),
    "numpyro's discrete posterior": (
        {"encode": lambda x: numpyro.distributions.Bernoulli(logits=x[:, :2]).to_event(1)}, TypeError, "no gradient"
    ),
    "no prior": ({"prior": None}, TypeError, r"prior must.*got NoneType"),
    "tuple of data": ({"x": (X, X), "encode": lambda x: encode(x[0])}, TypeError, "value must be an array; got tuple"),
    "posterior with another event": (
        {"encode": lambda x: Normal(x[:, :2], 1.0, 0), "prior": Normal(0.0, 1.0, 0)}, ValueError,
        r"one log-probability per example, shape \(8, 2\) as the posterior has; got shape \(8,\)",
    ),
    "prior of another size": ({"prior": Normal(np.zeros(3), 1.0)}, ValueError, r"must have event shape \(3,\)"),
    "images with one event axis": (
        {"x": np.ones((8, 2, 2)), "encode": lambda x: Normal(x[:, 0], 1.0),
         "decode": lambda z: Bernoulli(jnp.stack([z, z], axis=1))},
        ValueError, r"one log-probability per example, shape \(8,\).*got shape \(8, 2\).*set event_ndims",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_elbo_says_what_is_wrong(name):
    changes, error, message = BAD[name]
    with pytest.raises(error, match=message):
        call(**changes)


def test_shapes_are_checked_while_tracing_too():
    encode, decode = lambda x: Normal(x[:, 0], 1.0), lambda z: Bernoulli(z[:, None])
    value = lambda x: vaejax.elbo(jax.random.key(0), x, encode, decode).value
    with pytest.raises(ValueError, match="one log-probability per example"):
        jax.eval_shape(value, np.ones((8, 1, 2), np.float32))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Normal([0.0], 1.0), TypeError, "Normal: loc must be an array; got list"),
        (lambda: Normal(None, 1.0), TypeError, "Normal: loc must be an array; got NoneType"),
        (lambda: Normal(jnp.zeros(3), 0.0), ValueError, "Normal: scale must be positive; got values down to 0.0"),
        (lambda: Normal(jnp.zeros(3), np.array([-1.0, np.nan])[1:]), ValueError, "Normal: scale .*got NaN(?! )"),
        (lambda: Normal(jnp.zeros(3), np.inf), ValueError, "Normal: scale .*finite; got values up to inf(?! )"),
        (lambda: nets.heads.normal(np.nan), ValueError, "normal: scale .*got NaN(?! )"),
        (lambda: Normal(jnp.zeros(3), jnp.ones(2)), ValueError, r"must broadcast; got loc \(3,\) and scale \(2,\)"),
        (lambda: Normal(jnp.zeros(3), 1.0, -1), ValueError, "event_ndims must be at least 0; got -1"),
        (lambda: Normal(jnp.zeros(3), 1.0, 1.0), TypeError, "event_ndims must be an integer; got float"),
        (lambda: Normal(np.array(["a"]), 1.0), TypeError, "Normal: loc must hold numbers"),
        (lambda: vaejax.Laplace(0.0, -1.0), ValueError, "Laplace: scale must be positive"),
        (lambda: vaejax.Categorical(1.0), ValueError, "logits need a last axis of levels"),
        (lambda: vaejax.MultivariateNormal(jnp.zeros(3), jnp.eye(2)), ValueError, r"must end in \(3, 3\)"),
        (lambda: Normal(jnp.zeros(3), 1.0).sample(jax.random.key(0), 5), TypeError, r"sample_shape must be a tuple such as \(5,\)"),
        (lambda: Normal(jnp.zeros(3), 1.0).sample(0), TypeError, "Normal.sample: key must be a typed PRNG key"),
        (lambda: Normal(jnp.zeros(3), 1.0, 2).log_prob(jnp.zeros(3)), ValueError, "at least 2 axes"),
        (lambda: vaejax.reparameterize(0, 0.0, 1.0), TypeError, "reparameterize.*typed PRNG key"),
        (lambda: vaejax.autoencode(jax.random.key(0), X, encode, decode, None), TypeError, "regularizer must be a function"),
        (lambda: vaejax.testing.linear_gaussian(jax.random.key(0), 5, 0), ValueError, "latent_size must be at least 1; got 0"),
    ],
)  # fmt: skip
def test_the_parts_say_what_is_wrong(make, error, message):
    with pytest.raises(error, match=message):
        jax.eval_shape(make)


def test_a_wrong_event_is_found_where_the_penalty_is_one_number(key):
    """An unbatched or mapped call has a scalar divergence, and `none` always is one."""
    images = np.ones((8, 4, 2), np.float32)
    wrong = lambda z: Bernoulli(jnp.stack([z, z, z, z], axis=-2))
    single = lambda x: vaejax.elbo(jax.random.key(0), x, lambda x: Normal(x[0], 1.0), wrong).value
    with pytest.raises(ValueError, match=r"shape \(\) as the posterior has; got shape \(4,\)"):
        jax.eval_shape(jax.vmap(single), images)

    def autoencode(x, encode, decode, penalty=vaejax.none):
        return jax.eval_shape(lambda: vaejax.autoencode(key, x, encode, decode, penalty).value)

    with pytest.raises(ValueError, match=r"shape \(8,\) as the posterior has; got shape \(8, 4\)"):
        autoencode(images, lambda x: vaejax.Delta(x[:, 0]), wrong)
    with pytest.raises(ValueError, match=r"shape \(8,\) as the posterior has; got shape \(\)"):
        autoencode(
            np.ones(8, int), lambda x: vaejax.Delta(np.zeros((8, 2))), lambda z: vaejax.Categorical(np.zeros((8, 10)))
        )
    with pytest.raises(ValueError, match=r"regularizer must return shape \(8,\).*got shape \(8, 2\)"):
        autoencode(X, encode, decode, lambda key, q, z: z)


PAIR, OUTER = np.ones((5, 2)), np.ones((5, 1, 2))
OUTER_PRODUCTS = {
    "Normal": lambda: Normal(PAIR, OUTER),
    "Laplace": lambda: vaejax.Laplace(OUTER, PAIR),
    "NegativeBinomial": lambda: vaejax.NegativeBinomial(PAIR, OUTER),
    "DiscretizedLogistic": lambda: vaejax.DiscretizedLogistic(PAIR, OUTER),
    "MultivariateNormal": lambda: vaejax.MultivariateNormal(OUTER, np.tile(np.eye(2), (5, 1, 1))),
    "PowerSpherical": lambda: vaejax.PowerSpherical(PAIR, np.ones((5, 1))),
    "RelaxedCategorical": lambda: vaejax.RelaxedCategorical(np.ones((5, 3, 2)), np.ones((5, 1))),
    "Mixture": lambda: vaejax.Mixture(np.zeros((5, 1, 3)), Normal(np.ones((5, 3, 2)), 1.0)),
    "Masked": lambda: vaejax.Masked(Normal(PAIR, 1.0), OUTER),
    "Transformed": lambda: vaejax.Transformed(Normal(PAIR, 1.0), vaejax.ElementwiseAffine(OUTER, OUTER)),
    "Planar": lambda: vaejax.Planar(PAIR, OUTER, np.ones(5)),
    "Hierarchical": lambda: vaejax.Hierarchical(Normal(PAIR, 1.0), lambda z: Normal(z[:, None], 1.0)).sample(jax.random.key(0)),
}  # fmt: skip


@pytest.mark.parametrize("name", OUTER_PRODUCTS)
def test_parameters_whose_batches_make_an_outer_product_are_refused(name):
    with pytest.raises(ValueError, match=rf"{name}: .*\(5, [15]"):
        jax.eval_shape(OUTER_PRODUCTS[name])


def test_parameters_of_equal_rank_and_scalars_broadcast():
    assert jax.eval_shape(lambda: Normal(np.ones((5, 1, 2)), np.ones((1, 4, 2))).mean).shape == (5, 4, 2)
    assert jax.eval_shape(lambda: Normal(np.ones((5, 4, 2)), np.ones(2)).mean).shape == (5, 4, 2)
    assert jax.eval_shape(lambda: vaejax.PowerSpherical(np.ones((5, 2)), 3.0).mean).shape == (5, 2)


def test_the_value_has_one_number_for_each_example():
    """A class of someone else may make an outer product; the objectives refuse it."""
    outer = lambda x: numpyro.distributions.Normal(x[:, :2], np.ones((5, 1, 2))).to_event(1)
    likelihood = lambda z: Normal(jnp.broadcast_to(z[..., :1], (*z.shape[:-1], 6)), 1.0)
    x = np.ones((5, 6), np.float32)
    for objective in (vaejax.elbo, partial(vaejax.importance_bound, num_samples=2)):
        with pytest.raises(ValueError, match=r"one number per example of x.*\(5, 6\).*\(5, 5\)"):
            jax.eval_shape(lambda objective=objective: objective(jax.random.key(0), x, outer, likelihood).value)


PAIR_OF_NUMBERS = np.ones(2, np.float32)
SPREAD = {
    "free_bits: threshold": lambda: vaejax.free_bits(threshold=PAIR_OF_NUMBERS),
    "capacity: target": lambda: vaejax.capacity(vaejax.kl(), PAIR_OF_NUMBERS),
    "capacity: weight": lambda: vaejax.capacity(vaejax.kl(), 1.0, PAIR_OF_NUMBERS),
    "dip_i: off_diagonal": lambda: vaejax.dip_i(PAIR_OF_NUMBERS),
    "dip_ii: diagonal": lambda: vaejax.dip_ii(1.0, PAIR_OF_NUMBERS),
    "scale: weight": lambda: vaejax.scale(PAIR_OF_NUMBERS, vaejax.kl()),
    "tc_decomposition: index_code": lambda: vaejax.tc_decomposition(dataset_size=9, index_code=PAIR_OF_NUMBERS),
    "gaussian_kernel: bandwidth": lambda: vaejax.gaussian_kernel(PAIR_OF_NUMBERS),
    "ciwae_bound: beta": lambda: vaejax.ciwae_bound(PAIR_OF_NUMBERS / 2),
    "renyi_bound: alpha": lambda: vaejax.renyi_bound(PAIR_OF_NUMBERS),
    "update_geco: target": lambda: vaejax.update_geco(vaejax.init_geco(), np.zeros(2), target=PAIR_OF_NUMBERS),
    "update_geco: rate": lambda: vaejax.update_geco(vaejax.init_geco(), np.zeros(2), target=0.0, rate=PAIR_OF_NUMBERS),
    "codebook_loss: commitment": lambda: vaejax.codebook_loss(PAIR_OF_NUMBERS),
    "commitment_loss: weight": lambda: vaejax.commitment_loss(PAIR_OF_NUMBERS),
    "update_codebook: decay": lambda: vaejax.update_codebook(
        vaejax.init_codebook(jax.random.key(0), 3, 2), PAIR_OF_NUMBERS[None], np.zeros(1, int), decay=PAIR_OF_NUMBERS
    ),
    "marginalize_label: weight": lambda: vaejax.marginalize_label(
        np.zeros((3, 2)), np.zeros((2, 3)), np.zeros(2, int), weight=PAIR_OF_NUMBERS
    ),
}


@pytest.mark.parametrize("name", SPREAD)
def test_a_hyperparameter_is_one_number(name):
    """An array of as many as there are latents, or examples, would be spread over them."""
    with pytest.raises(ValueError, match=rf"{name} must be one number; got shape \(2,\)"):
        jax.eval_shape(SPREAD[name])


def test_a_prior_of_one_axis_is_not_spread_over_the_latents():
    penalty = vaejax.mmd_to(Normal(np.zeros(1), 1.0))
    with pytest.raises(ValueError, match=r"mmd_to: the prior .*\(2,\).*\(1,\)"):
        jax.eval_shape(lambda: penalty(jax.random.key(0), encode(X), X[:, :2]))


def test_the_standard_normal_takes_the_event_axes_that_it_meets():
    """Latents that are maps have the divergence of the same latents as vectors."""
    x = np.random.default_rng(0).normal(size=(2, 3, 2, 4)).astype(np.float32)
    maps = lambda x: Normal(0.5 * x, 0.8, 3)
    likelihood = lambda z: Normal(z, 1.0, 3)

    @jax.jit
    def figures(key):
        of_maps = vaejax.elbo(key, x, maps, likelihood)
        as_vectors = vaejax.kl_divergence(Normal(0.5 * x.reshape(2, -1), 0.8), vaejax.standard_normal)
        key = jax.random.clone(key)
        estimated = vaejax.elbo(key, x, maps, likelihood, kl=vaejax.monte_carlo_kl)
        bound = vaejax.importance_bound(jax.random.clone(key), x, maps, likelihood, num_samples=1)
        return of_maps.kl, as_vectors, estimated.value, bound.value

    kl, as_vectors, estimated, bound = figures(jax.random.key(0))
    chex.assert_trees_all_close(kl, as_vectors, rtol=1e-6)
    chex.assert_trees_all_close(estimated, bound, rtol=1e-5)
    likelihoods = lambda key: importance_log_likelihood(key, x, maps, likelihood, num_samples=3)
    assert jax.eval_shape(likelihoods, jax.random.key(0)).value.shape == (2,)
    told = lambda key: information(key, maps(x)).rate.mean
    assert jax.eval_shape(told, jax.random.key(0)).shape == ()
    draws = lambda key: vaejax.mmd_to()(key, maps(x), x)
    assert jax.eval_shape(draws, jax.random.key(0)).shape == ()


def test_a_density_that_comes_with_a_point_of_numpyro_is_kept():
    """numpyro's Delta may say which density its point has; it is then no bare point."""
    values = np.zeros((8, 2), np.float32)
    with_density = lambda x: numpyro.distributions.Delta(values, np.full(8, 3.0), event_dim=1)
    bare = lambda x: numpyro.distributions.Delta(values, event_dim=1)
    value = lambda encode: vaejax.importance_bound(jax.random.key(0), X, encode, decode, num_samples=1).value
    expected = lambda: decode(values).log_prob(X) + vaejax.standard_normal.log_prob(values) - 3.0
    chex.assert_trees_all_close(*jax.jit(lambda: (value(with_density), expected()))(), rtol=1e-6)
    with pytest.raises(TypeError, match="Delta is a point"):
        jax.eval_shape(lambda: value(bare))
