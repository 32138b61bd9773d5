"""Identities that objectives satisfy: samples, batches, beta, transformations, keys, gradients."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.test_util import check_grads

import vaejax
from vaejax import Bernoulli, ContinuousBernoulli, Delta, Laplace, Normal, OptimalNormal

DATA, LATENT = 6, 3


def params_of(seed, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(seed), 3)
    shapes = {"mean": (DATA, LATENT), "log_scale": (DATA, LATENT), "decoder": (LATENT, DATA)}
    return {
        name: 0.5 * jax.random.normal(k, shape, dtype) for k, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


def encode(params, x):
    return Normal.from_log_scale(x @ params["mean"], x @ params["log_scale"])


def decode(params, z):
    return Bernoulli(jnp.tanh(z) @ params["decoder"])


class WithNoise:
    """A Normal whose noise is passed in."""

    def __init__(self, normal, noise):
        self.normal, self.noise = normal, noise
        self.log_prob = normal.log_prob

    def sample(self, key, sample_shape=()):
        return self.normal.loc + self.normal.scale * self.noise

    def kl_divergence(self, other):
        return vaejax.kl_divergence(self.normal, other)


def elbo(params, key, x, **options):
    return vaejax.elbo(key, x, partial(encode, params), partial(decode, params), **options)


def data_of(seed, size=8):
    return jax.random.bernoulli(jax.random.key(seed), 0.5, (size, DATA)).astype(jnp.float32)


@given(st.integers(0, 10**6))
def test_one_sample_without_an_axis_is_one_sample_with_one(seed):
    params, x = params_of(seed), data_of(seed + 1)
    for kl in (vaejax.kl, vaejax.monte_carlo_kl):
        plain = elbo(params, jax.random.key(seed), x, kl=kl)
        mapped = elbo(params, jax.random.key(seed), x, kl=kl, num_samples=1)
        chex.assert_trees_all_close(plain.value, mapped.value, rtol=1e-5)
        chex.assert_trees_all_equal(plain.latents, mapped.latents[0])


def test_elbo_is_autoencode_with_the_divergence_as_its_penalty():
    params, x = params_of(0), data_of(1)
    terms = elbo(params, jax.random.key(2), x, num_samples=4)
    functions = partial(encode, params), partial(decode, params)
    for regularizer in (vaejax.kl(), vaejax.kl(vaejax.standard_normal)):
        generic = vaejax.autoencode(jax.random.key(2), x, *functions, regularizer, num_samples=4)
        chex.assert_trees_all_equal(terms.value, generic.value)
        chex.assert_trees_all_equal(terms.kl, generic.penalty)
    none = vaejax.autoencode(jax.random.key(2), x, *functions, vaejax.none, num_samples=4)
    chex.assert_trees_all_equal(none.value, terms.log_likelihood)


def test_the_likelihood_term_is_the_mean_over_samples():
    params, x = params_of(0), data_of(1)
    terms = elbo(params, jax.random.key(2), x, num_samples=5)
    chex.assert_shape(terms.latents, (5, 8, LATENT))
    each = jnp.stack([decode(params, z).log_prob(x) for z in terms.latents])
    chex.assert_trees_all_close(terms.log_likelihood, jnp.mean(each, axis=0), rtol=1e-5)
    chunked = elbo(
        params,
        jax.random.key(2),
        x,
        num_samples=5,
        map_samples=lambda f: lambda *xs: jax.lax.map(lambda each: f(*each), xs, batch_size=2),
    )
    chex.assert_trees_all_close(chunked.value, terms.value, rtol=1e-5)


def test_the_latents_are_mean_plus_scale_times_noise():
    """z = mu + sigma * eps with the noise of the key, whatever mu and sigma are."""
    key = jax.random.key(5)
    noise = vaejax.reparameterize(key, jnp.zeros((4, 2)), 1.0, (3,))
    loc, scale = jnp.arange(8.0).reshape(4, 2), jnp.array([0.1, 2.0])
    z = vaejax.reparameterize(jax.random.clone(key), loc, scale, (3,))
    chex.assert_trees_all_close(z, loc + scale * noise, rtol=1e-6)


@given(st.integers(0, 10**6))
def test_examples_do_not_see_each_other(seed):
    """With the noise passed in: a batch is its parts, and permuting it permutes the values."""
    params, x = params_of(seed), data_of(seed + 1)
    noise = jax.random.normal(jax.random.key(seed + 2), (8, LATENT))

    def value(x, noise):
        encode_with_noise = lambda x: WithNoise(encode(params, x), noise)
        return vaejax.elbo(jax.random.key(0), x, encode_with_noise, partial(decode, params)).value

    together = value(x, noise)
    apart = jnp.concatenate([value(x[:3], noise[:3]), value(x[3:], noise[3:])])
    chex.assert_trees_all_close(together, apart, rtol=1e-5)
    order = jax.random.permutation(jax.random.key(seed + 3), 8)
    chex.assert_trees_all_close(value(x[order], noise[order]), together[order], rtol=1e-5)


def test_duplicated_pixels_double_the_reconstruction_and_nothing_else():
    params, x = params_of(0), data_of(1)
    once = elbo(params, jax.random.key(2), x)
    twice = vaejax.elbo(
        jax.random.key(2),
        jnp.concatenate([x, x], axis=-1),
        lambda xx: encode(params, xx[:, :DATA]),
        lambda z: Bernoulli(jnp.concatenate([decode(params, z).logits] * 2, axis=-1)),
    )
    chex.assert_trees_all_close(twice.log_likelihood, 2 * once.log_likelihood, rtol=1e-5)
    chex.assert_trees_all_close(twice.kl, once.kl, rtol=1e-6)


def test_the_slope_in_beta_is_the_mean_divergence_and_the_parts_ignore_beta():
    params, x = params_of(0), data_of(1)

    def loss(beta):
        value, terms = vaejax.negative_elbo(
            jax.random.key(2), x, partial(encode, params), partial(decode, params), beta=beta
        )
        return value, terms

    (_, terms), slope = jax.value_and_grad(loss, has_aux=True)(0.7)
    chex.assert_trees_all_close(slope, jnp.mean(terms.kl), rtol=1e-5)
    for beta in (0.0, 0.3, jnp.full(8, 4.0)):
        other = elbo(params, jax.random.key(2), x, beta=beta)
        chex.assert_trees_all_equal(other.kl, elbo(params, jax.random.key(2), x).kl)
        chex.assert_trees_all_close(other.value, other.log_likelihood - beta * other.kl, rtol=1e-6)


def test_the_loss_is_minus_the_batch_mean():
    params, x = params_of(0), data_of(1)
    terms = elbo(params, jax.random.key(2), x)
    loss, same = vaejax.negative_elbo(jax.random.key(2), x, partial(encode, params), partial(decode, params))
    chex.assert_trees_all_close(loss, -np.mean(terms.value), rtol=1e-6)
    chex.assert_trees_all_equal(same.value, terms.value)


@pytest.mark.parametrize("double", [False, True])
def test_transformations_do_not_change_the_values(double):
    """f = jit(f) = vmap of single = scan of single."""
    with jax.enable_x64(double):
        dtype, tolerance = (jnp.float64, 1e-12) if double else (jnp.float32, 1e-6)
        params, x = params_of(0, dtype), data_of(1).astype(dtype)
        keys = lambda: jax.random.split(jax.random.key(2), 8)

        def single(key, x):
            return elbo(params, key, x, num_samples=3).value

        apart = jnp.stack([single(k, each) for k, each in zip(keys(), x, strict=True)])
        scale = jnp.max(jnp.abs(apart))
        for values in (
            jax.vmap(single)(keys(), x),
            jax.jit(jax.vmap(single))(keys(), x),
            jax.lax.scan(lambda _, pair: (None, single(*pair)), None, (keys(), x))[1],
        ):
            chex.assert_trees_all_close(values / scale, apart / scale, atol=tolerance, rtol=0)
        whole = elbo(params, jax.random.key(3), x).value
        jitted = jax.jit(elbo)(params, jax.random.key(3), x).value
        chex.assert_trees_all_close(jitted / scale, whole / scale, atol=tolerance, rtol=0)


def test_noise_is_distinct_and_the_same_key_gives_the_same_bits():
    x = jnp.ones((64, DATA))
    standard = lambda x: Normal(jnp.zeros((*x.shape[:-1], LATENT)), 1.0)
    # A latent is three draws: two that agree by chance would be a miracle.
    draw = lambda seed: np.asarray(
        vaejax.elbo(jax.random.key(seed), x, standard, partial(decode, params_of(0)), num_samples=16).latents
    ).reshape(-1, LATENT)
    z = draw(0)
    assert len(np.unique(z, axis=0)) == 16 * 64
    np.testing.assert_array_equal(z, draw(0))
    assert len(np.unique(np.concatenate([z, draw(1)]), axis=0)) == 2 * 16 * 64


def test_the_regularizers_key_is_not_the_samplers():
    seen = []

    def spy(key, q, z):
        seen.append(key)
        return jnp.zeros(z.shape[0])

    x = data_of(1)
    keyed = lambda x: Normal(jnp.zeros((8, LATENT)), 1.0)
    terms = vaejax.autoencode(jax.random.key(0), x, keyed, partial(decode, params_of(0)), spy)
    assert not jnp.array_equal(vaejax.reparameterize(seen[0], jnp.zeros((8, LATENT)), 1.0), terms.latents)


def test_every_sample_has_a_regularizer_key_of_its_own():
    noisy = lambda key, q, z: jax.random.normal(key, z.shape[:1])
    x = data_of(1)
    functions = partial(encode, params_of(0)), partial(decode, params_of(0))
    keep = lambda f: lambda *arguments: tuple(jnp.asarray(part) for part in jax.vmap(f)(*arguments))
    seen = []

    def spy(f):
        def mapped(*arguments):
            parts = keep(f)(*arguments)
            seen.append(np.asarray(parts[1]))
            return parts

        return mapped

    vaejax.autoencode(jax.random.key(0), x, *functions, noisy, num_samples=16, map_samples=spy)
    assert len(np.unique(seen[0], axis=0)) == 16


def test_inputs_are_not_changed():
    params, x = jax.tree.map(np.array, (params_of(0), data_of(1)))
    before = jax.tree.map(np.copy, (params, x))
    jax.grad(lambda p: vaejax.negative_mean(elbo(p, jax.random.key(0), x, num_samples=2))[0])(params)
    chex.assert_trees_all_equal((params, x), before)


LIKELIHOODS = {
    "bernoulli": (lambda raw: Bernoulli(raw), lambda x: x),
    "continuous_bernoulli": (lambda raw: ContinuousBernoulli(raw), lambda x: 0.1 + 0.8 * x),
    "normal": (lambda raw: Normal(raw, 0.7), lambda x: x - 0.3),
    "laplace": (lambda raw: Laplace(raw, 0.7), lambda x: x - 0.3),
    "optimal_normal": (lambda raw: OptimalNormal(raw), lambda x: x - 0.3),
}


@pytest.mark.parametrize("name", LIKELIHOODS)
@pytest.mark.parametrize("kl", [vaejax.kl, vaejax.monte_carlo_kl])
def test_gradients_are_central_differences(x64, name, kl):
    """To the parameters and the data, through the reparameterized draw."""
    likelihood, shift = LIKELIHOODS[name]
    params, x = params_of(0, jnp.float64), shift(data_of(1, 3).astype(jnp.float64))

    def loss(params, x):
        decoder = lambda z: likelihood(jnp.tanh(z) @ params["decoder"])
        return vaejax.negative_elbo(
            jax.random.key(2), x, partial(encode, params), decoder, kl=kl, num_samples=2, beta=0.8
        )[0]

    # The data of a Bernoulli are 0 or 1, which a difference would leave.
    if name == "bernoulli":
        check_grads(lambda p: loss(p, x), (params,), order=1, modes=["rev"], rtol=1e-5, atol=1e-6)
    else:
        check_grads(loss, (params, x), order=1, modes=["rev"], rtol=1e-5, atol=1e-6)


def test_gradients_of_the_autoencoder_and_to_the_latents(x64):
    params, x = params_of(0, jnp.float64), data_of(1, 3).astype(jnp.float64)

    def of_params(params):
        encoder = lambda x: Delta(x @ params["mean"])
        terms = vaejax.autoencode(jax.random.key(0), x, encoder, partial(decode, params), vaejax.kl())
        return vaejax.negative_mean(terms)[0]

    def of_latents(z):
        terms = vaejax.autoencode(jax.random.key(0), x, lambda x: Delta(z), partial(decode, params), vaejax.kl())
        return vaejax.negative_mean(terms)[0]

    check_grads(of_params, (params,), order=1, modes=["rev"], rtol=1e-5, atol=1e-6)
    check_grads(of_latents, (jnp.ones((3, LATENT)),), order=1, modes=["rev"], rtol=1e-5, atol=1e-6)


def test_hyperparameters_may_be_traced_and_mapped():
    params, x = params_of(0), data_of(1)
    betas = jnp.array([0.0, 0.5, 2.0])
    values = jax.jit(jax.vmap(lambda beta: jnp.mean(elbo(params, jax.random.key(2), x, beta=beta).value)))(betas)
    expected = [jnp.mean(elbo(params, jax.random.key(2), x, beta=float(beta)).value) for beta in betas]
    chex.assert_trees_all_close(values, jnp.stack(expected), rtol=1e-5)


def test_any_prior_with_the_divergence_it_allows():
    params, x = params_of(0), data_of(1)
    prior = Laplace(jnp.zeros(LATENT), 1.0)
    exact = elbo(params, jax.random.key(2), x, prior=prior).kl
    keys = jax.random.split(jax.random.key(3), 4000)
    draws = jax.vmap(lambda k: elbo(params, k, x, prior=prior, kl=vaejax.monte_carlo_kl).kl)(keys)
    assert jnp.all(jnp.abs(jnp.mean(draws, 0) - exact) < 5 * jnp.std(draws, 0) / len(keys) ** 0.5)
