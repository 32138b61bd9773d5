"""From one example to another through the latent space."""

from collections.abc import Callable, Iterator

import numpy as np

from vaejax.checks import check_count
from vaejax.data import Lazy
from vaejax.experiment import Experiment
from vaejax.making.chunks import BATCH_SIZE, Chunk, choose, in_chunks
from vaejax.making.codes import encode_means
from vaejax.types import Array, ArrayLike, Params, Shape


def interpolate(
    experiment: Experiment,
    params: Params,
    pairs: ArrayLike,
    num_steps: int,
    *,
    split: str = "test",
    spherical: bool = False,
    batch_size: int = BATCH_SIZE,
) -> Iterator[Chunk]:
    """From one example to another: chunks of `x` `[B, *E]`, the means of p(x|z) at `z` `[B, *Z]` between their means.

    Rows go pair by pair; `pair` and `position`, from 0 to 1, `[B]`, say where a row is. The ends are the
    reconstructions of the two.

    Args:
      experiment: that was trained.
      params: to encode and decode with.
      pairs: numbers of examples, `[P, 2]`.
      num_steps: rows of each pair, both ends among them.
      split: of the examples.
      spherical: along the great circle between the directions, the norm going evenly from one to the other, in place
        of a straight line, which passes nearer to 0 than draws from a Normal of many axes ever come.
      batch_size: rows of a chunk, at most.

    Source: White 2016, Sampling Generative Networks, section 2.1, for the great circle.
    """
    check_count("num_steps", num_steps, minimum=2)
    ends = np.asarray(pairs)
    if ends.ndim != 2 or ends.shape[1] != 2:
        raise ValueError(f"pairs must be of shape [P, 2], two numbers of examples each; got shape {ends.shape}")
    means = encode_means(experiment, params, choose(experiment.dataset, split, ends.ravel()))
    first, last = means[::2], means[1::2]
    between = great_circle if spherical else straight_line

    def read(rows: np.ndarray) -> np.ndarray:
        pair, step = np.divmod(rows, num_steps)
        return between(first[pair], last[pair], step / (num_steps - 1))

    def known(rows: np.ndarray) -> Chunk:
        pair, step = np.divmod(rows, num_steps)
        return {"pair": pair, "position": step / (num_steps - 1)}

    return decode_along(experiment, params, read, (len(ends) * num_steps, *means.shape[1:]), known, batch_size)


def straight_line(first: np.ndarray, last: np.ndarray, position: np.ndarray) -> np.ndarray:
    """From `first` to `last`, `[N, *Z]`, at positions from 0 to 1, `[N]`.

    >>> straight_line(np.zeros((1, 2)), np.array([[2.0, 4.0]]), np.array([0.5])).tolist()
    [[1.0, 2.0]]
    """
    t = position.reshape(-1, *[1] * (first.ndim - 1))
    return (1 - t) * first + t * last


def great_circle(first: np.ndarray, last: np.ndarray, position: np.ndarray) -> np.ndarray:
    """From `first` to `last`, `[N, *Z]`, on a great circle, the norm going evenly from one to the other.

    `direction(t) = (sin((1 - t) a) u + sin(t a) v) / sin a`, for the directions u and v with the angle a. Where there
    is no such circle, since they are the same, opposite or 0, it is the straight line.

    >>> great_circle(np.array([[1.0, 0.0]]), np.array([[0.0, 3.0]]), np.array([0.5])).round(3).tolist()
    [[1.414, 1.414]]
    """
    flat = [np.asarray(each, np.float64).reshape(len(each), -1) for each in (first, last)]
    t = position[:, None]
    norms = [np.linalg.norm(each, axis=1, keepdims=True) for each in flat]
    u, v = (each / np.where(norm > 0, norm, 1.0) for each, norm in zip(flat, norms, strict=True))
    # Precise for small angles too, as the arc cosine is not.
    angle = 2 * np.arctan2(np.linalg.norm(u - v, axis=1, keepdims=True), np.linalg.norm(u + v, axis=1, keepdims=True))
    sine = np.sin(angle)
    is_circle = (sine > 1e-6) & (norms[0] > 0) & (norms[1] > 0) & (t > 0) & (t < 1)
    direction = (np.sin((1 - t) * angle) * u + np.sin(t * angle) * v) / np.where(is_circle, sine, 1.0)
    curve = ((1 - t) * norms[0] + t * norms[1]) * direction
    return np.where(is_circle, curve, straight_line(flat[0], flat[1], position)).reshape(first.shape)


def decode_along(
    experiment: Experiment,
    params: Params,
    read: Callable[[np.ndarray], np.ndarray],
    shape: Shape,
    known: Callable[[np.ndarray], Chunk],
    batch_size: int,
) -> Iterator[Chunk]:
    """The means of p(x|z) at latents that are computed when they are asked for, with what is known of the rows."""
    latents = Lazy(read, shape, np.dtype(np.float32), "")

    def row(params: Params, number: Array, z: Array) -> dict[str, Array]:
        del number
        return {"x": experiment.model.decode(params, z).mean, "z": z}  # type: ignore[attr-defined]

    chunks = in_chunks(row, params, range(shape[0]), batch_size, latents)
    return _with_rows(chunks, known)


def _with_rows(chunks: Iterator[Chunk], known: Callable[[np.ndarray], Chunk]) -> Iterator[Chunk]:
    start = 0
    for chunk in chunks:
        rows = np.arange(start, start + len(chunk["z"]))
        start += len(rows)
        yield {**known(rows), **chunk}
