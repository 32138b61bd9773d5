"""Extreme logits and scales, precision, and the bound on log-scales."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vaejax
from vaejax import Bernoulli, ContinuousBernoulli, Normal, bound_log_scale
from vaejax.distributions.bernoulli import log_partition, softplus

LOGITS = [sign * size for size in (0.0, 1.0, 50.0, 88.0, 104.0, 1e4) for sign in (1.0, -1.0)]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_bernoulli_value_and_gradient_are_right_at_every_logit(dtype):
    logits, labels = np.array(LOGITS, dtype), np.float32([0.0, 1.0])
    density = jax.value_and_grad(lambda logit, label: Bernoulli(logit, 0).log_prob(label))
    values, gradients = jax.jit(jax.vmap(jax.vmap(density, (0, None)), (None, 0)))(logits, labels)
    assert values.dtype == jnp.float32
    exact, labels = logits.astype(np.float64), labels[:, None].astype(np.float64)
    chex.assert_trees_all_close(values, -np.logaddexp(0.0, (1 - 2 * labels) * exact), rtol=1e-6, atol=1e-6)
    sigmoid = 1 / (1 + np.exp(-np.clip(exact, -500, 500)))
    tolerance = 1e-6 if dtype == jnp.float32 else 4e-3
    chex.assert_trees_all_close(np.asarray(gradients, np.float64), labels - sigmoid, rtol=tolerance, atol=tolerance)


FOLDED = pytest.mark.slow("another number of folds")


# Halved never, three times, and four times, as often as any.
@pytest.mark.parametrize(
    "width", [7, 24, 784, *(pytest.param(width, marks=FOLDED) for width in (1, 2, 3, 16, 63, 64, 96))]
)
def test_a_sum_over_bernoullis_is_exact_however_often_it_is_folded(width):
    rng = np.random.default_rng(0)
    x = (rng.random((5, width)) < 0.5).astype(np.float32)
    logits = np.float32([0.0, 1.0, 30.0])[:, None, None] * rng.normal(size=width).astype(np.float32)
    exact = -np.logaddexp(0.0, (1 - 2 * x.astype(np.float64)) * logits.astype(np.float64)).sum(-1)
    found = jax.jit(lambda x, logits: Bernoulli(logits).log_prob(x))(x, logits)
    chex.assert_trees_all_close(found, np.float32(exact), rtol=2e-6)


def test_a_sum_over_bernoullis_keeps_what_is_nearly_certain():
    """`1 + exp(-20)` is 1 in float32."""
    certain = jax.jit(lambda x: Bernoulli(jnp.full(784, -20.0)).log_prob(x))(np.zeros(784, np.float32))
    chex.assert_trees_all_close(certain, -784 * np.log1p(np.exp(-20.0)), rtol=1e-5)


BROADCAST = pytest.mark.slow("other shapes")


@pytest.mark.parametrize(
    "shapes",
    [
        ((2, 1, 8), (3, 8)),
        *(pytest.param(pair, marks=BROADCAST) for pair in [((8,), ()), ((3, 8), (8,)), ((8,), (3, 8))]),
    ],
)
def test_derivatives_of_a_sum_over_bernoullis_are_those_of_its_terms(x64, shapes):
    rng = np.random.default_rng(0)
    x, logits = (rng.random(shapes[0]) < 0.5).astype(float), rng.normal(size=shapes[1])
    plain = lambda x, logits: jnp.sum(jnp.sum(x * logits - jnp.logaddexp(0.0, logits), axis=-1))
    folded = lambda x, logits: jnp.sum(Bernoulli(logits).log_prob(x))

    @jax.jit
    def derivatives(x, logits):
        return [[d(f, argnums=(0, 1))(x, logits) for d in (jax.grad, jax.hessian)] for f in (folded, plain)]

    # Data are checked where they are known, and differentiated where they are traced.
    chex.assert_trees_all_close(*derivatives(x, logits), atol=1e-12)


def test_softplus_has_its_second_derivative_at_zero():
    chex.assert_trees_all_close(jax.jit(jax.grad(jax.grad(softplus)))(0.0), 0.25, rtol=1e-6)


def test_the_kink_of_a_laplace_has_no_slope():
    """Zero-initialised outputs meet black pixels there."""
    score = lambda loc: vaejax.Laplace(loc, 2.0, 0).log_prob(0.0)
    chex.assert_trees_all_equal(jax.jit(jax.vmap(jax.grad(score)))(np.float32([0, 3, -3])), np.float32([0, -0.5, 0.5]))


@pytest.mark.parametrize("dtype", [jnp.float32, pytest.param(jnp.bfloat16, marks=pytest.mark.slow("another dtype"))])
def test_continuous_bernoulli_is_finite_at_every_logit(dtype):
    def figures(logit):
        density = lambda l: jax.vmap(lambda value: ContinuousBernoulli(l, 0).log_prob(value))(
            jnp.array([0.0, 0.3, 1.0])
        )
        draw = lambda l: ContinuousBernoulli(l, 0).sample(jax.random.key(3))
        slopes = jax.jacrev(density)(logit), jax.value_and_grad(draw)(logit)
        return density(logit), ContinuousBernoulli(logit, 0).mean, slopes

    chex.assert_tree_all_finite(jax.jit(jax.vmap(figures))(np.array(LOGITS, dtype)))


VALUES_AND_SLOPES = jax.jit(jax.vmap(jax.value_and_grad(log_partition)))


def test_log_partition_and_mean_are_exact_across_the_switch_of_formulas(x64):
    """Against a trapezoid rule that has no special point, in value and derivative."""
    grid = np.linspace(0.0, 1.0, 20_001)
    logits = np.concatenate([np.linspace(-0.6, 0.6, 49), [-8.0, 5.0]])
    weights = np.exp(logits[:, None] * grid)
    integral = np.trapezoid(weights, grid)
    values, slopes = VALUES_AND_SLOPES(logits)
    mean = jax.jit(lambda logits: ContinuousBernoulli(logits).mean)(logits)
    chex.assert_trees_all_close(values, np.log(integral), atol=1e-8)
    chex.assert_trees_all_close(mean, np.trapezoid(weights * grid, grid) / integral, atol=1e-7)
    chex.assert_trees_all_close(slopes, mean, atol=1e-10)


def test_single_precision_of_the_continuous_bernoulli_near_zero():
    logits = np.concatenate([np.linspace(-1, 1, 401), [1e-7, -1e-7, 1e-20]]).astype(np.float32)
    single = jax.device_get(VALUES_AND_SLOPES(logits))
    with jax.enable_x64(True):
        double = jax.device_get(VALUES_AND_SLOPES(logits.astype(np.float64)))
    assert single[0].dtype == np.float32
    chex.assert_trees_all_close(tuple(map(np.float64, single)), double, atol=1e-6)


def figures_of_raw_scale(raw):
    for normal in (Normal.from_log_scale(0.5, raw, 0), Normal.from_log_variance(0.5, raw, 0)):
        yield normal.log_prob(jnp.array(-1.5))
        yield vaejax.kl_divergence(normal, Normal(0.0, 1.0, 0))
        yield normal.sample(jax.random.key(1))


FIGURES_OF_RAW_SCALE = jax.jit(
    jax.vmap(lambda raw: jax.jvp(lambda r: jnp.stack([*figures_of_raw_scale(r)]), (raw,), (jnp.ones_like(raw),)))
)
# Dense around the switch of the bound, and over all sizes of both signs.
SIZES = np.concatenate(
    [[0.0], np.geomspace(1e-38, 1e4, 400), np.linspace(9.9, 10.1, 101), np.linspace(19.8, 20.2, 101)]
)


def test_any_raw_scale_gives_finite_densities_divergences_and_gradients():
    chex.assert_tree_all_finite(FIGURES_OF_RAW_SCALE(np.float32([*SIZES, *-SIZES])))


def test_the_bound_is_the_identity_inside_smooth_monotone_and_never_flat():
    bound_and_slope = jax.jit(jax.vmap(jax.value_and_grad(bound_log_scale)))
    inside = np.linspace(-10.0, 10.0, 101, dtype=np.float32)
    edges = np.float32([-10.001, -9.999, 9.999, 10.001])
    everywhere = np.linspace(-1e4, 1e4, 20_001, dtype=np.float32)
    bounded, slopes = bound_and_slope(np.concatenate([inside, edges, everywhere]))
    chex.assert_trees_all_equal(bounded[:101], inside)
    chex.assert_trees_all_close(slopes[101:105], np.ones(4, np.float32), atol=2e-3)
    assert np.all(slopes > 0)
    assert np.all(np.diff(bounded[105:]) > 0)


def test_the_bound_can_be_switched_off_and_replaced():
    @jax.jit
    def scales():
        limited = lambda s: jnp.minimum(s, 1.0)
        return [
            Normal.from_log_scale(0.0, 50.0, 0, bound=None).scale,
            Normal.from_log_variance(0.0, 100.0, 0, bound=None).scale,
            Normal.from_log_scale(0.0, 50.0, 0, bound=limited).scale,
        ]

    chex.assert_trees_all_close(scales(), [np.float32(np.exp(power)) for power in (50.0, 50.0, 1.0)], rtol=1e-5)


def test_log_variance_is_twice_the_log_scale():
    scale = jax.jit(lambda raw: Normal.from_log_variance(0.0, raw, 0).scale)(np.float32(np.log(0.25)))
    chex.assert_trees_all_close(scale, 0.5, rtol=1e-6)


def test_half_precision_parameters_give_single_precision_densities(key):
    rng = np.random.default_rng(0)
    x, logits = rng.random((4, 784)) < 0.5, rng.normal(size=(4, 784)).astype(jnp.bfloat16)
    log_prob = jax.jit(lambda x, logits: Bernoulli(logits).log_prob(x))
    value = log_prob(x.astype(jnp.bfloat16), logits)
    assert value.dtype == jnp.float32
    chex.assert_trees_all_close(value, log_prob(x.astype(np.float32), logits.astype(np.float32)), rtol=1e-6)

    def figures(logits):
        normal = Normal(logits, jnp.bfloat16(0.5))
        return normal.log_prob(logits), normal.sample(key)

    assert {each.dtype for each in jax.eval_shape(figures, logits)} == {np.dtype(np.float32)}
