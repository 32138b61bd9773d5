"""Schedules: functions of the step, for the weight of the KL or any other hyperparameter.

They follow optax's convention, `step -> value`, so optax takes these and a loss takes optax's. The step may be
traced, and so may every argument; each value is float32, of the shape that the arguments broadcast to.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from vaejax.checks import check_array, check_nonnegative, check_positive, is_concrete
from vaejax.types import Array, ArrayLike

# The steps done so far to a value.
Schedule = Callable[[ArrayLike], Array]


def constant(value: ArrayLike) -> Schedule:
    """`value` at every step.

    >>> constant(4.0)(1000).item()
    4.0
    """
    check_array("constant: value", value)
    return lambda step: jnp.asarray(value, jnp.float32)


def linear(start: ArrayLike, end: ArrayLike, num_steps: ArrayLike, delay: ArrayLike = 0) -> Schedule:
    """A straight line, `start + (end - start) clip((step - delay) / num_steps, 0, 1)`.

    Args:
      start: the value up to step `delay`.
      end: the value from step `delay + num_steps` on.
      num_steps: the length of the line.
      delay: the steps before it; see `cyclic` for one that is traced.

    Raises:
      ValueError: a concrete length that is not positive, or a negative delay.

    >>> schedule = linear(0.0, 1.0, num_steps=100, delay=50)
    >>> [schedule(step).item() for step in (0, 50, 75, 150, 1000)]
    [0.0, 0.0, 0.25, 1.0, 1.0]
    """
    _check_ends("linear", start, end)
    _check_length("linear: num_steps", num_steps)
    check_nonnegative("linear: delay", delay)
    delay = _whole(delay)
    return lambda step: _between(start, end, (jnp.asarray(step) - delay) / num_steps)


def sigmoid(start: ArrayLike, end: ArrayLike, num_steps: ArrayLike, steepness: ArrayLike = 12.0) -> Schedule:
    """An S-shaped curve, `start + (end - start) (1 + tanh(k (2u - 1) / 4) / tanh(k / 4)) / 2`, k the steepness.

    With `u = clip(step / num_steps, 0, 1)` it is the logistic function of `k (u - 1/2)`, moved and stretched so that
    it is at its ends after 0 and after `num_steps` steps, where the logistic function itself never arrives. As k goes
    to 0 it becomes a line, as k grows a jump at `num_steps / 2`.

    Raises:
      ValueError: a concrete length or steepness that is not positive.

    Source: Bowman et al. 2016, Generating Sentences from a Continuous Space, which gives no constants.

    >>> schedule = sigmoid(0.0, 1.0, num_steps=100)
    >>> [round(schedule(step).item(), 3) for step in (0, 25, 50, 75, 100)]
    [0.0, 0.045, 0.5, 0.955, 1.0]
    """
    _check_ends("sigmoid", start, end)
    _check_length("sigmoid: num_steps", num_steps)
    _check_length("sigmoid: steepness", steepness)

    def schedule(step: ArrayLike) -> Array:
        progress = jnp.clip(jnp.asarray(step) / num_steps, 0.0, 1.0)
        curve = jnp.tanh(steepness * (2 * progress - 1) / 4) / jnp.tanh(steepness / 4)
        return _between(start, end, (1 + curve) / 2)

    return schedule


def cyclic(
    start: ArrayLike, end: ArrayLike, period: ArrayLike, ramp: ArrayLike = 0.5, num_cycles: ArrayLike | None = None
) -> Schedule:
    """Again and again a straight line from `start` to `end`, then `end` for the rest of the period.

    `start + (end - start) min((step mod period) / (ramp period), 1)`.

    Args:
      start: the value as each period begins.
      end: the value after the line, and after the last period.
      period: the steps of a period. Traced, it should be of integers: with floats the steps are float32, which does
        not have each above 2^24. Whole numbers that are known, such as 100.0, are taken for integers.
      ramp: the part of a period that the line takes, in (0, 1].
      num_cycles: the number of periods; without end where None.

    Raises:
      ValueError: a concrete period or number of periods that is not positive, or a ramp outside (0, 1].

    Source: Fu et al. 2019, Cyclical Annealing Schedule: A Simple Approach to Mitigating KL Vanishing.

    >>> schedule = cyclic(0.0, 1.0, period=100, num_cycles=2)
    >>> [schedule(step).item() for step in (0, 25, 50, 99, 100, 125, 200)]
    [0.0, 0.5, 1.0, 1.0, 0.0, 0.5, 1.0]
    """
    _check_ends("cyclic", start, end)
    _check_length("cyclic: period", period)
    _check_length("cyclic: ramp", ramp)
    if is_concrete(ramp) and not np.all(np.asarray(ramp) <= 1):
        raise ValueError(f"cyclic: ramp must be at most 1, the whole period; got {ramp}")
    if num_cycles is not None:
        _check_length("cyclic: num_cycles", num_cycles)
    period = _whole(period)
    end_step = None if num_cycles is None else _product(num_cycles, period)

    def schedule(step: ArrayLike) -> Array:
        # The remainder before any float: float32 cannot tell steps above 2^24 apart.
        progress = jnp.mod(step, period) / jnp.multiply(ramp, period)
        if end_step is not None:
            progress = jnp.where(jnp.asarray(step) < end_step, progress, 1.0)
        return _between(start, end, progress)

    return schedule


def _between(start: ArrayLike, end: ArrayLike, progress: ArrayLike) -> Array:
    """From `start` at progress 0 to `end` at 1 and beyond, both of them exactly."""
    start, end, progress = (jnp.asarray(each, jnp.float32) for each in (start, end, progress))
    return jnp.where(progress < 1, start + jnp.maximum(progress, 0.0) * (end - start), end)


def _whole(steps: ArrayLike) -> ArrayLike:
    """Steps as integers where they are known to be whole and fit."""
    if not is_concrete(steps):
        return steps
    known = np.asarray(steps, np.float64)
    return known.astype(np.int32) if np.all((known == np.floor(known)) & (known < 2**31)) else steps


def _product(first: ArrayLike, second: ArrayLike) -> ArrayLike:
    if not (is_concrete(first) and is_concrete(second)):
        return jnp.multiply(first, second)
    # In double precision, since the end of many cycles may lie beyond the integers that JAX has.
    return _whole(np.asarray(first, np.float64) * np.asarray(second, np.float64))


def _check_ends(owner: str, start: ArrayLike, end: ArrayLike) -> None:
    check_array(f"{owner}: start", start)
    check_array(f"{owner}: end", end)


def _check_length(name: str, value: ArrayLike) -> None:
    check_array(name, value)
    check_positive(name, value)
