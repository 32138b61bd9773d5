"""Optimizers and learning rates by name: whatever optax has, found by looking, so no list here can be out of date.

Functions are taken wherever names are. The names are for command lines and configuration files.
"""

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vaejax.checks import check_count, check_nonnegative
from vaejax.training.norm import global_norm
from vaejax.types import ArrayLike

# The steps done so far to a learning rate, in optax's convention.
RateSchedule = Callable[[Any], Any]
# A learning rate, or a schedule of it, to an optimizer.
MakeOptimizer = Callable[..., optax.GradientTransformation]
# Whatever dict() takes.
Options = Mapping[str, Any] | Iterable[tuple[str, Any]]

# What optax's schedules call the learning rate: the first of these that a schedule has. With a peak, the initial
# value is where the warm-up starts.
RATES = ("peak_value", "value", "init_value")


def learning_rate_schedule(
    schedule: str | RateSchedule,
    learning_rate: ArrayLike | None,
    *,
    num_steps: int | None = None,
    warm_up_steps: int = 0,
    **options: Any,
) -> RateSchedule:
    """A schedule of the learning rate, after a linear warm-up.

    During the warm-up the rate is `rate (step + 1) / warm_up_steps`, where `rate` is what the schedule begins with:
    no step is lost on a rate of 0. Schedules that warm up by themselves do it in their own way, from
    `learning_rate / warm_up_steps` on.

    Args:
      schedule: the name of any schedule of optax, with or without its `_schedule` ("constant", "linear",
        "cosine_decay", "exponential_decay", "warmup_cosine_decay", ...), or a function of the step, which is used as
        it is.
      learning_rate: where a named schedule starts, or its peak where it has one. `sgdr` and functions have rates of
        their own and do not read it.
      num_steps: of the whole run: a named schedule gets what the warm-up leaves, and decays to 0 where it asks for an
        end and is told none.
      warm_up_steps: how many of them are warm-up.
      **options: arguments of the named schedule, such as `decay_rate` and `power`; they come before what is said
        above, but for the learning rate and the warm-up.

    Raises:
      TypeError, ValueError: a name that optax does not have, an option that the schedule does not have or that it needs
        and did not get; a warm-up that is not shorter than the run.

    >>> rate = learning_rate_schedule("cosine_decay", 0.1, num_steps=100, warm_up_steps=20)
    >>> [round(float(rate(step)), 4) for step in (0, 19, 20, 60, 100)]
    [0.005, 0.1, 0.1, 0.05, 0.0]
    """
    _check_steps(num_steps, warm_up_steps)
    if callable(schedule):
        if options:
            raise TypeError(f"learning_rate_schedule: options are for schedules by name; got {', '.join(options)}")
        return _warmed_up(schedule, warm_up_steps)
    make = _by_name("schedule", schedule, _SCHEDULES)
    signature = inspect.signature(make)
    if any(each in signature.parameters for each in RATES):
        check_nonnegative("learning_rate", learning_rate)
    arguments = _arguments(schedule, signature, learning_rate, num_steps, warm_up_steps, options)
    made = make(**arguments)
    return made if "warmup_steps" in arguments else _warmed_up(made, warm_up_steps)


def make_optimizer(
    learning_rate: ArrayLike | None,
    *,
    num_steps: int | None = None,
    optimizer: str | MakeOptimizer = "adam",
    schedule: str | RateSchedule = "constant",
    warm_up_steps: int = 0,
    clip_norm: ArrayLike | None = None,
    schedule_options: Options = (),
    **options: Any,
) -> optax.GradientTransformation:
    """An optimizer with its learning rate and, before it, the gradient clipped to a global norm.

    With a constant rate and neither warm-up nor clipping it is the optimizer itself, such as `optax.adam(1e-3)`, with
    the same state.

    Args:
      learning_rate: may be traced, as may `clip_norm`; see `learning_rate_schedule`.
      num_steps: of the whole run, for the schedules that depend on it.
      optimizer: the name of any optimizer of optax ("adam", "adamw", "sgd", "lion", ...), or a function of the learning
        rate, such as `optax.contrib.muon`.
      schedule: the name of any schedule of optax, or a function of the step.
      warm_up_steps: the first steps, in which the rate grows linearly.
      clip_norm: gradients of a larger global norm are scaled down to it; none are where None.
      schedule_options: further arguments of the named schedule.
      **options: further arguments of the optimizer, such as `weight_decay`.

    Raises:
      TypeError, ValueError: a name that optax does not have, with the nearest that it has; options that are unknown or
        missing; an optimizer that takes no schedule with one; an optimizer by name that needs more of a step than the
        gradient, such as `lbfgs`.

    >>> import jax.numpy as jnp
    >>> optimizer = make_optimizer(0.1, optimizer="sgd", clip_norm=1.0, momentum=0.9)
    >>> gradient = jnp.array([3.0, 4.0])
    >>> updates, _ = optimizer.update(gradient, optimizer.init(gradient))
    >>> [round(update, 3) for update in updates.tolist()]
    [-0.06, -0.08]
    """
    rate: Any = learning_rate_schedule(
        schedule, learning_rate, num_steps=num_steps, warm_up_steps=warm_up_steps, **dict(schedule_options)
    )
    if schedule in ("constant", "constant_schedule") and warm_up_steps == 0:
        rate = learning_rate
    transformation = _make(optimizer, rate, options)
    if clip_norm is None:
        return transformation
    check_nonnegative("clip_norm", clip_norm)
    return optax.chain(_clip_by_global_norm(clip_norm), transformation)


def _clip_by_global_norm(clip_norm: ArrayLike) -> optax.GradientTransformation:
    """As that of optax, by a norm whose squares do not overflow: optax makes zeros of a gradient of 1e20."""

    def clip(updates: Any, params: Any) -> Any:
        del params
        norm = global_norm(updates)
        shrink = lambda update: (update / norm * clip_norm).astype(update.dtype)
        return jax.tree.map(lambda update: jnp.where(norm < clip_norm, update, shrink(update)), updates)

    return optax.stateless(clip)


def _make(optimizer: str | MakeOptimizer, rate: Any, options: Mapping[str, Any]) -> optax.GradientTransformation:
    make = optimizer if callable(optimizer) else _by_name("optimizer", optimizer, _OPTIMIZERS)
    if make is not optimizer:
        parameters = list(inspect.signature(make).parameters.values())[1:]
        _check_options(f"optimizer {optimizer!r}", {p.name: p.default for p in parameters}, options)
    try:
        made = make(rate, **options)
    except (TypeError, ValueError) as error:
        if not callable(rate):
            raise
        raise TypeError(f"optimizer {optimizer!r} could not be made with a schedule as its rate: {error}") from error
    if not isinstance(made, optax.GradientTransformation):
        raise TypeError(f"optimizer must make an optax.GradientTransformation; got {type(made).__name__}")
    if make is not optimizer:
        _check_update(f"optimizer {optimizer!r}", made)
    return made


def _check_update(owner: str, optimizer: optax.GradientTransformation) -> None:
    """Raise where an optimizer wants more of a step than the gradient, such as the loss as a function."""
    update = lambda params: optimizer.update(params, optimizer.init(params), params)
    try:
        jax.eval_shape(update, jax.ShapeDtypeStruct((1,), jnp.float32))
    except TypeError as error:
        raise TypeError(f"{owner} needs more than the gradient of a step, and is not for this one: {error}") from error


def _warmed_up(schedule: RateSchedule, warm_up_steps: int) -> RateSchedule:
    if warm_up_steps == 0:
        return schedule
    return optax.join_schedules(
        [lambda step: schedule(0) * (step + 1) / warm_up_steps, schedule], boundaries=[warm_up_steps]
    )


def _arguments(
    name: str,
    signature: inspect.Signature,
    learning_rate: Any,
    num_steps: int | None,
    warm_up_steps: int,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """What a schedule of optax is called with: its parameters, by their names there."""
    defaults = {parameter.name: parameter.default for parameter in signature.parameters.values()}
    rate = next((each for each in RATES if each in defaults), None)
    given = {rate: learning_rate, "warmup_steps": warm_up_steps}
    for option in options:
        if option in given:
            source = "warm_up_steps" if option == "warmup_steps" else "learning_rate"
            raise TypeError(f"schedule {name!r}: {option} is {source} here and no option")
    known = {"end_value": 0.0, **given}
    if rate is not None:
        known = {"init_value": learning_rate / max(warm_up_steps, 1), **known}
    if num_steps is not None:
        known["transition_steps"] = known["decay_steps"] = num_steps - warm_up_steps
        if "warmup_steps" in defaults:
            # Here optax counts the warm-up in.
            known["decay_steps"] = num_steps
    needed = {each: known[each] for each in _without_default(defaults) if each in known}
    _check_options(f"schedule {name!r}", defaults, options, needed)
    return {**needed, **options}


def _check_options(
    owner: str, defaults: Mapping[str, Any], options: Mapping[str, Any], known: Iterable[str] = ()
) -> None:
    unknown = [each for each in options if each not in defaults]
    if unknown:
        raise TypeError(f"{owner} has no option {', '.join(unknown)}; it has {', '.join(defaults)}")
    missing = [each for each in _without_default(defaults) if each not in {*known, *options}]
    if missing:
        hint = " (num_steps gives it)" if {"decay_steps", "transition_steps"} & set(missing) else ""
        raise TypeError(f"{owner} needs {', '.join(missing)}{hint}")


def _without_default(defaults: Mapping[str, Any]) -> list[str]:
    return [each for each, default in defaults.items() if default is inspect.Parameter.empty]


def _by_name(what: str, name: Any, known: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
    if not isinstance(name, str):
        raise TypeError(f"{what} must be a function or the name of one of optax's; got {type(name).__name__}")
    short = name.removesuffix("_schedule")
    if short not in known:
        (nearest,) = difflib.get_close_matches(short, known, n=1, cutoff=0.0)
        raise ValueError(f"{what} must be one of {', '.join(known)}; got {name!r}: did you mean {nearest!r}?")
    return known[short]


def _check_steps(num_steps: int | None, warm_up_steps: int) -> None:
    check_count("warm_up_steps", warm_up_steps, minimum=0)
    if num_steps is not None:
        check_count("num_steps", num_steps)
        if warm_up_steps >= num_steps:
            raise ValueError(f"warm_up_steps must be less than num_steps, {num_steps}; got {warm_up_steps}")


def _is_optimizer(name: str, value: Any) -> bool:
    if name.startswith(("_", "scale_by")) or not inspect.isfunction(value):
        return False
    return next(iter(inspect.signature(value).parameters), None) == "learning_rate"


_OPTIMIZERS = {name: value for name, value in sorted(vars(optax).items()) if _is_optimizer(name, value)}
_SCHEDULES = {
    name.removesuffix("_schedule"): value
    for name, value in sorted(vars(optax.schedules).items())
    if inspect.isfunction(value) and name.endswith(("_schedule", "_decay"))
}
