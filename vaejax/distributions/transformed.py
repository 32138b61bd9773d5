"""The distribution of a transformed draw: a normalizing flow as posterior or prior."""

import jax

from vaejax.checks import check_distribution, check_support
from vaejax.distributions._base import abstract_draw, distribution, draw_shape, event_ndims_of, is_finite
from vaejax.distributions.bijectors import Bijector, check_bijector, with_batch_ndims
from vaejax.distributions.interop import has_trait, trait_of
from vaejax.types import Array, Distribution, Shape


@distribution
class Transformed:
    """The distribution of `y = f(z)`, where z is drawn from `base` and f is a bijector.

    `log q(y) = log p(z) - log |det df/dz|`, `z = f^-1(y)`

    There is no `mean`, since it has no closed form. As a posterior it has no closed divergence either:
    `monte_carlo_kl` estimates it. `sample_and_log_prob` never inverts f, which matters where the inverse
    is sequential (`inverse_autoregressive_flow`) or iterative (`Planar`).

    Args:
      base: a distribution of vectors `[*B, D]`, ours or numpyro's, such as `Normal(loc, scale)` or
        `standard_normal.expand((D,))`. It has the whole batch: the bijector may not add axes to it.
      bijector: f, an object with `forward` and `inverse` (see `Bijector`); it works on any `[*S, *B, D]`.

    Raises:
      TypeError: a base that is no distribution, or a bijector that is none.
      ValueError: a base whose events are not vectors, are discrete or lie on a surface (a sphere, a simplex), or one
        of another shape than the bijector's.

    Source: Rezende and Mohamed 2015, Variational Inference with Normalizing Flows, section 3.

    >>> import jax, jax.numpy as jnp
    >>> from vaejax.distributions.bijectors import ElementwiseAffine
    >>> from vaejax.distributions.normal import standard_normal
    >>> q = Transformed(standard_normal.expand((2,)), ElementwiseAffine(jnp.ones(2), jnp.zeros(2)))
    >>> q.sample(jax.random.key(0), (8,)).shape
    (8, 2)
    """

    has_rsample = trait_of("base", "has_rsample")
    is_normalized = trait_of("base", "is_normalized")
    is_point = trait_of("base", "is_point")

    base: Distribution
    bijector: Bijector

    def __post_init__(self) -> None:
        check_distribution("Transformed: base must be", self.base)
        check_bijector("Transformed: bijector must be", self.bijector)
        if event_ndims_of(self.base) != 1:
            hint = " (numpyro: .to_event(1))" if hasattr(self.base, "to_event") else ""
            raise ValueError(f"Transformed: base must have 1 event axis; got {event_ndims_of(self.base)}{hint}")
        for trait, why in (("is_discrete", "is discrete"), ("is_singular", "has no density per volume to transform")):
            if has_trait(self.base, trait):
                name = type(self.base).__name__
                raise ValueError(f"Transformed: base must be continuous on all axes; got {name}, which {why}")
        draw = abstract_draw(self.base)
        object.__setattr__(self, "bijector", with_batch_ndims(self.bijector, len(draw.shape) - 1))
        value, log_det = jax.eval_shape(self.bijector.forward, draw)
        if value.shape != draw.shape or log_det.shape != draw.shape[:-1]:
            raise ValueError(
                f"Transformed: the bijector must keep the shape {draw.shape} of the base's draws; got values of shape "
                f"{value.shape} with log_det {log_det.shape} (give the base the bijector's batch axes)"
            )

    @property
    def event_ndims(self) -> int:
        """A vector is one event, as it is the base's."""
        return 1

    def support(self, value: Array) -> Array:
        """Elementwise: finite."""
        return is_finite(value)

    def sample(self, key: Array, sample_shape: Shape = ()) -> Array:
        """Draw `[*S, *B, D]`: f of the base's draw."""
        draw_shape("Transformed", key, sample_shape, (), 0)
        return self.bijector.forward(self.base.sample(key, sample_shape))[0]

    def sample_and_log_prob(self, key: Array, sample_shape: Shape = ()) -> tuple[Array, Array]:
        """A draw `[*S, *B, D]` and its log-density `[*S, *B]`, without inverting f."""
        draw_shape("Transformed", key, sample_shape, (), 0)
        z = self.base.sample(key, sample_shape)
        y, log_det = self.bijector.forward(z)
        return y, self.base.log_prob(z) - log_det

    def log_prob(self, value: Array) -> Array:
        """Log-density in nats, `[*S, *B]`, by the inverse of f."""
        check_support("Transformed.log_prob: value", value, self.support, "finite")
        z, log_det = self.bijector.inverse(value)
        return self.base.log_prob(z) - log_det
