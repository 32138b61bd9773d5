"""Reconstruction minus a penalty: the generic form of every penalised autoencoder."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from vaejax.checks import check_callable, check_count, check_distribution, check_key, is_array
from vaejax.objectives.draws import batch_of, draw, remembering
from vaejax.types import (
    Array,
    AutoencodeTerms,
    Decode,
    ElboTerms,
    Encode,
    ImportanceTerms,
    LadderTerms,
    MapSamples,
    MarginalTerms,
    Regularizer,
    Shape,
)

Terms = TypeVar("Terms", bound=AutoencodeTerms | ElboTerms | ImportanceTerms | LadderTerms | MarginalTerms)


def autoencode(
    key: Array,
    x: Any,
    encode: Encode,
    decode: Decode,
    regularizer: Regularizer,
    *,
    num_samples: int | None = None,
    map_samples: MapSamples = jax.vmap,
) -> AutoencodeTerms:
    """Encode, sample, decode: the expected log-likelihood minus a penalty on the posterior.

    `value = 1/K sum_k [ log p(x|z_k) - regularizer(q, z_k) ]`, `z_k ~ q(z|x)`

    With a `Delta` posterior, a unit Normal likelihood and the regularizer `none` this is the
    autoencoder, minus half its squared error up to a constant; with `kl(prior)` it is the evidence
    lower bound.

    Args:
      key: one typed PRNG key.
      x: data, `[*B, *E]`.
      encode: x to q(z|x).
      decode: z `[*B, *Z]` to p(x|z); it never sees the sample axis, and is mapped over it, so it
        must be pure (no dropout or batch statistics with a state of their own).
      regularizer: `(key, q, z)` to `[*B]`, or `[]` where it couples the batch.
      num_samples: K; None draws one sample without an axis for it.
      map_samples: maps the decoder and the regularizer over the sample axis as `jax.vmap` does;
        `lambda f: lambda *xs: jax.lax.map(lambda x: f(*x), xs, batch_size=5)` bounds the memory.

    Returns:
      `AutoencodeTerms`, per example, in nats.

    Raises:
      TypeError, ValueError: a key that is no typed key, empty data or latents, K below 1, encode or
        decode without a distribution, a posterior whose draws have no gradient, a likelihood whose
        event axes leave something else than one number per example, and concrete data outside the
        likelihood's support (under `jax.jit` data have no values yet, and only shapes are checked).

    >>> import jax, jax.numpy as jnp, vaejax
    >>> x = jnp.ones((8, 3))
    >>> terms = autoencode(jax.random.key(0), x, vaejax.Delta, lambda z: vaejax.Normal(z, 1.0), vaejax.none)
    >>> terms.value.shape
    (8,)
    """
    check_key(key)
    check_data(x)
    for name, function in [("encode", encode), ("decode", decode), ("regularizer", regularizer)]:
        check_callable(name, function)
    sample_key, regularizer_key = jax.random.split(key)

    q = encode(x)

    def single(key: Array, z: Array, log_q: Array | None) -> tuple[Array, Array]:
        p = decode(z)
        check_distribution("decode must return", p)
        posterior = remembering(q, z, log_q)
        log_likelihood, penalty = p.log_prob(x), jnp.asarray(regularizer(key, posterior, z))
        check_terms(x, batch_of(posterior, z), log_likelihood.shape, penalty.shape)
        return log_likelihood, penalty

    if num_samples is None:
        z, log_q = draw(sample_key, q)
        log_likelihood, penalty = single(regularizer_key, z, log_q)
    else:
        check_count("num_samples", num_samples)
        z, log_q = draw(sample_key, q, (num_samples,))
        keys = jax.random.split(regularizer_key, num_samples)
        log_likelihoods, penalties = map_samples(single)(keys, z, log_q)
        log_likelihood, penalty = jnp.mean(log_likelihoods, axis=0), jnp.mean(penalties, axis=0)
    return AutoencodeTerms(log_likelihood - penalty, log_likelihood, penalty, q, z)


def negative_mean(terms: Terms) -> tuple[Array, Terms]:
    """The loss of any objective: minus the batch mean of `value`, and the terms it came from.

    The library's one sign flip and one batch mean, made for `jax.value_and_grad(..., has_aux=True)`.
    """
    return -jnp.mean(terms.value), terms


def check_data(x: Any) -> None:
    """Raise where x is empty or no array; a pytree of arrays is left to the user's encoder."""
    if is_array(x) and jnp.size(x) == 0:
        raise ValueError(f"x must not be empty; got shape {jnp.shape(x)}")
    if x is None or isinstance(x, str) or callable(x):
        raise TypeError(f"x must be an array of data; got {type(x).__name__} (argument order: key, x, encode, decode)")


def check_terms(x: Any, batch: Shape, log_likelihood: Shape, penalty: Shape) -> None:
    """Raise where the parts do not have one number per example of x, as the posterior's log-density should."""
    if log_likelihood != batch:
        raise ValueError(
            f"decode must return a distribution with one log-probability per example, shape {batch} as the posterior "
            f"has; got shape {log_likelihood} (set event_ndims to the number of axes of one example, on both)"
        )
    if is_array(x) and jnp.shape(x)[: len(batch)] != batch:
        raise ValueError(
            f"encode and decode must give one number per example of x, whose shape is {jnp.shape(x)}; got batch shape "
            f"{batch} (the batch axes of the distributions are those of x)"
        )
    if penalty not in ((), batch):
        raise ValueError(f"regularizer must return shape {batch}, one number per example, or (); got shape {penalty}")
