"""Distributions on the sphere: quadrature on the circle and the sphere, projections of draws, path gradients."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import vaejax
from vaejax.distributions.spherical import PowerSpherical, SphericalUniform, unit_vector

log_prob = jax.jit(lambda d, value: d.log_prob(value))
sample = jax.jit(lambda d, key, shape=(): d.sample(key, shape), static_argnums=2)
mean = jax.jit(lambda d: d.mean)
entropy = jax.jit(lambda d: d.entropy)
kl = jax.jit(vaejax.kl_divergence)


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


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("concentration", [0.0, 0.3, 2.0, 25.0])
def test_integrals_over_the_circle_and_the_sphere(x64, size, concentration):
    """One, the mean, the entropy and the divergence from the uniform."""
    points, weights = GRIDS[size]()
    q = PowerSpherical(3 * LOC[size], concentration)  # of any length: it is scaled to 1
    log_q = np.asarray(log_prob(q, points))
    mass = weights * np.exp(log_q)
    tolerance = 1e-5 if 0 < concentration < 1 else 1e-9  # a kink at the antipode
    chex.assert_trees_all_close(mass.sum(), 1.0, atol=tolerance)
    chex.assert_trees_all_close(mean(q), mass @ points, atol=tolerance)
    chex.assert_trees_all_close(entropy(q), -mass @ log_q, atol=tolerance)
    uniform = SphericalUniform(size)
    expected = mass @ (log_q - np.asarray(log_prob(uniform, points)))
    chex.assert_trees_all_close(kl(q, uniform), expected, atol=tolerance)
    chex.assert_trees_all_close(weights @ np.exp(log_prob(uniform, points)), 1.0, rtol=1e-9)


@pytest.mark.parametrize("size", [2, 3, 10])
@pytest.mark.parametrize("concentration", [0.0, 0.5, 4.0, 300.0])
def test_projections_of_draws_follow_the_density(size, concentration, key):
    """(1 + loc . x) / 2 is Beta(k + (D - 1) / 2, (D - 1) / 2), and around loc all directions are alike."""
    loc = np.linspace(-1.0, 0.7, size).astype(np.float32)
    draws = np.asarray(sample(PowerSpherical(loc, concentration), key, (40_000,)), np.float64)
    chex.assert_trees_all_close(np.sum(draws**2, -1), np.ones(40_000), atol=1e-5)
    unit = loc / np.linalg.norm(loc.astype(np.float64))
    beta = (size - 1) / 2
    away = np.sum((draws - unit) ** 2, -1) / 4
    assert scipy.stats.kstest(away, scipy.stats.beta(beta, beta + concentration).cdf).statistic * 200 < 2.7
    deviation = draws.mean(0) - np.asarray(mean(PowerSpherical(loc, concentration)))
    assert np.all(np.abs(deviation) < 5 * draws.std(0) / 200)
    # The covariance of the projection off loc is that of an isotropic vector.
    rest = draws - (draws @ unit)[:, None] * unit
    isotropic = np.mean(np.sum(rest**2, -1)) / (size - 1) * (np.eye(size) - np.outer(unit, unit))
    products = rest[:, :, None] * rest[:, None]
    assert np.all(np.abs(products.mean(0) - isotropic) < 5 * products.std(0) / 200 + 1e-6)


@pytest.mark.parametrize("size", [2, 3, 7])
def test_uniform_draws(size, key):
    draws = np.asarray(sample(SphericalUniform(size), key, (40_000,)), np.float64)
    beta = (size - 1) / 2
    for axis in (0, size - 1):
        assert scipy.stats.kstest((1 + draws[:, axis]) / 2, scipy.stats.beta(beta, beta).cdf).statistic * 200 < 2.7
    area = 2 * math.pi ** (size / 2) / math.gamma(size / 2)
    chex.assert_trees_all_close(log_prob(SphericalUniform(size), draws[:5]), np.full(5, -math.log(area)), rtol=1e-6)
    # Without concentration the power spherical is uniform, also at the antipode.
    loc = np.eye(size)[0]
    found = log_prob(PowerSpherical(loc, 0.0), np.concatenate([draws[:5], [-loc, loc]]))
    chex.assert_trees_all_close(found, np.full(7, -math.log(area)), rtol=1e-5)
    chex.assert_trees_all_close(kl(PowerSpherical(loc, 0.0), SphericalUniform(size)), 0.0, atol=2e-6)


def test_divergence_is_the_mean_of_monte_carlo(key):
    loc = np.float32([[1.0, 0.0, 0.0, 0.0], [0.3, -0.2, 0.9, 0.1]])
    q, p = PowerSpherical(loc, np.float32([0.7, 60.0])), SphericalUniform(4)
    x = sample(q, key, (50_000,))
    draws = np.asarray(log_prob(q, x) - log_prob(p, x))
    deviation = (draws.mean(0) - np.asarray(kl(q, p))) / (draws.std(0) / 50_000**0.5)
    assert np.all(np.abs(deviation) < 5)


def figure(x):
    return jnp.sin(x @ np.array([0.5, -1.0, 0.3])) + x[..., 1] * x[..., 2]


def expectation(loc, concentration, points, weights):
    return weights @ (jnp.exp(PowerSpherical(loc, concentration).log_prob(points)) * figure(points))


SLOPES = jax.jit(jax.grad(expectation, (0, 1)))
PATHS = jax.jit(
    jax.vmap(jax.grad(lambda l, k, draw_key: figure(PowerSpherical(l, k).sample(draw_key)), (0, 1)), (None, None, 0))
)


@pytest.mark.parametrize("loc", [(1.0, 0.0, 0.0), (-1.0, 0.0, 0.0), (0.0, 0.6, 0.8), (0.5, -0.4, 0.7)])
def test_path_gradients_are_those_of_the_expectation(x64, key, loc):
    """Also where loc is the axis itself: d/d theta E f(x) by quadrature, and by draws."""
    loc, concentration = np.array(loc), 3.0
    expected = SLOPES(loc, concentration, *sphere())
    for found, exact in zip(PATHS(loc, concentration, jax.random.split(key, 40_000)), expected, strict=True):
        error = found.std(0) / 200
        assert np.all(np.abs(found.mean(0) - exact) < 5 * error + 1e-12)


@pytest.mark.parametrize("size", [2, 5])
def test_gradients_are_finite_at_the_extremes(size):
    def figures(loc, concentration):
        q = PowerSpherical(loc, concentration)
        x = q.sample(jax.random.key(0), (20,))
        fixed = jnp.stack([jnp.eye(size)[0], -jnp.eye(size)[0]])
        return jnp.concatenate([x.ravel(), q.log_prob(x), q.log_prob(fixed), q.mean, jnp.stack([q.entropy])])

    slopes = jax.jit(lambda l, k: (figures(l, k), jax.jacrev(figures, (0, 1))(l, k)))
    for loc in (np.eye(size)[0], -np.eye(size)[0], np.zeros(size), 1e-3 * np.ones(size)):
        for concentration in (0.0, 1e-3, 1.0, 1e6):
            chex.assert_tree_all_finite(slopes(np.float32(loc), np.float32(concentration)))


def test_single_precision_keeps_its_digits_at_high_concentration():
    for concentration in (1e3, 1e6):
        q = lambda dtype, k=concentration: PowerSpherical(np.array([0.6, 0.0, 0.8], dtype), dtype(k))
        single = q(np.float32)
        x = np.array([0.6, 1.0 / concentration**0.5, 0.8])
        x = np.float32(x / np.linalg.norm(x))
        found = [entropy(single), log_prob(single, x), kl(single, SphericalUniform(3))]
        found = np.asarray(jnp.stack(found), np.float64)
        with jax.enable_x64(True):
            double = q(np.float64)
            x = np.float64(x)
            expected = [entropy(double), log_prob(double, x), kl(double, SphericalUniform(3))]
            expected = np.asarray(jnp.stack(expected))
        chex.assert_trees_all_close(found, expected, atol=2e-3)


def test_unit_vectors_of_any_length_and_of_none():
    vectors = np.float32([[3.0, 4.0], [3e-30, 4e-30], [3e30, 4e30], [0.0, 0.0]])
    chex.assert_trees_all_close(jax.jit(unit_vector)(vectors), np.float32([[0.6, 0.8]] * 3 + [[0.0, 1.0]]), rtol=1e-6)
    slope = jax.jit(jax.jacfwd(unit_vector))(jnp.array([3.0, 4.0]))
    chex.assert_trees_all_close(slope, (np.eye(2) - np.outer([0.6, 0.8], [0.6, 0.8])) / 5, atol=1e-6)
    chex.assert_trees_all_equal(jax.jit(jax.jacrev(unit_vector))(jnp.zeros(2)), jnp.zeros((2, 2)))


@pytest.mark.parametrize("ranks", [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_a_mapped_constructor_is_the_batched_one(ranks, key):
    loc = np.random.default_rng(0).normal(size=(4,) * (2 + ranks[0])).astype(np.float32)
    concentration = np.linspace(0.0, 5.0, 4 ** (1 + ranks[1])).reshape((4,) * (1 + ranks[1])).astype(np.float32)
    apart = [PowerSpherical(l, k) for l, k in zip(loc, concentration, strict=True)]
    value = np.random.default_rng(1).normal(size=(4, *apart[0].batch_shape, 4)).astype(np.float32)
    value /= np.linalg.norm(value, axis=-1, keepdims=True)
    mapped = jax.vmap(PowerSpherical)(loc, concentration)
    expected = jnp.stack([log_prob(each, v) for each, v in zip(apart, value, strict=True)])
    chex.assert_trees_all_close(log_prob(mapped, value), expected, rtol=1e-5)
    chex.assert_trees_all_close(mean(mapped), jnp.stack([mean(each) for each in apart]), rtol=1e-5)
    chex.assert_trees_all_close(entropy(mapped), jnp.stack([entropy(each) for each in apart]), rtol=1e-5)
    chex.assert_shape(sample(mapped, key, (2,)), (2, *value.shape))


@pytest.mark.parametrize(
    ("make", "error", "found"),
    [
        (lambda: SphericalUniform(1), ValueError, "size must be at least 2"),
        (lambda: PowerSpherical(np.ones(1), 1.0), ValueError, r"length 2 or more; got shape \(1,\)"),
        (lambda: PowerSpherical(np.zeros((2, 3)), 1.0), ValueError, "no zero vector"),
        (lambda: PowerSpherical(np.ones(3), -1.0), ValueError, "concentration must be at least 0"),
        (lambda: PowerSpherical(np.ones((4, 3)), np.ones(3)), ValueError, r"batch axes \(4,\) of loc; got shape \(3,\)"),
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
