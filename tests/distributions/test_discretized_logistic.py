"""The discretized logistic against its definition in high precision, its sum, and its draws."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as numpyro
import pytest
from scipy.special import expit, logsumexp

from vaejax.distributions.discretized_logistic import DiscretizedLogistic, discretized_logistic_mixture

# Compiled whole, and kept between runs: op by op these tests would take a minute.
log_prob = jax.jit(lambda d, value: d.log_prob(value))
sample = jax.jit(lambda d, key, shape=(): d.sample(key, shape), static_argnums=2)
mean = jax.jit(lambda d: d.mean)

LEVELS = np.arange(256)
PARAMETERS = [(120.3, 7.0), (-40.0, 30.0), (254.6, 0.3), (0.0, 1e-4), (100.0, 1e4), (-1e4, 50.0), (300.0, 100.0)]


@pytest.mark.parametrize(("loc", "scale"), PARAMETERS)
def test_sums_to_one_over_the_levels_of_a_byte(x64, loc, scale):
    likelihood = DiscretizedLogistic(loc, scale, event_ndims=0)
    chex.assert_trees_all_close(jnp.sum(jnp.exp(log_prob(likelihood, LEVELS.astype(jnp.uint8)))), 1.0, rtol=1e-12)


@pytest.mark.parametrize("num_levels", [2, 17, 256])
def test_is_the_difference_of_the_distribution_function(x64, num_levels):
    edges = np.concatenate([[-np.inf], np.arange(num_levels - 1) + 0.5, [np.inf]])
    # Further up the difference itself has no digits left.
    expected = np.log(np.diff(expit((edges - 3.2) / 2.5))[: min(num_levels, 40)])
    likelihood = DiscretizedLogistic(3.2, 2.5, num_levels, 0)
    values = likelihood.log_prob(jnp.arange(num_levels))[: min(num_levels, 40)]
    chex.assert_trees_all_close(values, expected, rtol=1e-7, atol=1e-9)
    last = likelihood.log_prob(jnp.array(num_levels - 1))
    chex.assert_trees_all_close(last, -np.logaddexp(0, (num_levels - 1.5 - 3.2) / 2.5), rtol=1e-12)


def reference(value, loc, scale):
    """log p by the logarithms of the tails, on the side of the bin on which they do not cancel."""
    a, b = (value + 0.5 - loc) / scale, (value - 0.5 - loc) / scale
    if b > 0:  # 1 - sigmoid(b) less 1 - sigmoid(a)
        a, b = -b, -a
    log_a, log_b = -np.logaddexp(0, -a), -np.logaddexp(0, -b)
    top, bottom = value == 255, value == 0
    if top or bottom:
        edge = (value - 0.5 - loc) / scale if top else -(value + 0.5 - loc) / scale
        return -np.logaddexp(0, edge)
    return log_a + np.log(-np.expm1(log_b - log_a))


LOG_PROB = lambda loc, scale, value: DiscretizedLogistic(loc, scale, event_ndims=0).log_prob(value)
GRADIENTS = jax.jit(jax.vmap(jax.grad(LOG_PROB, (0, 1)), (None, None, 0)))


@pytest.mark.parametrize("scale", [1e-4, 1e-2, 1.0, 30.0, 1e4])
@pytest.mark.parametrize("loc", [-300.0, 0.0, 127.4, 255.0, 600.0])
def test_single_precision_is_exact_far_in_the_tails(loc, scale):
    values = np.array([0, 1, 127, 128, 200, 254, 255])
    exact = [reference(float(v), loc, float(np.float32(scale))) for v in values]
    computed = log_prob(DiscretizedLogistic(np.float32(loc), np.float32(scale), event_ndims=0), values)
    chex.assert_trees_all_close(np.asarray(computed, np.float64), np.array(exact), rtol=2e-5, atol=2e-5)
    found = GRADIENTS(np.float32(loc), np.float32(scale), values)
    chex.assert_tree_all_finite(found)
    step = scale * 1e-4
    for index, (low, high) in enumerate([((-step, 0.0), (step, 0.0)), ((0.0, -step), (0.0, step))]):
        pairs = [
            (reference(float(v), loc + low[0], scale + low[1]), reference(float(v), loc + high[0], scale + high[1]))
            for v in values
        ]
        difference = np.array([(h - l) / (2 * step) for l, h in pairs])
        chex.assert_trees_all_close(np.asarray(found[index], np.float64), difference, rtol=3e-3, atol=3e-4 / min(scale, 1.0))  # fmt: skip


MEAN_SLOPES = jax.jit(jax.grad(lambda loc, scale: DiscretizedLogistic(loc, scale, 17, 0).mean, (0, 1)))


@pytest.mark.parametrize(("loc", "scale"), [(3.2, 2.5), (-1.0, 4.0), (30.0, 0.4), (15.5, 1e-4), (7.0, 1e4)])
def test_mean_is_the_sum_over_the_levels(x64, loc, scale):
    likelihood = DiscretizedLogistic(loc, scale, 17, 0)
    levels = jnp.arange(17)
    chex.assert_trees_all_close(mean(likelihood), jnp.sum(levels * jnp.exp(likelihood.log_prob(levels))), rtol=1e-10)
    chex.assert_tree_all_finite(MEAN_SLOPES(loc, scale))


@pytest.mark.parametrize(("loc", "scale"), [(3.2, 1.5), (-1.0, 4.0), (7.4, 0.3)])
def test_draws_have_the_frequencies_of_the_log_prob(loc, scale, key):
    likelihood = DiscretizedLogistic(loc, scale, 8, 0)
    draws = sample(likelihood, key, (50_000,))
    assert draws.dtype == jnp.int32
    p = np.exp(np.asarray(likelihood.log_prob(jnp.arange(8)), np.float64))
    deviation = (np.bincount(draws, minlength=8) - 50_000 * p) / np.sqrt(50_000 * p * (1 - p) + 1e-3)
    assert np.all(np.abs(deviation) < 5)


def test_a_mixture_has_its_components_last(x64, key):
    """Three components on 3 channels of 3 by 3 pixels: any other axis would do as well."""
    keys = jax.random.split(key, 4)
    logits, loc, raw = (jax.random.normal(k, (2, 3, 3, 3, 3)) for k in keys[:3])
    loc, scale = 128 + 60 * loc, jnp.exp(2 + raw)
    value = jax.random.randint(keys[3], (2, 3, 3, 3), 0, 256)
    mixture = discretized_logistic_mixture(logits, loc, scale, event_ndims=3)
    parts = [DiscretizedLogistic(loc[..., c], scale[..., c], event_ndims=0).log_prob(value) for c in range(3)]
    joint = np.stack(parts, -1) + np.asarray(jax.nn.log_softmax(logits))
    chex.assert_trees_all_close(log_prob(mixture, value), logsumexp(joint, -1).sum((1, 2, 3)), rtol=1e-10)
    assert (mixture.event_ndims, mixture.is_discrete) == (3, True)
    pixel = discretized_logistic_mixture(logits[0, 0, 0, 0], loc[0, 0, 0, 0], scale[0, 0, 0, 0], event_ndims=0)
    chex.assert_trees_all_close(jnp.sum(jnp.exp(log_prob(pixel, LEVELS))), 1.0, rtol=1e-12)
    draws = sample(mixture, jax.random.key(1), (1_000,))
    deviation = (draws.mean(0) - mean(mixture)) / (draws.std(0) / 1_000**0.5)
    assert jnp.all(jnp.abs(deviation) < 5)


def test_numpyros_logistic_is_its_limit_of_narrow_bins(x64):
    """With many levels in one scale the probability of a level is the density there."""
    likelihood = DiscretizedLogistic(5_000.0, 400.0, 10_001, 0)
    levels = jnp.array([3_000, 5_000, 6_500])
    chex.assert_trees_all_close(
        likelihood.log_prob(levels), numpyro.Logistic(5_000.0, 400.0).log_prob(levels), atol=1e-6
    )


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_mapped_constructor_is_the_batched_one(rank, key):
    loc = 20 + 5 * jax.random.normal(key, (4, 4, 4))
    scale = jnp.linspace(1.0, 9.0, 4 ** (rank + 1)).reshape((4,) * (rank + 1))
    make = lambda loc, scale: DiscretizedLogistic(loc, scale, event_ndims=2)
    value = jnp.arange(64).reshape(4, 4, 4)
    expected = jnp.stack([log_prob(make(l, s), v) for l, s, v in zip(loc, scale, value, strict=True)])
    chex.assert_trees_all_close(log_prob(jax.vmap(make)(loc, scale), value), expected, rtol=1e-5)


def test_bad_input_raises():
    with pytest.raises(ValueError, match="scale must be positive"):
        DiscretizedLogistic(jnp.zeros(3), 0.0)
    with pytest.raises(ValueError, match="num_levels must be at least 2"):
        DiscretizedLogistic(jnp.zeros(3), 1.0, 1)
    for value, found in [
        (jnp.array([0, 256, 1]), "from 0 to 255.*from 0 to 256"),
        (jnp.array([0.0, 0.5, 1.0]), "0.0 to 1.0"),
    ]:
        with pytest.raises(ValueError, match=found):
            DiscretizedLogistic(jnp.zeros(3), 1.0).log_prob(value)
    chex.assert_tree_all_finite(DiscretizedLogistic(jnp.zeros(3), 1.0).log_prob(jnp.array([0, 255, 1], jnp.uint8)))
