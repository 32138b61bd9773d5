"""Along the axes of the latent space, and which of them tell something."""

import numbers
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vaejax.checks import check_array, check_count
from vaejax.experiment import Experiment
from vaejax.making.chunks import BATCH_SIZE, Chunk, choose
from vaejax.making.codes import encode, encode_means
from vaejax.making.walks import decode_along
from vaejax.outcome import evaluation_keys, posterior_mean
from vaejax.types import Array, ArrayLike, Params

# Nats of KL, mean over examples, up to which an axis tells nothing of x.
DEAD_KL = 0.01


def traverse(
    experiment: Experiment,
    params: Params,
    *,
    axes: Sequence[int] | None = None,
    start: int | np.ndarray | None = None,
    low: float = -3.0,
    high: float = 3.0,
    num_steps: int = 8,
    batch_size: int = BATCH_SIZE,
) -> Iterator[Chunk]:
    """One latent at a time is moved: chunks of `x` `[B, *E]`, the means of p(x|z), and `z` `[B, *Z]`.

    Rows go axis by axis; `axis` and `value` `[B]` say what a row has there.

    Args:
      experiment: that was trained.
      params: to decode with.
      axes: which; where None those that are not dead, that with most KL first, or all where no KL is known.
      start: what the other latents are: the posterior mean of the test example of that number, or one latent `[*Z]`;
        where None the mean of the prior, or 0 where there is none.
      low: the first value.
      high: the last value.
      num_steps: values of each axis, from `low` to `high`.
      batch_size: rows of a chunk, at most.

    Raises:
      TypeError, ValueError: axes out of range, all of them dead, or a start of another shape.
    """
    check_count("num_steps", num_steps, minimum=2)
    if not (np.isfinite([low, high]).all() and low < high):
        raise ValueError(f"low must be below high, and both finite; got {low} and {high}")
    origin = _origin(experiment, params, start)
    chosen = live_axes(experiment, params) if axes is None else check_axes(axes, origin.size)
    values = np.linspace(low, high, num_steps)

    def read(rows: np.ndarray) -> np.ndarray:
        z = np.tile(origin.ravel(), (len(rows), 1))
        z[np.arange(len(rows)), chosen[rows // num_steps]] = values[rows % num_steps]
        return z.reshape(len(rows), *origin.shape)

    def known(rows: np.ndarray) -> Chunk:
        return {"axis": chosen[rows // num_steps], "value": values[rows % num_steps]}

    return decode_along(experiment, params, read, (len(chosen) * num_steps, *origin.shape), known, batch_size)


def mean_kl_per_axis(experiment: Experiment, params: Params) -> np.ndarray | None:
    """The KL of each latent in nats, mean over the test examples, `[prod(Z)]`; None where it has no closed form."""
    chunks = encode(evaluation_keys().sample, experiment, params, choose(experiment.dataset, "test"), draw=False)
    sums = [(chunk["kl_per_axis"].sum(axis=0), len(chunk["index"])) for chunk in chunks if "kl_per_axis" in chunk]
    return sum(total for total, _ in sums).ravel() / sum(count for _, count in sums) if sums else None


def live_axes(experiment: Experiment, params: Params) -> np.ndarray:
    """The axes that are not dead, that with most KL first; all of them where no KL is known.

    Raises:
      ValueError: all are dead.
    """
    kl = mean_kl_per_axis(experiment, params)
    if kl is None:
        return np.arange(_latent(experiment, params).size)
    dead = dead_axes(kl)
    if len(dead) == kl.size:
        raise ValueError(
            f"all {kl.size} latents are dead: none has a KL above {DEAD_KL} nats, so that x hardly depends on them; "
            "name the axes to see them nevertheless"
        )
    return np.argsort(-kl, kind="stable")[: kl.size - len(dead)]


def dead_axes(kl_per_axis: ArrayLike, threshold: float = DEAD_KL) -> list[int]:
    """The axes whose KL, mean over examples, is at most a threshold in nats: they tell nothing of x.

    >>> dead_axes(np.array([1.3, 0.002, 0.4]))
    [1]
    """
    return np.flatnonzero(~(np.ravel(np.asarray(kl_per_axis)) > threshold)).tolist()


def check_live(axes: Sequence[int], kl_per_axis: ArrayLike, threshold: float = DEAD_KL) -> None:
    """Raise `ValueError` where one of the axes is dead, with those that are not."""
    kl, dead = np.ravel(np.asarray(kl_per_axis)), dead_axes(kl_per_axis, threshold)
    asked = [axis for axis in check_axes(axes, kl.size).tolist() if axis in dead]
    if asked:
        live = [str(axis) for axis in np.argsort(-kl).tolist() if axis not in dead]
        raise ValueError(
            f"latent {asked[0]} is dead: its KL is {kl[asked[0]]:.2g} nats, so that x hardly depends on it; "
            f"live are {', '.join(live) or 'none'}"
        )


def check_axes(axes: Any, size: int) -> np.ndarray:
    """The axes as an array, each one of `size` latents.

    Raises:
      TypeError: no integers.
      ValueError: none, or one out of range.
    """
    picked = np.atleast_1d(np.asarray(axes))
    if not picked.size:
        raise ValueError("axes must name at least one latent; got none")
    if picked.dtype.kind not in "iu" or picked.ndim != 1:
        raise TypeError(f"axes must be integers; got {picked.dtype} of shape {picked.shape}")
    outside = picked[(picked < 0) | (picked >= size)]
    if outside.size:
        raise ValueError(f"axes must be from 0 to {size - 1}, the {size} latents of the model; got {outside[0]}")
    return picked


def _origin(experiment: Experiment, params: Params, start: Any) -> np.ndarray:
    latent = _latent(experiment, params)
    if isinstance(start, numbers.Integral) and not isinstance(start, bool):
        return encode_means(experiment, params, choose(experiment.dataset, "test", [int(start)]))[0]
    if start is None and experiment.prior is None:
        return np.zeros(latent.shape, latent.dtype)
    if start is None:
        prior: Callable[[Params], Any] = experiment.prior  # type: ignore[assignment]
        mean = jax.jit(lambda params: posterior_mean(evaluation_keys().mean, prior(params)))(params)
        return np.asarray(jnp.broadcast_to(mean, latent.shape))
    check_array("start", start)
    origin = np.asarray(start, latent.dtype)
    if origin.shape != latent.shape or not np.isfinite(origin).all():
        raise ValueError(f"start must be one finite latent of shape {latent.shape}; got shape {origin.shape}")
    return origin


def _latent(experiment: Experiment, params: Params) -> jax.ShapeDtypeStruct:
    """Shape and dtype of one latent."""

    def mean_of(params: Params, example: Any) -> Array:
        x = experiment.prepare(evaluation_keys().prepare, example[None])[0]
        return posterior_mean(evaluation_keys().mean, experiment.model.encode(params, x))

    dataset = experiment.dataset
    return jax.eval_shape(mean_of, params, jax.ShapeDtypeStruct(dataset.shape, dataset.dtype))
