"""Examples as codes, and what becomes of them."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vaejax.checks import check_distribution, check_key
from vaejax.experiment import Experiment
from vaejax.making.chunks import BATCH_SIZE, Chosen, Chunk, in_chunks, with_known
from vaejax.outcome import Keys, divergence_per_axis, posterior_mean, prepare_example, variance_of
from vaejax.types import Array, Params


def reconstruct(
    key: Array, experiment: Experiment, params: Params, chosen: Chosen, *, draw: bool, batch_size: int = BATCH_SIZE
) -> Iterator[Chunk]:
    """Examples and what becomes of them: chunks of `index` `[B]`, `x` and `reconstruction` `[B, *E]`, as prepared.

    Args:
      key: one typed PRNG key; that of an example is `fold_in(key, its number)`.
      experiment: that was trained.
      params: to encode and decode with.
      chosen: of which examples.
      draw: whether the latent is a draw from q(z|x) or its mean; the reconstruction is the mean of p(x|z) there.
      batch_size: rows of a chunk, at most.
    """
    check_key(key)

    def row(params: Params, number: Array, example: Array) -> dict[str, Array]:
        x, q = posterior_of(experiment, params, chosen.keys, number, example)
        z = q.sample(jax.random.fold_in(key, number)) if draw else mean_of_posterior(chosen, q)
        return {"x": x, "reconstruction": experiment.model.decode(params, z).mean}  # type: ignore[attr-defined]

    return with_known(in_chunks(row, params, chosen.numbers, batch_size, chosen.examples), chosen.numbers, {})


def encode(
    key: Array, experiment: Experiment, params: Params, chosen: Chosen, *, draw: bool, batch_size: int = BATCH_SIZE
) -> Iterator[Chunk]:
    """Examples as codes: chunks of `index` `[B]`, the `mean` of q(z|x) `[B, *Z]` and what else there is of each.

    That is `variance` and `kl_per_axis` in nats `[B, *Z]` where they have a closed form, a `draw` from q(z|x) where it
    is asked for, and `label` `[B]` and `factors` `[B, F]` where the data set has them.

    Args:
      key: one typed PRNG key; that of an example is `fold_in(key, its number)`.
      experiment: that was trained.
      params: to encode with.
      chosen: which examples.
      draw: whether a draw from q(z|x) comes with its mean.
      batch_size: rows of a chunk, at most.
    """
    check_key(key)

    def row(params: Params, number: Array, example: Array) -> dict[str, Array]:
        _, q = posterior_of(experiment, params, chosen.keys, number, example)
        drawn = {"draw": q.sample(jax.random.fold_in(key, number))} if draw else {}
        mean = mean_of_posterior(chosen, q)
        return {"mean": mean, **_closed_forms(experiment, params, q, mean), **drawn}

    chunks = in_chunks(row, params, chosen.numbers, batch_size, chosen.examples)
    return with_known(chunks, chosen.numbers, chosen.known)


def encode_means(experiment: Experiment, params: Params, chosen: Chosen, *, batch_size: int = BATCH_SIZE) -> np.ndarray:
    """The posterior means of examples, `[N, *Z]`."""

    def row(params: Params, number: Array, example: Array) -> dict[str, Array]:
        _, q = posterior_of(experiment, params, chosen.keys, number, example)
        return {"mean": mean_of_posterior(chosen, q)}

    chunks = in_chunks(row, params, chosen.numbers, batch_size, chosen.examples)
    return np.concatenate([chunk["mean"] for chunk in chunks])


def posterior_of(
    experiment: Experiment, params: Params, keys: Keys, number: Array, example: Array
) -> tuple[Array, Any]:
    """x of one example as it is stored, and q(z|x)."""
    x = prepare_example(experiment, keys, number, example)
    q = experiment.model.encode(params, x)
    check_distribution("encode must return", q)
    return x, q


def mean_of_posterior(chosen: Chosen, q: Any) -> Array:
    """`E_q z`; where it has no closed form, by the same draws for all examples, as `outcome.measure` has it."""
    return posterior_mean(jax.random.clone(chosen.keys.mean), q)


def _closed_forms(experiment: Experiment, params: Params, q: Any, mean: Array) -> dict[str, Array]:
    """What has a closed form of a posterior, each of the shape of its mean."""
    known = {"variance": variance_of(q), "kl_per_axis": divergence_per_axis(experiment, params, q)}
    return {name: jnp.broadcast_to(each, mean.shape) for name, each in known.items() if each is not None}
