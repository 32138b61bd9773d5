"""A reconstruction goal in place of a weight: the multiplier of a constraint, as state of the training."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vaejax.checks import check_positive, check_scalar, check_weight, is_concrete
from vaejax.distributions._base import at_least_float32
from vaejax.types import Array, ArrayLike


class GecoState(NamedTuple):
    """What the constraint carries from step to step, for `TrainState.extra`."""

    multiplier: Array  # [] weight of the reconstruction against the KL; elbo takes beta = 1 / multiplier
    average: Array  # [] moving average of how far the reconstruction is below its goal, in nats
    step: Array  # [] int32


def init_geco(multiplier: float = 1.0) -> GecoState:
    """The state before the first step."""
    check_scalar("init_geco: multiplier", multiplier)
    check_positive("init_geco: multiplier", multiplier)
    return GecoState(jnp.asarray(multiplier, jnp.float32), jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32))


def update_geco(
    state: GecoState, log_likelihood: Array, *, target: ArrayLike, rate: ArrayLike = 1e-3, decay: ArrayLike = 0.99
) -> GecoState:
    """Raise the multiplier while the log-likelihood is below its target, and lower it while it is above.

    `C = target - mean_b log_likelihood_b`, `average = decay average + (1 - decay) C` (C itself at the first step),
    `multiplier = multiplier exp(rate average)`, kept between 1e-6 and 1e6.

    Args:
      state: of the step before.
      log_likelihood: of a batch, `[*B]`, in nats; it gets no gradient from here.
      target: the reconstruction to reach, in nats per example.
      rate: of the multiplier's growth, per nat.
      decay: of the moving average.

    A log-likelihood that is not finite changes nothing.

    Raises:
      ValueError: a concrete rate that is negative, or a decay outside [0, 1).

    Source: Rezende and Viola 2018, Taming VAEs, algorithm 1.
    """
    check_scalar("update_geco: target", target)
    check_weight("update_geco: rate", rate)
    check_weight("update_geco: decay", decay)
    if is_concrete(decay) and not np.all(np.asarray(decay) < 1):
        raise ValueError(f"update_geco: decay must be below 1; got {decay}")
    (log_likelihood,) = at_least_float32(jax.lax.stop_gradient(log_likelihood))
    shortfall = target - jnp.mean(log_likelihood)
    average = jnp.where(state.step == 0, shortfall, decay * state.average + (1 - decay) * shortfall)
    # One step changes the weight by a factor of e at most, however far the goal is.
    growth = jnp.exp(jnp.clip(rate * average, -1.0, 1.0))
    multiplier = jnp.clip(state.multiplier * growth, 1e-6, 1e6)
    known = jnp.isfinite(shortfall)
    after = GecoState(
        jnp.where(known, multiplier, state.multiplier), jnp.where(known, average, state.average), state.step + known
    )
    # In the dtype of the state, whatever that of the target or the rate: a loop carries it.
    return jax.tree.map(lambda new, old: new.astype(jnp.result_type(old)), after, state)
