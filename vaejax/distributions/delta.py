"""The point mass: what makes a deterministic autoencoder an ordinary member of the family."""

import jax.numpy as jnp

from vaejax.checks import check_event_shape
from vaejax.distributions._base import check_parameters, distribution, draw_shape, static
from vaejax.types import Array, ArrayLike, Shape


@distribution
class Delta:
    """A point mass at `value`: every draw is `value`.

    As a posterior it gives the deterministic autoencoder. Its KL divergence to a density is infinite;
    by convention `kl_divergence(Delta(z), p) = -log p(z)`, the part that depends on z, which makes
    RAE-L2 and the Wasserstein autoencoder ordinary members of the family.

    Args:
      value: `[*B, *E]`.
      event_ndims: how many trailing axes are one event.

    >>> import jax, jax.numpy as jnp
    >>> Delta(jnp.ones((8, 2))).sample(jax.random.key(0), (3,)).shape
    (3, 8, 2)
    """

    is_point = True

    value: ArrayLike
    event_ndims: int = static(default=1)

    def __post_init__(self) -> None:
        check_parameters("Delta", self.event_ndims, value=self.value)

    @property
    def mean(self) -> Array:
        """The mean, `[*B, *E]`."""
        return jnp.asarray(self.value)

    @property
    def variance(self) -> Array:
        """Zero, `[*B, *E]`."""
        return jnp.zeros_like(self.mean)

    def support(self, value: Array) -> Array:
        """Elementwise: equal to the point."""
        return jnp.asarray(value) == self.value

    def sample(self, key: Array, sample_shape: Shape = ()) -> Array:
        """The point itself, `[*S, *B, *E]`."""
        shape = draw_shape("Delta", key, sample_shape, jnp.shape(self.value), self.event_ndims)
        return jnp.broadcast_to(jnp.asarray(self.value), shape)

    def log_prob(self, value: Array) -> Array:
        """0 where the whole event equals the point, minus infinity elsewhere, `[*S, *B]`."""
        check_event_shape("Delta.log_prob: value", value, jnp.shape(self.value), self.event_ndims)
        equal = jnp.all(self.support(value), axis=tuple(range(-self.event_ndims, 0)))
        return jnp.where(equal, 0.0, -jnp.inf)
