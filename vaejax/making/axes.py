"""Along the axes of the latent space, and which of them tell something."""

import numbers
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from vaejax.checks import check_array, check_count
from vaejax.experiment import Experiment
from vaejax.making.chunks import BATCH_SIZE, Chunk, choose
from vaejax.making.codes import encode
from vaejax.making.walks import decode_along
from vaejax.outcome import evaluation_keys
from vaejax.types import ArrayLike, Params

# Nats of KL, mean over examples, up to which an axis tells nothing of x.
DEAD_KL = 0.01
# A latent is moved between these percentiles of its codes, TAIL and 100 - TAIL.
TAIL = 1.0


class Codes(NamedTuple):
    """What the axes of a latent space hold of the test examples."""

    means: np.ndarray  # [N, *Z] of the posteriors
    kl: np.ndarray | None  # [prod(Z)] nats, mean over the examples; None where it has no closed form


def read_codes(experiment: Experiment, params: Params) -> Codes:
    """The codes of all test examples, which are encoded once."""
    chunks = encode(evaluation_keys().sample, experiment, params, choose(experiment.dataset, "test"), draw=False)
    means, sums = [], []
    for chunk in chunks:
        means.append(chunk["mean"])
        sums += [chunk["kl_per_axis"].sum(axis=0)] if "kl_per_axis" in chunk else []
    together = np.concatenate(means)
    return Codes(together, np.sum(sums, axis=0).ravel() / len(together) if sums else None)


def traverse(
    experiment: Experiment,
    params: Params,
    *,
    axes: Sequence[int] | None = None,
    start: int | np.ndarray | None = None,
    low: float | None = None,
    high: float | None = None,
    num_steps: int = 8,
    batch_size: int = BATCH_SIZE,
    codes: Codes | None = None,
) -> Iterator[Chunk]:
    """One latent at a time is moved: chunks of `x` `[B, *E]`, the means of p(x|z), and `z` `[B, *Z]`.

    Rows go axis by axis; `axis` and `value` `[B]` say what a row has there.

    Args:
      experiment: that was trained.
      params: to decode with.
      axes: which; where None those that are not dead, that with most KL first, or all where no KL is known.
      start: what the other latents are: the posterior mean of the test example of that number, or one latent `[*Z]`;
        where None the median of the test codes, axis by axis.
      low: the first value; where None the 1st percentile of the test codes, that of each axis.
      high: the last value; where None the 99th percentile.
      num_steps: values of each axis, evenly from the first to the last.
      batch_size: rows of a chunk, at most.
      codes: of the test examples, where `read_codes` has read them already.

    Raises:
      TypeError, ValueError: axes out of range, all of them dead, or a start of another shape.
    """
    check_count("num_steps", num_steps, minimum=2)
    check_range(low, high)
    codes = read_codes(experiment, params) if codes is None else codes
    shape, flat = codes.means.shape[1:], codes.means.reshape(len(codes.means), -1)
    chosen = live_axes(codes) if axes is None else check_axes(axes, flat.shape[1])
    values = _values(flat[:, chosen], low, high, num_steps)
    origin = _origin(codes.means, start)

    def read(rows: np.ndarray) -> np.ndarray:
        z = np.tile(origin.ravel(), (len(rows), 1))
        z[np.arange(len(rows)), chosen[rows // num_steps]] = values.flat[rows]
        return z.reshape(len(rows), *shape)

    def known(rows: np.ndarray) -> Chunk:
        return {"axis": chosen[rows // num_steps], "value": values.flat[rows]}

    return decode_along(experiment, params, read, (len(chosen) * num_steps, *shape), known, batch_size)


def check_range(low: float | None, high: float | None) -> None:
    """Raise `ValueError` where a latent cannot be moved from low to high, as far as they are known."""
    known = [each for each in (low, high) if each is not None]
    if not np.isfinite(known).all() or (len(known) == 2 and known[0] >= known[1]):
        raise ValueError(f"low must be below high, and both finite; got {low} and {high}")


def _values(codes: np.ndarray, low: float | None, high: float | None, num_steps: int) -> np.ndarray:
    """What each axis is moved over, `[axes, num_steps]`; of codes `[N, axes]`."""
    below, above = np.percentile(codes.astype(np.float64), [TAIL, 100 - TAIL], axis=0)
    first, last = (edge if each is None else np.full_like(edge, each) for edge, each in ((below, low), (above, high)))
    if (first > last).any():
        raise ValueError(
            f"low must be below high: the codes go from {below.min():.3g} to {above.max():.3g}; got {low} and {high}"
        )
    return np.linspace(first, last, num_steps, axis=1)


def live_axes(codes: Codes) -> np.ndarray:
    """The axes that are not dead, that with most KL first; all of them where no KL is known.

    Raises:
      ValueError: all are dead.
    """
    if codes.kl is None:
        return np.arange(codes.means[0].size)
    kl, dead = codes.kl, dead_axes(codes.kl)
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


def _origin(means: np.ndarray, start: Any) -> np.ndarray:
    """What the latents are that are not moved, `[*Z]`."""
    if start is None:
        return np.asarray(np.median(means, axis=0))
    if isinstance(start, numbers.Integral) and not isinstance(start, bool):
        number = int(start)
        if not 0 <= number < len(means):
            raise ValueError(f"start must be from 0 to {len(means) - 1}, the test examples; got {start}")
        return np.asarray(means[number])
    check_array("start", start)
    origin = np.asarray(start, means.dtype)
    if origin.shape != means.shape[1:] or not np.isfinite(origin).all():
        raise ValueError(f"start must be one finite latent of shape {means.shape[1:]}; got shape {origin.shape}")
    return origin
