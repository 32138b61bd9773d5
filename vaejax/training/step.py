"""The train step: a pure function of a state and a batch."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from vaejax.checks import check_callable, check_key
from vaejax.types import Array, Params

# What is logged of a step: names to arrays.
Metrics = dict[str, Array]
# (params, key, batch) to the loss and what to log of it.
LossFn = Callable[[Params, Array, Any], tuple[Array, Metrics]]
# (state, batch) to the next state and the metrics of the step.
Step = Callable[["TrainState", Any], tuple["TrainState", Metrics]]


class TrainState(NamedTuple):
    """All that a run carries from one step to the next."""

    step: Array  # [] int32, steps done
    params: Params
    opt_state: Any
    key: Array  # [] typed PRNG key, never changed: the noise of a step is drawn from fold_in(key, step)


def init_state(key: Array, params: Params, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step; `key` is the source of all noise of the run."""
    check_key(key)
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), key)


def make_train_step(loss_fn: LossFn, optimizer: optax.GradientTransformation) -> Step:
    """One step of gradient descent as a pure function `step(state, batch) -> (state, metrics)`.

    The caller decides how to run it: under `jax.jit`, in a `jax.lax.scan`, or plainly. The metrics are
    those of the loss function, with `loss` and `gradient_norm` (the global norm before the optimizer).

    Args:
      loss_fn: `(params, key, batch)` to the loss and a dict of metrics, as `jax.value_and_grad` with
        `has_aux=True` wants it. The key is `fold_in(state.key, state.step)`.
      optimizer: any optax transformation.

    >>> import jax, jax.numpy as jnp, optax
    >>> def loss_fn(params, key, batch):
    ...     return jnp.mean((params - batch) ** 2), {}
    >>> optimizer = optax.sgd(0.5)
    >>> step = jax.jit(make_train_step(loss_fn, optimizer))
    >>> state = init_state(jax.random.key(0), jnp.zeros(()), optimizer)
    >>> state, metrics = step(state, jnp.ones(8))
    >>> state.params.item(), metrics["loss"].item(), state.step.item()
    (1.0, 1.0, 1)
    """
    check_callable("loss_fn", loss_fn)
    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(f"optimizer must be an optax.GradientTransformation; got {type(optimizer).__name__}")

    def step(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        (loss, metrics), gradient = jax.value_and_grad(loss_fn, has_aux=True)(state.params, key, batch)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {**metrics, "loss": loss, "gradient_norm": optax.tree.norm(gradient)}
        return TrainState(state.step + 1, params, opt_state, state.key), metrics

    return step
