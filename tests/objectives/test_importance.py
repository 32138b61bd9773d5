"""Bounds of K samples against the linear-Gaussian oracle, and their path gradients."""

from functools import partial
from itertools import pairwise

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vaejax
from vaejax import Normal
from vaejax.testing import linear_gaussian

# A wrong but fixed, asymmetric posterior over two latents.
WRONG = Normal(jnp.array([0.3, -0.8]), jnp.array([0.4, 0.7]))
BOUNDS = {
    "elbo": vaejax.elbo_bound(),
    "iwae": vaejax.iwae_bound(),
    "miwae": vaejax.miwae_bound(2),
    "ciwae": vaejax.ciwae_bound(0.3),
    "renyi": vaejax.renyi_bound(0.4),
    "renyi, negative": vaejax.renyi_bound(-0.5),
}


@pytest.fixture
def oracle():
    return linear_gaussian(jax.random.key(7), 5, 2)


@pytest.fixture
def x(oracle):
    return oracle.marginal().sample(jax.random.key(8))


def close_to_posterior(oracle, x, factor=1.3):
    """The exact posterior's marginals, too wide by a factor."""
    exact = oracle.posterior(x)
    return Normal(exact.mean, factor * jnp.linalg.norm(exact.scale_tril, axis=-1))


def bound_of(oracle, x, q, key, **options):
    return vaejax.importance_bound(key, x, lambda x: q, oracle.decode, **options)


@pytest.mark.parametrize("name", BOUNDS)
def test_every_bound_is_the_elbo_of_one_draw(oracle, x, name, key):
    bound = vaejax.miwae_bound(1) if name == "miwae" else BOUNDS[name]
    elbo = vaejax.elbo(key, x, lambda x: WRONG, oracle.decode, kl=vaejax.monte_carlo_kl, num_samples=1)
    terms = bound_of(oracle, x, WRONG, jax.random.clone(key), num_samples=1, bound=bound)
    chex.assert_trees_all_close(terms.value, elbo.value, rtol=1e-5)
    chex.assert_trees_all_equal(terms.latents, elbo.latents)
    chex.assert_trees_all_close((terms.log_likelihood, terms.kl), (elbo.log_likelihood, elbo.kl), rtol=1e-5)


@given(st.integers(0, 10**6))
def test_bounds_contain_each_other(seed):
    """One set of log-weights; spread so that a softmax or a mean over another axis shows."""
    log_weights = 5.0 * jax.random.normal(jax.random.key(seed), (6, 3))
    reduce = lambda bound: bound.reduce(log_weights)
    iwae, elbo = reduce(vaejax.iwae_bound()), reduce(vaejax.elbo_bound())
    for other, expected in [
        (vaejax.miwae_bound(1), iwae), (vaejax.miwae_bound(6), elbo), (vaejax.ciwae_bound(1.0), elbo),
        (vaejax.ciwae_bound(0.0), iwae), (vaejax.renyi_bound(0.0), iwae), (vaejax.renyi_bound(1.0), elbo),
    ]:  # fmt: skip
        chex.assert_trees_all_close(reduce(other), expected, rtol=1e-4, atol=1e-4)
    by_hand = np.log(np.mean(np.exp(np.asarray(log_weights, np.float64)), axis=0))
    chex.assert_trees_all_close(iwae, by_hand.astype(np.float32), rtol=1e-5)
    grouped = [jnp.mean(jnp.stack([vaejax.iwae_bound().reduce(log_weights[i : i + 2]) for i in (0, 2, 4)]), axis=0)]
    chex.assert_trees_all_close(reduce(vaejax.miwae_bound(3)), grouped[0], rtol=1e-5)
    # From the mean of the logarithms to the logarithm of the mean.
    ordered = [reduce(vaejax.renyi_bound(alpha)) for alpha in (1.0, 0.7, 0.3, 0.0, -1.0)]
    for lower, higher in pairwise(ordered):
        assert jnp.all(lower <= higher + 1e-5)


def test_renyi_is_smooth_around_one(x64):
    log_weights = jax.random.normal(jax.random.key(0), (6,))
    around = jnp.array([1 - 2e-4, 1 - 9e-5, 1.0, 1 + 9e-5, 1 + 2e-4])
    values, slopes = jax.vmap(jax.value_and_grad(lambda a: vaejax.renyi_bound(a).reduce(log_weights)))(around)
    chex.assert_trees_all_close(jnp.diff(values) / jnp.diff(around), slopes[1:], rtol=1e-3)
    chex.assert_trees_all_close(slopes, jnp.full(5, -jnp.var(log_weights) / 2), rtol=1e-3)


@given(st.integers(0, 10**6))
def test_at_the_posterior_every_bound_is_log_p(seed):
    with jax.enable_x64(True):
        oracle = linear_gaussian(jax.random.key(7), 5, 2)
        data_key, key = jax.random.split(jax.random.key(seed))
        x = oracle.marginal().sample(data_key, (4,))
        exact = oracle.marginal().log_prob(x)
        for bound in BOUNDS.values():
            terms = vaejax.importance_bound(
                jax.random.clone(key), x, oracle.posterior, oracle.decode, num_samples=4, bound=bound
            )
            chex.assert_trees_all_close(terms.value, exact, atol=1e-10, rtol=0)
            chex.assert_trees_all_close(terms.log_weights, jnp.broadcast_to(exact, (4, 4)), atol=1e-10, rtol=0)


def test_more_samples_are_tighter_and_the_gap_falls_like_one_over_k(x64, oracle, x, key):
    """With common draws: 64 of them cut into groups of 1, 2, 8 and 64."""
    q = close_to_posterior(oracle, x)
    draw = lambda key: bound_of(oracle, x, q, key, num_samples=64).log_weights
    log_weights = jax.jit(jax.vmap(draw))(jax.random.split(key, 10_000))
    means = []
    for size in (1, 2, 8, 64):
        values = jax.vmap(vaejax.miwae_bound(64 // size).reduce)(log_weights)
        means.append((jnp.mean(values), jnp.std(values) / len(values) ** 0.5))
    exact = oracle.marginal().log_prob(x)
    assert means[0][0] < means[1][0] < means[2][0] < means[3][0] < exact + 5 * means[3][1]
    # The variance of a normalised weight, over 2 K.
    weights = jnp.exp(log_weights - exact)
    assert abs(jnp.mean(weights) - 1) < 5 * jnp.std(jnp.mean(weights, 1)) / len(weights) ** 0.5
    gap = exact - means[3][0]
    assert abs(gap - jnp.var(weights) / 128) < 0.1 * gap + 5 * means[3][1]


def gradients(oracle, x, parameters, key, bound, path_gradient, num_samples=4, count=20_000):
    def value(parameters, key):
        weight, loc, log_scale = parameters
        decode = oracle._replace(weight=weight).decode
        q = Normal.from_log_scale(loc, log_scale)
        options = {"num_samples": num_samples, "bound": bound, "path_gradient": path_gradient}
        return vaejax.importance_bound(key, x, lambda x: q, decode, **options).value

    return jax.jit(jax.vmap(jax.grad(value), in_axes=(None, 0)))(parameters, jax.random.split(key, count))


@pytest.mark.parametrize("name", BOUNDS)
def test_the_path_gradient_has_the_mean_of_the_plain_one(oracle, x, name):
    """To every parameter of q and of the decoder, which a closure hides."""
    parameters = (oracle.weight, WRONG.loc, jnp.log(WRONG.scale))
    plain = gradients(oracle, x, parameters, jax.random.key(1), BOUNDS[name], False)
    path = gradients(oracle, x, parameters, jax.random.key(2), BOUNDS[name], True)
    for a, b in zip(plain, path, strict=True):
        error = jnp.sqrt((jnp.var(a, axis=0) + jnp.var(b, axis=0)) / len(a))
        assert jnp.all(jnp.abs(jnp.mean(a, axis=0) - jnp.mean(b, axis=0)) < 5 * error)
        assert jnp.all(jnp.std(a, axis=0) > 10 * error)


def test_the_elbo_bounds_gradients_are_exact(oracle, x):
    """Both estimators against the gradient of the exact ELBO."""

    def exact(parameters):
        weight, loc, log_scale = parameters
        return oracle._replace(weight=weight).elbo(x, Normal.from_log_scale(loc, log_scale))

    parameters = (oracle.weight, WRONG.loc, jnp.log(WRONG.scale))
    for seed, path_gradient in enumerate((False, True)):
        drawn = gradients(oracle, x, parameters, jax.random.key(seed), vaejax.elbo_bound(), path_gradient, 2)
        for draws, expected in zip(drawn, jax.grad(exact)(parameters), strict=True):
            error = jnp.std(draws, axis=0) / len(draws) ** 0.5
            assert jnp.all(jnp.abs(jnp.mean(draws, axis=0) - expected) < 5 * error)


def test_a_bound_of_two_samples_has_the_gradient_of_its_quadrature(x64):
    """One latent: E[log 1/2 (w_1 + w_2)] by Gauss-Hermite quadrature in two dimensions."""
    oracle = linear_gaussian(jax.random.key(3), 2, 1)
    x = oracle.marginal().sample(jax.random.key(4))
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    pairs = jnp.asarray(np.stack(np.meshgrid(nodes, nodes), axis=-1).reshape(-1, 2))
    weights = jnp.asarray(np.outer(weights, weights).ravel() / (2 * np.pi))

    def log_weight(q, noise):
        z = (q.loc + q.scale * noise)[..., None, :] if noise.ndim == 0 else q.loc + q.scale * noise[..., None]
        return oracle.decode(z).log_prob(x) + vaejax.standard_normal.log_prob(z) - q.log_prob(z)

    def exact(parameters, bound):
        q = Normal.from_log_scale(*parameters)
        log_weights = jnp.stack([log_weight(q, pairs[:, 0]), log_weight(q, pairs[:, 1])])
        return jnp.sum(weights * bound.reduce(log_weights))

    parameters = (jnp.array([0.4]), jnp.array([-0.3]))
    for name in ("iwae", "ciwae", "renyi"):
        expected = jax.grad(exact)(parameters, BOUNDS[name])

        def value(parameters, key, bound=BOUNDS[name]):
            q = Normal.from_log_scale(*parameters)
            options = {"num_samples": 2, "bound": bound, "path_gradient": True}
            return vaejax.importance_bound(key, x, lambda x: q, oracle.decode, **options).value

        draw = jax.jit(jax.vmap(jax.grad(value), in_axes=(None, 0)))
        drawn = draw(parameters, jax.random.split(jax.random.key(5), 50_000))
        for draws, mean in zip(drawn, expected, strict=True):
            error = jnp.std(draws, axis=0) / len(draws) ** 0.5
            assert jnp.all(jnp.abs(jnp.mean(draws, axis=0) - mean) < 5 * error), name
            assert jnp.all(jnp.abs(mean) > 20 * error)


def test_sticking_the_landing_has_no_noise_at_the_posterior(x64, oracle, x, key):
    """Where log w is log p(x) whatever z is, no path changes it: the gradient is zero for every draw."""
    exact = oracle.posterior(x)

    def value(parameters, key):
        q = vaejax.MultivariateNormal(*parameters)
        options = {"num_samples": 3, "bound": vaejax.elbo_bound(), "path_gradient": True}
        return bound_of(oracle, x, q, key, **options).value

    drawn = jax.vmap(jax.grad(value), in_axes=(None, 0))((exact.loc, exact.scale_tril), jax.random.split(key, 100))
    chex.assert_trees_all_close(drawn, jax.tree.map(jnp.zeros_like, drawn), atol=1e-10)


def test_the_doubly_reparameterized_gradient_is_quieter_near_the_posterior(oracle, x):
    q = close_to_posterior(oracle, x, 1.1)
    parameters = (oracle.weight, q.loc, jnp.log(q.scale))
    spread = {}
    for path in (False, True):
        drawn = gradients(oracle, x, parameters, jax.random.key(3), vaejax.iwae_bound(), path, 10, 5_000)
        spread[path] = jnp.sqrt(sum(jnp.sum(jnp.var(part, axis=0)) for part in drawn[1:]))
    assert spread[True] < 0.5 * spread[False]


def test_path_gradients_leave_the_values_and_the_decoders_gradient_alone(oracle, x):
    def value(weight, path_gradient):
        options = {"num_samples": 5, "path_gradient": path_gradient}
        return bound_of(oracle._replace(weight=weight), x, WRONG, jax.random.key(0), **options).value

    plain, path = (jax.value_and_grad(value)(oracle.weight, flag) for flag in (False, True))
    chex.assert_trees_all_close(plain, path, rtol=1e-5)


def test_the_other_parts_have_their_own_gradient_or_none(oracle, x):
    """What is made of the latents besides the weights is not scaled, and the parts are for looking at."""

    def part(loc, path_gradient, read):
        options = {"num_samples": 5, "path_gradient": path_gradient}
        return read(bound_of(oracle, x, Normal(loc, WRONG.scale), jax.random.key(0), **options))

    def slopes(read):
        return [jax.grad(part)(WRONG.loc, flag, read) for flag in (False, True)]

    plain, path = slopes(lambda terms: jnp.sum(terms.latents**3))
    chex.assert_trees_all_close(plain, path, rtol=1e-5)
    # A penalty on the latents adds its gradient to the bound's.
    bound, both = (slopes(read)[1] for read in (lambda t: t.value, lambda t: t.value + jnp.sum(t.latents**3)))
    chex.assert_trees_all_close(both, bound + path, rtol=1e-4)
    for read in (lambda terms: terms.log_likelihood, lambda terms: terms.kl):
        chex.assert_trees_all_equal(slopes(read)[1], jnp.zeros(2))


def test_path_gradients_pass_through_every_way_of_mapping(oracle, x):
    def value(loc, map_samples):
        q = Normal(loc, WRONG.scale)
        options = {"num_samples": 6, "path_gradient": True, "map_samples": map_samples}
        return bound_of(oracle, x, q, jax.random.key(0), **options).value

    chunked = lambda f: lambda *xs: jax.lax.map(lambda each: f(*each), xs, batch_size=4)
    expected = jax.value_and_grad(value)(WRONG.loc, jax.vmap)
    chex.assert_trees_all_close(jax.value_and_grad(value)(WRONG.loc, chunked), expected, rtol=1e-5)
    jitted = jax.jit(jax.value_and_grad(partial(value, map_samples=jax.vmap)))(WRONG.loc)
    chex.assert_trees_all_close(jitted, expected, rtol=1e-5)


def test_renyi_keeps_its_digits_between_the_series_and_the_formula():
    """In single precision, with weights a thousand nats away: against double precision."""
    log_weights = np.random.default_rng(0).normal(-1000.0, 1.0, (6, 3))
    for alpha in (1 - 1.1e-4, 1 - 1e-3, 0.99, 0.9, 0.5, 1 + 2e-4, 1.3):
        power = 1 - alpha
        exact = -1000 + np.log(np.mean(np.exp(power * (log_weights + 1000)), axis=0)) / power
        value = vaejax.renyi_bound(alpha).reduce(jnp.asarray(log_weights, jnp.float32))
        np.testing.assert_allclose(value, exact, atol=3e-4)
    with pytest.raises(ValueError, match="alpha must be finite; got nan"):
        vaejax.renyi_bound(float("nan"))


def test_weights_that_underflow_have_finite_gradients():
    """One draw a thousand nats below the other, with beta 0: its cotangent is zero, not zero over zero."""
    log_weights = jnp.array([[0.0], [-1000.0]])
    for bound in (vaejax.ciwae_bound(0.0), *BOUNDS.values()):
        chex.assert_tree_all_finite(
            (bound.path_scale(log_weights), jax.grad(lambda w, bound=bound: bound.reduce(w).sum())(log_weights))
        )


class WithNoise:
    """A Normal whose noise `[K, B, Z]` is passed in."""

    def __init__(self, normal, noise):
        self.normal, self.noise, self.log_prob = normal, noise, normal.log_prob

    def sample(self, key, sample_shape=()):
        return self.normal.loc + self.normal.scale * self.noise


@pytest.mark.parametrize("name", BOUNDS)
def test_examples_do_not_see_each_other(oracle, name):
    """A batch is its parts, permuting it permutes the values, and so do the draws of one example."""
    x = oracle.marginal().sample(jax.random.key(1), (6,))
    noise = jax.random.normal(jax.random.key(2), (4, 6, 2))

    def value(x, noise):
        encode = lambda x: WithNoise(Normal(jnp.tanh(x[:, :2]), 0.6), noise)
        options = {"num_samples": 4, "bound": BOUNDS[name]}
        return vaejax.importance_bound(jax.random.key(0), x, encode, oracle.decode, **options).value

    together = value(x, noise)
    apart = jnp.concatenate([value(x[:2], noise[:, :2]), value(x[2:], noise[:, 2:])])
    chex.assert_trees_all_close(together, apart, rtol=1e-5)
    order = jnp.array([3, 0, 5, 1, 4, 2])
    chex.assert_trees_all_close(value(x[order], noise[:, order]), together[order], rtol=1e-5)
    swapped = value(x, noise[jnp.array([1, 0, 2, 3])])  # within a group of miwae
    chex.assert_trees_all_close(swapped, together, rtol=1e-5)


def test_noise_is_distinct_and_the_same_key_gives_the_same_bits(oracle):
    x = jnp.broadcast_to(oracle.bias, (64, 5))
    encode = lambda x: Normal(jnp.zeros((64, 2)), 1.0)
    draw = lambda seed: np.asarray(
        vaejax.importance_bound(jax.random.key(seed), x, encode, oracle.decode, num_samples=16).latents
    ).reshape(-1, 2)
    assert len(np.unique(draw(0), axis=0)) == 16 * 64
    np.testing.assert_array_equal(draw(0), draw(0))
    assert len(np.unique(np.concatenate([draw(0), draw(1)]), axis=0)) == 2 * 16 * 64


def test_hyperparameters_may_be_traced(oracle, x, key):
    def value(make, parameter):
        return bound_of(oracle, x, WRONG, jax.random.clone(key), num_samples=4, bound=make(parameter)).value

    for make in (vaejax.ciwae_bound, vaejax.renyi_bound):
        traced = jax.jit(jax.vmap(partial(value, make)))(jnp.array([0.0, 0.4, 1.0]))
        expected = jnp.stack([value(make, each) for each in (0.0, 0.4, 1.0)])
        chex.assert_trees_all_close(traced, expected, rtol=1e-5)

    def path(loc, beta):
        options = {"num_samples": 4, "bound": vaejax.ciwae_bound(beta), "path_gradient": True}
        return bound_of(oracle, x, Normal(loc, WRONG.scale), jax.random.clone(key), **options).value

    traced = jax.jit(jax.grad(path))(WRONG.loc, jnp.array(0.3))
    chex.assert_trees_all_close(traced, jax.grad(path)(WRONG.loc, 0.3), rtol=1e-5)


def test_a_flow_needs_no_inverse_and_a_point_has_no_weight(oracle, x, key):
    class NoInverse:
        def forward(self, z):
            return 2 * z, jnp.full(z.shape[:-1], 2 * jnp.log(2.0))

        def inverse(self, y):
            raise AssertionError("inverted")

    flow = vaejax.Transformed(WRONG, NoInverse())
    twice = Normal(2 * WRONG.loc, 2 * WRONG.scale)
    for objective in (
        partial(vaejax.importance_bound, num_samples=3),
        partial(vaejax.elbo, kl=vaejax.monte_carlo_kl, num_samples=3),
        partial(vaejax.elbo, kl=vaejax.monte_carlo_kl),
    ):
        value = objective(jax.random.clone(key), x, lambda x: flow, oracle.decode).value
        expected = objective(jax.random.clone(key), x, lambda x: twice, oracle.decode).value
        chex.assert_trees_all_close(value, expected, rtol=1e-4)


BAD = {
    "a point": ({"q": vaejax.Delta(jnp.zeros(2))}, TypeError, "the posterior Delta is a point and has no density"),
    "a quantized point": (
        {"q": vaejax.vector_quantize(jnp.zeros((3, 2)), jnp.zeros(2))}, TypeError, "VectorQuantized is a point"
    ),
    "groups": (
        {"bound": vaejax.miwae_bound(3)}, ValueError, "num_samples must be a multiple of groups=3; got 4"
    ),
    "no path": (
        {"bound": vaejax.Bound(lambda w: w.max(0)), "path_gradient": True}, ValueError, "this bound has none.*path_scale"
    ),
    "no bound": ({"bound": "iwae"}, TypeError, "bound must be a Bound such as vaejax.iwae_bound"),
    "no samples": ({"num_samples": 0}, ValueError, "num_samples must be at least 1; got 0"),
    "a mixture as posterior": (
        {"q": vaejax.Mixture(jnp.zeros(3), Normal(jnp.zeros((3, 2)), 1.0))}, TypeError, "Mixture have no gradient"
    ),
    "no pytree": (
        {"q": type("Mine", (), {"sample": lambda s, k, n=(): jnp.zeros((*n, 2)), "log_prob": lambda s, z: z.sum(-1)})(),
         "path_gradient": True}, TypeError, "Mine must be a pytree",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_with_its_reason(oracle, x, key, name):
    changes, error, message = BAD[name]
    options = {"q": WRONG, "num_samples": 4} | changes
    with pytest.raises(error, match=message):
        bound_of(oracle, x, options.pop("q"), key, **options)


def test_bounds_refuse_what_they_cannot_mix():
    with pytest.raises(ValueError, match="beta must be between 0"):
        vaejax.ciwae_bound(1.5)
    with pytest.raises(ValueError, match="groups must be at least 1; got 0"):
        vaejax.miwae_bound(0)
    with pytest.raises(TypeError, match="alpha must be an array"):
        vaejax.renyi_bound("half")
