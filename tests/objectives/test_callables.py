"""The same weights through every kind of callable give the same bound."""

import dataclasses
from functools import partial

import chex
import equinox
import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as numpyro
import pytest
from flax import nnx

import vaejax
from tests.tiers import slow_but
from vaejax import Bernoulli, Normal

DATA, HIDDEN, LATENT = 6, 5, 3
RANDOM = np.random.default_rng(0)
SHAPES = {"hidden": (DATA, HIDDEN), "latent": (HIDDEN, 2 * LATENT), "decoder": (LATENT, DATA)}
WEIGHTS = {name: (0.7 * RANDOM.normal(size=shape)).astype(np.float32) for name, shape in SHAPES.items()}
X = RANDOM.integers(0, 2, (8, DATA)).astype(np.float32)


def posterior(raw):
    return Normal.from_log_variance(*jnp.split(raw, 2, axis=-1))


def plain():
    return (
        lambda x: posterior(jnp.tanh(x @ WEIGHTS["hidden"]) @ WEIGHTS["latent"]),
        lambda z: Bernoulli(z @ WEIGHTS["decoder"]),
    )


def linen():
    class Encoder(flax.linen.Module):
        @flax.linen.compact
        def __call__(self, x):
            x = jnp.tanh(flax.linen.Dense(HIDDEN, use_bias=False, name="hidden")(x))
            return posterior(flax.linen.Dense(2 * LATENT, use_bias=False, name="latent")(x))

    encoder, decoder = Encoder(), flax.linen.Dense(DATA, use_bias=False)
    encoder_params = {"params": {name: {"kernel": WEIGHTS[name]} for name in ("hidden", "latent")}}
    decoder_params = {"params": {"kernel": WEIGHTS["decoder"]}}
    return partial(encoder.apply, encoder_params), lambda z: Bernoulli(decoder.apply(decoder_params, z))


def of_nnx():
    def layer(name):
        kernel = WEIGHTS[name]
        linear = nnx.Linear(*kernel.shape, use_bias=False, rngs=nnx.Rngs(0))
        linear.kernel[...] = kernel
        return linear

    hidden, latent, decoder = layer("hidden"), layer("latent"), layer("decoder")
    return lambda x: posterior(latent(jnp.tanh(hidden(x)))), lambda z: Bernoulli(decoder(z))


def of_equinox():
    def layer(name):
        kernel = WEIGHTS[name]
        linear = equinox.nn.Linear(*kernel.shape, use_bias=False, key=jax.random.key(0))
        return equinox.tree_at(lambda l: l.weight, linear, kernel.T)

    hidden, latent, decoder = layer("hidden"), layer("latent"), layer("decoder")
    return (
        lambda x: posterior(jax.vmap(latent)(jnp.tanh(jax.vmap(hidden)(x)))),
        lambda z: Bernoulli(jax.vmap(decoder)(z)),
    )


def with_numpyro():
    encode, decode = plain()

    def normal(x):
        q = encode(x)
        return numpyro.Normal(q.loc, q.scale).to_event(1)

    return normal, lambda z: numpyro.Bernoulli(logits=decode(z).logits).to_event(1)


def terms_of(encode, decode, *prior, **options):
    """The value, the divergence and the latents of the bound, with one key for all."""
    terms = vaejax.elbo(jax.random.key(1), X, encode, decode, *prior, **options)
    return terms.value, terms.kl, terms.latents


@pytest.mark.parametrize(
    "functions", slow_but({linen, with_numpyro}, (linen, of_nnx, of_equinox, with_numpyro), "another kind of function")
)
def test_every_kind_of_callable_gives_the_same_elbo(functions):
    """In closed form and by Monte Carlo."""

    @jax.jit
    def both():
        divergences = (vaejax.kl, vaejax.monte_carlo_kl)
        return [[terms_of(*pair, kl=kl, num_samples=2) for kl in divergences] for pair in (functions(), plain())]

    for (value, kl, latents), expected in zip(*both(), strict=True):
        np.testing.assert_allclose(value, expected[0], rtol=1e-5)
        np.testing.assert_allclose(kl, expected[1], rtol=1e-4)
        np.testing.assert_allclose(latents, expected[2], rtol=1e-4, atol=1e-5)


# Numpyro's, and ours.
PRIORS = {
    "normal": lambda: (numpyro.Normal(jnp.ones(3), 2.0).to_event(1), Normal(jnp.ones(3), 2.0)),
    "laplace": lambda: (numpyro.Laplace(jnp.ones(3), 2.0), vaejax.Laplace(jnp.ones(3), 2.0, 0)),
    "bernoulli": lambda: (numpyro.Bernoulli(logits=jnp.ones(3)).to_event(1), Bernoulli(jnp.ones(3))),
    "bernoulli by probability": lambda: (
        numpyro.Bernoulli(probs=jnp.full(3, 0.2)).to_event(1), Bernoulli(jnp.full(3, np.log(0.25)))
    ),
    "categorical": lambda: (
        numpyro.Categorical(logits=jnp.arange(6.0).reshape(2, 3)).to_event(1),
        vaejax.Categorical(jnp.arange(6.0).reshape(2, 3)),
    ),
    "multivariate normal": lambda: (
        numpyro.MultivariateNormal(jnp.ones(3), scale_tril=2 * jnp.eye(3)),
        vaejax.MultivariateNormal(jnp.ones(3), 2 * jnp.eye(3)),
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    "name", slow_but(set(PRIORS) - {"categorical", "multivariate normal"}, PRIORS, "another distribution")
)
def test_numpyros_distributions_are_seen_as_ours(name):
    kinds = []

    @jax.jit
    def figures():
        theirs, ours = PRIORS[name]()
        native = vaejax.distributions.as_native(theirs)
        kinds.extend((type(each), each.event_ndims) for each in (native, ours))
        value = jnp.zeros(jnp.shape(ours.mean), int if isinstance(ours, vaejax.Categorical) else float)
        # A closed form exists, so that elbo's default works.
        return [each.log_prob(value) for each in (native, theirs, ours)], vaejax.kl_divergence(theirs, ours)

    (native, theirs, ours), divergence = figures()
    assert kinds[0] == kinds[1]
    np.testing.assert_allclose(native, theirs, rtol=1e-5)
    np.testing.assert_allclose(native, ours, rtol=1e-5)
    np.testing.assert_allclose(divergence, np.zeros(np.shape(divergence)), atol=1e-5)


def test_numpyros_prior_and_point_posterior():
    """A prior of theirs, also an expanded one, in place of ours, and a point of theirs."""

    @jax.jit
    def values():
        encode, decode = plain()
        pairs = {
            "prior": (numpyro.Normal(jnp.ones(LATENT), 2.0).to_event(1), Normal(jnp.ones(LATENT), 2.0)),
            "expanded": (numpyro.Normal(0.0, 1.0).expand([LATENT]).to_event(1), vaejax.standard_normal),
        }
        divergences = {name: [terms_of(encode, decode, prior)[1] for prior in pair] for name, pair in pairs.items()}
        points = lambda x: numpyro.Delta(encode(x).loc, event_dim=1), lambda x: vaejax.Delta(encode(x).loc)
        mean = vaejax.distributions.as_native(pairs["expanded"][0]).mean
        return divergences, [terms_of(point, decode)[0] for point in points], mean

    divergences, points, mean = values()
    for theirs, ours in divergences.values():
        np.testing.assert_allclose(theirs, ours, rtol=1e-5)
    np.testing.assert_allclose(*points, rtol=1e-6)
    chex.assert_shape(mean, (LATENT,))


def test_a_class_of_the_users_own_that_is_a_pytree_passes_through_jit():
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass
    class Mine:
        loc: jax.Array

        def sample(self, key, sample_shape=()):
            return self.loc + jax.random.normal(key, sample_shape + self.loc.shape)

        def log_prob(self, value):
            return Normal(self.loc, 1.0).log_prob(value)

    @jax.jit
    def both():
        encode, decode = plain()
        options = {"kl": vaejax.monte_carlo_kl, "num_samples": 3}
        encoders = lambda x: Mine(encode(x).loc), lambda x: Normal(encode(x).loc, 1.0)
        return [vaejax.elbo(jax.random.key(1), X, each, decode, **options) for each in encoders]

    mine, expected = both()
    np.testing.assert_allclose(mine.value, expected.value, rtol=1e-5)
    assert isinstance(mine.posterior, Mine)
    np.testing.assert_array_equal(mine.posterior.loc, expected.posterior.loc)
