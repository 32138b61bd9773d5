"""Early stopping as a state that is passed along: numbers that JSON can hold, and two functions."""

import math
from typing import NamedTuple, SupportsFloat

from vaejax.checks import check_array, check_count, check_nonnegative


class Stopping(NamedTuple):
    """What has been seen of the values so far."""

    best: float | None  # the lowest value, None before there is one
    best_step: int  # the step at which it came
    num_worse: int  # values since then that were no better


def init_stopping() -> Stopping:
    """The state before the first value."""
    return Stopping(None, 0, 0)


def update_stopping(
    state: Stopping, step: int, value: SupportsFloat, *, min_delta: float = 0.0, warm_up: int = 0
) -> Stopping:
    """Take in the value of a step, the lower the better.

    It is better where `best - value > min_delta`. A value that is not finite never is.

    Args:
      state: of the value before.
      step: the steps done so far.
      value: a loss on data that is not trained on, one number.
      min_delta: how much better the best has to become.
      warm_up: the steps during which no value counts as worse. While the weight of the KL rises, the loss rises with
        it: so the best of the values before this step is forgotten at the first one from it on.

    Raises:
      TypeError, ValueError: a step that is no integer of at least 0, a value that is no number, a negative minimum.

    >>> state = init_stopping()
    >>> for step, value in [(100, 105.0), (200, 98.0), (300, 99.0), (400, float("nan"))]:
    ...     state = update_stopping(state, step, value)
    >>> state
    Stopping(best=98.0, best_step=200, num_worse=2)
    >>> should_stop(state, patience=2)
    True
    """
    check_count("update_stopping: step", step, minimum=0)
    check_count("update_stopping: warm_up", warm_up, minimum=0)
    check_nonnegative("update_stopping: min_delta", min_delta)
    check_array("update_stopping: value", value)
    value = float(value)
    if state.best_step < warm_up <= step:
        state = init_stopping()._replace(num_worse=state.num_worse)
    if math.isfinite(value) and (state.best is None or state.best - value > min_delta):
        return Stopping(value, int(step), 0)
    return state._replace(num_worse=state.num_worse + int(step >= warm_up))


def should_stop(state: Stopping, patience: int) -> bool:
    """Whether the last `patience` values, or more, were no better than the best before them."""
    check_count("should_stop: patience", patience)
    return state.num_worse >= patience
