"""Two layers of latents as one: the second is drawn given the first."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vaejax.checks import check_callable, check_distribution, check_support, is_array
from vaejax.distributions._base import (
    abstract_draw,
    distribution,
    draw_shape,
    draw_with_density,
    event_ndims_of,
    is_finite,
    static,
)
from vaejax.distributions.interop import has_trait
from vaejax.types import Array, Distribution, Shape


@distribution
class Hierarchical:
    """The distribution of two vectors as one, of which the second is drawn given the first.

    `log p(z) = log p(z_1) + log p(z_2 | z_1)`, `z = [z_1, z_2]`

    A posterior goes upwards, q(z_1|x) q(z_2|z_1), and a prior downwards, p(z_2) p(z_1|z_2). With `reverse` the two
    vectors stand in the other order, so that both are distributions of the same z, and the bounds of one layer of
    latents, importance-weighted ones too, are bounds of two; `second` may be a `Hierarchical` in turn. There is no
    `mean` and no closed divergence: use `kl=vaejax.monte_carlo_kl`.

    Args:
      first: p(z_1), a distribution of vectors `[*B, D_1]`.
      second: z_1 `[*S, *B, D_1]` to p(z_2|z_1), a distribution of vectors `[*S, *B, D_2]`. A function that holds
        parameters is `jax.tree_util.Partial(function, params)`, of which they are leaves: transformations of JAX and
        path gradients see them there.
      reverse: the vector is `[z_2, z_1]`.

    Raises:
      TypeError: a first part that is no distribution, or a second that cannot be called or returns none.
      ValueError: a part whose events are no vectors or are discrete.

    Source: Burda, Grosse and Salakhutdinov 2015, Importance Weighted Autoencoders, section 2, for the use.

    >>> import jax, jax.numpy as jnp
    >>> from vaejax import Normal
    >>> upwards = jax.tree_util.Partial(lambda weights, z: Normal(z @ weights, 0.5), jnp.ones((3, 2)))
    >>> q = Hierarchical(Normal(jnp.zeros((8, 3)), 1.0), upwards)
    >>> q.sample(jax.random.key(0), (4,)).shape
    (4, 8, 5)
    """

    first: Distribution
    second: Callable[[Array], Distribution]
    reverse: bool = static(default=False)

    def __post_init__(self) -> None:
        check_distribution("Hierarchical: first must be", self.first)
        check_callable("Hierarchical: second", self.second)
        first, second = self._kinds()
        check_distribution("Hierarchical: second must return", second)
        for name, part in (("first", first), ("what second returns", second)):
            if event_ndims_of(part) != 1:
                hint = " (numpyro: .to_event(1))" if hasattr(part, "to_event") else ""
                raise ValueError(f"Hierarchical: {name} must have 1 event axis; got {event_ndims_of(part)}{hint}")
            if has_trait(part, "is_discrete"):
                raise ValueError(f"Hierarchical: {name} must be continuous; got {type(part).__name__}")

    @property
    def event_ndims(self) -> int:
        """A vector is one event, as those of its parts are."""
        return 1

    @property
    def has_rsample(self) -> bool:
        """Whether draws are differentiable in the parameters: where those of both parts are."""
        return all(has_trait(part, "has_rsample") for part in self._kinds())

    @property
    def is_normalized(self) -> bool:
        """Whether the density integrates to one: where those of both parts do."""
        return all(has_trait(part, "is_normalized") for part in self._kinds())

    @property
    def is_point(self) -> bool:
        """Whether there is no density: where a part has none."""
        return any(has_trait(part, "is_point") for part in self._kinds())

    @property
    def is_singular(self) -> bool:
        """Whether the density is not one per volume: where that of a part is not."""
        return any(has_trait(part, "is_singular") for part in self._kinds())

    def support(self, value: Array) -> Array:
        """Elementwise: finite."""
        return is_finite(value)

    def sample(self, key: Array, sample_shape: Shape = ()) -> Array:
        """Draw `[*S, *B, D_1 + D_2]`."""
        draw_shape("Hierarchical", key, sample_shape, (), 0)
        first_key, second_key = jax.random.split(key)
        z_1 = self.first.sample(first_key, sample_shape)
        return self._joined(z_1, self.second(z_1).sample(second_key))

    def sample_and_log_prob(self, key: Array, sample_shape: Shape = ()) -> tuple[Array, Array]:
        """A draw `[*S, *B, D_1 + D_2]` and its log-density `[*S, *B]`."""
        draw_shape("Hierarchical", key, sample_shape, (), 0)
        first_key, second_key = jax.random.split(key)
        z_1, log_p_1 = draw_with_density(self.first, first_key, sample_shape)
        log_p_1 = self.first.log_prob(z_1) if log_p_1 is None else log_p_1
        second = self.second(z_1)
        z_2, log_p_2 = draw_with_density(second, second_key)
        log_p_2 = second.log_prob(z_2) if log_p_2 is None else log_p_2
        return self._joined(z_1, z_2), log_p_1 + log_p_2

    def log_prob(self, value: Array) -> Array:
        """Log-density in nats, `[*S, *B]`."""
        check_support("Hierarchical.log_prob: value", value, self.support, "finite")
        z_1, z_2 = self.parts(value)
        return self.first.log_prob(z_1) + self.second(z_1).log_prob(z_2)

    def parts(self, value: Array) -> tuple[Array, Array]:
        """z_1 `[*S, *B, D_1]` and z_2 `[*S, *B, D_2]` of a vector."""
        size = abstract_draw(self.first).shape[-1]
        if self.reverse:
            return value[..., -size:], value[..., :-size]
        return value[..., :size], value[..., size:]

    def _kinds(self) -> tuple[Any, Any]:
        """The first part, and what the second is, without numbers; of a distribution without numbers too."""
        leaves, structure = jax.tree.flatten(self)
        arrays = {place: leaf for place, leaf in enumerate(leaves) if is_array(leaf)}

        def given(arrays: dict[int, Array]) -> Distribution:
            own: Hierarchical = jax.tree.unflatten(
                structure, [arrays.get(place, leaf) for place, leaf in enumerate(leaves)]
            )
            return own.second(own.first.sample(jax.random.key(0)))

        return self.first, jax.eval_shape(given, arrays)

    def _joined(self, z_1: Array, z_2: Array) -> Array:
        if z_1.shape[:-1] != z_2.shape[:-1]:
            raise ValueError(
                f"Hierarchical: second must return a distribution with the batch axes of z_1, shape {z_1.shape}; its "
                f"draws have shape {z_2.shape}"
            )
        return jnp.concatenate([z_2, z_1] if self.reverse else [z_1, z_2], axis=-1)


def markov_chain(
    first: Distribution, *transitions: Callable[[Array], Distribution], reverse: bool = False
) -> Distribution:
    """Any number of layers of latents as one: each is drawn given the one before it.

    `log p(z) = log p(z_1) + sum_l log p(z_l | z_{l-1})`, `z = [z_1, ..., z_L]`

    With `reverse`, `z = [z_L, ..., z_1]`. What goes upwards and what goes downwards between the same layers are then
    distributions of the same z: a posterior `markov_chain(q_1, up_2, ..., up_L)` and a prior
    `markov_chain(p_L, down, ..., down_1, reverse=True)`.

    Args:
      first: p(z_1), a distribution of vectors `[*B, D_1]`.
      *transitions: z_{l-1} `[*S, *B, D_{l-1}]` to p(z_l|z_{l-1}), each as `Hierarchical` takes it.
      reverse: the vector has the layers in the other order.

    Returns:
      A `Hierarchical` in which there are others, or `first` where nothing follows it.

    Raises:
      what `Hierarchical` does.

    >>> import jax, jax.numpy as jnp
    >>> from vaejax import Normal
    >>> step = jax.tree_util.Partial(lambda scale, z: Normal(z[..., :1], scale), jnp.array(0.5))
    >>> markov_chain(Normal(jnp.zeros((8, 3)), 1.0), step, step).sample(jax.random.key(0)).shape
    (8, 5)
    """
    if not transitions:
        return first
    following = _following_reversed if reverse else _following
    return Hierarchical(first, jax.tree_util.Partial(following, transitions), reverse)


def _following(transitions: tuple[Callable[[Array], Distribution], ...], z: Array) -> Distribution:
    return markov_chain(transitions[0](z), *transitions[1:])


def _following_reversed(transitions: tuple[Callable[[Array], Distribution], ...], z: Array) -> Distribution:
    return markov_chain(transitions[0](z), *transitions[1:], reverse=True)
