"""Extreme logits and scales, precision, and the bound on log-scales."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vaejax
from vaejax import Bernoulli, ContinuousBernoulli, Normal, bound_log_scale
from vaejax.distributions.bernoulli import log_partition, softplus

LOGITS = [sign * size for size in (0.0, 1.0, 50.0, 88.0, 104.0, 1e4) for sign in (1.0, -1.0)]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("label", [0.0, 1.0])
def test_bernoulli_value_and_gradient_are_right_at_every_logit(dtype, label):
    logits = jnp.array(LOGITS, dtype)
    exact = np.asarray(logits, np.float64)
    values, gradients = jax.vmap(jax.value_and_grad(lambda l: Bernoulli(l, 0).log_prob(jnp.array(label))))(logits)
    assert values.dtype == jnp.float32
    chex.assert_trees_all_close(values, -np.logaddexp(0.0, (1 - 2 * label) * exact), rtol=1e-6, atol=1e-6)
    sigmoid = 1 / (1 + np.exp(-np.clip(exact, -500, 500)))
    tolerance = 1e-6 if dtype == jnp.float32 else 4e-3
    chex.assert_trees_all_close(np.asarray(gradients, np.float64), label - sigmoid, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("width", [1, 2, 3, 7, 16, 24, 63, 64, 96, 784])
@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0])
def test_a_sum_over_bernoullis_is_exact_however_often_it_is_folded(key, width, scale):
    data_key, logits_key = jax.random.split(key)
    x = jax.random.bernoulli(data_key, 0.5, (5, width)).astype(jnp.float32)
    logits = scale * jax.random.normal(logits_key, (width,))
    exact = -np.logaddexp(0.0, (1 - 2 * np.asarray(x, np.float64)) * np.asarray(logits, np.float64)).sum(-1)
    chex.assert_trees_all_close(Bernoulli(logits).log_prob(x), exact, rtol=2e-6)


def test_a_sum_over_bernoullis_keeps_what_is_nearly_certain():
    """`1 + exp(-20)` is 1 in float32."""
    certain = Bernoulli(jnp.full(784, -20.0)).log_prob(jnp.zeros(784))
    chex.assert_trees_all_close(certain, -784 * np.log1p(np.exp(-20.0)), rtol=1e-5)


@pytest.mark.parametrize("shapes", [((8,), ()), ((3, 8), (8,)), ((8,), (3, 8)), ((2, 1, 8), (3, 8))])
def test_derivatives_of_a_sum_over_bernoullis_are_those_of_its_terms(x64, key, shapes):
    data_key, logits_key = jax.random.split(key)
    x = jax.random.bernoulli(data_key, 0.5, shapes[0]).astype(float)
    logits = jax.random.normal(logits_key, shapes[1])
    plain = lambda x, logits: jnp.sum(jnp.sum(x * logits - jnp.logaddexp(0.0, logits), axis=-1))
    folded = lambda x, logits: jnp.sum(Bernoulli(logits).log_prob(x))
    for derivative in (jax.grad, jax.hessian):
        expected = derivative(plain, argnums=(0, 1))(x, logits)
        # Data are checked where they are known, and differentiated where they are traced.
        chex.assert_trees_all_close(jax.jit(derivative(folded, argnums=(0, 1)))(x, logits), expected, atol=1e-12)


def test_softplus_has_its_second_derivative_at_zero():
    chex.assert_trees_all_close(jax.grad(jax.grad(softplus))(0.0), 0.25, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_continuous_bernoulli_is_finite_at_every_logit(dtype, value):
    logits = jnp.array(LOGITS, dtype)
    density = jax.vmap(jax.value_and_grad(lambda l: ContinuousBernoulli(l, 0).log_prob(jnp.array(value))))
    chex.assert_tree_all_finite(density(logits))
    chex.assert_tree_all_finite(ContinuousBernoulli(logits, 0).mean)
    draw = jax.vmap(jax.value_and_grad(lambda l: ContinuousBernoulli(l, 0).sample(jax.random.key(3))))
    chex.assert_tree_all_finite(draw(logits))


def test_log_partition_and_mean_are_exact_across_the_switch_of_formulas(x64):
    """Against a trapezoid rule that has no special point, in value and derivative."""
    grid = jnp.linspace(0.0, 1.0, 20_001)
    logits = jnp.concatenate([jnp.linspace(-0.6, 0.6, 49), jnp.array([-8.0, 5.0])])
    weights = jnp.exp(logits[:, None] * grid)
    integral = jnp.trapezoid(weights, grid)
    chex.assert_trees_all_close(log_partition(logits), jnp.log(integral), atol=1e-8)
    mean = jnp.trapezoid(weights * grid, grid) / integral
    chex.assert_trees_all_close(ContinuousBernoulli(logits).mean, mean, atol=1e-7)
    chex.assert_trees_all_close(jax.vmap(jax.grad(log_partition))(logits), ContinuousBernoulli(logits).mean, atol=1e-10)


def test_single_precision_of_the_continuous_bernoulli_near_zero():
    logits = np.concatenate([np.linspace(-1, 1, 401), [1e-7, -1e-7, 1e-20]])
    single = jax.vmap(jax.value_and_grad(log_partition))(jnp.asarray(logits, jnp.float32))
    with jax.enable_x64(True):
        double = jax.vmap(jax.value_and_grad(log_partition))(jnp.asarray(np.float32(logits), jnp.float64))
        double = jax.tree.map(np.asarray, double)
    chex.assert_trees_all_close(jax.tree.map(np.asarray, single), double, atol=1e-6)


def figures_of_raw_scale(raw):
    for normal in (Normal.from_log_scale(0.5, raw, 0), Normal.from_log_variance(0.5, raw, 0)):
        yield normal.log_prob(jnp.array(-1.5))
        yield vaejax.kl_divergence(normal, Normal(0.0, 1.0, 0))
        yield normal.sample(jax.random.key(1))


FIGURES_OF_RAW_SCALE = jax.jit(lambda raw: jax.jvp(lambda r: jnp.stack([*figures_of_raw_scale(r)]), (raw,), (1.0,)))


@given(st.floats(-1e4, 1e4, width=32, allow_subnormal=False))
def test_any_raw_scale_gives_finite_densities_divergences_and_gradients(raw):
    chex.assert_tree_all_finite(FIGURES_OF_RAW_SCALE(jnp.float32(raw)))


def test_the_bound_is_the_identity_inside_smooth_monotone_and_never_flat():
    inside = jnp.linspace(-10.0, 10.0, 101)
    chex.assert_trees_all_equal(bound_log_scale(inside), inside)
    everywhere = jnp.linspace(-1e4, 1e4, 20_001)
    slopes = jax.vmap(jax.grad(bound_log_scale))(everywhere)
    assert jnp.all(slopes > 0)
    assert jnp.all(jnp.diff(bound_log_scale(everywhere)) > 0)
    edges = jax.vmap(jax.grad(bound_log_scale))(jnp.array([-10.001, -9.999, 9.999, 10.001]))
    chex.assert_trees_all_close(edges, jnp.ones(4), atol=2e-3)


def test_the_bound_can_be_switched_off_and_replaced():
    assert Normal.from_log_scale(0.0, 50.0, 0, bound=None).scale == jnp.exp(50.0)
    assert Normal.from_log_variance(0.0, 100.0, 0, bound=None).scale == jnp.exp(50.0)
    assert Normal.from_log_scale(0.0, 50.0, 0, bound=lambda s: jnp.minimum(s, 1.0)).scale == jnp.exp(1.0)


def test_log_variance_is_twice_the_log_scale():
    chex.assert_trees_all_close(Normal.from_log_variance(0.0, jnp.log(0.25), 0).scale, 0.5, rtol=1e-6)


def test_half_precision_parameters_give_single_precision_densities(key):
    data_key, logits_key, sample_key = jax.random.split(key, 3)
    x = jax.random.bernoulli(data_key, 0.5, (4, 784))
    logits = jax.random.normal(logits_key, (4, 784)).astype(jnp.bfloat16)
    value = Bernoulli(logits).log_prob(x.astype(jnp.bfloat16))
    assert value.dtype == jnp.float32
    expected = Bernoulli(logits.astype(jnp.float32)).log_prob(x.astype(jnp.float32))
    chex.assert_trees_all_close(value, expected, rtol=1e-6)
    normal = Normal(logits, jnp.bfloat16(0.5))
    assert normal.log_prob(logits).dtype == normal.sample(sample_key).dtype == jnp.float32
