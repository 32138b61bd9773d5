"""The split of the gap on the linear-Gaussian oracle, where the best Normal is known."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as numpyro
import optax
import pytest

import vaejax
from vaejax import Normal
from vaejax.evaluation.gaps import inference_gaps
from vaejax.testing import LinearGaussian

ORACLE = LinearGaussian(
    np.array([[0.9, 0.4], [-1.1, -0.7], [0.2, 1.2], [0.7, 0.6], [-0.5, 0.3]], np.float32),
    np.array([0.4, 1.9, 1.2, -0.3, 2.1], np.float32),
    np.float32(0.5),
)


def examples(count):
    random = np.random.default_rng(1)
    noise = 0.5 * random.normal(size=(count, 5))
    return (random.normal(size=(count, 2)) @ ORACLE.weight.T + ORACLE.bias + noise).astype(np.float32)


def best_normal(x):
    """Of all Normals with independent axes, the one nearest to the posterior has its mean and the diagonal of its precision."""
    precision = np.eye(2, dtype=np.float32) + ORACLE.weight.T @ ORACLE.weight / ORACLE.scale**2
    return Normal(ORACLE.posterior(x).mean, jnp.broadcast_to(np.diagonal(precision) ** -0.5, (*x.shape[:-1], 2)))


def test_both_gaps_are_those_known_exactly():
    """With an encoder that is wrong for every example by a different amount."""
    encode = lambda x: Normal(jnp.tanh(x[..., :2]) / 2, np.array([0.5, 0.3], np.float32))
    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, 300))

    @jax.jit
    def split(keys, x):
        log_likelihood = ORACLE.marginal().log_prob(x)
        options = {"optimizer": optimizer, "num_steps": 300, "num_samples": 8, "num_evaluation_samples": 4000}
        each = lambda key, x, log_likelihood: inference_gaps(
            key, x, encode, ORACLE.decode, log_likelihood=log_likelihood, chunk_size=1000, **options
        )
        elbos = ORACLE.elbo(x, encode(x)), ORACLE.elbo(x, best_normal(x))
        return jax.vmap(each)(keys, x, log_likelihood), log_likelihood, *elbos

    keys = jax.random.split(jax.random.key(2), 20)
    gaps, log_likelihood, elbo, best = jax.tree.map(np.asarray, split(keys, examples(20)))
    approximation, amortization = log_likelihood - best, best - elbo
    assert np.min(amortization) > 0.5
    assert np.min(approximation) > 0.1
    # The noise of an ELBO from 4000 draws is a few hundredths at the best Normal, and grows with the gap.
    np.testing.assert_allclose(gaps.approximation, approximation, atol=0.06)
    np.testing.assert_allclose(gaps.amortization, amortization, rtol=0.1, atol=0.06)
    # Over the examples no noise is mistaken for a better bound.
    surplus = gaps.best_elbo - best
    assert abs(np.mean(surplus)) < 5 * np.std(surplus) / 20**0.5 + 0.002
    np.testing.assert_allclose(gaps.approximation + gaps.amortization, gaps.log_likelihood - gaps.elbo, atol=1e-4)


@pytest.mark.slow("a batch in place of mapped examples")
def test_a_batch_is_split_too_and_an_encoder_at_the_best_loses_nothing():
    @jax.jit
    def split(key, x):
        q = best_normal(x)
        encode = lambda x: numpyro.Normal(q.loc, q.scale).to_event(1)
        options = {"optimizer": optax.sgd(1e-3), "num_steps": 20, "log_likelihood": ORACLE.marginal().log_prob(x)}
        return inference_gaps(key, x, encode, ORACLE.decode, **options)

    gaps = split(jax.random.key(0), examples(3))
    chex.assert_shape(gaps, (3,))
    np.testing.assert_allclose(gaps.amortization, np.zeros(3), atol=0.01)


def test_what_cannot_be_split_is_refused():
    x = ORACLE.bias

    def split(encode=lambda x: Normal(x[:2], 1.0), **changes):
        options = {"log_likelihood": np.zeros(()), "optimizer": optax.sgd(1e-3), "num_steps": 1} | changes
        return jax.eval_shape(lambda key: inference_gaps(key, x, encode, ORACLE.decode, **options), jax.random.key(0))

    with pytest.raises(TypeError, match=r"encode must return a Normal, .*; got MultivariateNormal"):
        split(encode=lambda x: vaejax.MultivariateNormal(x[:2], np.eye(2)))
    with pytest.raises(TypeError, match=r"optimizer .*got float"):
        split(optimizer=0.1)
    with pytest.raises(ValueError, match="num_steps must be at least 1; got 0"):
        split(num_steps=0)
    with pytest.raises(ValueError, match=r"log_likelihood must have shape \(\).*got \(3,\)"):
        split(log_likelihood=np.zeros(3))
