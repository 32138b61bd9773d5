"""Draws from a posterior, with their log-densities where those come along for nothing."""

from typing import Any

import jax

from vaejax.checks import check_distribution
from vaejax.distributions import Normal, as_native
from vaejax.distributions._base import draw_with_density
from vaejax.distributions.interop import has_trait
from vaejax.types import Array, Distribution, Shape


def draw(key: Array, q: Any, sample_shape: Shape = ()) -> tuple[Array, Array | None]:
    """Draws `[*S, *B, *Z]` that have a gradient to q, and `log q` `[*S, *B]` where q gives both at once.

    Raises:
      TypeError: q is no distribution, or its draws have no gradient to its parameters.
      ValueError: there are no latents.
    """
    check_distribution("encode must return", q)
    if not has_trait(q, "has_rsample"):
        raise TypeError(
            f"encode must return a posterior that can be reparameterized, such as Normal; the draws of "
            f"{type(as_native(q)).__name__} have no gradient to its parameters, so the encoder would not learn"
        )
    z, log_q = draw_with_density(q, key, sample_shape)
    if z.size == 0:
        raise ValueError(f"encode must return a posterior with at least one latent; its draws have shape {z.shape}")
    return z, log_q


def check_density(owner: str, q: Any) -> None:
    """Raise where a posterior has no density, so that neither weights nor divergences are defined."""
    check_distribution("encode must return", q)
    if has_trait(q, "is_point"):
        raise TypeError(
            f"{owner}: the posterior {type(as_native(q)).__name__} is a point and has no density; use autoencode, or "
            f"elbo with vaejax.kl for a Delta"
        )


@jax.tree_util.register_pytree_node_class
class Drawn:
    """A posterior that remembers the log-density of one of its draws.

    A regularizer such as `monte_carlo_kl` asks for `q.log_prob(z)` at the very z that was drawn. A flow
    would have to invert itself for the answer, which it knew when it made z; a Hamiltonian posterior
    knows it at no other point. Where a transformation takes it apart, it forgets, and the posterior answers.
    """

    def __init__(self, q: Distribution, z: Array, log_q: Array):
        self.__wrapped__, self._z, self._log_q = q, z, log_q

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__wrapped__, name)

    def tree_flatten(self) -> tuple[tuple[Any, ...], None]:
        """The posterior, the draw and its log-density."""
        return (self.__wrapped__, self._z, self._log_q), None

    @classmethod
    def tree_unflatten(cls, _: None, children: Any) -> "Drawn":
        """Of `tree_flatten`."""
        return cls(*children)

    def sample(self, key: Array, sample_shape: Shape = ()) -> Array:
        """Draw from the posterior."""
        return self.__wrapped__.sample(key, sample_shape)

    def log_prob(self, value: Array) -> Array:
        """The log-density: the one at hand where `value` is the draw itself, not merely equal to it."""
        return self._log_q if value is self._z else self.__wrapped__.log_prob(value)


def remembering(q: Distribution, z: Array, log_q: Array | None) -> Distribution:
    """The posterior for a penalty on its draw z: one that remembers, where `draw` gave a log-density.

    A Normal goes as it is: its density is cheap, and a penalty may ask whether it is one.
    """
    return q if log_q is None or isinstance(q, Normal) else Drawn(q, z, log_q)


def batch_of(q: Distribution, z: Array) -> Shape:
    """`*B`: the shape of the log-densities of one draw."""
    return jax.eval_shape(lambda: q.log_prob(z)).shape
