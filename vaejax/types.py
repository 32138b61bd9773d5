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

# An objective that recipes make: (key, x, encode, decode, ...) to terms whose value is maximised.
Objective = Callable[..., Any]

# jax.vmap, or anything that maps a function of one sample over a leading axis as jax.vmap does.
MapSamples = Callable[[Callable[..., Any]], Callable[..., Any]]


class Distribution(Protocol):
    """What encoders, decoders and priors return: numpyro's calling convention.

    Optional, used where present: `sample_and_log_prob(key, sample_shape)` (a draw and its log-density,
    where the two together cost less than one after the other, as in a flow), `kl_divergence(other)`
    `[*B]`, `support(value)` (an elementwise truth value), `mean`, `variance`, `event_ndims`, and these truth values:
    `has_rsample` (draws have a gradient to the parameters) and `is_normalized`, both assumed where absent;
    `is_discrete`; `is_partial` (the density is that of some elements of the value only); `is_point` (its mass is at
    points, so there is no density); and `is_singular` (its mass is on a surface, such as a sphere, so its density is
    not one per volume). A class of your own that passes through `jax.jit` or another transformation must be a pytree
    (`jax.tree_util.register_dataclass`), as ours are.
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


class Bound(NamedTuple):
    """How K log-weights become one number, and what the path gradient of that number is.

    `path_scale` holds what multiplies the gradient that reaches z_k, where the gradient of log q(z|x)
    to q's own parameters is left out: with `c_k = d bound / d log w_k`, it is the function for which
    `E[sum_k c_k path_scale_k (d log w_k / d z_k) (d z_k / d phi)]` is the whole gradient to phi.
    """

    reduce: Callable[[Array], Array]  # log-weights [K, *B] -> [*B]
    path_scale: Callable[[Array], Array] | None = None  # log-weights [K, *B] -> [K, *B]; None: not known


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


class ImportanceTerms(NamedTuple):
    """The parts of a bound made of K log-weights, one number per example, in nats."""

    value: Array  # [*B] the bound's reduction of log_weights, higher is better
    log_likelihood: Array  # [*B] 1/K sum_k log p(x|z_k)
    kl: Array  # [*B] 1/K sum_k log q(z_k|x) - log p(z_k), an estimate of the divergence
    posterior: Distribution  # q(z|x)
    latents: Array  # [K, *B, *Z]
    log_weights: Array  # [K, *B] log p(x|z_k) + log p(z_k) - log q(z_k|x)


class LadderTerms(NamedTuple):
    """The parts of the bound of a hierarchy of L latents, in nats; the top layer comes first."""

    value: Array  # [*B] log_likelihood - sum_l beta_l max(kl_per_layer_l, free_bits_l), higher is better
    log_likelihood: Array  # [*B] 1/K sum_k log p(x|z_k)
    kl: Array  # [*B] the sum of kl_per_layer, without beta or free bits
    posterior: tuple[Distribution, ...]  # L of them; those below the top belong to the draws above them
    latents: tuple[Array, ...]  # L of [K, *B, *Z_l], or [*B, *Z_l] where num_samples is None
    kl_per_layer: Array  # [L, *B]


class MarginalTerms(NamedTuple):
    """The parts of a bound on `log p(x)` or `log p(x, y)`, one number per example, in nats."""

    value: Array  # [*B] bound + weight * log q(y|x) where the label is known, higher is better
    bound: Array  # [*B] on log p(x, y) where the label is known, on log p(x) elsewhere
    log_label: Array  # [*B] log q(y|x) where the label is known, 0 elsewhere
