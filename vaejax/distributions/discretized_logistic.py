"""The likelihood of ordered levels, such as 256 shades of grey: a logistic distribution cut into bins."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from vaejax.checks import check_count, check_event_shape, check_positive, check_support
from vaejax.distributions._base import (
    align_ranks,
    at_least_float32,
    check_parameters,
    distribution,
    draw_shape,
    flatten_event,
    is_level,
    nan_outside,
    parameter_shape,
    static,
)
from vaejax.distributions.bernoulli import softplus
from vaejax.distributions.mixture import Mixture
from vaejax.types import Array, ArrayLike, Shape


@distribution
class DiscretizedLogistic:
    """Independent logistic distributions, rounded to the levels 0, ..., L - 1.

    `p(x) = sigmoid((x + 1/2 - loc) / scale) - sigmoid((x - 1/2 - loc) / scale)`

    The bins of the levels 0 and L - 1 reach to minus and plus infinity, so that the levels' probabilities
    sum to 1. Exact in value and gradient however narrow or wide the scale is and however far in the tail
    the level lies. Data scaled to [0, 1] do not belong here: `loc` and `scale` are in units of levels.

    Args:
      loc: locations in units of levels, `[*B, *E]`.
      scale: scales in units of levels, positive, broadcast against `loc`.
      num_levels: L, at least 2.
      event_ndims: how many trailing axes are one event, whose log-probabilities are summed.

    Source: Kingma et al. 2016, Improved Variational Inference with Inverse Autoregressive Flow;
    Salimans et al. 2017, PixelCNN++, section 2.1.

    >>> import jax.numpy as jnp
    >>> DiscretizedLogistic(jnp.zeros((8, 784)), 10.0).log_prob(jnp.zeros((8, 784), jnp.uint8)).shape
    (8,)
    """

    loc: ArrayLike
    scale: ArrayLike
    num_levels: int = static(default=256)
    event_ndims: int = static(default=1)

    has_rsample = False
    is_discrete = True

    def __post_init__(self) -> None:
        check_parameters("DiscretizedLogistic", self.event_ndims, loc=self.loc, scale=self.scale)
        check_count("DiscretizedLogistic: num_levels", self.num_levels, minimum=2)
        check_positive("DiscretizedLogistic: scale", self.scale)
        align_ranks(self, loc=0, scale=0)

    @property
    def mean(self) -> Array:
        """The mean level, `[*B, *E]`: `sum_k P(x > k)`, exact, in L steps of one element each."""
        return _mean_level(*jnp.broadcast_arrays(*at_least_float32(self.loc, self.scale)), self.num_levels)

    def support(self, value: Array) -> Array:
        """Elementwise: an integer from 0 to L - 1."""
        return is_level(value, self.num_levels)

    def sample(self, key: Array, sample_shape: Shape = ()) -> Array:
        """Draw levels `[*S, *B, *E]` as integers: a logistic draw, rounded and clipped."""
        parameters = parameter_shape(self.loc, self.scale)
        shape = draw_shape("DiscretizedLogistic", key, sample_shape, parameters, self.event_ndims)
        loc, scale = at_least_float32(self.loc, self.scale)
        draws = loc + scale * jax.random.logistic(key, shape, loc.dtype)
        return jnp.clip(jnp.round(draws), 0, self.num_levels - 1).astype(jnp.int32)

    def log_prob(self, value: Array) -> Array:
        """Log-probability in nats, `[*S, *B]`."""
        parameters = parameter_shape(self.loc, self.scale)
        check_event_shape("DiscretizedLogistic.log_prob: value", value, parameters, self.event_ndims)
        levels = f"an integer level from 0 to {self.num_levels - 1}"
        check_support("DiscretizedLogistic.log_prob: value", value, self.support, levels)
        value, loc, scale = flatten_event(self.event_ndims, *at_least_float32(value, self.loc, self.scale))
        centered, bottom, top = value - loc, value == 0, value == self.num_levels - 1
        # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)), in which nothing cancels. At the
        # top sigmoid(a) is 1, at the bottom sigmoid(-b) is, and at both the last factor goes with it.
        below_upper = jnp.where(top, 0.0, -softplus(-(centered + 0.5) / scale))
        above_lower = jnp.where(bottom, 0.0, -softplus((centered - 0.5) / scale))
        width = jnp.where(top | bottom, 0.0, jnp.log(-jnp.expm1(-1.0 / scale)))
        inside = is_level(value, self.num_levels)
        return jnp.sum(nan_outside(inside, below_upper + above_lower + width), axis=-1)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _mean_level(loc: Array, scale: Array, num_levels: int) -> Array:
    """`sum_k sigmoid((loc - k - 1/2) / scale)` over the upper edges of all levels but the last.

    Its derivatives are given as sums of their own, for which, as for the value, memory does not grow with the levels.
    """
    (total,) = _sum_over_edges(lambda edge: [jax.nn.sigmoid((loc - edge) / scale)], loc, 1, num_levels)
    return total


@_mean_level.defjvp
def _mean_level_jvp(num_levels: int, primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> Any:
    loc, scale = primals

    def slopes(edge: Array) -> list[Array]:
        standardized = (loc - edge) / scale
        density = jax.nn.sigmoid(standardized) * jax.nn.sigmoid(-standardized) / scale
        return [density, -density * standardized]

    of_loc, of_scale = _sum_over_edges(slopes, loc, 2, num_levels)
    return _mean_level(loc, scale, num_levels), of_loc * tangents[0] + of_scale * tangents[1]


def _sum_over_edges(terms: Callable[[Array], list[Array]], like: Array, count: int, num_levels: int) -> list[Array]:
    edges = jnp.arange(num_levels - 1, dtype=like.dtype) + 0.5
    add = lambda totals, edge: ([total + term for total, term in zip(totals, terms(edge), strict=True)], None)
    return jax.lax.scan(add, [jnp.zeros_like(like)] * count, edges)[0]


def discretized_logistic_mixture(
    logits: ArrayLike, loc: ArrayLike, scale: ArrayLike, num_levels: int = 256, event_ndims: int = 1
) -> Mixture:
    """A mixture of discretized logistics for each element: several modes and heavy edges per pixel.

    `log p(x) = sum_i log sum_c softmax(logits_i)_c p(x_i; loc_ic, scale_ic)`

    Colour channels are independent given the latents here, unlike in PixelCNN++.

    Args:
      logits: log-weights, `[*B, *E, C]`, normalised here.
      loc: locations in units of levels, `[*B, *E, C]`.
      scale: scales in units of levels, positive, `[*B, *E, C]`.
      num_levels: L, the levels are 0, ..., L - 1.
      event_ndims: how many trailing axes of the *value* are one event (the component axis not counted).

    Source: Salimans et al. 2017, PixelCNN++, section 2.1.

    >>> import jax.numpy as jnp
    >>> logits, loc, scale = jnp.zeros((3, 8, 784, 5))
    >>> discretized_logistic_mixture(logits, loc, scale + 10.0).log_prob(jnp.zeros((8, 784), jnp.uint8)).shape
    (8,)
    """
    return Mixture(logits, DiscretizedLogistic(loc, scale, num_levels, event_ndims=0), event_ndims)
