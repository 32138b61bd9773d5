"""Log-densities: they normalise, they match the draws, and they refuse what is outside their support."""

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
    Laplace,
    MultivariateNormal,
    Normal,
    OptimalNormal,
    kl_divergence,
    standard_normal,
)

DENSITIES = {
    "normal": (Normal(0.7, 0.3, 0), -5.0, 5.0),
    "laplace": (Laplace(-0.4, 0.25, 0), -12.0, 12.0),
    **{f"continuous_bernoulli {l}": (ContinuousBernoulli(l, 0), 0.0, 1.0)
       for l in (0.0, 1e-3, -1e-3, 0.049, 0.051, 0.49, 0.51, -0.51, 3.0, -30.0)},
}  # fmt: skip


@pytest.mark.parametrize("name", DENSITIES)
def test_integrates_to_one(x64, name):
    density, low, high = DENSITIES[name]
    grid = jnp.linspace(low, high, 200_001)
    chex.assert_trees_all_close(jnp.trapezoid(jnp.exp(density.log_prob(grid)), grid), 1.0, atol=1e-7)


@pytest.mark.parametrize("name", DENSITIES)
def test_draws_follow_the_density(name, key):
    """Kolmogorov-Smirnov: a correct sampler exceeds the bound once in a million times."""
    density, low, high = DENSITIES[name]
    count = 40_000
    grid = np.linspace(low, high, 20_001)
    values = np.exp(np.asarray(density.log_prob(jnp.asarray(grid, jnp.float32)), np.float64))
    steps = np.diff(grid) * (values[1:] + values[:-1]) / 2
    cumulative = np.concatenate([[0.0], np.cumsum(steps)])
    draws = np.asarray(density.sample(key, (count,)), np.float64)
    distance = scipy.stats.kstest(draws, lambda x: np.interp(x, grid, cumulative)).statistic
    assert distance * np.sqrt(count) < 2.7


@pytest.mark.parametrize("name", DENSITIES)
def test_mean_is_the_mean_of_the_draws(name, key):
    density, _, _ = DENSITIES[name]
    draws = density.sample(key, (40_000,))
    deviation = (jnp.mean(draws) - density.mean) / (jnp.std(draws) / 200.0)
    assert abs(deviation) < 5


def test_bernoulli_normalises_by_enumeration(x64, key):
    likelihood = Bernoulli(3 * jax.random.normal(key, (6,)))
    outcomes = jnp.stack(jnp.meshgrid(*[jnp.array([0.0, 1.0])] * 6), axis=-1).reshape(-1, 6)
    chex.assert_trees_all_close(jnp.sum(jnp.exp(likelihood.log_prob(outcomes))), 1.0, rtol=1e-12)


def test_categorical_normalises_over_its_levels(x64, key):
    likelihood = Categorical(3 * jax.random.normal(key, (5, 256)), 0)
    total = jnp.sum(jnp.exp(likelihood.log_prob(jnp.arange(256, dtype=jnp.uint8)[:, None])), axis=0)
    chex.assert_trees_all_close(total, jnp.ones(5), rtol=1e-12)


def test_discrete_draws_have_the_frequencies_of_the_log_prob(key):
    cases = [(Bernoulli(0.8, 0), 2), (Categorical(jnp.array([0.0, 2.0, 1.0]), 0), 3)]
    for draw_key, (likelihood, outcomes) in zip(jax.random.split(key), cases, strict=True):
        draws = np.asarray(likelihood.sample(draw_key, (50_000,))).astype(int)
        p = np.exp(np.asarray(likelihood.log_prob(jnp.arange(outcomes))))
        deviation = (np.bincount(draws, minlength=outcomes) - 50_000 * p) / np.sqrt(50_000 * p * (1 - p))
        assert np.all(np.abs(deviation) < 5)
        chex.assert_trees_all_close(np.sum(p * np.arange(outcomes)), likelihood.mean, rtol=1e-5)


def test_full_covariance_is_scipys(x64, key):
    factor = jnp.array([[0.5, 0.0, 0.0], [0.9, 1.1, 0.0], [-0.3, 0.2, 0.4]])
    loc = jnp.array([1.0, -2.0, 0.5])
    q = MultivariateNormal(loc, factor)
    z = q.sample(key, (50_000,))
    expected = scipy.stats.multivariate_normal(loc, factor @ factor.T).logpdf(z[:100])
    chex.assert_trees_all_close(q.log_prob(z[:100]), expected, rtol=1e-10)
    # The standard error of a covariance of Normals is sqrt((v_i v_j + c_ij^2) / n).
    covariance = factor @ factor.T
    spread = jnp.sqrt((jnp.outer(jnp.diag(covariance), jnp.diag(covariance)) + covariance**2) / len(z))
    assert jnp.all(jnp.abs(jnp.cov(z.T) - covariance) < 5 * spread)


def test_optimal_normal_is_the_maximum_over_scales(x64, key):
    x, loc = jax.random.normal(key, (2, 4, 3, 5))
    scales = jnp.exp(jnp.linspace(-2, 2, 4001))
    values = jax.vmap(lambda scale: Normal(loc, scale, 2).log_prob(x))(scales)
    chex.assert_trees_all_close(OptimalNormal(loc, 2).log_prob(x), jnp.max(values, axis=0), atol=1e-5)
    assert jnp.all(OptimalNormal(loc, 2).log_prob(x) >= jnp.max(values, axis=0))


def test_optimal_normal_stays_finite_at_a_perfect_reconstruction():
    value, gradient = jax.value_and_grad(lambda loc: OptimalNormal(loc).log_prob(jnp.ones(3)))(jnp.ones(3))
    assert jnp.isfinite(value)
    chex.assert_tree_all_finite(gradient)
    with pytest.raises(TypeError, match="fit"):
        OptimalNormal(jnp.zeros(3)).sample(jax.random.key(0))


def test_event_axes_are_summed_and_belong_to_the_distribution(key):
    x = jax.random.normal(key, (7, 4, 3, 2))
    elementwise = Normal(jnp.ones((4, 3, 2)), 0.5, 0).log_prob(x)
    assert elementwise.shape == (7, 4, 3, 2)
    for event_ndims in (1, 2, 3):
        summed = Normal(jnp.ones((4, 3, 2)), 0.5, event_ndims).log_prob(x)
        chex.assert_trees_all_close(summed, elementwise.sum(tuple(range(-event_ndims, 0))), rtol=1e-5)


def test_standard_normal_takes_any_length_and_expands(key):
    chex.assert_shape(standard_normal.log_prob(jnp.zeros((5, 4, 3))), (5, 4))
    chex.assert_shape(standard_normal.expand((3,)).sample(key, (5, 4)), (5, 4, 3))
    with pytest.raises(ValueError, match=r"standard_normal.expand"):
        standard_normal.sample(key, (5,))


@pytest.mark.parametrize("event_ndims", [0, 1, 2])
@pytest.mark.parametrize("scale_shape", [(), (2,), (4, 3, 1), (4, 3, 2)])
def test_a_draw_comes_with_its_density(x64, scale_shape, event_ndims, key):
    loc_key, scale_key = jax.random.split(key)
    loc, scale = jax.random.normal(loc_key, (4, 3, 2)), jax.random.uniform(scale_key, scale_shape, minval=0.1)
    together = lambda loc, scale: Normal(loc, scale, event_ndims).sample_and_log_prob(jax.random.key(1), (5,))

    def apart(loc, scale):
        q = Normal(loc, scale, event_ndims)
        z = q.sample(jax.random.key(1), (5,))
        return z, q.log_prob(z)

    # The gradients too, of which all that reaches log q through z cancels.
    squares = lambda f: lambda *a: sum(jnp.sum(part**2) for part in f(*a))
    for wrap in (lambda f: f, lambda f: jax.grad(squares(f), (0, 1))):
        chex.assert_trees_all_close(wrap(together)(loc, scale), wrap(apart)(loc, scale), rtol=1e-9, atol=1e-9)
    chex.assert_trees_all_equal(together(loc, scale)[0], apart(loc, scale)[0])


def test_delta_puts_all_mass_on_its_point(key):
    point = Delta(jnp.array([[1.0, 2.0], [3.0, 4.0]]))
    chex.assert_trees_all_equal(point.log_prob(jnp.array([1.0, 2.0])), jnp.array([0.0, -jnp.inf]))
    chex.assert_trees_all_equal(point.sample(key, (3,)), jnp.stack([point.value] * 3))


@pytest.mark.parametrize(
    ("likelihood", "value", "found"),
    [
        (Bernoulli(jnp.zeros(3)), jnp.array([0.0, 0.5, 1.0]), "0 or 1.*from 0.0 to 1.0"),
        (Bernoulli(jnp.zeros(3)), jnp.array([0, 16, 3], jnp.uint8), "0 or 1.*from 0 to 16"),
        (Bernoulli(jnp.zeros(3)), jnp.array([0.0, jnp.nan, 1.0]), "0 or 1.*NaN"),
        (ContinuousBernoulli(jnp.zeros(3)), jnp.array([0.0, 255.0, 1.0]), r"in \[0, 1\].*from 0.0 to 255.0"),
        (Categorical(jnp.zeros((3, 256))), jnp.array([0, 256, 1]), "level from 0 to 255.*from 0 to 256"),
        (Categorical(jnp.zeros((3, 17))), jnp.array([0.5, 3.0, 1.0]), "level from 0 to 16.*from 0.5 to 3.0"),
        (Normal(jnp.zeros(3), 1.0), jnp.array([0.0, jnp.nan, 1.0]), "finite.*NaN"),
        (Laplace(jnp.zeros(3), 1.0), jnp.array([0.0, jnp.inf, 1.0]), "finite.*from 0.0 to inf"),
    ],
)
def test_values_outside_the_support_raise(likelihood, value, found):
    with pytest.raises(ValueError, match=found):
        likelihood.log_prob(value)
    # A constant is looked at where a function around it is traced, too.
    with pytest.raises(ValueError, match=found):
        jax.jit(lambda p: p.log_prob(value))(likelihood)


def test_the_highest_level_of_a_byte_is_inside_the_support():
    chex.assert_trees_all_close(
        Categorical(jnp.zeros((3, 256))).log_prob(jnp.array([0, 255, 1], jnp.uint8)), -3 * np.log(256), rtol=1e-6
    )


def test_distributions_are_pytrees_with_static_event_axes():
    normal = Normal(jnp.zeros((4, 3)), jnp.ones((4, 3)), 2)
    doubled = jax.tree.map(lambda leaf: 2 * leaf, normal)
    assert doubled.event_ndims == 2
    chex.assert_trees_all_equal(doubled.scale, 2 * jnp.ones((4, 3)))
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(normal)]
    assert paths == [".loc", ".scale"]
    mapped = jax.vmap(lambda n: n.log_prob(jnp.ones(3)))(Normal(jnp.zeros((4, 3)), jnp.ones((4, 3))))
    assert mapped.shape == (4,)
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


@pytest.mark.parametrize("rank", [0, 1, 2])
@pytest.mark.parametrize("name", MAKERS)
def test_a_mapped_constructor_is_the_batched_one(name, rank, key):
    """Also where a parameter has fewer axes than the event and the batch is as long as an event axis."""
    loc = jax.random.normal(key, (4, 4, 4))
    scale = jnp.exp(jnp.linspace(-1.0, 1.0, 4 ** (rank + 1))).reshape((4,) * (rank + 1))
    mapped = jax.vmap(MAKERS[name])(loc, scale)
    apart = [MAKERS[name](m, s) for m, s in zip(loc, scale, strict=True)]
    value = jnp.ones((4, 4) if name == "categorical" else (4, 4, 4))
    expected = jnp.stack([each.log_prob(v) for each, v in zip(apart, value, strict=True)])
    chex.assert_trees_all_close(mapped.log_prob(value), expected, rtol=1e-5)
    chex.assert_trees_all_close(mapped.mean, jnp.stack([each.mean for each in apart]), rtol=1e-5)


def test_a_mapped_full_covariance_is_the_batched_one(key):
    loc_key, noise_key = jax.random.split(key)
    loc = jax.random.normal(loc_key, (2, 2, 2))
    factor = jnp.eye(2) + 0.3 * jnp.tril(jax.random.uniform(noise_key, (2, 2, 2)))
    mapped = jax.vmap(MultivariateNormal)(loc, factor)
    expected = jnp.stack([MultivariateNormal(m, f).log_prob(jnp.ones(2)) for m, f in zip(loc, factor, strict=True)])
    chex.assert_trees_all_close(mapped.log_prob(jnp.ones(2)), expected, rtol=1e-5)


def test_a_scale_per_channel(key):
    loc = jax.random.normal(key, (5, 4, 4, 3))
    scale = jnp.array([0.5, 1.0, 2.0])
    full = Normal(loc, jnp.broadcast_to(scale, loc.shape), 3)
    chex.assert_trees_all_close(Normal(loc, scale, 3).log_prob(-loc), full.log_prob(-loc), rtol=1e-6)
    chex.assert_trees_all_close(
        Normal(loc[0, 0], scale, 3).log_prob(loc),
        Normal(jnp.broadcast_to(loc[0, 0], loc.shape), scale, 3).log_prob(loc),
        rtol=1e-6,
    )


def test_only_the_lower_triangle_of_a_factor_is_read(key):
    loc = jnp.zeros(2)
    lower = MultivariateNormal(loc, jnp.array([[1.0, 0.0], [0.9, 1.0]]))
    symmetric = MultivariateNormal(loc, jnp.array([[1.0, 0.9], [0.9, 1.0]]))
    other = MultivariateNormal(jnp.ones(2), jnp.array([[0.7, 5.0], [0.1, 0.4]]))
    chex.assert_trees_all_equal(symmetric.log_prob(jnp.ones(2)), lower.log_prob(jnp.ones(2)))
    chex.assert_trees_all_equal(symmetric.sample(jax.random.key(1)), lower.sample(jax.random.key(1)))
    chex.assert_trees_all_close(kl_divergence(symmetric, other), kl_divergence(lower, other), rtol=1e-6)
    with pytest.raises(ValueError, match="the diagonal of scale_tril must be positive"):
        MultivariateNormal(loc, -jnp.eye(2))


def test_factors_and_means_of_different_batches(key):
    loc_key, value_key = jax.random.split(key)
    loc, value = jax.random.normal(loc_key, (3, 2)), jax.random.normal(value_key, (6, 3, 2))
    factors = jnp.stack([jnp.eye(2), 2 * jnp.eye(2), 0.5 * jnp.eye(2)])
    expected = Normal(loc, jnp.array([[1.0], [2.0], [0.5]])).log_prob(value)
    chex.assert_trees_all_close(MultivariateNormal(loc, factors).log_prob(value), expected, rtol=1e-5)
    single = MultivariateNormal(loc[0], factors).log_prob(loc[0])
    chex.assert_shape(single, (3,))
