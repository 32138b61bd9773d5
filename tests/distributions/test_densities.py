"""Log-densities: they normalise, they match the draws, and they refuse what is outside their support."""

from functools import cache

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from vaejax import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    Delta,
    DiscretizedLogistic,
    Laplace,
    Masked,
    MultivariateNormal,
    Normal,
    OptimalNormal,
    PowerSpherical,
    RelaxedCategorical,
    SphericalUniform,
    kl_divergence,
    standard_normal,
)

# Families with independent members, and an interval that holds their mass.
FAMILIES = {
    "normal": (lambda: Normal(np.float32([0.7]), np.float32([0.3]), 0), -5.0, 5.0),
    "laplace": (lambda: Laplace(np.float32([-0.4]), np.float32([0.25]), 0), -12.0, 12.0),
    "continuous bernoulli": (
        lambda: ContinuousBernoulli(np.float32([0.0, 1e-3, -1e-3, 0.049, 0.051, 0.49, 0.51, -0.51, 3.0, -30.0]), 0),
        0.0,
        1.0,
    ),
}


def density_on(grid, name):
    """The densities `[G, members]` of a family on a grid `[G]`."""
    return np.asarray(jax.jit(lambda d, grid: jnp.exp(d.log_prob(grid[:, None])))(FAMILIES[name][0](), grid))


@pytest.mark.parametrize("name", FAMILIES)
def test_integrates_to_one(x64, name):
    _, low, high = FAMILIES[name]
    grid = np.linspace(low, high, 200_001)
    integrals = np.trapezoid(density_on(grid, name), grid, axis=0)
    chex.assert_trees_all_close(integrals, np.ones_like(integrals), atol=1e-7)


@cache
def draws_of(name):
    """Draws `[S, members]` and the means."""
    draw = jax.jit(lambda d, key: (d.sample(key, (40_000,)), d.mean))
    return jax.device_get(draw(FAMILIES[name][0](), jax.random.key(20260)))


@pytest.mark.parametrize("name", FAMILIES)
def test_draws_follow_the_density(name):
    """Kolmogorov-Smirnov: a correct sampler exceeds the bound once in a million times."""
    _, low, high = FAMILIES[name]
    grid = np.linspace(low, high, 20_001, dtype=np.float32)
    densities, (draws, _) = density_on(grid, name).astype(np.float64), draws_of(name)
    grid = grid.astype(np.float64)
    for values, own in zip(densities.T, draws.T.astype(np.float64), strict=True):
        steps = np.diff(grid) * (values[1:] + values[:-1]) / 2
        cumulative = np.concatenate([[0.0], np.cumsum(steps)])
        distance = scipy.stats.kstest(own, lambda x, c=cumulative: np.interp(x, grid, c)).statistic
        assert distance * np.sqrt(len(own)) < 2.7


@pytest.mark.parametrize("name", FAMILIES)
def test_mean_is_the_mean_of_the_draws(name):
    draws, mean = draws_of(name)
    draws = draws.astype(np.float64)
    assert np.all(np.abs(draws.mean(0) - mean) < 5 * draws.std(0) / 200)


log_prob = jax.jit(lambda d, value: d.log_prob(value))


def test_bernoulli_normalises_by_enumeration(x64):
    logits = 3 * np.random.default_rng(0).normal(size=6)
    outcomes = np.stack(np.meshgrid(*[[0.0, 1.0]] * 6), axis=-1).reshape(-1, 6)
    chex.assert_trees_all_close(np.sum(np.exp(log_prob(Bernoulli(logits), outcomes))), 1.0, rtol=1e-12)


def test_categorical_normalises_over_its_levels(x64):
    likelihood = Categorical(3 * np.random.default_rng(0).normal(size=(5, 256)), 0)
    total = np.sum(np.exp(log_prob(likelihood, np.arange(256, dtype=np.uint8)[:, None])), axis=0)
    chex.assert_trees_all_close(total, np.ones(5), rtol=1e-12)


@pytest.mark.parametrize(
    ("likelihood", "outcomes"),
    [(Bernoulli(np.float32(0.8), 0), 2), (Categorical(np.float32([0.0, 2.0, 1.0]), 0), 3)],
)
def test_discrete_draws_have_the_frequencies_of_the_log_prob(likelihood, outcomes, key):
    figures = jax.jit(lambda d, key: (d.sample(key, (50_000,)), d.log_prob(jnp.arange(outcomes)), d.mean))
    draws, log_p, mean = jax.device_get(figures(likelihood, key))
    p = np.exp(log_p)
    deviation = (np.bincount(draws.astype(int), minlength=outcomes) - 50_000 * p) / np.sqrt(50_000 * p * (1 - p))
    assert np.all(np.abs(deviation) < 5)
    chex.assert_trees_all_close(np.sum(p * np.arange(outcomes)), mean, rtol=1e-5)


def test_full_covariance_is_scipys(x64, key):
    factor = np.array([[0.5, 0.0, 0.0], [0.9, 1.1, 0.0], [-0.3, 0.2, 0.4]])
    loc = np.array([1.0, -2.0, 0.5])

    @jax.jit
    def draw(q, key):
        z = q.sample(key, (50_000,))
        return z, q.log_prob(z[:100])

    z, log_q = jax.device_get(draw(MultivariateNormal(loc, factor), key))
    covariance = factor @ factor.T
    chex.assert_trees_all_close(log_q, scipy.stats.multivariate_normal(loc, covariance).logpdf(z[:100]), rtol=1e-10)
    # The standard error of a covariance of Normals is sqrt((v_i v_j + c_ij^2) / n).
    spread = np.sqrt((np.outer(np.diag(covariance), np.diag(covariance)) + covariance**2) / len(z))
    assert np.all(np.abs(np.cov(z.T) - covariance) < 5 * spread)


def test_optimal_normal_is_the_maximum_over_scales(x64):
    x, loc = np.random.default_rng(0).normal(size=(2, 4, 3, 5))
    scales = np.exp(np.linspace(-2, 2, 4001))[:, None, None, None]
    best = np.max(np.sum(scipy.stats.norm(loc, scales).logpdf(x), axis=(-2, -1)), axis=0)
    found = log_prob(OptimalNormal(loc, 2), x)
    chex.assert_trees_all_close(found, best, atol=1e-5)
    assert np.all(found >= best)


def test_optimal_normal_stays_finite_at_a_perfect_reconstruction():
    density = jax.value_and_grad(lambda loc: OptimalNormal(loc).log_prob(jnp.ones(3)))
    chex.assert_tree_all_finite(jax.jit(density)(np.ones(3, np.float32)))
    with pytest.raises(TypeError, match="fit"):
        OptimalNormal(np.zeros(3)).sample(jax.random.key(0))


def test_event_axes_are_summed_and_belong_to_the_distribution():
    x = np.random.default_rng(0).normal(size=(7, 4, 3, 2)).astype(np.float32)
    elementwise, *summed = jax.jit(lambda x: [Normal(jnp.ones((4, 3, 2)), 0.5, n).log_prob(x) for n in range(4)])(x)
    assert elementwise.shape == (7, 4, 3, 2)
    for event_ndims, found in enumerate(summed, start=1):
        chex.assert_trees_all_close(found, np.sum(elementwise, tuple(range(-event_ndims, 0))), rtol=1e-5)


def test_standard_normal_takes_any_length_and_expands(key):
    chex.assert_shape(jax.eval_shape(standard_normal.log_prob, np.zeros((5, 4, 3))), (5, 4))
    chex.assert_shape(jax.eval_shape(lambda: standard_normal.expand((3,)).sample(key, (5, 4))), (5, 4, 3))
    with pytest.raises(ValueError, match=r"standard_normal.expand"):
        standard_normal.sample(key, (5,))


ANOTHER_SHAPE = pytest.mark.slow("other shapes of the same law")


@pytest.mark.parametrize(
    ("scale_shape", "event_ndims"),
    [
        ((4, 3, 1), 1),
        *[
            pytest.param(scale_shape, event_ndims, marks=ANOTHER_SHAPE)
            for scale_shape in [(), (2,), (4, 3, 1), (4, 3, 2)]
            for event_ndims in (0, 1, 2)
            if (scale_shape, event_ndims) != ((4, 3, 1), 1)
        ],
    ],
)
def test_a_draw_comes_with_its_density(x64, scale_shape, event_ndims):
    rng = np.random.default_rng(0)
    loc, scale = rng.normal(size=(4, 3, 2)), rng.uniform(0.1, 1.0, size=scale_shape)
    together = lambda loc, scale: Normal(loc, scale, event_ndims).sample_and_log_prob(jax.random.key(1), (5,))

    def apart(loc, scale):
        q = Normal(loc, scale, event_ndims)
        z = q.sample(jax.random.key(1), (5,))
        return z, q.log_prob(z)

    # The gradients too, of which all that reaches log q through z cancels.
    def values_and_gradients(draw):
        def squares(loc, scale):
            parts = draw(loc, scale)
            return sum(jnp.sum(part**2) for part in parts), parts

        return jax.value_and_grad(squares, (0, 1), has_aux=True)(loc, scale)

    ((_, found), slopes), ((_, expected), expected_slopes) = jax.jit(
        lambda: (values_and_gradients(together), values_and_gradients(apart))
    )()
    chex.assert_trees_all_equal(found[0], expected[0])
    chex.assert_trees_all_close((found, slopes), (expected, expected_slopes), rtol=1e-9, atol=1e-9)


def test_delta_puts_all_mass_on_its_point(key):
    point = Delta(np.float32([[1.0, 2.0], [3.0, 4.0]]))
    chex.assert_trees_all_equal(point.log_prob(np.float32([1.0, 2.0])), np.float32([0.0, -np.inf]))
    chex.assert_trees_all_equal(point.sample(key, (3,)), np.stack([point.value] * 3))


@pytest.mark.parametrize(
    ("likelihood", "value", "found"),
    [
        (Bernoulli(np.zeros(3)), np.array([0.0, 0.5, 1.0]), "0 or 1.*from 0.0 to 1.0"),
        (Bernoulli(np.zeros(3)), np.array([0, 16, 3], np.uint8), "0 or 1.*from 0 to 16"),
        (Bernoulli(np.zeros(3)), np.array([0.0, np.nan, 1.0]), "0 or 1.*NaN"),
        (ContinuousBernoulli(np.zeros(3)), np.array([0.0, 255.0, 1.0]), r"in \[0, 1\].*from 0.0 to 255.0"),
        (Categorical(np.zeros((3, 256))), np.array([0, 256, 1]), "level from 0 to 255.*from 0 to 256"),
        (Categorical(np.zeros((3, 17))), np.array([0.5, 3.0, 1.0]), "level from 0 to 16.*from 0.5 to 3.0"),
        (Normal(np.zeros(3), 1.0), np.array([0.0, np.nan, 1.0]), "finite.*NaN"),
        (Laplace(np.zeros(3), 1.0), np.array([0.0, np.inf, 1.0]), "finite.*from 0.0 to inf"),
    ],
)
def test_values_outside_the_support_raise(likelihood, value, found):
    with pytest.raises(ValueError, match=found):
        likelihood.log_prob(value)
    # A constant is looked at where a function around it is traced, too.
    with pytest.raises(ValueError, match=found):
        jax.jit(lambda p: p.log_prob(value))(likelihood)


OUTSIDE = {
    "Bernoulli": (lambda: Bernoulli(jnp.zeros(3)), [0.0, 0.5, 1.0]),
    "ContinuousBernoulli": (lambda: ContinuousBernoulli(jnp.zeros(3)), [0.0, 1.5, 1.0]),
    "Categorical": (lambda: Categorical(jnp.zeros((3, 4))), [0.0, -1.0, 3.0]),
    "Categorical above": (lambda: Categorical(jnp.zeros((3, 4))), [0.0, 4.0, 3.0]),
    "DiscretizedLogistic": (lambda: DiscretizedLogistic(jnp.zeros(3), 1.0, 4), [0.0, 4.0, 3.0]),
    "SphericalUniform": (lambda: SphericalUniform(3), [0.0, 1.5, 0.0]),
    "PowerSpherical": (lambda: PowerSpherical(jnp.ones(3), 2.0), [0.0, 1.5, 0.0]),
    "RelaxedCategorical": (lambda: RelaxedCategorical(jnp.zeros(3), 1.0, 1), [0.5, 0.2, 0.2]),
}


def test_traced_values_outside_the_support_have_no_probability():
    """They cannot raise. A mask leaves them out, and what is inside has its probability."""
    values = {name: np.float32(value) for name, (_, value) in OUTSIDE.items()}

    @jax.jit
    def figures(values):
        found = {name: OUTSIDE[name][0]().log_prob(value) for name, value in values.items()}
        return found, Masked(Bernoulli(jnp.zeros(3)), np.array([1, 0, 1])).log_prob(values["Bernoulli"])

    found, masked = figures(values)
    assert [name for name, log_prob in found.items() if not np.isnan(log_prob)] == []
    chex.assert_trees_all_close(masked, np.float32(-2 * np.log(2)), rtol=1e-6)


def test_the_highest_level_of_a_byte_is_inside_the_support():
    found = Categorical(np.zeros((3, 256))).log_prob(np.array([0, 255, 1], np.uint8))
    chex.assert_trees_all_close(found, -3 * np.log(256), rtol=1e-6)


def test_distributions_are_pytrees_with_static_event_axes():
    normal = Normal(np.zeros((4, 3)), np.ones((4, 3)), 2)
    doubled = jax.tree.map(lambda leaf: 2 * leaf, normal)
    assert doubled.event_ndims == 2
    chex.assert_trees_all_equal(doubled.scale, 2 * np.ones((4, 3)))
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(normal)]
    assert paths == [".loc", ".scale"]
    mapped = jax.vmap(lambda n: n.log_prob(jnp.ones(3)))
    chex.assert_shape(jax.eval_shape(mapped, Normal(np.zeros((4, 3)), np.ones((4, 3)))), (4,))
    # JAX rebuilds pytrees around things that are no arrays.
    assert jax.tree.map(lambda leaf: None, normal).loc is None


MAKERS = {
    "normal": lambda loc, scale: Normal(loc, scale, 2),
    "laplace": lambda loc, scale: Laplace(loc, scale, 2),
    "log-scale": lambda loc, scale: Normal.from_log_scale(loc, jnp.log(scale), 2),
    "optimal": lambda loc, scale: OptimalNormal(scale * loc, 2),
    "bernoulli": lambda loc, scale: Bernoulli(scale * loc, 2),
    "categorical": lambda loc, scale: Categorical(scale * loc, 1),
}


@pytest.mark.parametrize("rank", [0, *(pytest.param(rank, marks=ANOTHER_SHAPE) for rank in (1, 2))])
def test_a_mapped_constructor_is_the_batched_one(rank):
    """Also where a parameter has fewer axes than the event and the batch is as long as an event axis."""
    loc = np.random.default_rng(0).normal(size=(4, 4, 4)).astype(np.float32)
    scale = np.exp(np.linspace(-1.0, 1.0, 4 ** (rank + 1), dtype=np.float32)).reshape((4,) * (rank + 1))

    def figures(name, distribution, value):
        return distribution.log_prob(value[..., 0] if name == "categorical" else value), distribution.mean

    @jax.jit
    def mapped(loc, scale, value):
        return {name: figures(name, jax.vmap(make)(loc, scale), value) for name, make in MAKERS.items()}

    @jax.jit
    def apart(loc, scale, value):
        return {name: figures(name, make(loc, scale), value) for name, make in MAKERS.items()}

    value = np.ones((4, 4, 4), np.float32)
    expected = [apart(*each) for each in zip(loc, scale, value, strict=True)]
    expected = jax.tree.map(lambda *leaves: np.stack(leaves), *expected)
    chex.assert_trees_all_close(mapped(loc, scale, value), expected, rtol=1e-5)


def test_a_mapped_full_covariance_is_the_batched_one():
    rng = np.random.default_rng(0)
    # As many means for each factor as there are factors.
    loc, factor = rng.normal(size=(2, 2, 2)), np.eye(2) + 0.3 * np.tril(rng.random((2, 2, 2)))
    mapped = jax.jit(lambda loc, factor: jax.vmap(MultivariateNormal)(loc, factor).log_prob(jnp.ones(2)))
    pair = lambda loc, factor: [scipy.stats.multivariate_normal(m, factor @ factor.T).logpdf(np.ones(2)) for m in loc]
    expected = np.array([pair(m, f) for m, f in zip(loc, factor, strict=True)])
    chex.assert_trees_all_close(mapped(loc, factor), np.float32(expected), rtol=1e-5)


def test_a_scale_per_channel():
    loc = np.random.default_rng(0).normal(size=(5, 4, 4, 3)).astype(np.float32)
    scale = np.float32([0.5, 1.0, 2.0])

    @jax.jit
    def pairs(loc, scale):
        wide = lambda array: jnp.broadcast_to(array, loc.shape)
        return [
            (Normal(loc, scale, 3).log_prob(-loc), Normal(loc, wide(scale), 3).log_prob(-loc)),
            (Normal(loc[0, 0], scale, 3).log_prob(loc), Normal(wide(loc[0, 0]), scale, 3).log_prob(loc)),
        ]

    for found, expected in pairs(loc, scale):
        chex.assert_trees_all_close(found, expected, rtol=1e-6)


def test_only_the_lower_triangle_of_a_factor_is_read():
    @jax.jit
    def figures(factor):
        q = MultivariateNormal(jnp.zeros(2), factor)
        other = MultivariateNormal(jnp.ones(2), jnp.array([[0.7, 5.0], [0.1, 0.4]]))
        return q.log_prob(jnp.ones(2)), q.sample(jax.random.key(1)), kl_divergence(q, other)

    lower, symmetric = (figures(np.float32(factor)) for factor in ([[1, 0], [0.9, 1]], [[1, 0.9], [0.9, 1]]))
    chex.assert_trees_all_equal(symmetric[:2], lower[:2])
    chex.assert_trees_all_close(symmetric[2], lower[2], rtol=1e-6)
    with pytest.raises(ValueError, match="diagonal of scale_tril must be positive"):
        MultivariateNormal(np.zeros(2), -np.eye(2))


def test_factors_and_means_of_different_batches():
    rng = np.random.default_rng(0)
    loc, value = rng.normal(size=(3, 2)).astype(np.float32), rng.normal(size=(6, 3, 2)).astype(np.float32)
    scales = np.float32([1.0, 2.0, 0.5])
    factors = scales[:, None, None] * np.eye(2, dtype=np.float32)
    expected = scipy.stats.norm(loc, scales[:, None]).logpdf(value).sum(-1)
    chex.assert_trees_all_close(log_prob(MultivariateNormal(loc, factors), value), np.float32(expected), rtol=1e-5)
    single = MultivariateNormal(loc[0], factors)
    chex.assert_shape(jax.eval_shape(single.log_prob, loc[0]), (3,))
