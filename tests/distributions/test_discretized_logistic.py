"""The discretized logistic against its definition in high precision, its sum, and its draws."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as numpyro
import pytest
import scipy.stats
from scipy.special import expit, log_softmax, logsumexp

from vaejax.distributions.discretized_logistic import DiscretizedLogistic, discretized_logistic_mixture

LEVELS = np.arange(256)
LOCS_AND_SCALES = [(120.3, 7.0), (-40.0, 30.0), (254.6, 0.3), (0.0, 1e-4), (100.0, 1e4), (-1e4, 50.0), (300.0, 100.0)]

log_prob = jax.jit(lambda d, value: d.log_prob(value))


def test_sums_to_one_over_the_levels_of_a_byte(x64):
    likelihood = DiscretizedLogistic(*np.array(LOCS_AND_SCALES).T, event_ndims=0)
    total = np.sum(np.exp(log_prob(likelihood, LEVELS.astype(np.uint8)[:, None])), axis=0)
    chex.assert_trees_all_close(total, np.ones(len(LOCS_AND_SCALES)), rtol=1e-12)


@pytest.mark.parametrize("num_levels", [2, pytest.param(17, marks=pytest.mark.slow("another number of levels")), 256])
def test_is_the_difference_of_the_distribution_function(x64, num_levels):
    edges = np.concatenate([[-np.inf], np.arange(num_levels - 1) + 0.5, [np.inf]])
    # Further up the difference itself has no digits left.
    expected = np.log(np.diff(expit((edges - 3.2) / 2.5))[: min(num_levels, 40)])
    values = log_prob(DiscretizedLogistic(3.2, 2.5, num_levels, 0), np.arange(num_levels))
    chex.assert_trees_all_close(values[: min(num_levels, 40)], expected, rtol=1e-7, atol=1e-9)
    chex.assert_trees_all_close(values[-1], -np.logaddexp(0, (num_levels - 1.5 - 3.2) / 2.5), rtol=1e-12)


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


def test_mean_is_the_sum_over_the_levels(x64):
    loc, scale = np.array([(3.2, 2.5), (-1.0, 4.0), (30.0, 0.4), (15.5, 1e-4), (7.0, 1e4)]).T

    @jax.jit
    def figures(loc, scale):
        likelihood = DiscretizedLogistic(loc, scale, 17, 0)
        mean, pullback = jax.vjp(lambda loc, scale: DiscretizedLogistic(loc, scale, 17, 0).mean, loc, scale)
        return mean, likelihood.log_prob(jnp.arange(17)[:, None]), pullback(jnp.ones_like(mean))

    mean, log_p, slopes = figures(loc, scale)
    chex.assert_trees_all_close(mean, np.arange(17) @ np.exp(log_p), rtol=1e-10)
    edges = (loc[:, None] - np.arange(16) - 0.5) / scale[:, None]
    density = scipy.stats.logistic.pdf(edges) / scale[:, None]
    chex.assert_trees_all_close(slopes, (density.sum(1), -(density * edges).sum(1)), rtol=1e-9, atol=1e-12)


def test_the_gradient_of_the_mean_takes_no_memory_for_each_level():
    """Nothing that is computed has more numbers than the 65,535 edges."""
    total = lambda loc: jnp.sum(DiscretizedLogistic(loc, 3.0, 65536, 0).mean)
    compiled = jax.jit(jax.grad(total)).lower(np.zeros(1000, np.float32)).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 2**20


def test_draws_have_the_frequencies_of_the_log_prob(key):
    likelihood = DiscretizedLogistic(*np.float32([(3.2, 1.5), (-1.0, 4.0), (7.4, 0.3)]).T, 8, 0)

    @jax.jit
    def figures(likelihood, key):
        return likelihood.sample(key, (50_000,)), likelihood.log_prob(jnp.arange(8)[:, None])

    draws, log_p = jax.device_get(figures(likelihood, key))
    assert draws.dtype == np.int32
    for own, p in zip(draws.T, np.exp(log_p.T.astype(np.float64)), strict=True):
        deviation = (np.bincount(own, minlength=8) - 50_000 * p) / np.sqrt(50_000 * p * (1 - p) + 1e-3)
        assert np.all(np.abs(deviation) < 5)


def test_a_mixture_has_its_components_last(x64):
    """Three components on 3 channels of 3 by 3 pixels: any other axis would do as well."""
    rng = np.random.default_rng(0)
    logits, loc, raw = rng.normal(size=(3, 2, 3, 3, 3, 3))
    loc, scale, value = 128 + 60 * loc, np.exp(2 + raw), rng.integers(0, 256, (2, 3, 3, 3))
    pixel = [array[0, 0, 0, 0] for array in (logits, loc, scale)]

    @jax.jit
    def figures(value, key):
        mixture = discretized_logistic_mixture(logits, loc, scale, event_ndims=3)
        assert (mixture.event_ndims, mixture.is_discrete) == (3, True)
        components = DiscretizedLogistic(loc, scale, event_ndims=0).log_prob(value[..., None])
        of_pixel = discretized_logistic_mixture(*pixel, event_ndims=0).log_prob(LEVELS)
        return mixture.log_prob(value), components, of_pixel, mixture.sample(key, (1_000,)), mixture.mean

    log_p, components, of_pixel, draws, mean = jax.device_get(figures(value, jax.random.key(1)))
    joint = components + log_softmax(logits, axis=-1)
    chex.assert_trees_all_close(log_p, logsumexp(joint, -1).sum((1, 2, 3)), rtol=1e-10)
    chex.assert_trees_all_close(np.sum(np.exp(of_pixel)), 1.0, rtol=1e-12)
    assert np.all(np.abs(draws.mean(0) - mean) < 5 * draws.std(0) / 1_000**0.5)


def test_numpyros_logistic_is_its_limit_of_narrow_bins(x64):
    """With many levels in one scale the probability of a level is the density there."""
    levels = np.array([3_000, 5_000, 6_500])

    @jax.jit
    def log_probs(levels):
        theirs = numpyro.Logistic(5_000.0, 400.0, validate_args=False)
        return DiscretizedLogistic(5_000.0, 400.0, 10_001, 0).log_prob(levels), theirs.log_prob(levels)

    chex.assert_trees_all_close(*log_probs(levels), atol=1e-6)


ANOTHER_SHAPE = pytest.mark.slow("another shape")


@pytest.mark.slow("aligned by the function that test_densities maps over")
@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_mapped_constructor_is_the_batched_one(rank):
    loc = 20 + 5 * np.random.default_rng(0).normal(size=(4, 4, 4)).astype(np.float32)
    scale = np.linspace(1.0, 9.0, 4 ** (rank + 1), dtype=np.float32).reshape((4,) * (rank + 1))
    make = lambda loc, scale: DiscretizedLogistic(loc, scale, event_ndims=2)
    value = np.arange(64).reshape(4, 4, 4)
    found = jax.jit(lambda loc, scale: jax.vmap(make)(loc, scale).log_prob(value))(loc, scale)
    expected = [log_prob(make(*each[:2]), each[2]) for each in zip(loc, scale, value, strict=True)]
    chex.assert_trees_all_close(found, np.stack(expected), rtol=1e-5)


def test_bad_input_raises():
    with pytest.raises(ValueError, match="scale must be positive"):
        DiscretizedLogistic(np.zeros(3), 0.0)
    with pytest.raises(ValueError, match="num_levels must be at least 2"):
        DiscretizedLogistic(np.zeros(3), 1.0, 1)
    for value, found in [
        (np.array([0, 256, 1]), "from 0 to 255.*from 0 to 256"),
        (np.array([0.0, 0.5, 1.0]), "0.0 to 1.0"),
    ]:
        with pytest.raises(ValueError, match=found):
            DiscretizedLogistic(np.zeros(3, np.float32), 1.0).log_prob(value)
    chex.assert_tree_all_finite(
        DiscretizedLogistic(np.zeros(3, np.float32), 1.0).log_prob(np.array([0, 255, 1], np.uint8))
    )
