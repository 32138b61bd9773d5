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
# (params, extra, key, batch) to the loss and what to log of it and the next extra.
StatefulLossFn = Callable[[Params, Any, Array, Any], tuple[Array, tuple[Metrics, Any]]]
# (state, batch) to the next state and the metrics of the step.
Step = Callable[["TrainState", Any], tuple["TrainState", Metrics]]


class TrainState(NamedTuple):
    """All that a run carries from one step to the next."""

    step: Array  # [] int32, steps done
    params: Params
    opt_state: Any
    key: Array  # [] typed PRNG key, never changed: the noise of a step is drawn from fold_in(key, step)
    extra: Any = ()  # what no gradient trains: a moving-average codebook, a constraint's multiplier


def init_state(key: Array, params: Params, optimizer: optax.GradientTransformation, extra: Any = ()) -> TrainState:
    """The state before the first step; `key` is the source of all noise of the run."""
    check_key(key)
    params, extra = jax.tree.map(_strongly_typed, (params, extra))
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), key, extra)


def _strongly_typed(leaf: Any) -> Any:
    """The same array without JAX's mark of a Python number: a step returns none, and would be compiled twice for it."""
    return leaf.astype(leaf.dtype) if getattr(leaf, "weak_type", False) else leaf


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

    def without_extra(params: Params, extra: Any, key: Array, batch: Any) -> tuple[Array, tuple[Metrics, Any]]:
        loss, metrics = loss_fn(params, key, batch)
        return loss, (metrics, extra)

    return make_stateful_train_step(without_extra, optimizer)


def make_stateful_train_step(loss_fn: StatefulLossFn, optimizer: optax.GradientTransformation) -> Step:
    """As `make_train_step`, for a loss that reads and writes `state.extra`.

    Args:
      loss_fn: `(params, extra, key, batch)` to the loss and `(metrics, next extra)`. There is no gradient to extra.
      optimizer: any optax transformation.

    >>> import jax, jax.numpy as jnp, optax
    >>> def loss_fn(params, extra, key, batch):
    ...     return jnp.mean((params - batch) ** 2), ({}, extra + 1)
    >>> optimizer = optax.sgd(0.5)
    >>> state = init_state(jax.random.key(0), jnp.zeros(()), optimizer, extra=jnp.zeros(()))
    >>> state, metrics = make_stateful_train_step(loss_fn, optimizer)(state, jnp.ones(8))
    >>> state.extra.item()
    1.0
    """
    check_callable("loss_fn", loss_fn)
    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(f"optimizer must be an optax.GradientTransformation; got {type(optimizer).__name__}")

    def step(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        value_and_gradient = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, (metrics, extra)), gradient = value_and_gradient(state.params, state.extra, key, batch)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {**metrics, "loss": loss, "gradient_norm": optax.tree.norm(gradient)}
        return TrainState(state.step + 1, params, opt_state, state.key, extra), metrics

    return step
