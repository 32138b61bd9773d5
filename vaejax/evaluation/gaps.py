"""What separates the evidence lower bound from `log p(x)`: the family of posteriors, and the encoder."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vaejax.checks import check_array, check_callable, check_count, check_distribution, check_key
from vaejax.distributions import Normal, as_native, standard_normal
from vaejax.evaluation.likelihood import importance_log_likelihood
from vaejax.objectives.autoencode import check_data
from vaejax.objectives.bounds import elbo_bound
from vaejax.objectives.importance import importance_bound
from vaejax.types import Array, Decode, Distribution, Encode

# By how much a fitted posterior is widened to propose importance samples.
WIDER = 1.5


class Gaps(NamedTuple):
    """`log p(x) - ELBO` in two parts, one number per example, in nats."""

    elbo: Array  # [*B] with the encoder's posterior
    best_elbo: Array  # [*B] with the best Normal for this example that was found
    log_likelihood: Array  # [*B] as it was given or estimated
    approximation: Array  # [*B] log_likelihood - best_elbo: what the best Normal cannot do
    amortization: Array  # [*B] best_elbo - elbo: what the encoder loses to the best Normal


def inference_gaps(
    key: Array,
    x: Any,
    encode: Encode,
    decode: Decode,
    prior: Distribution = standard_normal,
    *,
    optimizer: Any,
    log_likelihood: Array | None = None,
    num_steps: int = 500,
    num_samples: int = 10,
    num_evaluation_samples: int = 1000,
    chunk_size: int = 100,
) -> Gaps:
    """Split `log p(x) - ELBO` into an approximation and an amortization gap, per example, in nats.

    `log p(x) - ELBO(q) = [log p(x) - max_q* ELBO(q*)] + [max_q* ELBO(q*) - ELBO(q)]`, q* a Normal with independent axes

    The location and the log-scale of q* are optimised for each example, from those of the encoder on. Both ELBOs are
    then evaluated with one and the same noise, which the optimisation has not seen, so that `best_elbo` is not raised
    by it. An amortization gap may still come out below zero by its noise, or where the optimisation was too short.

    Args:
      key: one typed PRNG key.
      x: data, `[*B, *E]`.
      encode: x to q(z|x), a `Normal`.
      decode: z `[*B, *Z]` to p(x|z); it never sees the sample axis.
      prior: p(z), any distribution over `[*Z]`.
      optimizer: an optax gradient transformation; one whose steps become small, such as
        `optax.adam(optax.cosine_decay_schedule(0.05, num_steps))`, ends closest to the best. One that looks at the
        whole gradient (clipping by its norm) lets the examples of a batch see each other.
      log_likelihood: `log p(x)` `[*B]`, such as that of `annealed_log_likelihood`; where it is too low, so is the
        approximation gap. Where None it is estimated here by importance sampling from q* with 1.5 times its scale,
        whose tails cover those of the posterior better than an encoder's mostly do.
      num_steps: its steps.
      num_samples: draws for each step.
      num_evaluation_samples: draws for each of the two ELBOs, and for the estimate.
      chunk_size: how many of the latter to compute at once.

    Raises:
      TypeError: a posterior other than a Normal, an optimizer without `init` and `update`.
      ValueError: a number below 1, log-likelihoods that are not one per example.

    Source: Cremer, Li and Duvenaud 2018, Inference Suboptimality in Variational Autoencoders, section 3.

    >>> import jax, jax.numpy as jnp, optax, vaejax
    >>> x, encode, decode = jnp.ones((4, 2)), lambda x: vaejax.Normal(x, 1.0), lambda z: vaejax.Normal(z, 1.0)
    >>> exact = vaejax.Normal(jnp.zeros(2), 2**0.5).log_prob(x)
    >>> gaps = inference_gaps(jax.random.key(0), x, encode, decode, log_likelihood=exact, optimizer=optax.adam(0.02))
    >>> bool(jnp.all(gaps.approximation < 0.01)), bool(jnp.all(gaps.amortization > 0.1))
    (True, True)
    """
    check_key(key)
    check_data(x)
    for name, function in [("encode", encode), ("decode", decode)]:
        check_callable(name, function)
    check_distribution("prior must be", prior)
    _check_optimizer(optimizer)
    check_count("num_steps", num_steps)
    fit_key, evaluation_key, wide_key = jax.random.split(key, 3)
    q = _normal(encode(x))
    best = _fit(fit_key, x, q, decode, prior, optimizer, num_steps, num_samples)

    def evaluate(q: Normal) -> Array:
        return importance_log_likelihood(
            evaluation_key, x, lambda x: q, decode, prior, num_samples=num_evaluation_samples, chunk_size=chunk_size
        ).elbo

    elbo, best_elbo = evaluate(q), evaluate(best)
    if log_likelihood is None:
        wide = Normal(best.loc, WIDER * best.scale, best.event_ndims)
        log_likelihood = importance_log_likelihood(
            wide_key, x, lambda x: wide, decode, prior, num_samples=num_evaluation_samples, chunk_size=chunk_size
        ).value
    check_array("log_likelihood", log_likelihood)
    if jnp.shape(log_likelihood) != elbo.shape:
        raise ValueError(
            f"log_likelihood must have shape {elbo.shape}, one number per example; got {jnp.shape(log_likelihood)}"
        )
    log_likelihood = jnp.asarray(log_likelihood)
    return Gaps(elbo, best_elbo, log_likelihood, log_likelihood - best_elbo, best_elbo - elbo)


def _fit(
    key: Array,
    x: Any,
    q: Normal,
    decode: Decode,
    prior: Distribution,
    optimizer: Any,
    num_steps: int,
    num_samples: int,
) -> Normal:
    """The Normal that maximises each example's ELBO, from q on."""

    def normal(parameters: tuple[Array, Array]) -> Normal:
        return Normal.from_log_scale(*parameters, q.event_ndims, bound=None)

    def loss(parameters: tuple[Array, Array], key: Array) -> Array:
        # The path gradient has no noise left at the true posterior.
        encode = lambda x: normal(parameters)
        terms = importance_bound(
            key, x, encode, decode, prior, num_samples=num_samples, bound=elbo_bound(), path_gradient=True
        )
        # The sum, and no mean: an example's steps do not depend on how many others there are.
        return -jnp.sum(terms.value)

    def step(state: tuple[Any, Any], index: Array) -> tuple[tuple[Any, Any], None]:
        parameters, memory = state
        gradient = jax.grad(loss)(parameters, jax.random.fold_in(key, index))
        updates, memory = optimizer.update(gradient, memory, parameters)
        moved = jax.tree.map(lambda old, update: (old + update).astype(old.dtype), parameters, updates)
        return (moved, memory), None

    loc = jnp.asarray(q.mean, jnp.result_type(q.variance))
    parameters = loc, jnp.broadcast_to(jnp.log(jnp.asarray(q.scale, loc.dtype)), loc.shape)
    (parameters, _), _ = jax.lax.scan(step, (parameters, optimizer.init(parameters)), jnp.arange(num_steps))
    return normal(parameters)


def _normal(q: Any) -> Normal:
    """The encoder's posterior as a Normal of ours, numpyro's included."""
    check_distribution("encode must return", q)
    native = as_native(q)
    if not isinstance(native, Normal):
        raise TypeError(
            f"inference_gaps: encode must return a Normal, the family whose best member is looked for; got "
            f"{type(native).__name__}"
        )
    return native


def _check_optimizer(optimizer: Any) -> None:
    if not (callable(getattr(optimizer, "init", None)) and callable(getattr(optimizer, "update", None))):
        raise TypeError(
            f"optimizer must be an optax gradient transformation such as optax.adam(1e-2); got "
            f"{type(optimizer).__name__}"
        )
