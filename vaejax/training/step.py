"""The train step: a pure function of a state and a batch."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from vaejax.checks import check_callable, check_count, check_key
from vaejax.training.gradients import (
    GradientFn,
    LossFn,
    Metrics,
    PerExample,
    check_pair,
    gradient_of_batch,
    gradient_of_examples,
)
from vaejax.training.norm import global_norm
from vaejax.types import Array, ArrayLike, Params

# (params, extra, key, batch), and what is scheduled by keyword, to the loss and (what to log of it, the next extra).
StatefulLossFn = Callable[..., tuple[Array, tuple[Metrics, Any]]]
# What a loss takes by keyword besides, as functions of the step; they are logged under their names.
Schedules = Mapping[str, Callable[[Array], Any]]
# (state, batch) to the next state and the metrics of the step.
Step = Callable[["TrainState", Any], tuple["TrainState", Metrics]]


# What a step logs besides the metrics of its loss and what is scheduled.
OWN_METRICS = {"loss", "gradient_norm"}


class Skipped(NamedTuple):
    """Steps whose loss, gradient or outcome was not finite."""

    total: Array  # [] int32
    in_row: Array  # [] int32, the last steps, one after the other


class TrainState(NamedTuple):
    """All that a run carries from one step to the next."""

    step: Array  # [] int32, steps done
    params: Params
    opt_state: Any
    key: Array  # [] typed PRNG key, never changed: the noise of a step is drawn from fold_in(key, step)
    extra: Any = ()  # what no gradient trains: a moving-average codebook, a constraint's multiplier
    ema: Params = ()  # moving average of the parameters, or () where none is kept
    skipped: Skipped = Skipped(0, 0)  # type: ignore[arg-type]


def init_state(
    key: Array, params: Params, optimizer: optax.GradientTransformation, extra: Any = (), *, with_ema: bool = False
) -> TrainState:
    """The state before the first step; `key` is the source of all noise of the run.

    Args:
      key: one typed PRNG key.
      params: the parameters to begin with.
      optimizer: the one that the step is made with.
      extra: what a stateful loss begins with.
      with_ema: whether a moving average of the parameters is kept, in float32 or more, for a step with `ema_decay`.
    """
    check_key(key)
    params, extra = jax.tree.map(_strongly_typed, (params, extra))
    ema = jax.tree.map(_precise_copy, params) if with_ema else ()
    skipped = Skipped(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), key, extra, ema, skipped)


def _precise_copy(leaf: Any) -> Array:
    """The start of a moving average: in half precision, small updates of it would be rounded away.

    It is a copy, since a step that donates its state must not be handed one buffer twice.
    """
    wide = jnp.promote_types(leaf.dtype, jnp.float32) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf.dtype
    return jnp.array(leaf, wide)


def _strongly_typed(leaf: Any) -> Any:
    """The same array without JAX's mark of a Python number: a step returns none, and would be compiled twice for it."""
    leaf = leaf if hasattr(leaf, "dtype") else jnp.asarray(leaf)
    return leaf.astype(leaf.dtype) if getattr(leaf, "weak_type", False) else leaf


def make_train_step(
    loss_fn: LossFn | PerExample,
    optimizer: optax.GradientTransformation,
    *,
    axis_name: str | None = None,
    num_micro_batches: int = 1,
    schedules: Schedules = MappingProxyType({}),
    ema_decay: ArrayLike | None = None,
    max_skipped: int | None = None,
) -> Step:
    """One step of gradient descent as a pure function `step(state, batch) -> (state, metrics)`.

    The caller decides how to run it: under `jax.jit`, in a `jax.lax.scan`, or plainly. The metrics are
    those of the loss function, with `loss` and `gradient_norm` (the global norm before the optimizer).

    Args:
      loss_fn: `(params, key, batch)` to the loss and a dict of metrics, as `jax.value_and_grad` with
        `has_aux=True` wants it, where the key is `fold_in(state.key, state.step)`; or a `PerExample`.
      optimizer: any optax transformation.
      axis_name: the mapped axis of a `jax.pmap` or `jax.shard_map` over shares of the batch, in the order of the
        devices; the loss, the metrics and the gradient are means over it. Under `jax.jit` with a sharded batch leave
        it out (see `data_parallel`).
      num_micro_batches: into how many parts, one after the other, the batch is cut, to save memory.
      schedules: keyword arguments of the loss as functions of the step, such as `{"beta": linear(0.0, 1.0, 1000)}`.
      ema_decay: d in `ema <- d_t ema + (1 - d_t) params`, with `d_t = min(d, (1 + t) / (10 + t))` at step t.
      max_skipped: a step is left out where its loss, gradient or outcome is not finite: only `step` and `skipped`
        change. More than so many in a row, and the state stays as it was before the last of them from then on;
        `has_failed` tells. What the optimizer holds that was not finite before the step, such as the best value of
        a run that begins, may stay so. Where None nothing is guarded.

    Raises:
      TypeError: `axis_name` or micro-batches with a loss that is no `PerExample`, whose noise, and value where it
        couples the batch, would depend on how the batch is cut; when the step is used, a loss that returns no pair.
      ValueError: a schedule, or when the step is used a metric, by a name that the step logs already.

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
    if isinstance(loss_fn, PerExample):
        gradient_fn = gradient_of_examples(loss_fn, axis_name, num_micro_batches)
        return _make_step(gradient_fn, optimizer, schedules, ema_decay, max_skipped)
    check_callable("loss_fn", loss_fn)
    check_count("num_micro_batches", num_micro_batches)
    if axis_name is not None or num_micro_batches != 1:
        what = "num_micro_batches" if axis_name is None else "axis_name"
        raise TypeError(
            f"{what} needs a loss of single examples, training.per_example(loss_fn): the noise of a loss of the whole "
            f"batch, and its value where it couples the examples, depend on how the batch is cut (under jax.jit "
            f"data_parallel cuts it and changes neither)"
        )

    def without_extra(
        params: Params, extra: Any, key: Array, batch: Any, **scheduled: Array
    ) -> tuple[Array, tuple[Metrics, Any]]:
        loss, metrics = check_pair("(loss, metrics)", loss_fn(params, key, batch, **scheduled))
        return loss, (metrics, extra)

    return make_stateful_train_step(
        without_extra, optimizer, schedules=schedules, ema_decay=ema_decay, max_skipped=max_skipped
    )


def make_stateful_train_step(
    loss_fn: StatefulLossFn,
    optimizer: optax.GradientTransformation,
    *,
    schedules: Schedules = MappingProxyType({}),
    ema_decay: ArrayLike | None = None,
    max_skipped: int | None = None,
) -> Step:
    """As `make_train_step`, for a loss that reads and writes `state.extra`.

    Args:
      loss_fn: `(params, extra, key, batch)` to the loss and `(metrics, next extra)`. There is no gradient to extra.
      optimizer: any optax transformation.
      schedules: as in `make_train_step`.
      ema_decay: as in `make_train_step`.
      max_skipped: as in `make_train_step`.

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
    return _make_step(gradient_of_batch(loss_fn), optimizer, schedules, ema_decay, max_skipped)


def has_failed(state: TrainState, max_skipped: int | None) -> Array:
    """Whether more than `max_skipped` steps in a row were not finite, so that the state stands still: `[]` bool."""
    return state.skipped.in_row > (jnp.iinfo(jnp.int32).max if max_skipped is None else max_skipped)


def _make_step(
    gradient_fn: GradientFn,
    optimizer: optax.GradientTransformation,
    schedules: Schedules,
    ema_decay: ArrayLike | None,
    max_skipped: int | None,
) -> Step:
    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(f"optimizer must be an optax.GradientTransformation; got {type(optimizer).__name__}")
    if max_skipped is not None:
        check_count("max_skipped", max_skipped, minimum=0)
    _check_free("schedules", schedules, OWN_METRICS)

    def step(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        scheduled = {name: jnp.asarray(schedule(state.step)) for name, schedule in schedules.items()}
        loss, metrics, extra, gradient = gradient_fn(state.params, state.extra, key, batch, scheduled)
        _check_free("the metrics of loss_fn", metrics, {*schedules, *OWN_METRICS})
        extra = jax.tree.map(_strongly_typed, extra)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema if ema_decay is None else _average(state, params, ema_decay)
        after = TrainState(state.step + 1, params, opt_state, state.key, extra, ema, state.skipped)
        metrics = {**metrics, **scheduled, "loss": loss, "gradient_norm": global_norm(gradient)}
        return after if max_skipped is None else _guard(state, after, metrics, max_skipped), metrics

    return step


def _check_free(owner: str, names: Mapping[str, Any], taken: set[str]) -> None:
    found = sorted(taken & names.keys())
    if found:
        raise ValueError(f"{owner} must not be called {', '.join(found)}: the step logs something else by that name")


def _average(state: TrainState, params: Params, decay: ArrayLike) -> Params:
    if jax.tree.leaves(params) and not jax.tree.leaves(state.ema):
        raise ValueError("ema_decay needs a state that keeps a moving average: init_state(..., with_ema=True)")
    # Young averages forget the first parameters faster.
    weight = jnp.minimum(decay, (1.0 + state.step) / (10.0 + state.step))
    return jax.tree.map(lambda old, new: (weight * old + (1.0 - weight) * new).astype(old.dtype), state.ema, params)


def is_sound(before: TrainState, after: TrainState, loss: Array, gradient_norm: Array) -> Array:
    """Whether nothing has become other than finite from one state to another: `[]` bool."""
    outcome = (loss, gradient_norm, after.params, after.extra, after.ema)
    # Some optimizers begin with an infinite best value.
    spoiled = [
        _is_finite(old) & ~_is_finite(new)
        for old, new in zip(*map(jax.tree.leaves, (before.opt_state, after.opt_state)), strict=True)
    ]
    return jnp.all(jnp.stack([_is_finite(leaf) for leaf in jax.tree.leaves(outcome)] + [~each for each in spoiled]))


def _guard(before: TrainState, after: TrainState, metrics: Metrics, max_skipped: int) -> TrainState:
    """The state after a step, or the one before it where the step is not finite."""
    finite = is_sound(before, after, metrics["loss"], metrics["gradient_norm"])
    failed = has_failed(before, max_skipped)
    keep = finite & ~failed
    bad = (~finite & ~failed).astype(jnp.int32)
    in_row = jnp.where(keep, 0, before.skipped.in_row + bad)
    # The key apart, which never changes: JAX's check for reused keys takes a choice between keys for a use.
    without_key = [state._replace(key=()) for state in (after, before)]  # type: ignore[arg-type]
    state: TrainState = jax.tree.map(lambda new, old: jnp.where(keep, new, old), *without_key)
    return state._replace(
        # The step that was one too many has not been done, so that it can be looked at again.
        step=before.step + (in_row <= max_skipped).astype(jnp.int32),
        key=before.key,
        skipped=Skipped(before.skipped.total + bad, in_row),
    )


def _is_finite(leaf: Any) -> Array:
    leaf = jnp.asarray(leaf)
    return jnp.all(jnp.isfinite(leaf)) if jnp.issubdtype(leaf.dtype, jnp.inexact) else jnp.bool_(True)
