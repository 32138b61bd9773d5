"""The Normal distribution with a full covariance."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from vaejax.checks import check_event_shape, check_positive, check_support, is_concrete
from vaejax.distributions._base import (
    LOG_TWO_PI,
    align_ranks,
    at_least_float32,
    broadcast_shapes,
    check_parameters,
    distribution,
    draw_shape,
    is_finite,
)
from vaejax.types import Array, ArrayLike, Shape


@distribution
class MultivariateNormal:
    """A Normal with a full covariance, `N(loc, L L^T)`.

    `log p(x) = -1/2 |L^-1 (x - loc)|^2 - sum_i log L_ii - D/2 log(2 pi)`

    Args:
      loc: means, `[*B, D]`.
      scale_tril: Cholesky factor L of the covariance with a positive diagonal, `[*B, D, D]`; what lies
        above the diagonal is not read.

    >>> import jax.numpy as jnp
    >>> MultivariateNormal(jnp.zeros((8, 2)), jnp.eye(2)).log_prob(jnp.ones((8, 2))).shape
    (8,)
    """

    loc: ArrayLike
    scale_tril: ArrayLike

    def __post_init__(self) -> None:
        check_parameters("MultivariateNormal", 1, loc=self.loc)
        check_parameters("MultivariateNormal", 2, scale_tril=self.scale_tril)
        size, factor = jnp.shape(self.loc)[-1:], jnp.shape(self.scale_tril)[-2:]
        if size * 2 != factor:
            raise ValueError(f"MultivariateNormal: scale_tril must end in {size * 2}; got shape {factor}")
        batches = {"loc": jnp.shape(self.loc)[:-1], "scale_tril": jnp.shape(self.scale_tril)[:-2]}
        broadcast_shapes("MultivariateNormal", **batches)
        if is_concrete(self.scale_tril):
            diagonal = np.asarray(self.scale_tril).diagonal(axis1=-2, axis2=-1)
            check_positive("MultivariateNormal: the diagonal of scale_tril", diagonal)
        align_ranks(self, loc=1, scale_tril=2)

    @property
    def event_ndims(self) -> int:
        """A vector is one event."""
        return 1

    @property
    def batch_shape(self) -> Shape:
        """`*B`, what the batch axes of `loc` and `scale_tril` broadcast to."""
        return jnp.broadcast_shapes(jnp.shape(self.loc)[:-1], jnp.shape(self.scale_tril)[:-2])

    @property
    def mean(self) -> Array:
        """The mean, `[*B, *E]`."""
        return jnp.broadcast_to(jnp.asarray(self.loc), self.batch_shape + jnp.shape(self.loc)[-1:])

    @property
    def log_determinant(self) -> Array:
        """`ln det L`, half the log-determinant of the covariance, `[*B]`."""
        (factor,) = at_least_float32(self.scale_tril)
        return jnp.sum(jnp.log(factor.diagonal(axis1=-2, axis2=-1)), axis=-1)

    def support(self, value: Array) -> Array:
        """Elementwise: finite."""
        return is_finite(value)

    def sample(self, key: Array, sample_shape: Shape = ()) -> Array:
        """Draw `[*S, *B, D]`: `loc + L eps`."""
        shape = draw_shape("MultivariateNormal", key, sample_shape, jnp.shape(self.mean), 1)
        loc, factor = at_least_float32(self.loc, self.scale_tril)
        noise = jax.random.normal(key, shape, loc.dtype)
        return loc + jnp.einsum("...ij,...j->...i", jnp.tril(factor), noise, precision="highest")

    def log_prob(self, value: Array) -> Array:
        """Log-density in nats, `[*S, *B]`."""
        check_event_shape("MultivariateNormal.log_prob: value", value, jnp.shape(self.mean), 1)
        check_support("MultivariateNormal.log_prob: value", value, self.support, "finite")
        value, loc, factor = at_least_float32(value, self.loc, self.scale_tril)
        white = solve_factor(factor, value - loc)
        return jnp.sum(-0.5 * white**2 - 0.5 * LOG_TWO_PI, axis=-1) - self.log_determinant


def solve_factor(factor: Array, vectors: Array) -> Array:
    """`L^-1 v` for a lower factor L `[*B, D, D]` and vectors `[*S, *B, D]`.

    One factor for all vectors is solved against them at once, not copied for each.
    """
    size = vectors.shape[-1]
    if math.prod(factor.shape[:-2]) == 1:
        columns = vectors.reshape(-1, size).T
        solved = jax.scipy.linalg.solve_triangular(factor.reshape(size, size), columns, lower=True)
        return solved.T.reshape(vectors.shape)
    batch = jnp.broadcast_shapes(vectors.shape[:-1], factor.shape[:-2])
    factor = jnp.broadcast_to(factor, (*batch, size, size))
    vectors = jnp.broadcast_to(vectors, (*batch, size))
    return jax.scipy.linalg.solve_triangular(factor, vectors[..., None], lower=True)[..., 0]
