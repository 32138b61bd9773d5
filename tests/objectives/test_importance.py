"""Bounds of K samples against the linear-Gaussian oracle, and their path gradients."""

from functools import cache, partial
from itertools import pairwise

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions
import pytest
import scipy.stats

import vaejax
from tests.linear_gaussian import marginal_covariance, posterior
from tests.tiers import slow_but, tier_of
from vaejax import Normal
from vaejax.testing import LinearGaussian

# A model of two latents and one of its examples, in double precision (not for tests without it) and in single.
DOUBLE = LinearGaussian(
    np.array([[0.9, -0.4], [-1.1, 0.3], [0.2, 1.2], [0.7, 0.6], [-0.5, 0.8]]), np.array([0.4, 1.9, 1.2, -0.3, 2.1]), 0.5
)
X_DOUBLE = np.array([1.3, 0.7, 1.9, 0.2, 1.4])
ORACLE, X = LinearGaussian(*(np.float32(leaf) for leaf in DOUBLE)), np.float32(X_DOUBLE)
# A wrong but fixed, asymmetric posterior.
LOC, SCALE = np.array([0.3, -0.8], np.float32), np.array([0.4, 0.7], np.float32)
BOUNDS = {
    "elbo": vaejax.elbo_bound(),
    "iwae": vaejax.iwae_bound(),
    "miwae": vaejax.miwae_bound(2),
    "ciwae": vaejax.ciwae_bound(0.3),
    "renyi": vaejax.renyi_bound(0.4),
    "renyi, negative": vaejax.renyi_bound(-0.5),
}
# One without groups and one with.
FAST = ["iwae", "miwae"]
NAMES = slow_but(FAST, BOUNDS, "another bound")


def wrong():
    return Normal(LOC, SCALE)


def close_to_posterior(oracle, x, factor):
    """The exact posterior's marginals, too wide by a factor."""
    loc, covariance = posterior(oracle, x)
    scale = factor * np.sqrt(np.diag(covariance))
    return Normal(loc.astype(x.dtype), scale.astype(x.dtype))


def numbered(index, bounds=None):
    """Bound number `index` of `bounds` or of all, which may be traced, so that one program serves all of them."""
    bounds = list(BOUNDS.values()) if bounds is None else bounds
    return vaejax.Bound(
        lambda log_weights: jnp.stack([bound.reduce(log_weights) for bound in bounds])[index],
        lambda log_weights: jnp.stack([bound.path_scale(log_weights) for bound in bounds])[index],
    )


def bound_of(key, q, oracle=ORACLE, x=X, **options):
    return vaejax.importance_bound(key, x, lambda x: q, oracle.decode, **options)


def agree(draws, expected, errors=5.0):
    """Whether the mean of draws `[N, ...]` is the expected one to within its error."""
    error = np.std(draws, axis=0) / len(draws) ** 0.5
    return np.all(np.abs(np.mean(draws, axis=0) - expected) < errors * error)


def test_every_bound_is_the_elbo_of_one_draw():
    bounds = [vaejax.miwae_bound(1) if name == "miwae" else bound for name, bound in BOUNDS.items()]

    @jax.jit
    def both():
        draw = lambda index: bound_of(jax.random.key(1), wrong(), num_samples=1, bound=numbered(index, bounds))[:5]
        elbo = vaejax.elbo(
            jax.random.key(1), X, lambda x: wrong(), ORACLE.decode, kl=vaejax.monte_carlo_kl, num_samples=1
        )
        return jax.vmap(draw)(np.arange(len(bounds))), elbo

    (values, log_likelihoods, kls, _, latents), elbo = jax.device_get(both())
    for index in range(len(bounds)):
        chex.assert_trees_all_close(values[index], elbo.value, rtol=1e-5)
        chex.assert_trees_all_equal(latents[index], elbo.latents)
        chex.assert_trees_all_close((log_likelihoods[index], kls[index]), (elbo.log_likelihood, elbo.kl), rtol=1e-5)


def test_bounds_contain_each_other():
    """Log-weights spread so that a softmax or a mean over another axis shows."""
    log_weights = 5.0 * np.random.default_rng(0).normal(size=(6, 75)).astype(np.float32)
    pairs = [
        (vaejax.miwae_bound(1), "iwae"), (vaejax.miwae_bound(6), "elbo"), (vaejax.ciwae_bound(1.0), "elbo"),
        (vaejax.ciwae_bound(0.0), "iwae"), (vaejax.renyi_bound(0.0), "iwae"), (vaejax.renyi_bound(1.0), "elbo"),
    ]  # fmt: skip
    # From the mean of the logarithms to the logarithm of the mean.
    alphas = np.array([1.0, 0.7, 0.3, 0.0, -1.0], np.float32)

    @jax.jit
    def reduced(log_weights):
        reduce = lambda bound: bound.reduce(log_weights)
        others = [reduce(other) for other, _ in pairs]
        ordered = jax.vmap(lambda alpha: reduce(vaejax.renyi_bound(alpha)))(alphas)
        return reduce(BOUNDS["iwae"]), reduce(BOUNDS["elbo"]), others, reduce(vaejax.miwae_bound(3)), ordered

    iwae, elbo, others, in_threes, ordered = jax.device_get(reduced(log_weights))
    for found, (_, name) in zip(others, pairs, strict=True):
        chex.assert_trees_all_close(found, {"iwae": iwae, "elbo": elbo}[name], rtol=1e-4, atol=1e-4)
    weights = np.exp(log_weights.astype(np.float64))
    np.testing.assert_allclose(iwae, np.log(weights.mean(0)), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(elbo, log_weights.mean(0), rtol=1e-4, atol=1e-5)
    pairs_of_draws = np.log(weights.reshape(3, 2, -1).mean(1)).mean(0)
    np.testing.assert_allclose(in_threes, pairs_of_draws, rtol=1e-5, atol=1e-5)
    for lower, higher in pairwise(ordered):
        assert np.all(lower <= higher + 1e-5)


def test_renyi_is_smooth_around_one(x64):
    log_weights = np.random.default_rng(0).normal(size=6)
    around = np.array([1 - 2e-4, 1 - 9e-5, 1.0, 1 + 9e-5, 1 + 2e-4])
    slope = jax.jit(jax.vmap(jax.value_and_grad(lambda alpha: vaejax.renyi_bound(alpha).reduce(log_weights))))
    values, slopes = slope(around)
    np.testing.assert_allclose(np.diff(values) / np.diff(around), slopes[1:], rtol=1e-3)
    np.testing.assert_allclose(slopes, np.full(5, -np.var(log_weights) / 2), rtol=1e-3)


def test_at_the_posterior_every_bound_is_log_p(x64):
    @jax.jit
    def terms():
        x = DOUBLE.marginal().sample(jax.random.key(1), (100,))

        def draw(index):
            options = {"num_samples": 4, "bound": numbered(index)}
            terms = vaejax.importance_bound(jax.random.key(2), x, DOUBLE.posterior, DOUBLE.decode, **options)
            return terms.value, terms.log_weights

        return *jax.vmap(draw)(np.arange(len(BOUNDS))), DOUBLE.marginal().log_prob(x)

    values, log_weights, exact = terms()
    for value in values:
        chex.assert_trees_all_close(value, exact, atol=1e-10, rtol=0)
    chex.assert_trees_all_close(log_weights, np.broadcast_to(exact, log_weights.shape), atol=1e-10, rtol=0)


@pytest.mark.slow("statistics of what the bounds that contain each other are exactly")
def test_more_samples_are_tighter_and_the_gap_falls_like_one_over_k(x64):
    """With common draws: 64 of them cut into groups of 1, 2, 8 and 64."""

    @jax.jit
    def bounds(keys):
        q = close_to_posterior(DOUBLE, X_DOUBLE, 1.3)
        log_weights = jax.vmap(lambda key: bound_of(key, q, DOUBLE, X_DOUBLE, num_samples=64).log_weights)(keys)
        # [64, N]: the draws come first.
        values = [vaejax.miwae_bound(64 // size).reduce(log_weights.T) for size in (1, 2, 8, 64)]
        return log_weights, values

    log_weights, values = jax.device_get(bounds(jax.random.split(jax.random.key(0), 10_000)))
    exact = scipy.stats.multivariate_normal(DOUBLE.bias, marginal_covariance(DOUBLE)).logpdf(X_DOUBLE)
    means = [np.mean(each) for each in values]
    error = np.std(values[3]) / len(log_weights) ** 0.5
    assert means[0] < means[1] < means[2] < means[3] < exact + 5 * error
    # The variance of a normalised weight, over 2 K.
    weights = np.exp(log_weights - exact)
    assert agree(np.mean(weights, axis=1), 1.0)
    gap = exact - means[3]
    assert abs(gap - np.var(weights) / 128) < 0.1 * gap + 5 * error


PARAMETERS = (ORACLE.weight, LOC, np.log(SCALE))


@cache
def drawn_gradients(names):
    """Gradients `[len(names), N, ...]` to the weights of the decoder and the parameters of q: plain, and of the path."""
    bounds = [BOUNDS[name] for name in names]

    def value(parameters, key, index, path_gradient):
        weight, loc, log_scale = parameters
        q = Normal.from_log_scale(loc, log_scale)
        options = {"num_samples": 4, "bound": numbered(index, bounds), "path_gradient": path_gradient}
        return bound_of(key, q, ORACLE._replace(weight=weight), **options).value

    @jax.jit
    def both(parameters, keys):
        of_draw = lambda path, key, index: jax.grad(value)(parameters, key, index, path)
        of_bound = lambda path, index: jax.vmap(lambda key: of_draw(path, key, index))(keys[int(path)])
        return [jax.vmap(partial(of_bound, path))(np.arange(len(bounds))) for path in (False, True)]

    return jax.device_get(both(PARAMETERS, jax.random.split(jax.random.key(1), (2, 20_000))))


def gradients_of(name):
    """The bounds of a tier share a program."""
    names = tier_of(name, BOUNDS, FAST)
    return [[leaf[names.index(name)] for leaf in gradients] for gradients in drawn_gradients(names)]


@pytest.mark.parametrize("name", NAMES)
def test_the_path_gradient_has_the_mean_of_the_plain_one(name):
    """To every parameter of q and of the decoder, which a closure hides."""
    for a, b in zip(*gradients_of(name), strict=True):
        error = np.sqrt((np.var(a, axis=0) + np.var(b, axis=0)) / len(a))
        assert np.all(np.abs(np.mean(a, axis=0) - np.mean(b, axis=0)) < 5 * error)
        assert np.all(np.std(a, axis=0) > 10 * error)


@pytest.mark.slow("test_exact has the exact gradient of the ELBO")
def test_the_elbo_bounds_gradients_are_exact():
    """Both estimators against the gradient of the exact ELBO."""

    def exact(parameters):
        weight, loc, log_scale = parameters
        return ORACLE._replace(weight=weight).elbo(X, Normal.from_log_scale(loc, log_scale))

    expected = jax.jit(jax.grad(exact))(PARAMETERS)
    for gradients in gradients_of("elbo"):
        for draws, mean in zip(gradients, expected, strict=True):
            assert agree(draws, mean)


def test_a_bound_of_two_samples_has_the_gradient_of_its_quadrature(x64):
    """One latent: E[log 1/2 (w_1 + w_2)] by Gauss-Hermite quadrature in two dimensions."""
    check_quadrature([BOUNDS["ciwae"]])


@pytest.mark.slow("other bounds")
def test_other_bounds_of_two_samples_have_the_gradient_of_their_quadrature(x64):
    check_quadrature([BOUNDS["iwae"], BOUNDS["renyi"]])


def check_quadrature(bounds):
    oracle, x = LinearGaussian(np.array([[0.9], [-1.4]]), np.array([1.2, 0.1]), 0.5), np.array([1.9, -0.6])
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    pairs = np.stack(np.meshgrid(nodes, nodes)).reshape(2, -1)
    weights = np.outer(weights, weights).ravel() / (2 * np.pi)

    def exact(parameters, index):
        q = Normal.from_log_scale(*parameters)
        z = q.loc + q.scale * pairs[..., None]  # [2, nodes, 1]
        log_weights = oracle.decode(z).log_prob(x) + vaejax.standard_normal.log_prob(z) - q.log_prob(z)
        return jnp.sum(weights * numbered(index, bounds).reduce(log_weights))

    def value(parameters, key, index):
        q = Normal.from_log_scale(*parameters)
        options = {"num_samples": 2, "bound": numbered(index, bounds), "path_gradient": True}
        return bound_of(key, q, oracle, x, **options).value

    @jax.jit
    def gradients(parameters, keys):
        draw = jax.vmap(jax.grad(value), in_axes=(None, 0, None))
        return [
            jax.vmap(partial(each, parameters))(np.arange(len(bounds)))
            for each in (jax.grad(exact), lambda parameters, index: draw(parameters, keys, index))
        ]

    parameters = (np.array([0.4]), np.array([-0.3]))
    expected, drawn = jax.device_get(gradients(parameters, jax.random.split(jax.random.key(5), 50_000)))
    for draws, means in zip(drawn, expected, strict=True):
        for index in range(len(bounds)):
            assert agree(draws[index], means[index]), index
            assert not agree(draws[index], 0.0, errors=20.0)


def test_sticking_the_landing_has_no_noise_at_the_posterior(x64):
    """Where log w is log p(x) whatever z is, no path changes it: the gradient is zero for every draw."""

    def value(parameters, key):
        q = vaejax.MultivariateNormal(*parameters)
        options = {"num_samples": 3, "bound": vaejax.elbo_bound(), "path_gradient": True}
        return bound_of(key, q, DOUBLE, X_DOUBLE, **options).value

    @jax.jit
    def gradients(keys):
        exact = DOUBLE.posterior(X_DOUBLE)
        return jax.vmap(jax.grad(value), in_axes=(None, 0))((exact.loc, exact.scale_tril), keys)

    for drawn in gradients(jax.random.split(jax.random.key(0), 100)):
        np.testing.assert_allclose(drawn, np.zeros_like(drawn), atol=1e-10)


@pytest.mark.slow("a spread; at the posterior itself there is none, which is exact")
def test_the_doubly_reparameterized_gradient_is_quieter_near_the_posterior():
    """Its standard deviation at K = 10 is under half of that of the plain gradient."""

    def value(parameters, key, path_gradient):
        options = {"num_samples": 10, "bound": vaejax.iwae_bound(), "path_gradient": path_gradient}
        return bound_of(key, Normal.from_log_scale(*parameters), **options).value

    @jax.jit
    def gradients(keys):
        q = close_to_posterior(ORACLE, X, 1.1)
        parameters = q.loc, np.log(q.scale)
        draw = lambda path, keys: jax.vmap(lambda key: jax.grad(value)(parameters, key, path))(keys)
        return draw(False, keys), draw(True, jax.random.clone(keys))

    plain, path = jax.device_get(gradients(jax.random.split(jax.random.key(3), 5_000)))
    spread = lambda drawn: np.sqrt(sum(np.sum(np.var(part, axis=0)) for part in drawn))
    assert spread(path) < 0.5 * spread(plain)


def test_a_path_gradient_changes_no_value_and_no_gradient_besides_that_of_q():
    """What is made of the latents besides the weights is not scaled, and the parts are for looking at."""

    def parts(weight, loc, path_gradient):
        options = {"num_samples": 5, "path_gradient": path_gradient}
        terms = bound_of(jax.random.key(0), Normal(loc, SCALE), ORACLE._replace(weight=weight), **options)
        cubes = jnp.sum(terms.latents**3)
        parts = {"value": terms.value, "cubes": cubes, "both": terms.value + cubes}
        return parts | {"log_likelihood": terms.log_likelihood, "kl": terms.kl}

    @jax.jit
    def both(weight, loc):
        each = [partial(parts, path_gradient=flag) for flag in (False, True)]
        return [(f(weight, loc), jax.jacrev(f, argnums=(0, 1))(weight, loc)) for f in each]

    (plain, plain_slopes), (path, path_slopes) = both(*PARAMETERS[:2])
    chex.assert_trees_all_close(plain, path, rtol=1e-5)
    # The decoder's gradient.
    chex.assert_trees_all_close(plain_slopes["value"][0], path_slopes["value"][0], rtol=1e-5)
    slopes = {name: to_loc for name, (_, to_loc) in path_slopes.items()}
    chex.assert_trees_all_close(slopes["cubes"], plain_slopes["cubes"][1], rtol=1e-5)
    # A penalty on the latents adds its gradient to the bound's.
    np.testing.assert_allclose(slopes["both"], np.asarray(slopes["value"]) + slopes["cubes"], rtol=1e-4)
    for name in ("log_likelihood", "kl"):
        np.testing.assert_array_equal(slopes[name], np.zeros(2))


def path_value(loc, map_samples=jax.vmap):
    options = {"num_samples": 6, "path_gradient": True, "map_samples": map_samples}
    return bound_of(jax.random.key(0), Normal(loc, SCALE), **options).value


@pytest.mark.slow("another way of mapping over samples")
def test_path_gradients_pass_through_every_way_of_mapping():
    chunked = lambda f: lambda *xs: jax.lax.map(lambda each: f(*each), xs, batch_size=4)
    ways = jax.jit(lambda loc: [jax.value_and_grad(path_value)(loc, way) for way in (jax.vmap, chunked)])
    chex.assert_trees_all_close(*ways(LOC), rtol=1e-5)


@pytest.mark.slow("eager, so a program for each operation")
def test_path_gradients_need_no_compilation():
    slope = jax.value_and_grad(path_value)
    chex.assert_trees_all_close(jax.jit(slope)(LOC), slope(LOC), rtol=1e-5)


def test_renyi_keeps_its_digits_between_the_series_and_the_formula():
    """In single precision, with weights a thousand nats away: against double precision."""
    log_weights = np.random.default_rng(0).normal(-1000.0, 1.0, (6, 3))
    alphas = np.array([1 - 1.1e-4, 1 - 1e-3, 0.99, 0.9, 0.5, 1 + 2e-4, 1.3])
    reduce = lambda alpha: vaejax.renyi_bound(alpha).reduce(log_weights.astype(np.float32))
    values = jax.jit(jax.vmap(reduce))(alphas.astype(np.float32))
    # The power as single precision has it.
    for power, value in zip(1 - alphas.astype(np.float32).astype(float), values, strict=True):
        exact = -1000 + np.log(np.mean(np.exp(power * (log_weights + 1000)), axis=0)) / power
        np.testing.assert_allclose(value, exact, atol=3e-4)
    with pytest.raises(ValueError, match="alpha must be finite; got nan"):
        vaejax.renyi_bound(float("nan"))


@pytest.mark.parametrize(
    "bounds", [[vaejax.ciwae_bound(0.0)], pytest.param([*BOUNDS.values()], marks=pytest.mark.slow("other bounds"))]
)
def test_weights_that_underflow_have_finite_gradients(bounds):
    """One draw a thousand nats below the other, with beta 0: its cotangent is zero, not zero over zero."""
    log_weights = np.array([[0.0], [-1000.0]], np.float32)
    slope = lambda bound: jax.grad(lambda log_weights: bound.reduce(log_weights).sum())
    scales = jax.jit(lambda w: [(bound.path_scale(w), slope(bound)(w)) for bound in bounds])(log_weights)
    chex.assert_tree_all_finite(scales)


class WithNoise:
    """A Normal whose noise `[K, B, Z]` is passed in."""

    def __init__(self, normal, noise):
        self.normal, self.noise, self.log_prob = normal, noise, normal.log_prob

    def sample(self, key, sample_shape=()):
        return self.normal.loc + self.normal.scale * self.noise


@pytest.mark.slow("seen by the batch of 100 at the posterior as well")
def test_examples_do_not_see_each_other():
    """A batch is its parts, permuting it permutes the values, and so do the draws of one example."""
    rng = np.random.default_rng(0)
    x, noise = (each.astype(np.float32) for each in (rng.normal(size=(6, 5)) + ORACLE.bias, rng.normal(size=(4, 6, 2))))

    @jax.jit
    def values(x, noise):
        """Of all bounds, `[len(BOUNDS), B]`."""
        encode = lambda x: WithNoise(Normal(jnp.tanh(x[:, :2]), 0.6), noise)
        draw = lambda index: vaejax.importance_bound(
            jax.random.key(0), x, encode, ORACLE.decode, num_samples=4, bound=numbered(index)
        )
        return jax.vmap(lambda index: draw(index).value)(np.arange(len(BOUNDS)))

    together = np.asarray(values(x, noise))
    apart = np.concatenate([values(x[:3], noise[:, :3]), values(x[3:], noise[:, 3:])], axis=1)
    np.testing.assert_allclose(apart, together, rtol=1e-5)
    order = np.array([3, 0, 5, 1, 4, 2])
    np.testing.assert_allclose(values(x[order], noise[:, order]), together[:, order], rtol=1e-5)
    swapped = values(x, noise[[1, 0, 2, 3]])  # within a group of miwae
    np.testing.assert_allclose(swapped, together, rtol=1e-5)


@pytest.mark.slow("the draws are those of the ELBO, which test_laws has")
def test_noise_is_distinct_and_the_same_key_gives_the_same_bits():
    x = np.broadcast_to(ORACLE.bias, (64, 5)).astype(np.float32)

    @jax.jit
    def latents(key):
        encode = lambda x: Normal(jnp.zeros((64, 2)), 1.0)
        return vaejax.importance_bound(key, x, encode, ORACLE.decode, num_samples=16).latents

    draw = lambda seed: np.asarray(latents(jax.random.key(seed))).reshape(-1, 2)
    first = draw(0)
    assert len(np.unique(first, axis=0)) == 16 * 64
    np.testing.assert_array_equal(first, draw(0))
    assert len(np.unique(np.concatenate([first, draw(1)]), axis=0)) == 2 * 16 * 64


@pytest.mark.slow("test_recipes traces them; these are their values")
def test_hyperparameters_may_be_traced():
    parameters = np.array([0.0, 0.4, 1.0], np.float32)
    makers = (vaejax.ciwae_bound, vaejax.renyi_bound)

    def path(loc, beta):
        options = {"num_samples": 4, "bound": vaejax.ciwae_bound(beta), "path_gradient": True}
        return bound_of(jax.random.key(0), Normal(loc, SCALE), **options).value

    @jax.jit
    def both(parameters, beta):
        draw = lambda bound: bound_of(jax.random.key(0), wrong(), num_samples=4, bound=bound)
        traced = [jax.vmap(lambda each, make=make: draw(make(each)).value)(parameters) for make in makers]
        log_weights = draw(vaejax.iwae_bound()).log_weights
        expected = [jnp.stack([make(each).reduce(log_weights) for each in (0.0, 0.4, 1.0)]) for make in makers]
        return (traced, jax.grad(path)(LOC, beta)), (expected, jax.grad(path)(LOC, 0.3))

    chex.assert_trees_all_close(*both(parameters, np.float32(0.3)), rtol=1e-5)


@pytest.mark.parametrize(
    "objective",
    [
        partial(vaejax.importance_bound, num_samples=3),
        *(
            pytest.param(partial(vaejax.elbo, kl=vaejax.monte_carlo_kl, **options), marks=pytest.mark.slow("ELBOs"))
            for options in ({"num_samples": 3}, {})
        ),
    ],
    ids=["importance_bound", "elbo of samples", "elbo"],
)
def test_a_flow_needs_no_inverse_and_a_point_has_no_weight(objective):
    class NoInverse:
        def forward(self, z):
            return 2 * z, jnp.full(z.shape[:-1], 2 * jnp.log(2.0))

        def inverse(self, y):
            raise AssertionError("inverted")

    @jax.jit
    def values():
        posteriors = vaejax.Transformed(wrong(), NoInverse()), Normal(2 * LOC, 2 * SCALE)
        return [objective(jax.random.key(0), X, lambda x, q=q: q, ORACLE.decode).value for q in posteriors]

    chex.assert_trees_all_close(*values(), rtol=1e-4)


POINT = vaejax.Delta(np.zeros(2))

# The posterior as a function, which is called in the test.
BAD = {
    "a point": ({"q": lambda: vaejax.Delta(np.zeros(2))}, TypeError, "Delta is a point and has no density"),
    "a quantized point": (
        {"q": lambda: vaejax.vector_quantize(np.zeros((3, 2), np.float32), np.zeros(2, np.float32))}, TypeError,
        "VectorQuantized is a point",
    ),
    "a transformed point": (
        {"q": lambda: vaejax.Transformed(POINT, vaejax.ElementwiseAffine(np.ones(2), np.zeros(2)))}, TypeError,
        "Transformed is a point",
    ),
    "a point of numpyro's, transformed": (
        {"q": lambda: vaejax.Transformed(numpyro.distributions.Delta(np.zeros(2), event_dim=1), vaejax.Reverse())},
        TypeError, "Transformed is a point",
    ),
    "points, mixed": (
        {"q": lambda: vaejax.Mixture(np.zeros(3), vaejax.Delta(np.zeros((3, 2))))}, TypeError, "Mixture is a point"
    ),
    "a masked point": ({"q": lambda: vaejax.Masked(POINT, np.ones(2))}, TypeError, "Masked is a point"),
    "a moved point": (
        {"q": lambda: vaejax.HamiltonianPosterior(POINT, lambda z: -jnp.sum(z**2, axis=-1))}, TypeError,
        "HamiltonianPosterior is a point",
    ),
    "groups": (
        {"bound": vaejax.miwae_bound(3)}, ValueError, "num_samples must be a multiple of groups=3; got 4"
    ),
    "no path": (
        {"bound": vaejax.Bound(lambda w: w.max(0)), "path_gradient": True}, ValueError, "path_gradient.*path_scale"
    ),
    "no bound": ({"bound": "iwae"}, TypeError, "bound must be a Bound.*got str"),
    "no samples": ({"num_samples": 0}, ValueError, "num_samples must be at least 1; got 0"),
    "a mixture as posterior": (
        {"q": lambda: vaejax.Mixture(np.zeros(3), Normal(np.zeros((3, 2)), 1.0))}, TypeError, "Mixture have no gradient"
    ),
    "no pytree": (
        {"q": type("Mine", (), {"sample": lambda s, k, n=(): np.zeros((*n, 2)), "log_prob": lambda s, z: z.sum(-1)}),
         "path_gradient": True}, TypeError, "Mine must be a pytree",
    ),
    "a closure's parameters": (
        {"q": lambda: vaejax.Hierarchical(Normal(np.zeros(1), 1.0), lambda z: Normal(z, 1.0)), "path_gradient": True},
        TypeError, r"Hierarchical holds a function.*jax\.tree_util\.Partial",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_with_its_reason(key, name):
    changes, error, message = BAD[name]
    options = {"q": wrong, "num_samples": 4} | changes
    with pytest.raises(error, match=message):
        jax.eval_shape(lambda: bound_of(key, options.pop("q")(), **options).value)


def test_weights_of_zero_count_as_zero():
    """The bounds of weights 0 and 1, and of none but 0, by their formulas; no gradient is NaN."""
    half, none = np.log(0.5), -np.inf
    of_zero_and_one = {
        vaejax.elbo_bound(): none, vaejax.iwae_bound(): half, vaejax.miwae_bound(1): half,
        vaejax.ciwae_bound(0.0): half, vaejax.ciwae_bound(0.5): none,
        vaejax.renyi_bound(0.0): half, vaejax.renyi_bound(0.5): 2 * half, vaejax.renyi_bound(-1.0): half / 2,
        vaejax.renyi_bound(1.0): none, vaejax.renyi_bound(2.0): none,
    }  # fmt: skip
    log_weights = np.float32([[none, none], [0.0, none]])

    @jax.jit
    def figures(log_weights):
        graded = [jax.vjp(bound.reduce, log_weights) for bound in of_zero_and_one]
        slopes = [pullback(jnp.ones(2)) for _, pullback in graded]
        return [value for value, _ in graded], slopes, [bound.path_scale(log_weights) for bound in of_zero_and_one]

    values, *rest = figures(log_weights)
    np.testing.assert_allclose(values, [[expected, none] for expected in of_zero_and_one.values()], rtol=1e-6)
    chex.assert_tree_all_finite(rest)


def test_bounds_refuse_what_they_cannot_mix():
    with pytest.raises(ValueError, match="beta must be between 0"):
        vaejax.ciwae_bound(1.5)
    with pytest.raises(ValueError, match="groups must be at least 1; got 0"):
        vaejax.miwae_bound(0)
    with pytest.raises(TypeError, match="alpha must be an array"):
        vaejax.renyi_bound("half")
