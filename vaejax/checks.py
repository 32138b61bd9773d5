"""Checks at the boundary: what is wrong is said before tracing, with what was expected and what came.

Shapes, dtypes and types are known while JAX traces and are always checked. Values are not: a check
of values looks only at concrete arrays, so it runs in eager code and before a train step is
compiled, and costs nothing inside one.
"""

import numbers
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vaejax.types import Array, Shape


def is_concrete(array: Any) -> bool:
    """Whether the values of `array` are known, that is, it is not being traced."""
    return not isinstance(array, jax.core.Tracer | jax.ShapeDtypeStruct)


def namespace_of(array: Any) -> Any:
    """`numpy` for NumPy arrays, whose operations need no compilation, and `jax.numpy` for all else."""
    return np if isinstance(array, np.ndarray) else jnp


def is_array(value: Any) -> bool:
    """Whether `value` is an array or a number (not a list, a string, None or a boolean)."""
    if isinstance(value, bool):
        return False
    return isinstance(value, numbers.Number) or (hasattr(value, "shape") and hasattr(value, "dtype"))


def check_array(name: str, value: Any) -> None:
    """Raise `TypeError` where `value` is no array of numbers."""
    check_dense(name, value)
    if not is_array(value):
        raise TypeError(f"{name} must be an array; got {type(value).__name__}")
    dtype = getattr(value, "dtype", np.dtype(type(value)))
    try:
        holds_numbers = jnp.issubdtype(dtype, jnp.number) or dtype == jnp.bool_
    # That of another library, such as torch.float32.
    except (TypeError, ValueError):
        remedy = "(take jnp.asarray(x), or x.numpy())"
        raise TypeError(f"{name} must be an array of JAX or NumPy; got {kind_of(value)} of {dtype} {remedy}") from None
    if not holds_numbers:
        raise TypeError(f"{name} must hold numbers; got dtype {dtype}")


def check_dense(name: str, value: Any) -> None:
    """Raise `TypeError` where `value` is a sparse matrix, of SciPy, JAX or another library."""
    remedy = next((method for method in ("toarray", "todense") if hasattr(value, method)), None)
    if remedy:
        raise TypeError(f"{name} must be a dense array; got {kind_of(value)} (take .{remedy}())")


def kind_of(value: Any) -> str:
    """The type of `value` with its module, as in `torch.Tensor`."""
    return f"{type(value).__module__}.{type(value).__qualname__}"


def check_key(key: Any, name: str = "key") -> None:
    """Raise unless `key` is one typed PRNG key, as `jax.random.key(seed)` makes it."""
    if not isinstance(key, jax.Array):
        raise TypeError(f"{name} must be a typed PRNG key from jax.random.key(seed); got {type(key).__name__}")
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise TypeError(
            f"{name} must be a typed PRNG key from jax.random.key(seed); got an array of dtype {key.dtype} and "
            f"shape {key.shape} (wrap a legacy key with jax.random.wrap_key_data)"
        )
    if key.shape != ():
        raise ValueError(f"{name} must be one key of shape (); got shape {key.shape} (split it outside)")


def check_count(name: str, value: Any, minimum: int = 1) -> None:
    """Raise unless `value` is a Python integer of at least `minimum`."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer; got {type(value).__name__} {value!r}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}; got {value}")


def check_nonnegative(name: str, value: Any) -> None:
    """Raise where a concrete `value` is negative, infinite or NaN."""
    check_array(name, value)
    if is_concrete(value) and not np.all((np.asarray(value) >= 0) & np.isfinite(value)):
        raise ValueError(f"{name} must be at least 0 and finite; got {value}")


def check_scalar(name: str, value: Any) -> None:
    """Raise where a hyperparameter is not one number: an array would be spread over whichever axis fits."""
    check_array(name, value)
    if jnp.shape(value) != ():
        raise ValueError(f"{name} must be one number; got shape {jnp.shape(value)}")


def check_weight(name: str, value: Any) -> None:
    """Raise unless `value` is one number, and at least 0 and finite where it is concrete."""
    check_scalar(name, value)
    check_nonnegative(name, value)


def check_positive(name: str, value: Any, hint: str = "") -> None:
    """Raise where an element of a concrete `value` is not positive and finite; the hint is for one of 0 or less."""
    if not is_concrete(value):
        return
    values = np.asarray(value)
    if np.isnan(values).any():
        raise ValueError(f"{name} must be positive and finite; got NaN")
    if np.any(values <= 0):
        raise ValueError(f"{name} must be positive; got values down to {values.min()}{hint}")
    if np.isinf(values).any():
        raise ValueError(f"{name} must be positive and finite; got values up to inf")


def check_callable(name: str, value: Any) -> None:
    """Raise `TypeError` where `value` cannot be called."""
    if not callable(value):
        raise TypeError(f"{name} must be a function; got {type(value).__name__}")


def check_distribution(claim: str, value: Any) -> None:
    """Raise `TypeError` where `value` has no `sample` and `log_prob`; `claim` begins "encode must return"."""
    if callable(getattr(value, "sample", None)) and callable(getattr(value, "log_prob", None)):
        return
    hint = ""
    if isinstance(value, tuple | list) and len(value) == 2:
        hint = " (for a mean and a log-variance: vaejax.Normal.from_log_variance(mean, log_variance))"
    raise TypeError(f"{claim} a distribution with sample and log_prob; got {type(value).__name__}{hint}")


def check_support(name: str, value: Any, inside: Callable[[Array], Array], expected: str) -> None:
    """Raise `ValueError` where an element of a concrete `value` is outside the support.

    `inside` maps the array to truth values, False for NaN; `expected` says the support in words.
    """
    if not is_concrete(value) or jnp.size(value) == 0:
        return
    value = _on_host(value)
    # Concrete values are looked at now, also where a function around is being traced.
    with jax.ensure_compile_time_eval():
        fits = inside(value)
        if not fits.all():
            wrong = np.asarray(value)[~np.asarray(fits)]
            found = "NaN" if np.isnan(wrong).any() else f"{wrong.flat[0]} among {_range(value)}"
            raise ValueError(f"{name} must be {expected}; got {found}")


def _range(value: Any) -> str:
    return f"values from {np.nanmin(value)} to {np.nanmax(value)}"


def _on_host(value: Any) -> Any:
    """A concrete value as a NumPy array, whose operations need no compilation; on an accelerator floats stay there.

    Integers never do: NumPy compares them with any number, JAX with those of their dtype alone, and 256 is no uint8.
    """
    if isinstance(value, jax.Array):
        on_host = all(device.platform == "cpu" for device in value.devices())
        taken = value.is_fully_addressable and (on_host or jnp.issubdtype(value.dtype, jnp.integer))
        return np.asarray(value) if taken else value
    # In the type that JAX gives it, in which it is computed with.
    return np.asarray(value).astype(jnp.result_type(value), copy=False)


def check_event_shape(name: str, value: Any, parameters: Shape, event_ndims: int) -> None:
    """Raise where the event axes of `value` are not those that the parameters' shape ends in.

    Parameters of fewer axes than the event has (those of `standard_normal`) take any.
    """
    check_array(name, value)
    shape = jnp.shape(value)
    if len(shape) < event_ndims:
        raise ValueError(f"{name} must have at least {event_ndims} axes (the event axes); got shape {shape}")
    if len(parameters) < event_ndims:
        return
    batch, event = parameters[: len(parameters) - event_ndims], parameters[len(parameters) - event_ndims :]
    if shape[len(shape) - event_ndims :] != event:
        raise ValueError(f"{name} must have event shape {event}; got shape {shape}")
    try:
        jnp.broadcast_shapes(shape[: len(shape) - event_ndims], batch)
    except ValueError as error:
        raise ValueError(f"{name} must have batch axes that broadcast with {batch}; got shape {shape}") from error


def is_image(shape: Sequence[int]) -> bool:
    """Whether examples of a shape can be shown: height, width, and one channel or three."""
    return len(shape) == 3 and shape[-1] in (1, 3)
