"""From the terms of an objective to the numbers that are logged and reported."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeGuard

import jax
import jax.numpy as jnp

from vaejax.checks import check_count, check_key
from vaejax.distributions import kl_per_axis, standard_normal
from vaejax.distributions.interop import has_trait
from vaejax.evaluation.latents import active_units
from vaejax.types import Array, AutoencodeTerms, Distribution, ElboTerms, ImportanceTerms, LadderTerms, MarginalTerms

# What an objective returns.
Terms = AutoencodeTerms | ElboTerms | ImportanceTerms | LadderTerms | MarginalTerms

# How the figures are called where a person reads them, in the order in which they are shown.
LABELS = {
    "negative_bound": "-bound",
    "negative_elbo": "-ELBO",
    "reconstruction": "reconstruction",
    "kl": "KL",
    "penalty": "penalty",
    "squared_error": "squared error",
}


def unit_of(name: str) -> str:
    """The unit of a figure."""
    return "white = 1" if name == "squared_error" else "nats"


class Estimate(NamedTuple):
    """A mean over examples and how sure it is."""

    mean: Array  # []
    standard_error: Array  # [] the standard deviation over the examples by the root of their number


def per_example(terms: Terms) -> dict[str, Array]:
    """The parts of an objective as costs in nats, `[*B]` each, lower is better.

    For a variational autoencoder `negative_elbo = reconstruction + kl`, whatever the beta or the free bits it was
    trained with, and for a bound of several samples also `negative_bound`; for any other objective, also the
    ELBO's formula with a point for a posterior, `reconstruction` and `penalty`.
    """
    if isinstance(terms, MarginalTerms):
        return {"negative_bound": -terms.bound}
    reconstruction = -terms.log_likelihood
    if is_bound(terms):
        parts = {"negative_elbo": reconstruction + terms.kl, "reconstruction": reconstruction, "kl": terms.kl}
        return {"negative_bound": -terms.value, **parts} if isinstance(terms, ImportanceTerms) else parts
    penalty = terms.penalty if isinstance(terms, AutoencodeTerms) else terms.kl
    return {"reconstruction": reconstruction, "penalty": jnp.broadcast_to(penalty, reconstruction.shape)}


def is_bound(terms: Terms) -> TypeGuard[ElboTerms | ImportanceTerms | LadderTerms]:
    """Whether log_likelihood - kl, or the value of an importance bound, is a lower bound on log p(x) in expectation."""
    if not isinstance(terms, ElboTerms | ImportanceTerms | LadderTerms):
        return False
    posteriors = terms.posterior if isinstance(terms, LadderTerms) else (terms.posterior,)
    return not any(has_trait(each, "is_point") for each in posteriors)


def batch_metrics(terms: Terms, prior: Distribution | None = standard_normal) -> dict[str, Array]:
    """What to log of a train step: batch means of `per_example`, and what the latents do.

    Args:
      terms: what an objective returned for a batch.
      prior: what `kl_per_axis` compares the posterior with; None leaves it out.

    Returns:
      Scalars, but `kl_per_axis` `[*Z]` (left out where the axes have no closed form) and `kl_per_layer` `[L]` (of a
      hierarchy); `active_units` counts within the batch (left out where the posterior has no mean).
    """
    metrics = {name: jnp.mean(values) for name, values in per_example(terms).items()}
    if isinstance(terms, MarginalTerms):
        return metrics
    batch_ndims = jnp.ndim(terms.log_likelihood)
    if isinstance(terms, LadderTerms):
        return {**metrics, "kl_per_layer": jnp.mean(terms.kl_per_layer.reshape(len(terms.kl_per_layer), -1), axis=1)}
    means = getattr(terms.posterior, "mean", None)
    if means is not None:
        metrics["active_units"] = active_units(_one_batch_axis(means, batch_ndims))
    if prior is not None:
        try:
            axes = _one_batch_axis(kl_per_axis(terms.posterior, prior), batch_ndims)
            metrics["kl_per_axis"] = jnp.mean(axes, axis=0)
        except TypeError:
            pass  # No closed form: there is nothing to log.
    return metrics


def _one_batch_axis(array: Array, batch_ndims: int) -> Array:
    """`[*B, *Z]` to `[prod(B), *Z]`."""
    return array.reshape(-1, *array.shape[batch_ndims:])


def evaluate(
    key: Array, x: Any, objective: Callable[[Array, Any], dict[str, Array]], *, batch_size: int = 500
) -> dict[str, Estimate]:
    """The mean of every figure over a data set, with its standard error.

    Each example has noise of its own, `fold_in(key, index)`, so the result does not depend on
    `batch_size` beyond rounding, and none of the last, ragged batch is dropped.

    Args:
      key: one typed PRNG key; the same key evaluates two models on the same noise.
      x: examples, a pytree of arrays `[N, ...]`.
      objective: `(key, one example)` to scalars by name.
      batch_size: how many to compute at once.

    >>> import jax, jax.numpy as jnp
    >>> result = evaluate(jax.random.key(0), jnp.arange(3.0), lambda key, x: {"square": x**2})
    >>> round(result["square"].mean.item(), 3), round(result["square"].standard_error.item(), 3)
    (1.667, 1.202)
    """
    check_key(key)
    check_count("batch_size", batch_size)
    counts = {len(leaf) for leaf in jax.tree.leaves(x)}
    if len(counts) != 1:
        raise ValueError(f"x must be arrays of one length; got lengths {sorted(counts)}")
    (count,) = counts
    check_count("number of examples", count)
    keys = jax.vmap(lambda index: jax.random.fold_in(key, index))(jnp.arange(count))
    values = jax.lax.map(lambda pair: objective(*pair), (keys, x), batch_size=min(batch_size, count))
    return {name: estimate(each) for name, each in values.items()}


def estimate(values: Array) -> Estimate:
    """The mean of a figure `[N]` over examples, with its standard error."""
    count = len(values)
    # The spread of a single example is unknown, which NaN says.
    deviation = jnp.std(values, ddof=1) if count > 1 else jnp.full((), jnp.nan)
    return Estimate(jnp.mean(values), deviation / count**0.5)
