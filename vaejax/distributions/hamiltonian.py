"""A posterior whose draws are moved towards the true one by Hamiltonian dynamics."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from vaejax.checks import check_array, check_callable, check_count, check_distribution, check_positive, check_support
from vaejax.distributions._base import (
    abstract_draw,
    at_least_float32,
    distribution,
    draw_shape,
    event_ndims_of,
    static,
)
from vaejax.distributions.interop import has_trait, trait_of
from vaejax.types import Array, ArrayLike, Distribution, Shape


@distribution
class HamiltonianPosterior:
    """Draws of an initial posterior, moved by leapfrog steps along the gradient of `log p(x, z)`.

    `z_0 ~ base`, `g ~ N(0, I)`, `rho_0 = g / sqrt(b)`, and then `num_steps` times a leapfrog step
    `rho += e/2 grad log p(x, z)`, `z += e rho`, `rho += e/2 grad log p(x, z)`, after which rho is cooled towards
    temperature 1. Each part preserves volume or changes it by a constant, so
    `log q(z_K) = log base(z_0) + log N(g) - log N(rho_K)` is exactly what makes the log-weight
    `log p(x, z_K) - log q` an unbiased one: `E exp(log-weight) = p(x)`.

    That is the density of a draw together with its momentum. The density of z alone has no closed form, so
    `log_prob` at other points raises: use `monte_carlo_kl` or `importance_bound` without `path_gradient`.

    Args:
      base: the posterior of an encoder, a distribution over `[*B, Z]`.
      log_joint: z `[*B, Z]` to `log p(x|z) + log p(z)` `[*B]`; examples must not see each other.
      step_size: e, positive, `[]` or broadcast against z; may be learned.
      num_steps: how many leapfrog steps.
      inverse_temperature: b in (0, 1], below 1 for a hot start and the quadratic cooling of the paper, which is
        what tightens the bound: at 1 the steps conserve energy and only carry draws elsewhere.

    Raises:
      TypeError, ValueError: no distribution, no function, a step size that is not positive, no steps, b outside (0, 1].

    Source: Caterini, Doucet and Sejdinovic 2018, Hamiltonian Variational Auto-Encoder, section 3 and appendix A.

    >>> import jax, jax.numpy as jnp, vaejax
    >>> target = vaejax.Normal(jnp.ones((8, 2)), 0.5)
    >>> q = HamiltonianPosterior(vaejax.Normal(jnp.zeros((8, 2)), 1.0), target.log_prob, 0.3, num_steps=5)
    >>> z, log_q = q.sample_and_log_prob(jax.random.key(0), (3,))
    >>> z.shape, log_q.shape
    ((3, 8, 2), (3, 8))
    """

    has_rsample = trait_of("base", "has_rsample")
    is_normalized = trait_of("base", "is_normalized")
    is_point = trait_of("base", "is_point")

    base: Distribution
    log_joint: Callable[[Array], Array] = static(default=None)
    step_size: ArrayLike = 0.1
    num_steps: int = static(default=5)
    inverse_temperature: ArrayLike = 1.0

    def __post_init__(self) -> None:
        check_distribution("HamiltonianPosterior: base must be", self.base)
        if has_trait(self.base, "is_singular"):
            name = type(self.base).__name__
            raise TypeError(f"HamiltonianPosterior: base must be free to move along all axes; got {name}")
        check_callable("HamiltonianPosterior: log_joint", self.log_joint)
        check_array("HamiltonianPosterior: step_size", self.step_size)
        check_positive("HamiltonianPosterior: step_size", self.step_size)
        check_count("HamiltonianPosterior: num_steps", self.num_steps)
        temperature = self.inverse_temperature
        check_array("HamiltonianPosterior: inverse_temperature", temperature)
        check_support(
            "HamiltonianPosterior: inverse_temperature", temperature, lambda b: (b > 0) & (b <= 1), "in (0, 1]"
        )
        # The rank of a draw, so that jax.vmap puts its axis of either in front of all the others.
        rank = len(abstract_draw(self.base).shape)
        for name in ("step_size", "inverse_temperature"):
            shape = jnp.shape(getattr(self, name))
            object.__setattr__(self, name, jnp.reshape(getattr(self, name), (1,) * (rank - len(shape)) + shape))

    @property
    def event_ndims(self) -> int:
        """That of the base."""
        return event_ndims_of(self.base)

    def sample(self, key: Array, sample_shape: Shape = ()) -> Array:
        """Draw `[*S, *B, Z]`."""
        return self.sample_and_log_prob(key, sample_shape)[0]

    def sample_and_log_prob(self, key: Array, sample_shape: Shape = ()) -> tuple[Array, Array]:
        """Draws `[*S, *B, Z]`, and the log-density of each with its momentum `[*S, *B]` (see above)."""
        draw_shape("HamiltonianPosterior", key, sample_shape, (), 0)
        # A draw at a time is mapped, since log_joint must not see the sample axes; also where there is no such axis,
        # so that one key gives the draw that it gives for an axis of size 1.
        z, log_q = jax.vmap(self._draw)(jax.random.split(key, math.prod(sample_shape)))
        return z.reshape(*sample_shape, *z.shape[1:]), log_q.reshape(*sample_shape, *log_q.shape[1:])

    def log_prob(self, value: Array) -> Array:
        """Not known: raises `TypeError`."""
        raise TypeError(
            "HamiltonianPosterior.log_prob: its density is known for its own draws only, by sample_and_log_prob; use "
            "monte_carlo_kl, or importance_bound without path_gradient"
        )

    def _draw(self, key: Array) -> tuple[Array, Array]:
        base_key, momentum_key = jax.random.split(key)
        (start,) = at_least_float32(self.base.sample(base_key))
        # In the dtype of the draw, which the loop carries.
        step_size, inverse_temperature = (
            jnp.asarray(value, start.dtype) for value in (self.step_size, self.inverse_temperature)
        )
        noise = jax.random.normal(momentum_key, start.shape, start.dtype)
        root = 1 / jnp.sqrt(inverse_temperature)
        force = jax.grad(lambda z: jnp.sum(self.log_joint(z)))

        def step(state: tuple[Array, Array], count: Array) -> tuple[tuple[Array, Array], None]:
            z, momentum = state
            momentum = momentum + step_size / 2 * force(z)
            z = z + step_size * momentum
            momentum = momentum + step_size / 2 * force(z)
            # 1 / sqrt(inverse temperature) falls from `root` to 1 with the square of the step.
            before, after = (root + (1 - root) * (k / self.num_steps) ** 2 for k in (count, count + 1))
            return (z, momentum * after / before), None

        (z, momentum), _ = jax.lax.scan(step, (start, noise * root), jnp.arange(self.num_steps, dtype=start.dtype))
        axes = tuple(range(-self.event_ndims, 0))
        # The constants of the two momentum densities cancel, and so do the cooling and its hot start.
        momenta = 0.5 * jnp.sum(momentum**2 - noise**2, axis=axes)
        return z, self.base.log_prob(start) + momenta
