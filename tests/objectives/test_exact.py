"""Objectives against the linear-Gaussian oracle, where everything is known exactly."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

import vaejax
from vaejax import Normal
from vaejax.testing import LinearGaussian

# A model of two latents and one of its examples, in double precision (not for tests without it) and in single.
DOUBLE = LinearGaussian(
    np.array([[0.9, -0.4], [-1.1, 0.3], [0.2, 1.2], [0.7, 0.6], [-0.5, 0.8]]), np.array([0.4, 1.9, 1.2, -0.3, 2.1]), 0.5
)
ORACLE, X = LinearGaussian(*(np.float32(leaf) for leaf in DOUBLE)), np.array([1.3, 0.7, 1.9, 0.2, 1.4], np.float32)
# A wrong but fixed, asymmetric posterior.
LOC, SCALE = np.array([0.3, -0.8], np.float32), np.array([0.4, 0.7], np.float32)


def agree(draws, expected):
    """Whether the mean of draws `[N, ...]` is the expected one to within five of its errors."""
    return np.all(np.abs(np.mean(draws, 0) - expected) < 5 * np.std(draws, 0) / len(draws) ** 0.5)


@pytest.mark.parametrize("kl", [vaejax.kl, vaejax.monte_carlo_kl])
@pytest.mark.parametrize(
    "num_samples", [None, *(pytest.param(n, marks=pytest.mark.slow("another number of samples")) for n in (1, 3))]
)
def test_the_mean_of_draws_is_the_exact_elbo(kl, num_samples):
    """And so are those of its parts."""

    @jax.jit
    def draws(keys):
        q = Normal(LOC, SCALE)

        def draw(key):
            terms = vaejax.elbo(key, X, lambda x: q, ORACLE.decode, kl=kl, num_samples=num_samples)
            return terms.value, terms.log_likelihood, terms.kl

        return jax.vmap(draw)(keys), ORACLE.log_likelihood(X, q)

    drawn, log_likelihood = jax.device_get(draws(jax.random.split(jax.random.key(1), 50_000)))
    values, log_likelihoods, divergences = drawn
    divergence = np.sum(0.5 * (LOC**2 + SCALE**2 - 1) - np.log(SCALE))
    assert agree(values, log_likelihood - divergence)
    assert agree(log_likelihoods, log_likelihood)
    if kl is vaejax.kl:
        np.testing.assert_allclose(divergences, np.full(50_000, divergence), rtol=1e-6)
    else:
        assert agree(divergences, divergence)


@pytest.mark.slow("test_importance has it in double precision for every bound")
def test_at_the_posterior_every_draw_is_log_p(x64):
    """ln p(x|z) + ln p(z) - ln p(z|x) = ln p(x), whatever z: to 1e-10 in double precision."""
    chex.assert_trees_all_close(*at_the_posterior(DOUBLE, None), atol=1e-10, rtol=0)


def test_at_the_posterior_every_draw_is_log_p_in_single_precision():
    chex.assert_trees_all_close(*at_the_posterior(ORACLE, 3), rtol=2e-5)


def at_the_posterior(oracle, num_samples):
    """The bounds and the exact log-likelihoods of 400 examples."""

    @jax.jit
    def both(data_key, key):
        x = oracle.marginal().sample(data_key, (400,))
        options = {"kl": vaejax.monte_carlo_kl, "num_samples": num_samples}
        return vaejax.elbo(key, x, oracle.posterior, oracle.decode, **options).value, oracle.marginal().log_prob(x)

    return both(*jax.random.split(jax.random.key(0)))


def test_the_elbo_is_below_log_p_by_the_divergence_from_the_posterior():
    @jax.jit
    def gap_and_divergence():
        q = vaejax.MultivariateNormal(LOC, jnp.diag(SCALE))
        gap = ORACLE.marginal().log_prob(X) - ORACLE.elbo(X, Normal(LOC, SCALE))
        return gap, vaejax.kl_divergence(q, ORACLE.posterior(X))

    gap, divergence = gap_and_divergence()
    np.testing.assert_allclose(gap, divergence, rtol=1e-4)
    assert divergence > 0.1


def test_the_gradient_estimate_is_unbiased():
    """Its mean over draws is the gradient of the exact ELBO, for every parameter of q and of the model."""

    def exact(params):
        weight, loc, log_scale = params
        return ORACLE._replace(weight=weight).elbo(X, Normal.from_log_scale(loc, log_scale))

    def estimate(params, key):
        weight, loc, log_scale = params
        q = Normal.from_log_scale(loc, log_scale)
        return vaejax.elbo(key, X, lambda x: q, ORACLE._replace(weight=weight).decode).value

    gradients = jax.jit(
        lambda params, keys: (jax.vmap(jax.grad(estimate), in_axes=(None, 0))(params, keys), jax.grad(exact)(params))
    )
    params = (ORACLE.weight, LOC, np.log(SCALE))
    both = jax.device_get(gradients(params, jax.random.split(jax.random.key(0), 50_000)))
    for drawn, expected in zip(*both, strict=True):
        assert agree(drawn, expected)


@pytest.mark.slow("trains for 3000 steps; the bound and its gradient are exact above")
def test_a_linear_vae_reaches_the_maximum_likelihood(key, optimized):
    """Probabilistic principal components by gradient descent: within 0.01 nats of the closed form.

    Source of the closed form: Tipping and Bishop 1999; that the ELBO of a linear VAE has the same
    maximum: Lucas et al. 2019, Don't Blame the ELBO.
    """
    random = np.random.default_rng(0)
    weight, bias = random.normal(size=(6, 2)) / 2**0.5, 1 + random.normal(size=6)
    x = random.normal(size=(500, 2)) @ weight.T + bias + 0.6 * random.normal(size=(500, 6))

    # Maximum likelihood: the principal axes, and as noise the mean of the variances that are left.
    eigenvalues, axes = np.linalg.eigh(np.cov(x.T, bias=True))
    noise = np.mean(eigenvalues[:-2])
    weight = axes[:, -2:] * np.sqrt(eigenvalues[-2:] - noise)
    exact = scipy.stats.multivariate_normal(x.mean(0), weight @ weight.T + noise * np.eye(6))
    best, x = np.mean(exact.logpdf(x)), x.astype(np.float32)

    def model(params):
        return LinearGaussian(params["weight"], params["bias"], jnp.exp(params["log_scale"]))

    def loss(params, key):
        def encode(x):
            return Normal.from_log_scale((x - params["bias"]) @ params["encoder"], params["log_scales"])

        return vaejax.negative_elbo(key, x, encode, model(params).decode, num_samples=4)[0]

    optimizer = optax.adam(optax.cosine_decay_schedule(3e-2, 3000))
    start = {
        "weight": 0.1 * random.normal(size=(6, 2)),
        "bias": np.zeros(6),
        "log_scale": np.zeros(()),
        "encoder": 0.1 * random.normal(size=(6, 2)),
        "log_scales": np.zeros(2),
    }

    def step(carry, key):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params, key), state)
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    def train(start, keys):
        (params, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), keys)
        return jnp.mean(model(params).marginal().log_prob(x))

    reached = train(jax.tree.map(np.float32, start), jax.random.split(key, 3000))
    assert best - 0.01 < reached < best + 1e-4


def test_a_vanishing_posterior_has_the_gradient_of_the_squared_error():
    """With beta = 0 and a scale near 0 the VAE is the deterministic autoencoder."""
    random = np.random.default_rng(0)
    x, *params = (random.normal(size=shape).astype(np.float32) for shape in [(16, 4), (4, 2), (2, 4)])

    def decode(params, z):
        return Normal(jnp.tanh(z) @ params[1], 1.0)

    def variational(params):
        encode = lambda x: Normal(x @ params[0], 1e-6)
        return vaejax.negative_elbo(jax.random.key(1), x, encode, partial(decode, params), beta=0.0)[0]

    def deterministic(params):
        encode = lambda x: vaejax.Delta(x @ params[0])
        terms = vaejax.autoencode(jax.random.key(0), x, encode, partial(decode, params), vaejax.none)
        return vaejax.negative_mean(terms)[0]

    def squared_error(params):
        return 0.5 * jnp.mean(jnp.sum((x - jnp.tanh(x @ params[0]) @ params[1]) ** 2, axis=-1))

    three = (squared_error, deterministic, variational)
    slopes = jax.jit(lambda params: [jax.value_and_grad(f)(params) for f in three])
    (error, expected), (value, of_points), (_, of_draws) = slopes(params)
    chex.assert_trees_all_close(of_points, expected, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(of_draws, expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(value, error + 4 * 0.5 * np.log(2 * np.pi), rtol=1e-6)
