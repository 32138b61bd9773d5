"""The likelihood of pixels that take one of a few levels, such as 256 shades of grey."""

import jax
import jax.numpy as jnp

from vaejax.checks import check_event_shape, check_support
from vaejax.distributions._base import (
    at_least_float32,
    check_parameters,
    distribution,
    draw_shape,
    is_level,
    nan_outside,
    static,
    sum_event,
)
from vaejax.types import Array, ArrayLike, Shape


@distribution
class Categorical:
    """Independent categoricals on the levels 0, ..., L - 1.

    `log p(x) = sum_i log softmax(logits_i)[x_i]`

    Args:
      logits: `[*B, *E, L]`, one more axis than the value, normalised here.
      event_ndims: how many trailing axes of the *value* are one event (the level axis not counted).

    >>> import jax.numpy as jnp
    >>> Categorical(jnp.zeros((8, 784, 256))).log_prob(jnp.zeros((8, 784), jnp.uint8)).shape
    (8,)
    """

    has_rsample = False
    is_discrete = True

    logits: ArrayLike
    event_ndims: int = static(default=1)

    def __post_init__(self) -> None:
        check_parameters("Categorical", self.event_ndims, logits=self.logits)
        if jnp.ndim(self.logits) == 0 or jnp.shape(self.logits)[-1] == 0:
            raise ValueError(f"Categorical: logits need a last axis of levels; got shape {jnp.shape(self.logits)}")

    @property
    def num_levels(self) -> int:
        """L, the number of levels."""
        return jnp.shape(self.logits)[-1]

    @property
    def mean(self) -> Array:
        """The mean level, `[*B, *E]`: it makes sense where levels are ordered, as intensities are."""
        (logits,) = at_least_float32(self.logits)
        return jnp.sum(jax.nn.softmax(logits) * jnp.arange(self.num_levels, dtype=logits.dtype), axis=-1)

    def support(self, value: Array) -> Array:
        """Elementwise: an integer from 0 to L - 1."""
        return is_level(value, self.num_levels)

    def sample(self, key: Array, sample_shape: Shape = ()) -> Array:
        """Draw levels `[*S, *B, *E]` as integers."""
        shape = draw_shape("Categorical", key, sample_shape, jnp.shape(self.logits)[:-1], self.event_ndims)
        (logits,) = at_least_float32(self.logits)
        return jax.random.categorical(key, logits, shape=shape)

    def log_prob(self, value: Array) -> Array:
        """Log-probability in nats, `[*S, *B]`."""
        check_event_shape("Categorical.log_prob: value", value, jnp.shape(self.logits)[:-1], self.event_ndims)
        levels = f"an integer level from 0 to {self.num_levels - 1}"
        check_support("Categorical.log_prob: value", value, self.support, levels)
        (logits,) = at_least_float32(self.logits)
        inside, value = self.support(value), jnp.asarray(value).astype(jnp.int32)
        shape = jnp.broadcast_shapes(value.shape, logits.shape[:-1])
        value = jnp.broadcast_to(value, shape)[..., None]
        logits = jnp.broadcast_to(logits, (*shape, self.num_levels))
        picked = jnp.take_along_axis(logits, value, axis=-1)[..., 0]
        log_prob = picked - jax.nn.logsumexp(logits, axis=-1)
        return sum_event(nan_outside(inside, log_prob), self.event_ndims)
