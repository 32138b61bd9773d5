"""Distributions on the sphere: quadrature on the circle and the sphere, projections of draws, path gradients."""

import math
from functools import cache

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

import vaejax
from vaejax.distributions.spherical import PowerSpherical, SphericalUniform, unit_vector


def circle(count=4000):
    angle = np.arange(count) * (2 * np.pi / count)
    return np.stack([np.cos(angle), np.sin(angle)], -1), np.full(count, 2 * np.pi / count)


def sphere(count=400):
    """Gauss-Legendre in the height, equal angles around."""
    height, weight = np.polynomial.legendre.leggauss(count)
    angle = np.arange(64) * (2 * np.pi / 64)
    ring = np.sqrt(1 - height**2)[:, None]
    points = np.stack([ring * np.cos(angle), ring * np.sin(angle), np.broadcast_to(height[:, None], (count, 64))], -1)
    return points.reshape(-1, 3), np.repeat(weight * 2 * np.pi / 64, 64)


GRIDS = {2: circle, 3: sphere}
LOC = {2: np.array([-0.6, 0.8]), 3: np.array([0.36, -0.48, 0.8])}


ANOTHER_SIZE = pytest.mark.slow("the same law on another sphere")


@jax.jit
def figures_at(loc, concentration, points):
    """Densities at points, and the closed forms."""
    q, uniform = PowerSpherical(loc, concentration), SphericalUniform(loc.shape[-1])
    return {
        "log q": q.log_prob(points),
        "log uniform": uniform.log_prob(points),
        "mean": q.mean,
        "entropy": q.entropy,
        "kl": vaejax.kl_divergence(q, uniform),
    }


@pytest.mark.parametrize("size", [pytest.param(2, marks=ANOTHER_SIZE), 3])
def test_integrals_over_the_circle_and_the_sphere(x64, size):
    """One, the mean, the entropy and the divergence from the uniform."""
    points, weights = GRIDS[size]()
    concentration = np.array([0.0, 0.3, 2.0, 25.0])
    # A loc of any length: it is scaled to 1.
    found = jax.device_get(figures_at(np.tile(3 * LOC[size], (4, 1)), concentration, points[:, None]))
    uniform = found["log uniform"]
    chex.assert_trees_all_close(weights @ np.exp(uniform[:, 0]), 1.0, rtol=1e-9)
    for index, tolerance in enumerate((1e-9, 1e-5, 1e-9, 1e-9)):  # a kink at the antipode where it is 0.3
        log_q = found["log q"][:, index]
        mass = weights * np.exp(log_q)
        chex.assert_trees_all_close(mass.sum(), 1.0, atol=tolerance)
        chex.assert_trees_all_close(found["mean"][index], mass @ points, atol=tolerance)
        chex.assert_trees_all_close(found["entropy"][index], -mass @ log_q, atol=tolerance)
        chex.assert_trees_all_close(found["kl"][index], mass @ (log_q - uniform[:, 0]), atol=tolerance)


CONCENTRATIONS = np.float32([0.0, 0.5, 4.0, 300.0])
COUNT = 40_000
# Draws in one call for each of four pairs of parameters: of one shape, so that one program draws them all.
PART = 10_000


def figure(x):
    return jnp.sin(x @ np.linspace(0.5, -1.0, x.shape[-1], dtype=x.dtype)) + x[..., -1] * x[..., -2]


@jax.jit
def draw(loc, concentration, key):
    """A draw for each pair of parameters `[N, D]` and `[N]`, and the slopes of `figure` there to the parameters."""

    def total(loc, concentration):
        x = PowerSpherical(loc, concentration).sample(key)
        return jnp.sum(figure(x)), x

    slopes, x = jax.grad(total, (0, 1), has_aux=True)(loc, concentration)
    return x, *slopes


@cache
def draws(locs, concentrations):
    """`COUNT` draws `[COUNT, 4, D]` for each of four pairs of parameters, and their slopes."""
    loc, concentration = (np.repeat(np.float32(each), PART, axis=0) for each in (locs, concentrations))
    parts = [jax.device_get(draw(loc, concentration, jax.random.key(seed))) for seed in range(COUNT // PART)]
    split = lambda leaf: np.moveaxis(leaf.reshape(4, PART, *leaf.shape[1:]), 0, 1)
    return jax.tree.map(lambda *leaves: np.concatenate(list(map(split, leaves))), *parts)


def draws_of(size):
    """`loc`, and draws for each concentration."""
    loc = np.linspace(-1.0, 0.7, size).astype(np.float32)
    return loc, draws((tuple(loc),) * 4, tuple(CONCENTRATIONS))[0]


@cache
def figures_of(size):
    """What is known of the draws."""
    loc, x = draws_of(size)
    return jax.device_get(figures_at(np.tile(loc, (4, 1)), CONCENTRATIONS, x))


SIZES = [pytest.param(2, marks=ANOTHER_SIZE), 3, pytest.param(10, marks=ANOTHER_SIZE)]


@pytest.mark.parametrize("size", SIZES)
def test_projections_of_draws_follow_the_density(size):
    """(1 + loc . x) / 2 is Beta(k + (D - 1) / 2, (D - 1) / 2), and around loc all directions are alike."""
    (loc, drawn), mean = draws_of(size), figures_of(size)["mean"]
    unit, beta = loc / np.linalg.norm(loc.astype(np.float64)), (size - 1) / 2
    for index, concentration in enumerate(CONCENTRATIONS):
        x = drawn[:, index].astype(np.float64)
        chex.assert_trees_all_close(np.sum(x**2, -1), np.ones(COUNT), atol=1e-5)
        away = np.sum((x - unit) ** 2, -1) / 4
        assert scipy.stats.kstest(away, scipy.stats.beta(beta, beta + concentration).cdf).statistic * 200 < 2.7
        assert np.all(np.abs(x.mean(0) - mean[index]) < 5 * x.std(0) / 200)
        # The covariance of the projection off loc is that of an isotropic vector.
        rest = x - (x @ unit)[:, None] * unit
        isotropic = np.mean(np.sum(rest**2, -1)) / (size - 1) * (np.eye(size) - np.outer(unit, unit))
        products = rest[:, :, None] * rest[:, None]
        assert np.all(np.abs(products.mean(0) - isotropic) < 5 * products.std(0) / 200 + 1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_divergence_is_the_mean_of_monte_carlo(size):
    found = figures_of(size)
    log_ratio = found["log q"].astype(np.float64) - found["log uniform"]
    assert np.all(np.abs(log_ratio.mean(0) - found["kl"]) < 5 * log_ratio.std(0) / 200 + 2e-6)


@pytest.mark.parametrize("size", [pytest.param(2, marks=ANOTHER_SIZE), 3, pytest.param(7, marks=ANOTHER_SIZE)])
def test_uniform_draws(size, key):
    @jax.jit
    def figures(key):
        uniform, loc = SphericalUniform(size), jnp.eye(size)[0]
        x = uniform.sample(key, (40_000,))
        points = jnp.concatenate([x[:5], jnp.stack([-loc, loc])])
        q = PowerSpherical(loc, 0.0)
        return x, uniform.log_prob(points), q.log_prob(points), vaejax.kl_divergence(q, uniform)

    x, of_uniform, of_power, kl = jax.device_get(figures(key))
    x, beta = x.astype(np.float64), (size - 1) / 2
    for axis in (0, size - 1):
        assert scipy.stats.kstest((1 + x[:, axis]) / 2, scipy.stats.beta(beta, beta).cdf).statistic * 200 < 2.7
    area = 2 * math.pi ** (size / 2) / math.gamma(size / 2)
    chex.assert_trees_all_close(of_uniform, np.full(7, -math.log(area)), rtol=1e-6)
    # Without concentration the power spherical is uniform, also at the antipode.
    chex.assert_trees_all_close(of_power, np.full(7, -math.log(area)), rtol=1e-5)
    chex.assert_trees_all_close(kl, np.float32(0.0), atol=2e-6)


def expectations(loc, concentration):
    """E `figure` by quadrature, for four pairs of parameters at once."""
    points, weights = sphere()
    log_q = np.asarray(figures_at(loc, concentration, points[:, None])["log q"])
    return (weights * np.asarray(figure(points))) @ np.exp(log_q)


LOCS = ((1.0, 0.0, 0.0), (-1.0, 0.0, 0.0), (0.0, 0.6, 0.8), (0.5, -0.4, 0.7))


def test_path_gradients_are_those_of_the_expectation():
    """Also where loc is the axis itself: d/d theta E f(x) by quadrature, and by draws."""
    _, *slopes = draws(LOCS, (3.0,) * 4)
    found = np.concatenate([slopes[0], slopes[1][..., None]], axis=-1).astype(np.float64)
    for index, loc in enumerate(LOCS):
        parameters, steps = np.array([*loc, 3.0]), 1e-5 * np.eye(4)
        with jax.enable_x64(True):
            above, below = (
                expectations(moved[:, :3], moved[:, 3]) for moved in (parameters + steps, parameters - steps)
            )
        own = found[:, index]
        assert np.all(np.abs(own.mean(0) - (above - below) / 2e-5) < 5 * own.std(0) / 200 + 1e-6)


def extremes(size):
    """A row for each draw: four directions, of any length and of none, with four concentrations each."""
    locs = np.float32([np.eye(size)[0], -np.eye(size)[0], np.zeros(size), 1e-3 * np.ones(size)])
    concentrations = np.float32([0.0, 1e-3, 1.0, 1e6])
    pairs = np.repeat(locs, 4, axis=0), np.tile(concentrations, 4)
    return [np.repeat(each, 4 * PART // 16, axis=0) for each in pairs]


@pytest.mark.parametrize("size", [3, pytest.param(2, marks=ANOTHER_SIZE), pytest.param(5, marks=ANOTHER_SIZE)])
def test_draws_and_their_gradients_are_finite_at_the_extremes(size):
    chex.assert_tree_all_finite(draw(*extremes(size), jax.random.key(0)))


@pytest.mark.slow("compiles the gradient of all outputs")
@pytest.mark.parametrize("size", [2, 3, 5])
def test_gradients_of_all_outputs_are_finite_at_the_extremes(size):
    def total(loc, concentration):
        q, uniform = PowerSpherical(loc, concentration), SphericalUniform(size)
        x, fixed = q.sample(jax.random.key(0)), jnp.eye(size)[0]
        log_probs = [q.log_prob(x), q.log_prob(fixed), q.log_prob(-fixed)]
        # Not finite where an output, or its slope, is not.
        everything = jnp.stack([*log_probs, q.entropy, vaejax.kl_divergence(q, uniform), *x.T, *q.mean.T])
        return jnp.sum(jnp.cos(jnp.arange(len(everything))) @ everything)

    chex.assert_tree_all_finite(jax.jit(jax.value_and_grad(total, (0, 1)))(*extremes(size)))


def test_single_precision_keeps_its_digits_at_high_concentration():
    concentrations = np.float32([1e3, 1e6])
    loc = np.float32([[0.6, 0.0, 0.8]] * 2)
    x = np.stack([[0.6, 1.0 / k**0.5, 0.8] for k in concentrations])
    x = np.float32(x / np.linalg.norm(x, axis=-1, keepdims=True))
    found = jax.device_get(figures_at(loc, concentrations, x))
    # In double precision by scipy, where N = 2^(k + 2) pi / (k + 1), from the distance of x and loc.
    k, unit = concentrations.astype(np.float64), np.array([0.6, 0.0, 0.8])
    log_n = (k + 2) * math.log(2.0) + math.log(math.pi) - np.log(k + 1)
    away = np.sum((x - unit) ** 2, axis=-1) / 4
    entropy = log_n - k * (math.log(2.0) + scipy.special.digamma(k + 1) - scipy.special.digamma(k + 2))
    log_q = k * (math.log(2.0) + np.log1p(-away)) - log_n
    expected = {"entropy": entropy, "log q": log_q, "kl": math.log(4 * math.pi) - entropy}
    for name, value in expected.items():
        assert found[name].dtype == np.float32
        chex.assert_trees_all_close(np.float64(found[name]), value, atol=2e-3)


def test_unit_vectors_of_any_length_and_of_none():
    vectors = np.float32([[3.0, 4.0], [3e-30, 4e-30], [3e30, 4e30], [0.0, 0.0]])
    chex.assert_trees_all_close(jax.jit(unit_vector)(vectors), np.float32([[0.6, 0.8]] * 3 + [[0.0, 1.0]]), rtol=1e-6)
    slope = jax.jit(jax.jacfwd(unit_vector))(jnp.array([3.0, 4.0]))
    chex.assert_trees_all_close(slope, (np.eye(2) - np.outer([0.6, 0.8], [0.6, 0.8])) / 5, atol=1e-6)
    chex.assert_trees_all_equal(jax.jit(jax.jacrev(unit_vector))(jnp.zeros(2)), jnp.zeros((2, 2)))


@pytest.mark.slow("aligned by the function that other families are mapped over")
@pytest.mark.parametrize("ranks", [(1, 0), (0, 0), (0, 1), (1, 1)])
def test_a_mapped_constructor_is_the_batched_one(ranks):
    rng = np.random.default_rng(0)
    loc = rng.normal(size=(4,) * (2 + ranks[0])).astype(np.float32)
    concentration = np.linspace(0.0, 5.0, 4 ** (1 + ranks[1])).reshape((4,) * (1 + ranks[1])).astype(np.float32)
    batch = (4,) * max(ranks)
    value = rng.normal(size=(4, *batch, 4)).astype(np.float32)
    value /= np.linalg.norm(value, axis=-1, keepdims=True)
    figures = lambda q, value: (q.log_prob(value), q.mean, q.entropy)
    mapped = lambda loc, concentration: jax.vmap(PowerSpherical)(loc, concentration)

    @jax.jit
    def mapped_and_apart(loc, concentration, value):
        apart = lambda *arrays: figures(PowerSpherical(*arrays[:2]), arrays[2])
        return figures(mapped(loc, concentration), value), jax.lax.map(
            lambda arrays: apart(*arrays), (loc, concentration, value)
        )

    chex.assert_trees_all_close(*mapped_and_apart(loc, concentration, value), rtol=1e-5)
    draws = jax.eval_shape(lambda: mapped(loc, concentration).sample(jax.random.key(0), (2,)))
    chex.assert_shape(draws, (2, *value.shape))


@pytest.mark.parametrize(
    ("make", "error", "found"),
    [
        (lambda: SphericalUniform(1), ValueError, "size must be at least 2"),
        (lambda: PowerSpherical(np.ones(1), 1.0), ValueError, r"length 2 or more; got shape \(1,\)"),
        (lambda: PowerSpherical(np.zeros((2, 3)), 1.0), ValueError, "no zero vector"),
        (lambda: PowerSpherical(np.ones(3), -1.0), ValueError, "concentration must be at least 0"),
        (lambda: PowerSpherical(np.ones((4, 3)), np.ones(3)), ValueError, r"loc \(4,\) and concentration \(3,\)"),
        (lambda: PowerSpherical(np.ones(3), 1.0).log_prob(np.ones(3)), ValueError, "unit vectors"),
        (lambda: SphericalUniform(3).log_prob(np.ones(3)), ValueError, "unit vectors"),
        (lambda: SphericalUniform(3).log_prob(np.ones(2)), ValueError, r"event shape \(3,\)"),
        (lambda: vaejax.kl_divergence(PowerSpherical(np.ones(3), 1.0), SphericalUniform(2)), ValueError, "length 3, p of length 2"),
        (lambda: vaejax.kl_divergence(PowerSpherical(np.ones(3), 1.0), vaejax.standard_normal), TypeError, "PowerSpherical to Normal.*monte_carlo_kl"),
        (lambda: vaejax.kl_divergence(SphericalUniform(3), PowerSpherical(np.ones(3), 1.0)), TypeError, "SphericalUniform to PowerSpherical"),
    ],
)  # fmt: skip
def test_bad_input_raises(make, error, found):
    with pytest.raises(error, match=found):
        make()
