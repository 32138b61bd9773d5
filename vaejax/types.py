"""Protocols that users' functions and objects satisfy, and the records that objectives return.

Nothing here is a base class. An object is a `Distribution` because it can `sample` and give a
`log_prob`, whoever wrote it; numpyro's objects are distributions in this sense as they are.

Shapes are written with three groups of axes: `*S` sample axes, `*B` batch axes and `*E` event axes.
Event axes belong to the distribution: `log_prob` has summed them, and one number per example is left.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax

Array = jax.Array
ArrayLike = jax.typing.ArrayLike
Shape = tuple[int, ...]

# The parameters of a net: a pytree of arrays. Ours are nested dicts.
Params = Any

# jax.vmap, or anything that maps a function of one sample over a leading axis as jax.vmap does.
MapSamples = Callable[[Callable[..., Any]], Callable[..., Any]]


class Distribution(Protocol):
    """What encoders, decoders and priors return: numpyro's calling convention.

    Optional, used where present: `kl_divergence(other)` `[*B]`, `support(value)` (an elementwise
    truth value), `mean` and `event_ndims`. A class of your own that passes through `jax.jit` or
    another transformation must be a pytree (`jax.tree_util.register_dataclass`), as ours are.
    """

    def sample(self, key: Array, sample_shape: Shape = ()) -> Array:
        """Draw `[*S, *B, *E]` with a typed key."""

    def log_prob(self, value: Array) -> Array:
        """Log-density in nats, `[*S, *B]`: the event axes are summed."""


class Encode(Protocol):
    """x `[*B, *E]` to the approximate posterior q(z|x) over `[*B, *Z]`."""

    def __call__(self, x: Any, /) -> Distribution:
        """Encode."""


class Decode(Protocol):
    """z `[*B, *Z]` to the likelihood p(x|z) over `[*B, *E]`."""

    def __call__(self, z: Array, /) -> Distribution:
        """Decode."""


class Regularizer(Protocol):
    """A penalty on the posterior, lower is better: `[*B]` in nats, or `[]` where it couples the batch."""

    def __call__(self, key: Array, q: Distribution, z: Array, /) -> Array:
        """Penalise the posterior q, of which z `[*B, *Z]` is one draw."""


class AutoencodeTerms(NamedTuple):
    """The parts of a penalised reconstruction, one number per example, in nats."""

    value: Array  # [*B] log_likelihood - penalty, higher is better
    log_likelihood: Array  # [*B] 1/K sum_k log p(x|z_k)
    penalty: Array  # [*B] or [], lower is better
    posterior: Distribution  # q(z|x)
    latents: Array  # [K, *B, *Z], or [*B, *Z] where num_samples is None


class ElboTerms(NamedTuple):
    """The parts of the evidence lower bound, one number per example, in nats."""

    value: Array  # [*B] log_likelihood - beta * kl, higher is better
    log_likelihood: Array  # [*B] 1/K sum_k log p(x|z_k), the reconstruction term
    kl: Array  # [*B] KL(q(z|x) || p(z)), never multiplied by beta
    posterior: Distribution  # q(z|x)
    latents: Array  # [K, *B, *Z], or [*B, *Z] where num_samples is None
