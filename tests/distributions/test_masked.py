"""Missing data: what is missing is summed out, touches neither value nor gradient, and is imputed by the base."""

from functools import cache

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as numpyro
import pytest
import scipy.special
import scipy.stats

from vaejax import Bernoulli, Categorical, ContinuousBernoulli, Laplace, MultivariateNormal, Normal, OptimalNormal
from vaejax.distributions.counts import NegativeBinomial, Poisson
from vaejax.distributions.discretized_logistic import DiscretizedLogistic, discretized_logistic_mixture
from vaejax.distributions.masked import Masked
from vaejax.distributions.mixture import Mixture
from vaejax.distributions.relaxed_categorical import RelaxedCategorical

SHAPE = (2, 3, 4)
PARAMETERS = np.linspace(-2.0, 2.0, 2 * 3 * 4).reshape(SHAPE).astype(np.float32)
REAL = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
COUNTS = np.random.default_rng(0).integers(0, 5, SHAPE).astype(np.float32)
# Every family with independent axes, over [2, *E] with E = (3, 4), and a value in its support.
BASES = {
    "normal": (lambda p: Normal(p, 0.5, 2), REAL),
    "laplace": (lambda p: Laplace(p, 0.5, 2), REAL),
    "bernoulli": (lambda p: Bernoulli(p, 2), COUNTS % 2),
    "continuous bernoulli": (lambda p: ContinuousBernoulli(p, 2), scipy.special.expit(REAL)),
    "categorical": (lambda p: Categorical(p[..., None] * jnp.arange(5.0), 2), COUNTS),
    "logistic": (lambda p: DiscretizedLogistic(4 + p, 2.0, 8, 2), COUNTS),
    "poisson": (lambda p: Poisson(p, 2), COUNTS),
    "negative binomial": (lambda p: NegativeBinomial(jnp.exp(p), p, 2), COUNTS),
    "mixture per pixel": (lambda p: Mixture(jnp.zeros(3), Normal(p[..., None] * jnp.arange(3.0), 0.5, 0), 2), REAL),
    "logistic mixture": (
        lambda p: discretized_logistic_mixture(jnp.zeros(3), p[..., None] * jnp.arange(3.0), 2.0, 8, 2),
        COUNTS,
    ),
    "numpyro": (lambda p: numpyro.Normal(p, 0.5, validate_args=False).to_event(2), REAL),
}

# These compile for the longest, and mask as the others do.
SLOW = {
    "poisson", "negative binomial", "logistic mixture", "laplace", "continuous bernoulli", "logistic", "numpyro",
    "categorical",
}  # fmt: skip
NAMES = [pytest.param(name, marks=pytest.mark.slow("another family")) if name in SLOW else name for name in BASES]


def half_mask(shape):
    return np.arange(np.prod(shape)).reshape(shape) % 3 != 1


HALF = half_mask(SHAPE)
MISSING = [np.nan, -7.5]


@cache
def figures(name):
    """Log-densities with one, all and no elements observed, and with half of them, with what is missing filled in."""
    make, value = BASES[name]
    one = np.eye(12, dtype=bool).reshape(12, 1, 3, 4)
    everything, nothing = np.ones((1, 1, 3, 4), bool), np.zeros((1, 1, 3, 4), bool)
    masks = np.broadcast_to(np.concatenate([one, everything, nothing]), (14, *SHAPE))
    holes = np.stack([value, *(np.where(HALF, value, missing) for missing in MISSING)])

    @jax.jit
    def compute(p, value, holes):
        def half(p, value):
            log_prob = Masked(make(p), HALF).log_prob(value)
            return jnp.sum(log_prob), log_prob

        by_mask = jax.vmap(lambda mask: Masked(make(p), mask).log_prob(value))(masks)
        slopes = jax.vmap(jax.value_and_grad(half, argnums=(0, 1), has_aux=True), (None, 0))
        return make(p).log_prob(value), by_mask, slopes(p, holes)

    return jax.device_get(compute(PARAMETERS, value, holes.astype(np.float32)))


@pytest.mark.parametrize("name", NAMES)
def test_is_the_sum_over_the_observed(name):
    whole, by_mask, ((_, half), _) = figures(name)
    *parts, everything, nothing = by_mask
    parts = np.stack(parts, axis=-1).reshape(SHAPE)
    chex.assert_trees_all_close(half[0], (parts * HALF).sum((1, 2)), rtol=1e-4)
    chex.assert_trees_all_close(parts.sum((1, 2)), whole, rtol=1e-4)
    chex.assert_trees_all_close(everything, whole, rtol=1e-5)
    chex.assert_trees_all_equal(nothing, np.zeros(2, np.float32))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_missing_touches_neither_value_nor_gradient(name):
    *_, found = figures(name)
    chex.assert_tree_all_finite(found)
    for index in range(1, 1 + len(MISSING)):
        chex.assert_trees_all_equal(*(jax.tree.map(lambda leaf, i=i: leaf[i], found) for i in (0, index)))
    _, (_, slopes_of_value) = found
    assert np.all(slopes_of_value[:, ~HALF] == 0)


@pytest.mark.parametrize(
    "name",
    [name if name == "bernoulli" else pytest.param(name, marks=pytest.mark.slow("another family")) for name in BASES],
)
@pytest.mark.parametrize("missing", MISSING)
def test_a_concrete_value_is_checked_where_it_is_observed(name, missing):
    make, value = BASES[name]
    masked, holes = Masked(make(PARAMETERS), HALF), np.where(HALF, value, missing)
    assert np.all(masked.support(holes))
    chex.assert_tree_all_finite(masked.log_prob(holes))


def test_observed_values_outside_the_support_still_raise():
    mask, base = np.array([True, False, True]), Bernoulli(np.zeros(3, np.float32))
    for call in (
        lambda v: Masked(base, mask).log_prob(v),
        lambda v: jax.jit(lambda b: Masked(b, mask).log_prob(v))(base),
    ):
        chex.assert_trees_all_close(call(np.float32([0.0, 0.5, 1.0])), np.float32(-2 * np.log(2.0)), rtol=1e-6)
        with pytest.raises(ValueError, match="0 or 1"):
            call(np.float32([0.5, 0.5, 1.0]))


def test_without_a_mask_nan_marks_what_is_missing():
    """Traced, mapped and concrete; a value that is observed is still checked."""
    loc, value = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)
    holes = np.where(half_mask((4, 3)), value, np.nan).astype(np.float32)

    @jax.jit
    def figures(loc, value, holes):
        score = lambda loc, value, *mask: jnp.sum(Masked(Normal(loc, 0.5), *mask).log_prob(value))
        of_nan, of_mask = (jax.value_and_grad(score)(loc, *each) for each in ((holes,), (value, ~jnp.isnan(holes))))
        mapped = jax.vmap(lambda loc, value: Masked(Normal(loc, 0.5)).log_prob(value))(loc, holes)
        return of_nan, of_mask, Masked(Normal(loc, 0.5)).log_prob(holes), mapped

    of_nan, of_mask, whole, mapped = figures(loc, value, holes)
    chex.assert_trees_all_equal(of_nan, of_mask)
    chex.assert_trees_all_close(whole, mapped, rtol=1e-6)
    chex.assert_trees_all_close(Masked(Normal(loc, 0.5)).log_prob(holes), whole, rtol=1e-6)
    with pytest.raises(ValueError, match=r"0 or 1.*0\.5"):
        Masked(Bernoulli(np.zeros(3, np.float32))).log_prob(np.float32([0.5, np.nan, 1.0]))


def test_bytes_stay_bytes():
    value = np.array([255, 3, 0], np.uint8)
    log_prob = jax.jit(lambda base: Masked(base, np.array([1, 0, 1])).log_prob(value))
    found = log_prob(Categorical(np.zeros((3, 256), np.float32)))
    chex.assert_trees_all_close(found, np.float32(-2 * np.log(256)), rtol=1e-6)


def test_draws_and_mean_are_complete():
    base = Normal(PARAMETERS, 0.5, 2)
    masked = Masked(base, half_mask((3, 4)))
    figures = jax.jit(lambda d: (d.sample(jax.random.key(20260), (5,)), d.mean))
    chex.assert_trees_all_equal(figures(masked), figures(base))
    assert (masked.event_ndims, masked.has_rsample, masked.is_discrete) == (2, True, False)
    poisson = Masked(Poisson(np.zeros(3)), np.ones(3))
    assert (poisson.has_rsample, poisson.is_discrete) == (False, True)


@pytest.mark.parametrize("rank", [1, pytest.param(2, marks=pytest.mark.slow("another shape of the mask"))])
def test_a_mapped_constructor_is_the_batched_one(rank):
    loc, value = np.random.default_rng(0).normal(size=(2, 4, 4, 4)).astype(np.float32)
    mask = half_mask((4, 1)) if rank == 1 else half_mask((4, 4))
    make = lambda loc, mask: Masked(Normal(loc, 0.5), mask)
    found = jax.jit(lambda loc, mask, value: jax.vmap(make)(loc, mask).log_prob(value))(loc, mask, value)
    observed = np.broadcast_to(mask[:, None], loc.shape)
    expected = np.where(observed, scipy.stats.norm(loc, 0.5).logpdf(value), 0.0).sum(-1)
    chex.assert_trees_all_close(found, expected.astype(np.float32), rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "error", "found"),
    [
        (lambda: Masked(MultivariateNormal(np.zeros(2), np.eye(2)), np.ones(2)), TypeError, "got MultivariateNormal"),
        (lambda: Masked(OptimalNormal(np.zeros(2)), np.ones(2)), TypeError, "got OptimalNormal"),
        (lambda: Masked(RelaxedCategorical(np.zeros((3, 2)), 1.0), np.ones(2)), TypeError, "got RelaxedCategorical"),
        (lambda: Masked(Mixture(np.zeros(2), Normal(np.zeros((2, 3)), 1.0)), np.ones(3)), TypeError, "got Mixture of Normal"),
        (lambda: Masked(np.zeros(2), np.ones(2)), TypeError, "base must be a distribution"),
        (lambda: Masked(Normal(np.zeros(2), 1.0), [True, False]), TypeError, "mask must be an array; got list"),
        (lambda: Masked(Normal(np.zeros(2), 1.0), np.array([0.5, 1.0])), ValueError, "True or False.*from 0.5 to 1.0"),
        (lambda: Masked(Normal(np.zeros(2), 1.0), np.ones(3)), ValueError, r"shape of the base, \(2,\); got shape \(3,\)"),
        (lambda: Masked(Normal(np.zeros(2), 1.0), np.ones((3, 2))), ValueError, r"shape of the base, \(2,\)"),
        (lambda: Masked(Normal(np.zeros(2), 1.0), np.ones(2)).log_prob(np.ones(1)), ValueError, r"event shape \(2,\)"),
    ],
)  # fmt: skip
def test_bad_input_raises(make, error, found):
    with pytest.raises(error, match=found):
        make()
