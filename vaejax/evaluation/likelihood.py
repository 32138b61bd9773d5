"""The likelihood of data under a model, by importance sampling in memory that does not grow with the samples."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vaejax.checks import check_callable, check_count, check_distribution, check_key
from vaejax.distributions import standard_normal
from vaejax.distributions._base import draw_with_density
from vaejax.distributions.interop import has_trait
from vaejax.distributions.normal import matched
from vaejax.evaluation.pareto import pareto_k, tail_length
from vaejax.evaluation.weights import (
    WeightSums,
    add_weights,
    effective_sample_size,
    log_mean_error,
    log_mean_weight,
    mean_log_weight,
    no_weights,
)
from vaejax.objectives.autoencode import check_data, check_terms
from vaejax.objectives.draws import check_density
from vaejax.types import Array, Decode, Distribution, Encode


class LogLikelihood(NamedTuple):
    """An estimate of `log p(x)` from K importance weights and what is known of its error, one number per example."""

    value: Array  # [*B] log 1/K sum_k w_k, in nats; a lower bound on log p(x) in expectation
    elbo: Array  # [*B] 1/K sum_k log w_k, in nats: the evidence lower bound from the same draws
    standard_error: Array  # [*B] of value, by the delta method; NaN for K = 1
    effective_sample_size: Array  # [*B] (sum_k w_k)^2 / sum_k w_k^2, from 1 to K
    pareto_k: Array  # [*B] the index of the weights' tail; above pareto_threshold(K) value is unreliable


def importance_log_likelihood(
    key: Array,
    x: Any,
    encode: Encode,
    decode: Decode,
    prior: Distribution = standard_normal,
    *,
    num_samples: int = 5000,
    chunk_size: int = 250,
) -> LogLikelihood:
    """`log p(x)` by importance sampling from the posterior of an encoder, per example, in nats.

    `value = log 1/K sum_k w_k`, `log w_k = log p(x|z_k) + log p(z_k) - log q(z_k|x)`, `z_k ~ q(z|x)`

    The noise of draw k is that of `fold_in(key, k)`, so the result does not depend on `chunk_size` beyond rounding.
    Memory is that of one chunk and, per example, of a few sums and the `tail_length(K)` largest log-weights (213 for
    K = 5,000), of which the tail's index is made. For a data set, map a function of one example, without a batch axis
    and with a key of its own, by `jax.lax.map(..., batch_size=n)`.

    A standard error looks only at the weights that were drawn. Where q misses a part of the true posterior, `value` is
    too low and the error too small; a large `pareto_k` and a small `effective_sample_size` warn of it.

    Args:
      key: one typed PRNG key.
      x: data, `[*B, *E]`.
      encode: x to q(z|x), any distribution with a density.
      decode: z `[*B, *Z]` to p(x|z); it never sees the sample axis.
      prior: p(z), any distribution over `[*Z]`.
      num_samples: K.
      chunk_size: how many draws to compute at once.

    Returns:
      `LogLikelihood`. A weight of zero is a weight; where all are, `value` is -inf and the rest NaN, and a weight that
      is NaN makes all of its example's figures NaN.

    Raises:
      TypeError: a posterior without a density (Delta), or a likelihood that is not normalised (OptimalNormal).
      ValueError: K or `chunk_size` below 1, and what `importance_bound` refuses.

    Source: Burda, Grosse and Salakhutdinov 2015, Importance Weighted Autoencoders, section 5, for the customary
    K = 5,000; Vehtari et al. 2024, Pareto Smoothed Importance Sampling, for the warning.

    >>> import jax, jax.numpy as jnp, vaejax
    >>> x = jnp.ones((8, 3))
    >>> encode, decode = lambda x: vaejax.Normal(x / 2, 0.8), lambda z: vaejax.Normal(z, 1.0)
    >>> result = importance_log_likelihood(jax.random.key(0), x, encode, decode, num_samples=1000)
    >>> exact = vaejax.Normal(jnp.zeros(3), 2**0.5).log_prob(x)
    >>> bool(jnp.all(jnp.abs(result.value - exact) < 5 * result.standard_error))
    True
    """
    check_key(key)
    check_data(x)
    for name, function in [("encode", encode), ("decode", decode)]:
        check_callable(name, function)
    check_distribution("prior must be", prior)
    check_count("num_samples", num_samples)
    check_count("chunk_size", chunk_size)
    q = encode(x)
    check_density("importance_log_likelihood", q)
    prior = matched(prior, q)
    chunk_size = min(chunk_size, num_samples)

    def log_weight(index: Array) -> Array:
        return _log_weight(jax.random.fold_in(key, index), x, q, decode, prior)

    def add_chunk(state: tuple[WeightSums, Array], first: Array) -> tuple[tuple[WeightSums, Array], None]:
        sums, tail = state
        indices = first + jnp.arange(chunk_size)
        log_weights, counted = jax.vmap(log_weight)(indices), indices < num_samples
        return (add_weights(sums, log_weights, counted), _keep_largest(tail, log_weights, counted)), None

    each = jax.eval_shape(log_weight, 0)
    # The tail, and the weight next to it.
    tail = jnp.full((*each.shape, tail_length(num_samples) + 1), -jnp.inf, each.dtype)
    state = no_weights(each.shape, each.dtype), tail
    (sums, tail), _ = jax.lax.scan(add_chunk, state, jnp.arange(0, num_samples, chunk_size))
    tail_index = pareto_k(jnp.moveaxis(tail[..., :-1], -1, 0), tail[..., -1])
    return LogLikelihood(
        log_mean_weight(sums), mean_log_weight(sums), log_mean_error(sums), effective_sample_size(sums), tail_index
    )


def _log_weight(key: Array, x: Any, q: Distribution, decode: Decode, prior: Distribution) -> Array:
    """One draw's `log p(x|z) + log p(z) - log q(z|x)`, `[*B]`."""
    z, log_q = draw_with_density(q, key)
    log_q = q.log_prob(z) if log_q is None else log_q
    p = decode(z)
    check_likelihood("importance_log_likelihood", p)
    log_likelihood, log_prior = p.log_prob(x), prior.log_prob(z)
    check_terms(x, log_q.shape, log_likelihood.shape, log_prior.shape)
    return log_likelihood + log_prior - log_q


def check_likelihood(owner: str, p: Any) -> None:
    """Raise where what decode returns is no likelihood: no distribution, or one that does not integrate to one."""
    check_distribution("decode must return", p)
    if not has_trait(p, "is_normalized"):
        raise TypeError(
            f"{owner}: decode must return a normalised likelihood; got {type(p).__name__}, whose values are no "
            f"log-probabilities"
        )


def _keep_largest(tail: Array, log_weights: Array, counted: Array) -> Array:
    """The largest of `tail` `[*B, M]` and of the log-weights `[C, *B]` that are counted, in falling order."""
    candidates = jnp.where(counted, jnp.moveaxis(log_weights, 0, -1), -jnp.inf)
    return jax.lax.top_k(jnp.concatenate([tail, candidates], axis=-1), tail.shape[-1])[0]
