"""Objectives against the linear-Gaussian oracle, where everything is known exactly."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vaejax
from vaejax import Normal
from vaejax.testing import linear_gaussian

# A wrong but fixed, asymmetric posterior over two latents.
WRONG = Normal(jnp.array([0.3, -0.8]), jnp.array([0.4, 0.7]))


@pytest.fixture
def oracle():
    return linear_gaussian(jax.random.key(7), 5, 2)


@pytest.fixture
def x(oracle):
    return oracle.marginal().sample(jax.random.key(8))


@pytest.mark.parametrize("kl", [vaejax.kl, vaejax.monte_carlo_kl])
@pytest.mark.parametrize("num_samples", [None, 1, 3])
def test_the_mean_of_draws_is_the_exact_elbo(oracle, x, key, kl, num_samples):
    def draw(key):
        return vaejax.elbo(key, x, lambda x: WRONG, oracle.decode, kl=kl, num_samples=num_samples).value

    draws = jax.jit(jax.vmap(draw))(jax.random.split(key, 50_000))
    deviation = (jnp.mean(draws) - oracle.elbo(x, WRONG)) / (jnp.std(draws) / len(draws) ** 0.5)
    assert abs(deviation) < 5


def test_the_parts_are_the_exact_parts(oracle, x, key):
    terms = vaejax.elbo(key, x, lambda x: WRONG, oracle.decode, num_samples=50_000)
    chex.assert_trees_all_close(terms.kl, vaejax.kl_divergence(WRONG, vaejax.standard_normal), rtol=1e-6)
    draws = oracle.decode(terms.latents).log_prob(x)
    deviation = (terms.log_likelihood - oracle.log_likelihood(x, WRONG)) / (jnp.std(draws) / len(draws) ** 0.5)
    assert abs(deviation) < 5


@given(st.integers(0, 10**6))
def test_at_the_posterior_every_draw_is_log_p(seed):
    """ln p(x|z) + ln p(z) - ln p(z|x) = ln p(x), whatever z: to 1e-10 in double precision."""
    with jax.enable_x64(True):
        oracle = linear_gaussian(jax.random.key(7), 5, 2)
        data_key, elbo_key = jax.random.split(jax.random.key(seed))
        x = oracle.marginal().sample(data_key, (16,))
        terms = vaejax.elbo(elbo_key, x, oracle.posterior, oracle.decode, kl=vaejax.monte_carlo_kl)
        chex.assert_trees_all_close(terms.value, oracle.marginal().log_prob(x), atol=1e-10, rtol=0)


def test_at_the_posterior_every_draw_is_log_p_in_single_precision(oracle, key):
    x = oracle.marginal().sample(jax.random.key(1), (64,))
    terms = vaejax.elbo(key, x, oracle.posterior, oracle.decode, kl=vaejax.monte_carlo_kl, num_samples=3)
    chex.assert_trees_all_close(terms.value, oracle.marginal().log_prob(x), rtol=2e-5)


def test_the_elbo_is_below_log_p_by_the_divergence_from_the_posterior(oracle, x):
    exact = vaejax.kl_divergence(vaejax.MultivariateNormal(WRONG.loc, jnp.diag(WRONG.scale)), oracle.posterior(x))
    chex.assert_trees_all_close(oracle.marginal().log_prob(x) - oracle.elbo(x, WRONG), exact, rtol=1e-4)
    assert exact > 0.1


def test_the_gradient_estimate_is_unbiased(oracle, x, key):
    """Its mean over draws is the gradient of the exact ELBO, for every parameter of q and of the model."""

    def exact(params):
        weight, loc, log_scale = params
        return oracle._replace(weight=weight).elbo(x, Normal.from_log_scale(loc, log_scale))

    def estimate(params, key):
        weight, loc, log_scale = params
        q = Normal.from_log_scale(loc, log_scale)
        return vaejax.elbo(key, x, lambda x: q, oracle._replace(weight=weight).decode).value

    params = (oracle.weight, WRONG.loc, jnp.log(WRONG.scale))
    draws = jax.jit(jax.vmap(jax.grad(estimate), in_axes=(None, 0)))(params, jax.random.split(key, 50_000))
    for drawn, expected in zip(draws, jax.grad(exact)(params), strict=True):
        standard_error = jnp.std(drawn, axis=0) / len(drawn) ** 0.5
        assert jnp.all(jnp.abs(jnp.mean(drawn, axis=0) - expected) < 5 * standard_error)


def test_a_linear_vae_reaches_the_maximum_likelihood(key):
    """Probabilistic principal components by gradient descent: within 0.01 nats of the closed form.

    Source of the closed form: Tipping and Bishop 1999; that the ELBO of a linear VAE has the same
    maximum: Lucas et al. 2019, Don't Blame the ELBO.
    """
    truth = linear_gaussian(jax.random.key(3), 6, 2, scale=0.6)
    x = truth.marginal().sample(jax.random.key(4), (500,))

    # Maximum likelihood: the principal axes, and as noise the mean of the variances that are left.
    mean = jnp.mean(x, axis=0)
    eigenvalues, axes = jnp.linalg.eigh((x - mean).T @ (x - mean) / len(x))
    noise = jnp.mean(eigenvalues[:-2])
    weight = axes[:, -2:] * jnp.sqrt(eigenvalues[-2:] - noise)
    best = jnp.mean(truth._replace(weight=weight, bias=mean, scale=jnp.sqrt(noise)).marginal().log_prob(x))

    def model(params):
        return truth._replace(weight=params["weight"], bias=params["bias"], scale=jnp.exp(params["log_scale"]))

    def loss(params, key):
        def encode(x):
            return Normal.from_log_scale((x - params["bias"]) @ params["encoder"], params["log_scales"])

        return vaejax.negative_elbo(key, x, encode, model(params).decode, num_samples=4)[0]

    optimizer = optax.adam(optax.cosine_decay_schedule(3e-2, 3000))
    start = {
        "weight": 0.1 * jax.random.normal(jax.random.key(5), (6, 2)),
        "bias": jnp.zeros(6),
        "log_scale": jnp.zeros(()),
        "encoder": 0.1 * jax.random.normal(jax.random.key(6), (6, 2)),
        "log_scales": jnp.zeros(2),
    }

    def step(carry, key):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params, key), state)
        return (optax.apply_updates(params, updates), state), None

    run = jax.jit(lambda carry, keys: jax.lax.scan(step, carry, keys)[0][0])
    params = run((start, optimizer.init(start)), jax.random.split(key, 3000))
    reached = jnp.mean(model(params).marginal().log_prob(x))
    assert best - 0.01 < reached < best + 1e-4


def test_a_vanishing_posterior_has_the_gradient_of_the_squared_error(key):
    """With beta = 0 and a scale near 0 the VAE is the deterministic autoencoder."""
    x = jax.random.normal(jax.random.key(1), (16, 4))
    params = (jax.random.normal(jax.random.key(2), (4, 2)), jax.random.normal(jax.random.key(3), (2, 4)))

    def decode(params, z):
        return Normal(jnp.tanh(z) @ params[1], 1.0)

    def variational(params):
        encode = lambda x: Normal(x @ params[0], 1e-6)
        return vaejax.negative_elbo(key, x, encode, partial(decode, params), beta=0.0)[0]

    def deterministic(params):
        encode = lambda x: vaejax.Delta(x @ params[0])
        terms = vaejax.autoencode(jax.random.key(0), x, encode, partial(decode, params), vaejax.none)
        return vaejax.negative_mean(terms)[0]

    def squared_error(params):
        return 0.5 * jnp.mean(jnp.sum((x - jnp.tanh(x @ params[0]) @ params[1]) ** 2, axis=-1))

    expected = jax.grad(squared_error)(params)
    chex.assert_trees_all_close(jax.grad(deterministic)(params), expected, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(jax.grad(variational)(params), expected, rtol=1e-3, atol=1e-4)
    constant = 4 * 0.5 * jnp.log(2 * jnp.pi)
    chex.assert_trees_all_close(deterministic(params), squared_error(params) + constant, rtol=1e-6)
