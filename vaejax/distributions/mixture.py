"""Finite mixtures of any distribution, and the mixture of posteriors as a prior."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vaejax.checks import check_array, check_count, check_distribution, check_event_shape, is_array, is_concrete
from vaejax.distributions._base import (
    abstract_draw,
    at_least_float32,
    broadcast_shapes,
    distribution,
    draw_shape,
    event_ndims_of,
    log_sum_exp,
    static,
    sum_event,
)
from vaejax.distributions.interop import trait_of
from vaejax.types import Array, ArrayLike, Distribution, Encode, Shape


@distribution
class Mixture:
    """A finite mixture of C distributions of one family.

    `log p(x) = log sum_c w_c p_c(x)`, `w = softmax(logits)`, by a stable log-sum-exp

    The components are one distribution whose last batch axis counts them: `Normal(loc, scale)` with
    parameters `[*B, C, D]` is C Normals on vectors. Where `event_ndims` is more than theirs there is a
    mixture of its own for each element of the last batch axes, whose log-densities are summed: with
    components `Normal(loc, scale, 0)`, parameters `[*B, H, W, C]` and `event_ndims=2`, one per pixel.

    Args:
      logits: log-weights, `[*B, C]` or fewer axes, broadcast; normalised here.
      components: a distribution over `[*B, C, *E]`; numpyro's work too.
      event_ndims: how many trailing axes of the value are one event; None: as many as the components'.

    Raises:
      TypeError: components that are no distribution or do not say how many event axes they have.
      ValueError: no axis of components, or one that is not as long as that of the logits.

    A draw is not differentiable in the parameters (`has_rsample`), since the choice of the component is not.

    >>> import jax.numpy as jnp
    >>> from vaejax import Normal
    >>> Mixture(jnp.zeros(5), Normal(jnp.zeros((8, 5, 2)), 1.0)).log_prob(jnp.ones((8, 2))).shape
    (8,)
    """

    logits: ArrayLike
    components: Distribution
    event_ndims: int = static(default=None)

    has_rsample = False
    is_normalized = trait_of("components", "is_normalized")
    is_discrete = trait_of("components", "is_discrete")
    is_partial = trait_of("components", "is_partial")
    is_point = trait_of("components", "is_point")
    is_singular = trait_of("components", "is_singular")

    def __post_init__(self) -> None:
        check_array("Mixture: logits", self.logits)
        check_distribution("Mixture: components must be", self.components)
        ndims, shape = event_ndims_of(self.components), abstract_draw(self.components).shape
        if jnp.ndim(self.logits) == 0 or len(shape) <= ndims or jnp.shape(self.logits)[-1] != shape[-ndims - 1]:
            raise ValueError(
                f"Mixture: the last axis of logits and the last batch axis of the components must be equally long; "
                f"got logits of shape {jnp.shape(self.logits)} and components of shape {shape} with {ndims} event axes"
            )
        if self.event_ndims is None:
            object.__setattr__(self, "event_ndims", ndims)
        check_count("Mixture: event_ndims", self.event_ndims, minimum=ndims)
        own = shape[: len(shape) - ndims]
        broadcast_shapes("Mixture", logits=jnp.shape(self.logits)[:-1], components=own[:-1])
        _align(self, own)
        if len(self.batch_shape) < self.event_ndims - ndims:
            raise ValueError(
                f"Mixture: {self.event_ndims} event axes need {self.event_ndims - ndims} batch axes "
                f"in the components and the logits; got batch shape {self.batch_shape}"
            )

    @property
    def batch_shape(self) -> Shape:
        """The batch axes of the mixtures, before `event_ndims` makes any of them event axes."""
        shape = abstract_draw(self.components).shape
        own = shape[: len(shape) - event_ndims_of(self.components) - 1]
        return jnp.broadcast_shapes(jnp.shape(self.logits)[:-1], own)

    @property
    def mean(self) -> Array:
        """The weighted mean of the components' means, `[*B, *E]`."""
        ndims = event_ndims_of(self.components)
        logits, means = at_least_float32(self.logits, self.components.mean)  # type: ignore[attr-defined]
        weights = jax.nn.softmax(logits)
        return jnp.sum(weights.reshape(weights.shape + (1,) * ndims) * means, axis=-ndims - 1)

    def support(self, value: Array) -> Array:
        """Elementwise: in the support of any component."""
        ndims = event_ndims_of(self.components)
        expanded = jnp.expand_dims(value, -ndims - 1)
        inside: Array = self.components.support(expanded)  # type: ignore[attr-defined]
        # numpyro's supports of vectors give one truth value for each vector.
        inside = inside.reshape(inside.shape + (1,) * (expanded.ndim - inside.ndim))
        shape = jnp.broadcast_shapes(inside.shape, expanded.shape)
        return jnp.any(jnp.broadcast_to(inside, shape), axis=-ndims - 1)

    def sample(self, key: Array, sample_shape: Shape = ()) -> Array:
        """Draw `[*S, *B, *E]`: a component by its weight, then its value."""
        batch, ndims = self.batch_shape, event_ndims_of(self.components)
        shape = draw_shape("Mixture", key, sample_shape, batch, self.event_ndims - ndims)
        choice_key, value_key = jax.random.split(key)
        (logits,) = at_least_float32(self.logits)
        choice = jax.random.categorical(choice_key, logits, shape=shape)
        draws = _draw_apart(self.components, value_key, sample_shape, batch)
        picked = jnp.take_along_axis(draws, choice.reshape(shape + (1,) * (ndims + 1)), axis=-ndims - 1)
        return jnp.squeeze(picked, axis=-ndims - 1)

    def log_prob(self, value: Array) -> Array:
        """Log-density in nats, `[*S, *B]`."""
        ndims, shape = event_ndims_of(self.components), abstract_draw(self.components).shape
        whole = self.batch_shape + shape[len(shape) - ndims :]
        check_event_shape("Mixture.log_prob: value", value, whole, self.event_ndims)
        expanded = eagerly(lambda v: jnp.expand_dims(v, -ndims - 1), value)
        logits, densities = at_least_float32(self.logits, self.components.log_prob(expanded))
        joint = jax.nn.log_softmax(logits) + densities
        return sum_event(log_sum_exp(joint), self.event_ndims - ndims)


def vamp_prior(encode: Encode, pseudo_inputs: Array) -> Mixture:
    """The variational mixture of posteriors as a prior.

    `p(z) = 1/C sum_c q(z | u_c)`

    The pseudo-inputs u are parameters like any others and are trained with the encoder. No closed form
    of the divergence to it exists: use `kl=vaejax.monte_carlo_kl`.

    Args:
      encode: the encoder, q over `[C, *Z]` for inputs `[C, *E]`.
      pseudo_inputs: u, `[C, *E]`: C points in the space of the data.

    Returns:
      A `Mixture` of C equally likely components, over `[*Z]`.

    Raises:
      TypeError: an encoder that returns no distribution.
      ValueError: an encoder that does not give one posterior for each pseudo-input.

    Source: Tomczak and Welling 2018, VAE with a VampPrior.

    >>> import jax, jax.numpy as jnp
    >>> from vaejax import Normal
    >>> prior = vamp_prior(lambda x: Normal(x[:, :2], 0.5), jnp.zeros((500, 784)))
    >>> prior.sample(jax.random.key(0), (8,)).shape
    (8, 2)
    """
    check_array("vamp_prior: pseudo_inputs", pseudo_inputs)
    if jnp.ndim(pseudo_inputs) == 0 or len(pseudo_inputs) == 0:
        raise ValueError(f"vamp_prior: pseudo_inputs need a first axis; got shape {jnp.shape(pseudo_inputs)}")
    posterior = encode(pseudo_inputs)
    check_distribution("vamp_prior: encode must return", posterior)
    return Mixture(jnp.zeros(len(pseudo_inputs)), posterior)


def eagerly(function: Callable[..., Array], *arrays: Any) -> Array:
    """`function(*arrays)`, at once where all are concrete, also where a function around is being traced.

    A constant that passes through a jnp function under jit would be traced from there on, and no
    longer be checked against a support.
    """
    if all(is_concrete(array) for array in arrays):
        with jax.ensure_compile_time_eval():
            return function(*arrays)
    return function(*arrays)


def _align(mixture: Mixture, own: Shape) -> None:
    """Give the logits and the components, over `own` = `[*B, C]`, one rank, as `align_ranks` does.

    Components that are not ours, or whose leaves do not all begin with the batch axes, stay as they are.
    """
    ndims = jnp.ndim(mixture.logits)
    if ndims < len(own):
        shape = (1,) * (len(own) - ndims) + jnp.shape(mixture.logits)
        object.__setattr__(mixture, "logits", jnp.reshape(mixture.logits, shape))
    batched = all(
        is_array(leaf)
        and jnp.ndim(leaf) >= len(own)
        and all(a in (1, b) for a, b in zip(jnp.shape(leaf), own, strict=False))
        for leaf in jax.tree.leaves(mixture.components)
    )
    if ndims > len(own) and batched and hasattr(mixture.components, "event_ndims"):
        missing = (1,) * (ndims - len(own))
        widened = jax.tree.map(lambda leaf: jnp.reshape(leaf, missing + jnp.shape(leaf)), mixture.components)
        object.__setattr__(mixture, "components", widened)


def _draw_apart(components: Any, key: Array, sample_shape: Shape, batch: Shape) -> Array:
    """Draw `[*S, *batch, C, *E]`, apart also along batch axes over which the components are broadcast."""
    own, rank, ndims = abstract_draw(components).shape, len(batch), len(sample_shape)
    batch_rank = len(own) - event_ndims_of(components) - 1
    own_batch, rest = (1,) * (rank - batch_rank) + own[:batch_rank], own[batch_rank:]
    # Along each batch axis either the components or, where they have but one, the draws are several.
    repeats = tuple(wanted if there == 1 else 1 for wanted, there in zip(batch, own_batch, strict=True))
    draws = components.sample(key, sample_shape + repeats).reshape(sample_shape + repeats + own_batch + rest)
    pairs = [ndims + axis + half for axis in range(rank) for half in (0, rank)]
    last = range(ndims + 2 * rank, draws.ndim)
    return draws.transpose(*range(ndims), *pairs, *last).reshape(sample_shape + batch + rest)
