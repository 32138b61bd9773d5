"""The same weights through every kind of callable give the same bound."""

import dataclasses
from functools import partial

import chex
import equinox
import flax.linen
import jax
import jax.numpy as jnp
import numpyro.distributions as numpyro
import pytest
from flax import nnx

import vaejax
from vaejax import Bernoulli, Normal

DATA, HIDDEN, LATENT = 6, 5, 3
KEYS = jax.random.split(jax.random.key(0), 4)
WEIGHTS = {
    "hidden": jax.random.normal(KEYS[0], (DATA, HIDDEN)),
    "latent": jax.random.normal(KEYS[1], (HIDDEN, 2 * LATENT)) / 2,
    "decoder": jax.random.normal(KEYS[2], (LATENT, DATA)),
}
X = jax.random.bernoulli(KEYS[3], 0.5, (8, DATA)).astype(jnp.float32)


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


@pytest.mark.parametrize("kl", [vaejax.kl, vaejax.monte_carlo_kl])
@pytest.mark.parametrize("functions", [linen, of_nnx, of_equinox, with_numpyro])
def test_every_kind_of_callable_gives_the_same_elbo(functions, kl):
    expected = vaejax.elbo(jax.random.key(1), X, *plain(), kl=kl, num_samples=2)
    terms = vaejax.elbo(jax.random.key(1), X, *functions(), kl=kl, num_samples=2)
    chex.assert_trees_all_close(terms.value, expected.value, rtol=1e-5)
    chex.assert_trees_all_close(terms.kl, expected.kl, rtol=1e-4)


def test_numpyros_prior_in_place_of_ours():
    encode, decode = plain()
    expected = vaejax.elbo(jax.random.key(1), X, encode, decode, Normal(jnp.ones(LATENT), 2.0))
    prior = numpyro.Normal(jnp.ones(LATENT), 2.0).to_event(1)
    chex.assert_trees_all_close(vaejax.elbo(jax.random.key(1), X, encode, decode, prior).kl, expected.kl, rtol=1e-5)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (numpyro.Normal(jnp.ones(3), 2.0).to_event(1), Normal(jnp.ones(3), 2.0)),
        (numpyro.Laplace(jnp.ones(3), 2.0), vaejax.Laplace(jnp.ones(3), 2.0, 0)),
        (numpyro.Bernoulli(logits=jnp.ones(3)).to_event(1), Bernoulli(jnp.ones(3))),
        (numpyro.Bernoulli(probs=jnp.full(3, 0.2)).to_event(1), Bernoulli(jnp.full(3, jnp.log(0.25)))),
        (numpyro.Categorical(logits=jnp.arange(6.0).reshape(2, 3)).to_event(1),
         vaejax.Categorical(jnp.arange(6.0).reshape(2, 3))),
        (numpyro.MultivariateNormal(jnp.ones(3), scale_tril=2 * jnp.eye(3)),
         vaejax.MultivariateNormal(jnp.ones(3), 2 * jnp.eye(3))),
    ],
)  # fmt: skip
def test_numpyros_distributions_are_seen_as_ours(theirs, ours):
    native = vaejax.distributions.as_native(theirs)
    assert type(native) is type(ours)
    assert native.event_ndims == ours.event_ndims
    value = jnp.zeros(jnp.shape(ours.mean), int if isinstance(ours, vaejax.Categorical) else float)
    chex.assert_trees_all_close(native.log_prob(value), theirs.log_prob(value), rtol=1e-5)
    chex.assert_trees_all_close(native.log_prob(value), ours.log_prob(value), rtol=1e-5)
    # A closed form exists, so that elbo's default works.
    chex.assert_trees_all_close(vaejax.kl_divergence(theirs, ours), jnp.zeros(()), atol=1e-5)


def test_numpyros_expanded_prior_and_point_posterior():
    encode, decode = plain()
    expected = vaejax.elbo(jax.random.key(1), X, encode, decode)
    prior = numpyro.Normal(0.0, 1.0).expand([LATENT]).to_event(1)
    chex.assert_shape(vaejax.distributions.as_native(prior).mean, (LATENT,))
    chex.assert_trees_all_close(vaejax.elbo(jax.random.key(1), X, encode, decode, prior).kl, expected.kl, rtol=1e-6)
    point = lambda x: numpyro.Delta(encode(x).loc, event_dim=1)
    ours = lambda x: vaejax.Delta(encode(x).loc)
    chex.assert_trees_all_close(
        vaejax.elbo(jax.random.key(1), X, point, decode).value, vaejax.elbo(jax.random.key(1), X, ours, decode).value
    )


def test_a_class_of_the_users_own_that_is_a_pytree_passes_through_jit():
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass
    class Mine:
        loc: jax.Array

        def sample(self, key, sample_shape=()):
            return self.loc + jax.random.normal(key, sample_shape + self.loc.shape)

        def log_prob(self, value):
            return Normal(self.loc, 1.0).log_prob(value)

    encode, decode = plain()
    bound = jax.jit(
        lambda key: vaejax.elbo(key, X, lambda x: Mine(encode(x).loc), decode, kl=vaejax.monte_carlo_kl, num_samples=3)
    )
    terms = bound(jax.random.key(1))
    expected = vaejax.elbo(
        jax.random.key(1), X, lambda x: Normal(encode(x).loc, 1.0), decode, kl=vaejax.monte_carlo_kl, num_samples=3
    )
    chex.assert_trees_all_close(terms.value, expected.value, rtol=1e-5)
