"""The split of the gap on the linear-Gaussian oracle, where the best Normal is known."""

import chex
import jax
import jax.numpy as jnp
import numpyro.distributions as numpyro
import optax
import pytest

import vaejax
from vaejax import Normal
from vaejax.evaluation.gaps import inference_gaps
from vaejax.testing import linear_gaussian


@pytest.fixture
def oracle():
    return linear_gaussian(jax.random.key(7), 5, 2)


def best_normal(oracle, x):
    """Of all Normals with independent axes, the one nearest to the posterior has its mean and the diagonal of its precision."""
    exact = oracle.posterior(x)
    precision = jnp.linalg.inv(exact.scale_tril @ jnp.swapaxes(exact.scale_tril, -1, -2))
    return Normal(exact.mean, jnp.diagonal(precision, axis1=-2, axis2=-1) ** -0.5)


def test_both_gaps_are_those_known_exactly(oracle):
    """With an encoder that is wrong for every example by a different amount."""
    x = oracle.marginal().sample(jax.random.key(1), (20,))
    encode = lambda x: Normal(jnp.tanh(x[..., :2]) / 2, jnp.array([0.5, 0.3]))
    log_likelihood = oracle.marginal().log_prob(x)
    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, 300))

    def split(key, x, log_likelihood):
        return inference_gaps(
            key, x, encode, oracle.decode, log_likelihood=log_likelihood, optimizer=optimizer, num_steps=300,
            num_samples=8, num_evaluation_samples=4000, chunk_size=1000,
        )  # fmt: skip

    keys = jax.random.split(jax.random.key(2), 20)
    gaps = jax.jit(jax.vmap(split))(keys, x, log_likelihood)
    elbo, best = oracle.elbo(x, encode(x)), oracle.elbo(x, best_normal(oracle, x))
    approximation, amortization = log_likelihood - best, best - elbo
    assert jnp.min(amortization) > 1
    assert jnp.min(approximation) > 0.1
    # The noise of an ELBO from 4000 draws is a few hundredths at the best Normal, and grows with the gap.
    chex.assert_trees_all_close(gaps.approximation, approximation, atol=0.06)
    chex.assert_trees_all_close(gaps.amortization, amortization, rtol=0.1, atol=0.06)
    # Over the examples no noise is mistaken for a better bound.
    surplus = gaps.best_elbo - best
    assert abs(jnp.mean(surplus)) < 5 * jnp.std(surplus) / 20**0.5 + 0.002
    total = gaps.log_likelihood - gaps.elbo
    chex.assert_trees_all_close(gaps.approximation + gaps.amortization, total, atol=1e-4)


def test_a_batch_is_split_too_and_an_encoder_at_the_best_loses_nothing(oracle):
    x = oracle.marginal().sample(jax.random.key(1), (3,))
    q = best_normal(oracle, x)
    encode = lambda x: numpyro.Normal(q.loc, q.scale).to_event(1)
    exact = oracle.marginal().log_prob(x)
    options = {"optimizer": optax.sgd(1e-3), "num_steps": 20}
    split = jax.jit(lambda key: inference_gaps(key, x, encode, oracle.decode, log_likelihood=exact, **options))
    gaps = split(jax.random.key(0))
    chex.assert_shape(gaps, (3,))
    chex.assert_trees_all_close(gaps.amortization, jnp.zeros(3), atol=0.01)


def test_what_cannot_be_split_is_refused(oracle):
    x = oracle.bias
    split = lambda **changes: inference_gaps(
        jax.random.key(0), x, changes.pop("encode", lambda x: Normal(x[:2], 1.0)), oracle.decode,
        **{"log_likelihood": jnp.zeros(()), "optimizer": optax.sgd(1e-3), "num_steps": 1} | changes,
    )  # fmt: skip
    with pytest.raises(TypeError, match=r"encode must return a Normal, .*; got MultivariateNormal"):
        split(encode=lambda x: vaejax.MultivariateNormal(x[:2], jnp.eye(2)))
    with pytest.raises(TypeError, match=r"optimizer must be an optax gradient transformation .* got float"):
        split(optimizer=0.1)
    with pytest.raises(ValueError, match="num_steps must be at least 1; got 0"):
        split(num_steps=0)
    with pytest.raises(ValueError, match=r"log_likelihood must have shape \(\), one number per example; got \(3,\)"):
        split(log_likelihood=jnp.zeros(3))
