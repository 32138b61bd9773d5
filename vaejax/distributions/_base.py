"""What the distributions share: how one becomes a pytree, its precision, its event axes."""

import dataclasses
import math
from typing import Any, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp

from vaejax.checks import check_array, check_count, check_key, namespace_of
from vaejax.types import Array, ArrayLike, Shape

T = TypeVar("T")

LOG_TWO_PI = math.log(2.0 * math.pi)


def static(*, default: Any) -> Any:
    """A field that is part of the pytree's structure, as `event_ndims` is, and no leaf."""
    return dataclasses.field(default=default, metadata={"static": True})


@dataclass_transform(frozen_default=True, eq_default=False, field_specifiers=(static,))
def distribution(cls: type[T]) -> type[T]:
    """Make `cls` a frozen dataclass that is a pytree: `static` fields are structure, the others leaves.

    JAX rebuilds pytrees around things that are no arrays (placeholders, axis specifications), so
    unflattening sets the fields directly and the checks of `__post_init__` run only on what a
    person constructs.
    """
    cls = dataclasses.dataclass(frozen=True, eq=False)(cls)
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    leaves = [field.name for field in fields if not field.metadata.get("static")]
    structure = [field.name for field in fields if field.metadata.get("static")]

    def flatten_with_keys(self: T) -> tuple[list[tuple[Any, Any]], tuple[Any, ...]]:
        keyed = [(jax.tree_util.GetAttrKey(name), getattr(self, name)) for name in leaves]
        return keyed, tuple(getattr(self, name) for name in structure)

    def unflatten(values: tuple[Any, ...], children: Any) -> T:
        self = object.__new__(cls)
        for name, value in zip(leaves + structure, (*children, *values), strict=True):
            object.__setattr__(self, name, value)
        return self

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten)
    return cls


def at_least_float32(*arrays: ArrayLike) -> list[Array]:
    """The arrays in one floating dtype of 32 bits or more: log-densities never run in half precision."""
    dtype = jnp.promote_types(jnp.result_type(*arrays), jnp.float32)
    return [jnp.asarray(array, dtype) for array in arrays]


def align_ranks(self: Any, **event_ndims: int) -> None:
    """Give the named parameters of a distribution one rank, by leading axes of size 1.

    Otherwise `jax.vmap` of a function that returns, say, `Normal(loc[E], scale[])` would put the new
    axis of `scale` where it aligns with an event axis of `loc`. Scalars alone stay scalars. Each name
    comes with the number of its own trailing axes that are no batch axes.
    """
    ranks = {name: jnp.ndim(getattr(self, name)) - ndims for name, ndims in event_ndims.items()}
    for name, rank in ranks.items():
        missing = max(ranks.values()) - rank
        if missing:
            parameter = getattr(self, name)
            object.__setattr__(self, name, jnp.reshape(parameter, (1,) * missing + jnp.shape(parameter)))


def flatten_event(event_ndims: int, *arrays: Array) -> list[Array]:
    """Make the event axes of each array one: `[*B, *E]` to `[*B, prod(E)]`; scalar parameters stay.

    Elementwise code over `[128, 28, 28, 1]` is compiled to loops that are half again as slow on a CPU
    as those over `[128, 784]`, and the reshape itself costs nothing.
    """
    padded = [
        array.reshape((1,) * (event_ndims - array.ndim) + array.shape) if array.ndim else array for array in arrays
    ]
    event = jnp.broadcast_shapes(*(array.shape[array.ndim - event_ndims :] for array in padded if array.ndim))

    def flatten(array: Array) -> Array:
        if array.ndim < event_ndims:
            return array
        batch = array.shape[: array.ndim - event_ndims]
        return jnp.broadcast_to(array, batch + event).reshape(*batch, math.prod(event))

    return [flatten(array) for array in padded]


def log_sum_exp(array: Array, axis: int = -1) -> Array:
    """`log sum_i exp(a_i)` over one axis; where all are minus infinity it is that, without a gradient.

    The gradient of `jax.nn.logsumexp` is NaN there.
    """
    largest = jax.lax.stop_gradient(jnp.max(array, axis=axis, keepdims=True))
    shift = jnp.where(jnp.isfinite(largest), largest, 0.0)
    total = jnp.sum(jnp.exp(array - shift), axis=axis)
    positive = total != 0
    log_total = jnp.where(positive, jnp.log(jnp.where(positive, total, 1.0)), -jnp.inf)
    return log_total + jnp.squeeze(shift, axis)


def sum_event(array: Array, event_ndims: int) -> Array:
    """Sum the last `event_ndims` axes: `[*B, *E]` to `[*B]`."""
    return jnp.sum(array, axis=tuple(range(-event_ndims, 0)))


def event_ndims_of(distribution: Any) -> int:
    """How many event axes a distribution has: ours say `event_ndims`, numpyro's `event_dim`; else its draws show it."""
    known = getattr(distribution, "event_ndims", getattr(distribution, "event_dim", None))
    if known is not None:
        return known
    draw = abstract_draw(distribution)
    return len(draw.shape) - len(jax.eval_shape(distribution.log_prob, draw).shape)


def abstract_draw(distribution: Any) -> jax.ShapeDtypeStruct:
    """Shape `[*B, *E]` and dtype of one draw, found without drawing."""
    return jax.eval_shape(lambda: distribution.sample(jax.random.key(0)))


def draw_with_density(distribution: Any, key: Array, sample_shape: Shape = ()) -> tuple[Array, Array | None]:
    """A draw `[*S, *B, *E]`, and its log-density `[*S, *B]` where the distribution gives both at once; else None."""
    together = getattr(distribution, "sample_and_log_prob", None)
    if callable(together):
        z, log_prob = together(key, sample_shape)
        return z, log_prob
    return distribution.sample(key, sample_shape), None


def is_finite(value: Array) -> Array:
    """Elementwise: neither infinite nor NaN."""
    return namespace_of(value).isfinite(value)


def is_count(value: Array) -> Array:
    """Elementwise: an integer of at least 0."""
    value = as_float(value)
    return (value >= 0) & (value == namespace_of(value).floor(value)) & is_finite(value)


def is_level(value: Array, num_levels: int) -> Array:
    """Elementwise: an integer from 0 to `num_levels - 1`."""
    # In float32: as a uint8 the level count 256 would wrap around to 0.
    return is_count(value) & (as_float(value) < num_levels)


def as_float(value: Array) -> Array:
    """As `at_least_float32`, but a NumPy array stays one."""
    dtype = jnp.promote_types(jnp.result_type(value), jnp.float32)
    return namespace_of(value).asarray(value, dtype)


def nan_outside(inside: Array, log_prob: Array) -> Array:
    """Elementwise log-probabilities, NaN outside of the support: traced values cannot raise, and must not pass."""
    return jnp.where(inside, log_prob, jnp.nan)


def parameter_shape(*parameters: ArrayLike) -> Shape:
    """The shape that the parameters broadcast to."""
    return jnp.broadcast_shapes(*(jnp.shape(parameter) for parameter in parameters))


def check_parameters(owner: str, event_ndims: int, **parameters: Any) -> None:
    """Raise where a parameter is no array, where the shapes do not broadcast, or on a bad `event_ndims`."""
    check_count(f"{owner}: event_ndims", event_ndims, minimum=0)
    for name, value in parameters.items():
        check_array(f"{owner}: {name}", value)
    shapes = {name: jnp.shape(value) for name, value in parameters.items()}
    broadcast_shapes(owner, **shapes)
    broadcast_shapes(owner, **{name: shape[: max(0, len(shape) - event_ndims)] for name, shape in shapes.items()})


def broadcast_shapes(owner: str, **shapes: Shape) -> Shape:
    """The shape that the shapes of an owner's parameters broadcast to.

    Raises:
      ValueError: they do not broadcast, or would to an outer product: of different ranks, none has the whole shape.
        `[5]` and `[5, 1]` would silently become `[5, 5]`; `[5, 1]` and `[1, 5]` say so, and scalars fit anything.
    """
    found = " and ".join(f"{name} {shape}" for name, shape in shapes.items())
    try:
        whole = jnp.broadcast_shapes(*shapes.values())
    except ValueError as error:
        raise ValueError(f"{owner}: the shapes of the parameters must broadcast; got {found}") from error
    if whole not in shapes.values() and len({len(shape) for shape in shapes.values() if shape}) > 1:
        raise ValueError(
            f"{owner}: one of the parameters must have the batch shape of all; got {found}, whose outer product would "
            f"be {whole} (give all of them {len(whole)} axes if that is meant)"
        )
    return whole


def draw_shape(owner: str, key: Any, sample_shape: Any, parameters: Shape, event_ndims: int) -> Shape:
    """The shape `[*S, *B, *E]` of a draw, after the checks that every `sample` makes."""
    check_key(key, f"{owner}.sample: key")
    if not isinstance(sample_shape, tuple):
        raise TypeError(f"{owner}.sample: sample_shape must be a tuple such as (5,); got {sample_shape!r}")
    if len(parameters) < event_ndims:
        raise ValueError(
            f"{owner}.sample: the event has {event_ndims} axes but the parameters have shape {parameters}; "
            f"give it a shape first, as in standard_normal.expand((latent_size,))"
        )
    return sample_shape + parameters
