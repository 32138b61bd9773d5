"""Hierarchies: against one layer, an exact hierarchy, and by hand."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions
import pytest
import scipy.stats

import vaejax
from vaejax import MultivariateNormal, Normal

DATA = 4
RANDOM = np.random.default_rng(2)


def top_prior(above):
    return vaejax.standard_normal


class Chain:
    """z_1 ~ N(0, I), z_2 = A z_1 + 0.6 e, x = B z_2 + 0.5 e: all of it one Normal, so everything is known."""

    a, b = RANDOM.normal(size=(3, 2)), RANDOM.normal(size=(DATA, 3))
    joint_2 = a @ a.T + 0.36 * np.eye(3)
    marginal = scipy.stats.multivariate_normal(np.zeros(DATA), b @ joint_2 @ b.T + 0.25 * np.eye(DATA))

    def __init__(self):
        self.priors = [top_prior, lambda above: Normal(above[0] @ self.a.T, 0.6)]

    def decode(self, z):
        return Normal(z[-1] @ self.b.T, 0.5)

    def encode(self, x):
        """The exact posterior, top first: p(z_1 | x), then p(z_2 | z_1, x)."""

        def condition(prior_loc, prior_cov, weight, noise):
            gain = prior_cov @ weight.T @ np.linalg.inv(weight @ prior_cov @ weight.T + noise)
            covariance = prior_cov - gain @ weight @ prior_cov
            loc = prior_loc + (x - prior_loc @ weight.T) @ gain.T
            return MultivariateNormal(loc, np.linalg.cholesky((covariance + covariance.T) / 2))

        noise = 0.25 * np.eye(DATA)
        given_both = self.b @ (0.36 * np.eye(3)) @ self.b.T + noise
        return [
            lambda above, p: condition(np.zeros((len(x), 2)), np.eye(2), self.b @ self.a, given_both),
            lambda above, p: condition(above[0] @ self.a.T, 0.36 * np.eye(3), self.b, noise),
        ]


X = Chain.marginal.rvs(6, RANDOM)


@pytest.mark.parametrize("num_samples", [None, pytest.param(3, marks=pytest.mark.slow("more samples of the same"))])
def test_at_the_posterior_every_draw_is_log_p(x64, key, num_samples):
    @jax.jit
    def terms(key, x):
        chain, options = Chain(), {"kl": vaejax.monte_carlo_kl, "num_samples": num_samples}
        terms = vaejax.ladder_elbo(key, x, chain.encode, chain.decode, chain.priors, **options)
        return terms.value, terms.latents

    value, latents = terms(key, X)
    np.testing.assert_allclose(value, Chain.marginal.logpdf(X), atol=1e-9, rtol=0)
    lead = () if num_samples is None else (3,)
    assert [z.shape for z in latents] == [(*lead, 6, 2), (*lead, 6, 3)]


def test_the_mean_of_draws_is_the_exact_elbo(x64, key):
    """A posterior that ignores x: its bound is log p(x) less what it misses, from the joint Normal."""
    chain, x = Chain(), np.array([[0.5, -1.0, 0.3, 2.0]])

    @jax.jit
    @jax.vmap
    def draw(key):
        wrong = [lambda above, p: Normal(jnp.full((1, 2), 0.3), 0.8), lambda above, p: p]
        return vaejax.ladder_elbo(key, x, lambda x: wrong, chain.decode, chain.priors).value[0]

    draws = np.asarray(draw(jax.random.split(key, 20_000)))
    loc, covariance = chain.a @ np.full(2, 0.3), 0.64 * chain.a @ chain.a.T + 0.36 * np.eye(3)
    error = np.sum((x[0] - chain.b @ loc) ** 2) + np.trace(chain.b @ covariance @ chain.b.T)
    log_likelihood = -0.5 * error / 0.25 - DATA * (np.log(0.5) + 0.5 * np.log(2 * np.pi))
    exact = log_likelihood - 2 * (0.5 * (0.3**2 + 0.8**2 - 1) - np.log(0.8))
    assert abs(np.mean(draws) - exact) < 5 * np.std(draws) / len(draws) ** 0.5


@pytest.mark.parametrize(
    "kl", [vaejax.kl, pytest.param(vaejax.monte_carlo_kl, marks=pytest.mark.slow("another divergence"))]
)
def test_one_layer_is_the_elbo(kl):
    @jax.jit
    def both(x):
        encode, decode = lambda x: Normal(x, 0.5), lambda z: Normal(2 * z, 1.0)
        elbo = vaejax.elbo(jax.random.key(0), x, encode, decode, beta=0.7, kl=kl)
        layers = lambda x: [lambda above, p: encode(x)]
        one = vaejax.ladder_elbo(jax.random.key(0), x, layers, lambda z: decode(z[0]), [top_prior], beta=0.7, kl=kl)
        return (elbo.value, elbo.kl, elbo.latents), (one.value, one.kl, one.latents[0])

    elbo, one = both(RANDOM.normal(size=(5, 2)).astype(np.float32))
    chex.assert_trees_all_close(one[:2], elbo[:2], rtol=1e-6)
    chex.assert_trees_all_equal(one[2], elbo[2])


def test_the_parts_and_the_weights_of_the_layers():
    @jax.jit
    def both(x):
        def call(**options):
            chain, options = Chain(), options | {"kl": vaejax.monte_carlo_kl}
            terms = vaejax.ladder_elbo(jax.random.key(0), x, chain.encode, chain.decode, chain.priors, **options)
            return terms.value, terms.log_likelihood, terms.kl, terms.kl_per_layer

        return call(), call(beta=np.array([0.5, 2.0]), free_bits=np.array([3.0, 0.0]))

    (value, log_likelihood, kl, per_layer), weighted = both(np.float32(X))
    chex.assert_shape(per_layer, (2, 6))
    np.testing.assert_allclose(kl, np.sum(per_layer, axis=0), rtol=1e-6)
    np.testing.assert_allclose(value, log_likelihood - kl, rtol=1e-6)
    np.testing.assert_array_equal(weighted[3], per_layer)
    penalty = 0.5 * np.maximum(per_layer[0], 3.0) + 2.0 * per_layer[1]
    np.testing.assert_allclose(weighted[0], log_likelihood - penalty, rtol=1e-5)


def test_samples_are_means_over_draws_of_the_whole_hierarchy(key):
    chain = Chain()

    @jax.jit
    def terms(key, x):
        wide = lambda x: [lambda above, p: Normal(jnp.zeros((6, 2)), 1.0), lambda above, p: Normal(p.loc, 0.3)]
        terms = vaejax.ladder_elbo(key, x, wide, chain.decode, chain.priors, num_samples=4)
        return terms.log_likelihood, terms.latents

    log_likelihood, latents = terms(key, np.float32(X))
    each = scipy.stats.norm(latents[1] @ chain.b.T, 0.5).logpdf(X).sum(-1)
    np.testing.assert_allclose(log_likelihood, each.mean(0), rtol=1e-5)
    assert len(np.unique(latents[0])) == 4 * 6 * 2


def test_generation_follows_the_hierarchy(key):
    chain = Chain()
    top, low = jax.jit(lambda key: vaejax.ladder_sample(key, chain.priors, [(2,), (3,)], 20_000))(key)
    chex.assert_shape((top, low), [(20_000, 2), (20_000, 3)])
    variances = np.diag(chain.joint_2)
    spread = np.sqrt((np.outer(variances, variances) + chain.joint_2**2) / len(low))
    assert np.all(np.abs(np.cov(low.T) - chain.joint_2) < 5 * spread)
    np.testing.assert_allclose(np.linalg.lstsq(top, low)[0].T, chain.a, atol=0.05)


def test_two_opinions_are_weighted_by_their_precision(x64):
    """The product of two densities, up to a constant."""
    q, p = (np.array([0.3, 2.0]), np.array([0.5, 3.0])), (np.array([-1.0, 0.0]), np.array([1.5, 1.0]))
    both = jax.jit(lambda: vaejax.precision_weighted(Normal(*q), Normal(*p)))()
    z = np.linspace(-3, 3, 7)[:, None] * np.array([1.0, 2.0])
    log_prob = lambda loc, scale: scipy.stats.norm(loc, scale).logpdf(z).sum(-1)
    difference = log_prob(*q) + log_prob(*p) - log_prob(both.loc, both.scale)
    np.testing.assert_allclose(difference, np.full(7, difference[0]), rtol=1e-10)


def test_numpyros_normals_are_weighted_as_ours():
    theirs = numpyro.distributions.Normal(0.0, 2.0).expand((5, 2)).to_event(1)
    weighted = lambda p: vaejax.precision_weighted(Normal(np.ones((5, 2)), 1.0), p)
    both = jax.jit(lambda: [(q.mean, q.variance) for q in map(weighted, (theirs, Normal(0.0, 2.0)))])
    chex.assert_trees_all_close(*both())
    mine = lambda above, p: numpyro.distributions.Normal(np.zeros((5, 2)), 1.0).to_event(1)
    likelihood, priors = lambda z: Normal(z[0], 1.0), [lambda above: vaejax.standard_normal]
    x, options = np.ones((5, 2)), {"num_samples": 3}
    posterior = lambda key: vaejax.ladder_elbo(key, x, lambda x: [mine], likelihood, priors, **options).posterior[0]
    draws = jax.jit(lambda key: posterior(key).sample(jax.random.key(1)))(jax.random.key(0))
    assert len(np.unique(draws)) == 3 * 5 * 2
    with pytest.raises(TypeError, match="p must be a Normal; got Laplace"):
        vaejax.precision_weighted(Normal(0.0, 1.0), vaejax.Laplace(0.0, 1.0))


@pytest.mark.slow("another way to pass the weights; two gradients to compile")
def test_hyperparameters_may_be_traced_and_gradients_are_finite():
    chain = Chain()

    def value(weights):
        beta, free_bits = weights
        wide = lambda x: [lambda above, p: Normal(0.1 * x[:, :2], 1.0), lambda above, p: p]
        options = {"beta": beta, "free_bits": free_bits}
        terms = vaejax.ladder_elbo(jax.random.key(0), np.float32(X), wide, chain.decode, chain.priors, **options)
        return terms.value.sum()

    weights = (np.array([1.0, 0.5], np.float32), np.array([0.1, 0.2], np.float32))
    concrete = jax.jit(lambda: value(weights))()
    traced, gradient = jax.jit(jax.value_and_grad(value))(weights)
    np.testing.assert_allclose(traced, concrete, rtol=1e-5)
    chex.assert_tree_all_finite(gradient)


LAYER = lambda above, p: Normal(jnp.zeros((5, 2)), 1.0)
BAD = {
    "one layer too many": ({"priors": [top_prior, top_prior]}, ValueError, "a prior for each of the 1 layers; got 2"),
    "no layers": ({"encode": lambda x: []}, TypeError, "encode must return a sequence of functions"),
    "a distribution": ({"encode": lambda x: Normal(x, 1.0)}, TypeError, "encode must return a sequence.*got Normal"),
    "priors no functions": ({"priors": [vaejax.standard_normal]}, TypeError, "priors must be a sequence of functions"),
    "a layer of numbers": ({"encode": lambda x: [lambda above, p: x]}, TypeError, "encode must return a distribution"),
    "weights of three layers": ({"beta": np.ones(3)}, ValueError, r"beta must have shape \(\) or \(1,\)"),
    "a penalty on the batch": (
        {"kl": lambda p: vaejax.free_bits(p)}, ValueError, r"kl must give one number per example, shape \(5,\).*free_bits"
    ),
    "negative free bits": ({"free_bits": -1.0}, ValueError, "free_bits must be at least 0"),
    "another batch": (
        {"encode": lambda x: [lambda above, p: Normal(jnp.zeros((7, 2)), 1.0)]}, ValueError, "one log-probability"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_with_its_reason(name, key):
    changes, error, message = BAD[name]
    arguments = {
        "x": jnp.ones((5, 2)), "encode": lambda x: [LAYER], "decode": lambda z: Normal(jnp.broadcast_to(z[0][:1], (5, 2)), 1.0),
        "priors": [top_prior],
    } | changes  # fmt: skip
    with pytest.raises(error, match=message):
        jax.eval_shape(lambda: vaejax.ladder_elbo(key, **arguments).value)
