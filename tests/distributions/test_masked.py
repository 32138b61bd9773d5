"""Missing data: what is missing is summed out, touches neither value nor gradient, and is imputed by the base."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as numpyro
import pytest

from vaejax import Bernoulli, Categorical, ContinuousBernoulli, Laplace, MultivariateNormal, Normal, OptimalNormal
from vaejax.distributions.counts import NegativeBinomial, Poisson
from vaejax.distributions.discretized_logistic import DiscretizedLogistic, discretized_logistic_mixture
from vaejax.distributions.masked import Masked
from vaejax.distributions.mixture import Mixture
from vaejax.distributions.relaxed_categorical import RelaxedCategorical

log_prob = jax.jit(lambda d, value: d.log_prob(value))
sample = jax.jit(lambda d, key: d.sample(key))
PARAMETERS = np.linspace(-2.0, 2.0, 2 * 3 * 4).reshape(2, 3, 4).astype(np.float32)
# Every family with independent axes, over [2, *E] with E = (3, 4).
BASES = {
    "normal": lambda p: Normal(p, 0.5, 2),
    "laplace": lambda p: Laplace(p, 0.5, 2),
    "bernoulli": lambda p: Bernoulli(p, 2),
    "continuous bernoulli": lambda p: ContinuousBernoulli(p, 2),
    "categorical": lambda p: Categorical(p[..., None] * jnp.arange(5.0), 2),
    "logistic": lambda p: DiscretizedLogistic(4 + p, 2.0, 8, 2),
    "poisson": lambda p: Poisson(p, 2),
    "negative binomial": lambda p: NegativeBinomial(jnp.exp(p), p, 2),
    "mixture per pixel": lambda p: Mixture(jnp.zeros(3), Normal(p[..., None] * jnp.arange(3.0), 0.5, 0), 2),
    "logistic mixture": lambda p: discretized_logistic_mixture(jnp.zeros(3), p[..., None] * jnp.arange(3.0), 2.0, 8, 2),
    "numpyro": lambda p: numpyro.Normal(p, 0.5).to_event(2),
}


def half_mask(shape):
    return np.arange(np.prod(shape)).reshape(shape) % 3 != 1


@pytest.mark.parametrize("name", BASES)
def test_is_the_sum_over_the_observed(name, key):
    base = BASES[name](PARAMETERS)
    value = sample(base, key)
    mask = half_mask((2, 3, 4))
    single = jnp.eye(12, dtype=bool).reshape(12, 3, 4)
    masks = jnp.concatenate([single, jnp.ones((1, 3, 4), bool), jnp.zeros((1, 3, 4), bool)])
    *parts, everything, nothing = jax.jit(jax.vmap(lambda m: Masked(base, m).log_prob(value)))(masks)
    parts = jnp.stack(parts, axis=-1).reshape(2, 3, 4)
    chex.assert_trees_all_close(log_prob(Masked(base, mask), value), (parts * mask).sum((1, 2)), rtol=1e-4)
    chex.assert_trees_all_close(parts.sum((1, 2)), log_prob(base, value), rtol=1e-4)
    chex.assert_trees_all_close(everything, log_prob(base, value), rtol=1e-5)
    chex.assert_trees_all_equal(nothing, jnp.zeros(2))


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("missing", [np.nan, -7.5])
def test_what_is_missing_touches_neither_value_nor_gradient(name, missing, key):
    mask = half_mask((2, 3, 4))
    value = sample(BASES[name](PARAMETERS), key).astype(jnp.float32)
    holes = jnp.where(mask, value, missing)

    score = jax.jit(jax.value_and_grad(lambda p, v: jnp.sum(Masked(BASES[name](p), mask).log_prob(v)), argnums=(0, 1)))
    found = score(PARAMETERS, holes)
    chex.assert_trees_all_equal(found, score(PARAMETERS, value))
    chex.assert_tree_all_finite(found)
    assert jnp.all(found[1][1][~mask] == 0)
    # Eagerly the concrete value is checked against the support, at its observed elements only.
    assert jnp.all(Masked(BASES[name](PARAMETERS), mask).support(holes))
    Masked(BASES[name](PARAMETERS), mask).log_prob(holes)


def test_observed_values_outside_the_support_still_raise():
    mask, base = jnp.array([True, False, True]), Bernoulli(jnp.zeros(3))
    for call in (
        lambda v: Masked(base, mask).log_prob(v),
        lambda v: jax.jit(lambda b: Masked(b, mask).log_prob(v))(base),
    ):
        chex.assert_trees_all_close(call(jnp.array([0.0, 0.5, 1.0])), -2 * jnp.log(2.0), rtol=1e-6)
        with pytest.raises(ValueError, match="0 or 1"):
            call(jnp.array([0.5, 0.5, 1.0]))


def test_bytes_stay_bytes():
    base = Categorical(jnp.zeros((3, 256)))
    value = Masked(base, jnp.array([1, 0, 1])).log_prob(jnp.array([255, 3, 0], jnp.uint8))
    chex.assert_trees_all_close(value, -2 * jnp.log(256.0), rtol=1e-6)


def test_draws_and_mean_are_complete(key):
    base = Normal(PARAMETERS, 0.5, 2)
    masked = Masked(base, half_mask((3, 4)))
    chex.assert_trees_all_equal(masked.sample(key, (5,)), base.sample(jax.random.key(20260), (5,)))
    chex.assert_trees_all_equal(masked.mean, base.mean)
    assert (masked.event_ndims, masked.has_rsample, masked.is_discrete) == (2, True, False)
    poisson = Masked(Poisson(jnp.zeros(3)), jnp.ones(3))
    assert (poisson.has_rsample, poisson.is_discrete) == (False, True)


@pytest.mark.parametrize("rank", [1, 2])
def test_a_mapped_constructor_is_the_batched_one(rank, key):
    loc_key, value_key = jax.random.split(key)
    loc, value = jax.random.normal(loc_key, (4, 4, 4)), jax.random.normal(value_key, (4, 4, 4))
    mask = half_mask((4,) * rank)
    make = lambda loc, mask: Masked(Normal(loc, 0.5), mask)
    expected = jnp.stack(
        [make(l, m).log_prob(v) for l, m, v in zip(loc, mask[:, None] if rank == 1 else mask, value, strict=True)]
    )
    mapped = jax.vmap(make)(loc, mask[:, None] if rank == 1 else mask)
    chex.assert_trees_all_close(mapped.log_prob(value), expected, rtol=1e-5)  # fmt: skip


@pytest.mark.parametrize(
    ("make", "error", "found"),
    [
        (lambda: Masked(MultivariateNormal(jnp.zeros(2), jnp.eye(2)), jnp.ones(2)), TypeError, "got MultivariateNormal"),
        (lambda: Masked(OptimalNormal(jnp.zeros(2)), jnp.ones(2)), TypeError, "got OptimalNormal"),
        (lambda: Masked(RelaxedCategorical(jnp.zeros((3, 2)), 1.0), jnp.ones(2)), TypeError, "got RelaxedCategorical"),
        (lambda: Masked(Mixture(jnp.zeros(2), Normal(jnp.zeros((2, 3)), 1.0)), jnp.ones(3)), TypeError, "got Mixture of Normal"),
        (lambda: Masked(jnp.zeros(2), jnp.ones(2)), TypeError, "base must be a distribution"),
        (lambda: Masked(Normal(jnp.zeros(2), 1.0), [True, False]), TypeError, "mask must be an array; got list"),
        (lambda: Masked(Normal(jnp.zeros(2), 1.0), jnp.array([0.5, 1.0])), ValueError, "True or False.*from 0.5 to 1.0"),
        (lambda: Masked(Normal(jnp.zeros(2), 1.0), jnp.ones(3)), ValueError, r"shape of the base, \(2,\); got shape \(3,\)"),
        (lambda: Masked(Normal(jnp.zeros(2), 1.0), jnp.ones((3, 2))), ValueError, r"shape of the base, \(2,\)"),
        (lambda: Masked(Normal(jnp.zeros(2), 1.0), jnp.ones(2)).log_prob(jnp.ones(1)), ValueError, r"event shape \(2,\)"),
    ],
)  # fmt: skip
def test_bad_input_raises(make, error, found):
    with pytest.raises(error, match=found):
        make()
