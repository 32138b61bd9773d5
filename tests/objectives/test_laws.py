"""Identities that objectives satisfy: samples, batches, beta, transformations, keys, gradients."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vaejax
from tests.objectives.central_differences import check_gradients
from vaejax import Bernoulli, ContinuousBernoulli, Delta, Laplace, Normal, OptimalNormal

DATA, LATENT, SIZE = 6, 3, 8
RANDOM = np.random.default_rng(0)
SHAPES = {"mean": (DATA, LATENT), "log_scale": (DATA, LATENT), "decoder": (LATENT, DATA)}


PARAMS = {name: (0.5 * RANDOM.normal(size=shape)).astype(np.float32) for name, shape in SHAPES.items()}
X = RANDOM.integers(0, 2, (SIZE, DATA)).astype(np.float32)


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


@pytest.mark.parametrize(
    "kl", [vaejax.kl, pytest.param(vaejax.monte_carlo_kl, marks=pytest.mark.slow("another divergence"))]
)
def test_one_sample_without_an_axis_is_one_sample_with_one(kl):
    def both(params, x, key):
        plain = elbo(params, key, x, kl=kl)
        mapped = elbo(params, jax.random.clone(key), x, kl=kl, num_samples=1)
        return (plain.value, plain.latents), (mapped.value, mapped.latents[0])

    plain, mapped = jax.jit(both)(PARAMS, X, jax.random.key(0))
    chex.assert_trees_all_close(plain[0], mapped[0], rtol=1e-5)
    chex.assert_trees_all_equal(plain[1], mapped[1])


def test_elbo_is_autoencode_with_the_divergence_as_its_penalty():
    @jax.jit
    def values(params, x):
        def generic(regularizer):
            functions = partial(encode, params), partial(decode, params)
            terms = vaejax.autoencode(jax.random.key(2), x, *functions, regularizer, num_samples=4)
            return terms.value, terms.penalty

        terms = elbo(params, jax.random.key(2), x, num_samples=4)
        regularizers = (vaejax.kl(), vaejax.kl(vaejax.standard_normal), vaejax.none)
        return terms.log_likelihood, (terms.value, terms.kl), [generic(each) for each in regularizers]

    log_likelihood, expected, (closed, same, none) = values(PARAMS, X)
    chex.assert_trees_all_equal(closed, expected)
    chex.assert_trees_all_equal(same, expected)
    chex.assert_trees_all_equal(none[0], log_likelihood)


def test_the_likelihood_term_is_the_mean_over_samples():
    @jax.jit
    def terms(params, x):
        chunked = lambda f: lambda *xs: jax.lax.map(lambda each: f(*each), xs, batch_size=2)
        draw = lambda **options: elbo(params, jax.random.key(2), x, num_samples=5, **options)
        whole = draw()
        return whole.value, whole.log_likelihood, whole.latents, draw(map_samples=chunked).value

    value, log_likelihood, latents, chunked = terms(PARAMS, X)
    chex.assert_shape(latents, (5, SIZE, LATENT))
    logits = np.tanh(latents) @ PARAMS["decoder"]
    each = np.sum(X * logits - np.logaddexp(0, logits), axis=-1)
    np.testing.assert_allclose(log_likelihood, each.mean(0), rtol=1e-5)
    np.testing.assert_allclose(chunked, value, rtol=1e-5)


def test_the_latents_are_mean_plus_scale_times_noise():
    """z = mu + sigma * eps with the noise of the key, whatever mu and sigma are."""
    draw = jax.jit(lambda loc, scale: vaejax.reparameterize(jax.random.key(5), loc, scale, (3,)))
    noise = draw(np.zeros((4, 2), np.float32), np.ones(2, np.float32))
    loc, scale = np.arange(8, dtype=np.float32).reshape(4, 2), np.array([0.1, 2.0], np.float32)
    np.testing.assert_allclose(draw(loc, scale), loc + scale * noise, rtol=1e-6)


def test_examples_do_not_see_each_other():
    """With the noise passed in: a batch is its parts, and permuting it permutes the values."""
    order = RANDOM.permutation(SIZE)

    def values(params, x, noise):
        def value(x, noise):
            encode_with_noise = lambda x: WithNoise(encode(params, x), noise)
            return vaejax.elbo(jax.random.key(0), x, encode_with_noise, partial(decode, params)).value

        together = value(x, noise)
        apart = jnp.concatenate([value(x[:3], noise[:3]), value(x[3:], noise[3:])])
        return (together, together[order]), (apart, value(x[order], noise[order]))

    noise = RANDOM.normal(size=(SIZE, LATENT)).astype(np.float32)
    chex.assert_trees_all_close(*jax.jit(values)(PARAMS, X, noise), rtol=1e-5)


def test_duplicated_pixels_double_the_reconstruction_and_nothing_else():
    @jax.jit
    def both(params, x):
        once = elbo(params, jax.random.key(2), x)
        twice = vaejax.elbo(
            jax.random.key(2),
            jnp.concatenate([x, x], axis=-1),
            lambda xx: encode(params, xx[:, :DATA]),
            lambda z: Bernoulli(jnp.concatenate([decode(params, z).logits] * 2, axis=-1)),
        )
        return (2 * once.log_likelihood, once.kl), (twice.log_likelihood, twice.kl)

    chex.assert_trees_all_close(*both(PARAMS, X), rtol=1e-5)


def loss(params, x, beta=1.0):
    return vaejax.negative_elbo(jax.random.key(2), x, partial(encode, params), partial(decode, params), beta=beta)


def test_the_slope_in_beta_is_the_mean_divergence_and_the_parts_ignore_beta():
    @jax.jit
    def slope_and_terms(params, x, betas):
        slope = jax.grad(lambda beta: loss(params, x, beta)[0])(0.7)
        parts = lambda terms: (terms.value, terms.log_likelihood, terms.kl)
        return slope, [parts(elbo(params, jax.random.key(2), x, beta=beta)) for beta in betas]

    betas = (np.float32(1.0), np.float32(0.0), np.float32(0.3), np.full(SIZE, 4.0, np.float32))
    slope, terms = slope_and_terms(PARAMS, X, betas)
    kl = np.asarray(terms[0][2])
    np.testing.assert_allclose(slope, kl.mean(), rtol=1e-5)
    for beta, (value, log_likelihood, divergence) in zip(betas, terms, strict=True):
        np.testing.assert_array_equal(divergence, kl)
        np.testing.assert_allclose(value, log_likelihood - beta * kl, rtol=1e-6)


def test_the_loss_is_minus_the_batch_mean():
    @jax.jit
    def both(params, x):
        value, terms = loss(params, x)
        return value, terms.value, elbo(params, jax.random.key(2), x).value

    value, each, expected = both(PARAMS, X)
    np.testing.assert_allclose(value, -np.mean(expected), rtol=1e-6)
    chex.assert_trees_all_equal(each, expected)


def single(key, x, params, num_samples=None):
    return elbo(params, key, x, num_samples=num_samples).value


def keys():
    return jax.random.split(jax.random.key(2), SIZE)


def test_transformations_do_not_change_the_values():
    """jit(f) = jit(vmap(f)) = jit(scan of f), in single precision."""
    compiled = jax.jit(single)
    apart = np.array([compiled(key, each, PARAMS) for key, each in zip(keys(), X, strict=True)])

    @jax.jit
    def ways(keys, x, params):
        scan = jax.lax.scan(lambda _, pair: (None, single(*pair, params)), None, (jax.random.clone(keys), x))[1]
        return jax.vmap(partial(single, params=params))(keys, x), scan

    for values in ways(keys(), X, PARAMS):
        np.testing.assert_allclose(values, apart, atol=1e-6 * np.max(np.abs(apart)), rtol=0)


@pytest.mark.slow("eager, so a program for each operation")
@pytest.mark.parametrize("double", [False, True])
def test_transformations_change_nothing_eagerly_and_in_double_precision(double):
    """f = jit(f) = vmap(f) = jit(vmap(f)) = scan of f."""
    with jax.enable_x64(double):
        dtype, tolerance = (np.float64, 1e-12) if double else (np.float32, 1e-6)
        params, x = jax.tree.map(dtype, (PARAMS, X))
        apart = np.array([single(key, each, params, 3) for key, each in zip(keys(), x, strict=True)])
        atol, mapped = tolerance * np.max(np.abs(apart)), jax.vmap(partial(single, params=params, num_samples=3))
        for values in (
            mapped(keys(), x),
            jax.jit(mapped)(keys(), x),
            jax.lax.scan(lambda _, pair: (None, single(*pair, params, 3)), None, (keys(), x))[1],
        ):
            np.testing.assert_allclose(values, apart, atol=atol, rtol=0)
        whole = elbo(params, jax.random.key(3), x).value
        np.testing.assert_allclose(jax.jit(elbo)(params, jax.random.key(3), x).value, whole, atol=atol, rtol=0)


def standard(x):
    return Normal(jnp.zeros((*x.shape[:-1], LATENT)), 1.0)


def test_noise_is_distinct_and_the_same_key_gives_the_same_bits():
    x = np.ones((64, DATA), np.float32)
    latents = jax.jit(lambda key: vaejax.elbo(key, x, standard, partial(decode, PARAMS), num_samples=16).latents)
    # A latent is three draws: two that agree by chance would be a miracle.
    draw = lambda seed: np.asarray(latents(jax.random.key(seed))).reshape(-1, LATENT)
    z = draw(0)
    assert len(np.unique(z, axis=0)) == 16 * 64
    np.testing.assert_array_equal(z, draw(0))
    assert len(np.unique(np.concatenate([z, draw(1)]), axis=0)) == 2 * 16 * 64


def test_the_regularizers_key_is_not_the_samplers():
    """Latents are the sampler's noise, and a penalty that draws the same way finds other numbers."""

    def distance(key, q, z):
        return jnp.sum((vaejax.reparameterize(key, jnp.zeros(z.shape), 1.0) - z) ** 2, axis=-1)

    @jax.jit
    def both():
        terms = vaejax.autoencode(jax.random.key(0), X, standard, partial(decode, PARAMS), distance)
        # The same of the sampler's own key.
        return terms.penalty, distance(jax.random.split(jax.random.key(0))[0], None, terms.latents)

    penalty, own = both()
    assert np.all(penalty > 1e-3)
    np.testing.assert_array_equal(own, np.zeros(SIZE))


def test_every_sample_has_a_regularizer_key_of_its_own():
    noisy = lambda key, q, z: jax.random.normal(key, z.shape[:1])

    @jax.jit
    def penalties(key):
        seen = []

        def spy(f):
            def mapped(*arguments):
                seen.extend(parts := jax.vmap(f)(*arguments))
                return parts

            return mapped

        functions = partial(encode, PARAMS), partial(decode, PARAMS)
        vaejax.autoencode(key, X, *functions, noisy, num_samples=16, map_samples=spy)
        return seen[1]

    assert len(np.unique(penalties(jax.random.key(0)), axis=0)) == 16


def test_inputs_are_not_changed():
    params, x = jax.tree.map(np.copy, (PARAMS, X))
    # Closed over, so that the loss sees the arrays themselves and no tracers.
    jax.eval_shape(lambda: loss(params, x)[0])
    chex.assert_trees_all_equal((params, x), (PARAMS, X))


LIKELIHOODS = {
    "bernoulli": (lambda raw: Bernoulli(raw), lambda x: x),
    "continuous_bernoulli": (lambda raw: ContinuousBernoulli(raw), lambda x: 0.1 + 0.8 * x),
    "normal": (lambda raw: Normal(raw, 0.7), lambda x: x - 0.3),
    "laplace": (lambda raw: Laplace(raw, 0.7), lambda x: x - 0.3),
    "optimal_normal": (lambda raw: OptimalNormal(raw), lambda x: x - 0.3),
}
FEW = X[:3].astype(np.float64)
OTHER = pytest.mark.slow("another likelihood or divergence")


@pytest.mark.parametrize(
    ("name", "kl"),
    [
        pytest.param(name, kl, marks=() if (name, kl) == ("normal", vaejax.monte_carlo_kl) else OTHER)
        for name in LIKELIHOODS
        for kl in (vaejax.kl, vaejax.monte_carlo_kl)
    ],
)
def test_gradients_are_central_differences(x64, name, kl):
    """To the parameters and the data, through the reparameterized draw."""
    likelihood, shift = LIKELIHOODS[name]

    def value(params, x):
        decoder = lambda z: likelihood(jnp.tanh(z) @ params["decoder"])
        options = {"kl": kl, "num_samples": 2, "beta": 0.8}
        return vaejax.negative_elbo(jax.random.key(2), x, partial(encode, params), decoder, **options)[0]

    # The data of a Bernoulli are 0 or 1, which a difference would leave.
    if name == "bernoulli":
        check_gradients(lambda params: value(params, FEW), PARAMS)
    else:
        check_gradients(value, PARAMS, shift(FEW))


def test_gradients_of_the_autoencoder_and_to_the_latents(x64):
    def value(params, encoder):
        terms = vaejax.autoencode(jax.random.key(0), FEW, encoder, partial(decode, params), vaejax.kl())
        return vaejax.negative_mean(terms)[0]

    check_gradients(lambda params: value(params, lambda x: Delta(x @ params["mean"])), PARAMS)
    check_gradients(lambda z: value(PARAMS, lambda x: Delta(z)), np.ones((3, LATENT)))


@pytest.mark.slow("the slope in beta traces it; mapped as well")
def test_hyperparameters_may_be_traced_and_mapped():
    @jax.jit
    def both(betas):
        value = lambda beta: jnp.mean(elbo(PARAMS, jax.random.key(2), X, beta=beta).value)
        return jax.vmap(value)(betas), jnp.stack([value(beta) for beta in (0.0, 0.5, 2.0)])

    chex.assert_trees_all_close(*both(np.array([0.0, 0.5, 2.0], np.float32)), rtol=1e-5)


@pytest.mark.slow("statistics of a divergence that tests of distributions prove")
def test_any_prior_with_the_divergence_it_allows():
    @jax.jit
    def divergences(keys):
        prior = Laplace(jnp.zeros(LATENT), 1.0)
        exact = elbo(PARAMS, jax.random.key(2), X, prior=prior).kl
        return exact, jax.vmap(lambda key: elbo(PARAMS, key, X, prior=prior, kl=vaejax.monte_carlo_kl).kl)(keys)

    exact, draws = divergences(jax.random.split(jax.random.key(3), 4000))
    assert np.all(np.abs(np.mean(draws, 0) - exact) < 5 * np.std(draws, 0) / len(draws) ** 0.5)
