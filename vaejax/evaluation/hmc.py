"""A step of Hamiltonian Monte Carlo."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vaejax.checks import check_array, check_callable, check_count, check_key, check_positive
from vaejax.types import Array, ArrayLike


class Moved(NamedTuple):
    """Where a step led."""

    z: Array  # [*B, *Z]
    acceptance: Array  # [*B] the probability with which the proposal was accepted


# z, the momentum, the force and the log-density there.
_State = tuple[Array, Array, Array, Array]


def hamiltonian_step(
    key: Array,
    z: Array,
    log_density: Callable[[Array], Array],
    step_size: ArrayLike,
    *,
    num_leapfrog: int = 10,
) -> Moved:
    """A move of z that leaves `exp(log_density)` invariant and is reversible, for each example by itself.

    With `H(z, r) = -log_density(z) + |r|^2 / 2` and `r ~ N(0, I)`, the proposal is where `num_leapfrog` leapfrog steps
    `r += e/2 grad log_density(z)`, `z += e r`, `r += e/2 grad log_density(z)` lead; it is accepted with probability
    `min(1, exp(H(before) - H(after)))`, and with none where its density is no number.

    Args:
      key: one typed PRNG key.
      z: `[*B, *Z]`, real numbers.
      log_density: z to its log-density up to a constant, `[*B]`; examples must not see each other.
      step_size: e, positive, `[]` or broadcast against `[*B]`; may be traced.
      num_leapfrog: how many leapfrog steps.

    Raises:
      TypeError, ValueError: a key that is no typed key, no function, integers for z, a step size that is not positive,
        no steps.

    Source: Neal 2011, MCMC Using Hamiltonian Dynamics, section 3.2.

    >>> import jax, jax.numpy as jnp, vaejax
    >>> target = vaejax.Normal(jnp.ones((8, 2)), 0.5)
    >>> moved = hamiltonian_step(jax.random.key(0), jnp.ones((8, 2)), target.log_prob, 0.2)
    >>> moved.z.shape, moved.acceptance.shape
    ((8, 2), (8,))
    """
    check_key(key)
    check_array("hamiltonian_step: z", z)
    if not jnp.issubdtype(jnp.result_type(z), jnp.floating):
        raise TypeError(f"hamiltonian_step: z must hold real numbers; got dtype {jnp.result_type(z)}")
    check_callable("hamiltonian_step: log_density", log_density)
    check_array("hamiltonian_step: step_size", step_size)
    check_positive("hamiltonian_step: step_size", step_size)
    check_count("num_leapfrog", num_leapfrog)
    momentum_key, accept_key = jax.random.split(key)
    batch = jax.eval_shape(log_density, z).shape
    step = jnp.broadcast_to(jnp.asarray(step_size, z.dtype), batch).reshape(*batch, *[1] * (z.ndim - len(batch)))

    def look(z: Array) -> tuple[Array, Array]:
        """The log-densities and their gradients."""
        values, pull = jax.vjp(log_density, z)
        return values, pull(jnp.ones_like(values))[0]

    def leap(state: _State, _: None) -> tuple[_State, None]:
        z, momentum, force = state[:3]
        momentum = momentum + step / 2 * force
        z = z + step * momentum
        value, force = look(z)
        return (z, momentum + step / 2 * force, force, value), None

    momentum = jax.random.normal(momentum_key, z.shape, z.dtype)
    before, force = look(z)
    state, _ = jax.lax.scan(leap, (z, momentum, force, before), length=num_leapfrog)
    proposal, end, _, after = state
    gain = after - before + _kinetic(momentum, len(batch)) - _kinetic(end, len(batch))
    acceptance = jnp.where(jnp.isnan(gain), 0.0, jnp.exp(jnp.minimum(gain, 0.0)))
    accepted = jax.random.uniform(accept_key, batch, acceptance.dtype) < acceptance
    return Moved(jnp.where(accepted.reshape(step.shape), proposal, z), acceptance)


def _kinetic(momentum: Array, batch_ndims: int) -> Array:
    return 0.5 * jnp.sum(momentum**2, axis=tuple(range(batch_ndims, momentum.ndim)))
