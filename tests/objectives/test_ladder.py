"""Hierarchies: against one layer, an exact hierarchy, and by hand."""

import chex
import jax
import jax.numpy as jnp
import pytest

import vaejax
from vaejax import MultivariateNormal, Normal

DATA = 4


def top_prior(above):
    return vaejax.standard_normal


class Chain:
    """z_1 ~ N(0, I), z_2 = A z_1 + 0.6 e, x = B z_2 + 0.5 e: all of it one Normal, so everything is known."""

    def __init__(self):
        keys = jax.random.split(jax.random.key(2), 2)
        self.a, self.b = jax.random.normal(keys[0], (3, 2)), jax.random.normal(keys[1], (DATA, 3))
        self.joint_2 = self.a @ self.a.T + 0.36 * jnp.eye(3)
        self.marginal = MultivariateNormal(
            jnp.zeros(DATA), jnp.linalg.cholesky(self.b @ self.joint_2 @ self.b.T + 0.25 * jnp.eye(DATA))
        )
        self.priors = [top_prior, lambda above: Normal(above[0] @ self.a.T, 0.6)]

    def decode(self, z):
        return Normal(z[-1] @ self.b.T, 0.5)

    def encode(self, x):
        """The exact posterior, top first: p(z_1 | x), then p(z_2 | z_1, x)."""

        def condition(prior_loc, prior_cov, weight, noise):
            gain = prior_cov @ weight.T @ jnp.linalg.inv(weight @ prior_cov @ weight.T + noise)
            covariance = prior_cov - gain @ weight @ prior_cov
            loc = prior_loc + (x - prior_loc @ weight.T) @ gain.T
            return MultivariateNormal(loc, jnp.linalg.cholesky((covariance + covariance.T) / 2))

        noise = 0.25 * jnp.eye(DATA)
        given_both = self.b @ (0.36 * jnp.eye(3)) @ self.b.T + noise
        return [
            lambda above, p: condition(jnp.zeros((len(x), 2)), jnp.eye(2), self.b @ self.a, given_both),
            lambda above, p: condition(above[0] @ self.a.T, 0.36 * jnp.eye(3), self.b, noise),
        ]


@pytest.mark.parametrize("num_samples", [None, 3])
def test_at_the_posterior_every_draw_is_log_p(x64, key, num_samples):
    chain = Chain()
    x = chain.marginal.sample(jax.random.key(5), (6,))
    terms = vaejax.ladder_elbo(
        key, x, chain.encode, chain.decode, chain.priors, kl=vaejax.monte_carlo_kl, num_samples=num_samples
    )
    chex.assert_trees_all_close(terms.value, chain.marginal.log_prob(x), atol=1e-9, rtol=0)
    lead = () if num_samples is None else (3,)
    assert [z.shape for z in terms.latents] == [(*lead, 6, 2), (*lead, 6, 3)]


def test_the_mean_of_draws_is_the_exact_elbo(x64, key):
    """A posterior that ignores x: its bound is log p(x) less what it misses, from the joint Normal."""
    chain = Chain()
    x = jnp.array([[0.5, -1.0, 0.3, 2.0]])
    wrong = [lambda above, p: Normal(jnp.full((1, 2), 0.3), 0.8), lambda above, p: p]

    def draw(key):
        return vaejax.ladder_elbo(key, x, lambda x: wrong, chain.decode, chain.priors).value[0]

    draws = jax.jit(jax.vmap(draw))(jax.random.split(key, 20_000))
    loc, covariance = chain.a @ jnp.full(2, 0.3), 0.64 * chain.a @ chain.a.T + 0.36 * jnp.eye(3)
    error = jnp.sum((x[0] - chain.b @ loc) ** 2) + jnp.trace(chain.b @ covariance @ chain.b.T)
    log_likelihood = -0.5 * error / 0.25 - DATA * (jnp.log(0.5) + 0.5 * jnp.log(2 * jnp.pi))
    exact = log_likelihood - vaejax.kl_divergence(Normal(jnp.full(2, 0.3), 0.8), vaejax.standard_normal)
    assert abs(jnp.mean(draws) - exact) < 5 * jnp.std(draws) / len(draws) ** 0.5


@pytest.mark.parametrize("kl", [vaejax.kl, vaejax.monte_carlo_kl])
def test_one_layer_is_the_elbo(key, kl):
    x = jax.random.normal(jax.random.key(1), (5, 2))
    encode, decode = lambda x: Normal(x, 0.5), lambda z: Normal(2 * z, 1.0)
    elbo = vaejax.elbo(jax.random.clone(key), x, encode, decode, beta=0.7, kl=kl)
    one = vaejax.ladder_elbo(
        key, x, lambda x: [lambda above, p: encode(x)], lambda z: decode(z[0]), [top_prior], beta=0.7, kl=kl
    )
    chex.assert_trees_all_close((one.value, one.kl), (elbo.value, elbo.kl), rtol=1e-6)
    chex.assert_trees_all_equal(one.latents[0], elbo.latents)


def test_the_parts_and_the_weights_of_the_layers(key):
    chain = Chain()
    x = chain.marginal.sample(jax.random.key(5), (6,))
    call = lambda **options: vaejax.ladder_elbo(
        jax.random.clone(key), x, chain.encode, chain.decode, chain.priors, kl=vaejax.monte_carlo_kl, **options
    )
    plain = call()
    chex.assert_shape(plain.kl_per_layer, (2, 6))
    chex.assert_trees_all_close(plain.kl, plain.kl_per_layer.sum(0), rtol=1e-6)
    chex.assert_trees_all_close(plain.value, plain.log_likelihood - plain.kl, rtol=1e-6)
    weighted = call(beta=jnp.array([0.5, 2.0]), free_bits=jnp.array([3.0, 0.0]))
    chex.assert_trees_all_equal(weighted.kl_per_layer, plain.kl_per_layer)
    penalty = 0.5 * jnp.maximum(plain.kl_per_layer[0], 3.0) + 2.0 * plain.kl_per_layer[1]
    chex.assert_trees_all_close(weighted.value, plain.log_likelihood - penalty, rtol=1e-5)


def test_samples_are_means_over_draws_of_the_whole_hierarchy(key):
    chain = Chain()
    x = chain.marginal.sample(jax.random.key(5), (6,))
    wide = lambda x: [lambda above, p: Normal(jnp.zeros((6, 2)), 1.0), lambda above, p: Normal(p.loc, 0.3)]
    terms = vaejax.ladder_elbo(key, x, wide, chain.decode, chain.priors, num_samples=4)
    each = jnp.stack([chain.decode((z,)).log_prob(x) for z in terms.latents[1]])
    chex.assert_trees_all_close(terms.log_likelihood, each.mean(0), rtol=1e-5)
    assert len(jnp.unique(terms.latents[0].ravel())) == 4 * 6 * 2


def test_generation_follows_the_hierarchy(key):
    chain = Chain()
    top, low = vaejax.ladder_sample(key, chain.priors, [(2,), (3,)], 20_000)
    chex.assert_shape((top, low), [(20_000, 2), (20_000, 3)])
    spread = jnp.sqrt((jnp.outer(jnp.diag(chain.joint_2), jnp.diag(chain.joint_2)) + chain.joint_2**2) / len(low))
    assert jnp.all(jnp.abs(jnp.cov(low.T) - chain.joint_2) < 5 * spread)
    chex.assert_trees_all_close(jnp.linalg.lstsq(top, low)[0].T, chain.a, atol=0.05)


def test_two_opinions_are_weighted_by_their_precision(x64):
    """The product of two densities, up to a constant."""
    q, p = Normal(jnp.array([0.3, 2.0]), jnp.array([0.5, 3.0])), Normal(jnp.array([-1.0, 0.0]), jnp.array([1.5, 1.0]))
    both = vaejax.precision_weighted(q, p)
    z = jnp.linspace(-3, 3, 7)[:, None] * jnp.array([1.0, 2.0])
    difference = q.log_prob(z) + p.log_prob(z) - both.log_prob(z)
    chex.assert_trees_all_close(difference, jnp.full(7, difference[0]), rtol=1e-10)


def test_hyperparameters_may_be_traced_and_gradients_are_finite(key):
    chain = Chain()
    x = chain.marginal.sample(jax.random.key(5), (6,))

    def value(weights):
        beta, free_bits = weights
        wide = lambda x: [lambda above, p: Normal(0.1 * x[:, :2], 1.0), lambda above, p: p]
        options = {"beta": beta, "free_bits": free_bits}
        return vaejax.ladder_elbo(jax.random.clone(key), x, wide, chain.decode, chain.priors, **options).value.sum()

    weights = (jnp.array([1.0, 0.5]), jnp.array([0.1, 0.2]))
    chex.assert_trees_all_close(jax.jit(value)(weights), value(weights), rtol=1e-5)
    chex.assert_tree_all_finite(jax.grad(value)(weights))


LAYER = lambda above, p: Normal(jnp.zeros((5, 2)), 1.0)
BAD = {
    "one layer too many": ({"priors": [top_prior, top_prior]}, ValueError, "a prior for each of the 1 layers; got 2"),
    "no layers": ({"encode": lambda x: []}, TypeError, "encode must return a sequence of functions"),
    "a distribution": ({"encode": lambda x: Normal(x, 1.0)}, TypeError, "encode must return a sequence.*got Normal"),
    "priors no functions": ({"priors": [vaejax.standard_normal]}, TypeError, "priors must be a sequence of functions"),
    "a layer of numbers": ({"encode": lambda x: [lambda above, p: x]}, TypeError, "encode must return a distribution"),
    "weights of three layers": ({"beta": jnp.ones(3)}, ValueError, r"beta must have shape \(\) or \(1,\)"),
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
        vaejax.ladder_elbo(key, **arguments)
