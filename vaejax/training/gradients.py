"""The loss and its gradient over a batch: at once, in micro-batches, or in shares of several devices."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vaejax.checks import check_callable, check_count
from vaejax.types import Array, Params

# What is logged of a step: names to arrays.
Metrics = dict[str, Array]
# (params, key, batch), and what is scheduled by keyword, to the loss and what to log of it.
LossFn = Callable[..., tuple[Array, Metrics]]


class PerExample(NamedTuple):
    """A loss that is a mean over examples, each of which draws with a key of its own.

    The noise of an example is then a function of (key of the step, its place in the batch), however the batch is
    cut: into micro-batches, or over the devices of a `jax.pmap`. A loss that draws for the batch as a whole, or that
    couples its examples, has no such form.
    """

    # (params, keys [B], batch), and what is scheduled by keyword, to the mean loss and the means of what to log
    loss: Callable[..., tuple[Array, Metrics]]
    # the means over the whole batch to what is logged of it: for what is no mean itself, such as a variance
    summarize: Callable[[Metrics], Metrics] = lambda metrics: metrics


def per_example(loss_fn: LossFn) -> PerExample:
    """The mean over the batch of a loss of one example.

    Args:
      loss_fn: `(params, key, example)` to the loss and a dict of metrics, where example has no batch axis.

    >>> import jax, jax.numpy as jnp
    >>> loss = per_example(lambda params, key, x: (params * x**2, {"x": x}))
    >>> mean, _ = loss.loss(2.0, jax.random.split(jax.random.key(0), 3), jnp.arange(3.0))
    >>> round(mean.item(), 3)
    3.333
    """
    check_callable("loss_fn", loss_fn)

    def mean(params: Params, keys: Array, batch: Any, **scheduled: Array) -> tuple[Array, Metrics]:
        one = lambda key, example: check_pair("(loss, metrics)", loss_fn(params, key, example, **scheduled))
        return _means(jax.vmap(one)(keys, batch))

    return PerExample(mean)


def check_pair(expected: str, value: Any, before: str = "") -> tuple[Any, Any]:
    """The two things that a loss function returned, the metrics among them.

    Raises:
      TypeError: it returned something else.
    """
    if isinstance(value, tuple | list) and len(value) == 2:
        return value[0], value[1]
    found = f"{type(value).__name__} of {len(value)}" if isinstance(value, tuple | list) else type(value).__name__
    found = f"an array of shape {value.shape}" if hasattr(value, "shape") else found
    raise TypeError(f"loss_fn must return {expected}; got {before}{found}")


class Gradient(NamedTuple):
    """What the optimizer and the log need of a batch."""

    loss: Array  # []
    metrics: Metrics
    extra: Any
    gradient: Params


# (params, extra, key, batch, what is scheduled) to the gradient.
GradientFn = Callable[[Params, Any, Array, Any, dict[str, Array]], Gradient]


def gradient_of_batch(loss_fn: Callable[..., Any]) -> GradientFn:
    """The gradient of a loss `(params, extra, key, batch) -> (loss, (metrics, extra))` of the batch as a whole."""

    def checked(*arguments: Any, **scheduled: Array) -> Any:
        loss, rest = check_pair("(loss, (metrics, extra))", loss_fn(*arguments, **scheduled))
        return loss, check_pair("(loss, (metrics, extra))", rest, "a loss and ")

    def gradient_fn(params: Params, extra: Any, key: Array, batch: Any, scheduled: dict[str, Array]) -> Gradient:
        value_and_gradient = jax.value_and_grad(checked, has_aux=True)
        (loss, (metrics, extra)), gradient = value_and_gradient(params, extra, key, batch, **scheduled)
        return Gradient(loss, metrics, extra, gradient)

    return gradient_fn


def gradient_of_examples(loss: PerExample, axis_name: str | None, num_micro_batches: int) -> GradientFn:
    """The gradient of a mean over examples, over this device's share of the batch where `axis_name` is given."""
    check_count("num_micro_batches", num_micro_batches)

    def gradient_fn(params: Params, extra: Any, key: Array, batch: Any, scheduled: dict[str, Array]) -> Gradient:
        places = _places(_batch_size(batch), axis_name)
        if axis_name is not None:
            params = _as_varying(params, axis_name)
        mean = partial(loss.loss, **scheduled)
        sums = _over_micro_batches(mean, params, key, places, batch, num_micro_batches, axis_name)
        if axis_name is not None:
            # The mean of gradients, not the gradient of a mean: under pmap that one counts every device twice.
            sums = jax.lax.pmean(sums, axis_name)
        (value, metrics), gradient = sums
        return Gradient(value, loss.summarize(metrics), extra, gradient)

    return gradient_fn


def _over_micro_batches(
    mean: LossFn, params: Params, key: Array, places: Array, batch: Any, count: int, axis_name: str | None
) -> Any:
    """`((loss, metrics), gradient)`, the mean over micro-batches of equal size."""

    def gradient_of(keys: Array, batch: Any) -> Any:
        return jax.value_and_grad(mean, has_aux=True)(params, keys, batch)

    keys_of = jax.vmap(jax.random.fold_in, (None, 0))
    if count == 1:
        return gradient_of(keys_of(key, places), batch)
    if len(places) % count:
        raise ValueError(f"num_micro_batches must divide the {len(places)} examples of a batch; got {count}")

    # Every count-th example: each micro-batch is then spread over the devices as the batch is.
    cut = lambda leaf: jnp.swapaxes(leaf.reshape(-1, count, *leaf.shape[1:]), 0, 1)
    # The places are cut and not the keys: JAX's check for reused keys takes a transpose for a use.
    parts = jax.vmap(keys_of, (None, 0))(key, cut(places)), jax.tree.map(cut, batch)
    shapes = jax.eval_shape(lambda parts: gradient_of(*_first(parts)), parts)
    first = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.promote_types(leaf.dtype, jnp.float32)), shapes)
    if axis_name is not None:
        first = _as_varying(first, axis_name)

    def add(sums: Any, part: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, sums, gradient_of(*part)), None

    sums, _ = jax.lax.scan(add, first, parts)
    # Added up in float32 or more: in bfloat16 a sum of ones stops at 256.
    return jax.tree.map(lambda leaf, each: (leaf / count).astype(jnp.result_type(each.dtype, 1.0)), sums, shapes)


def _first(parts: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[0], parts)


def _places(size: int, axis_name: str | None) -> Array:
    """The place of each example in the whole batch, `[B]`."""
    places = jnp.arange(size, dtype=jnp.uint32)
    if axis_name is not None:
        places += (jax.lax.axis_index(axis_name) * size).astype(jnp.uint32)
    return places


def _batch_size(batch: Any) -> int:
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(batch)}
    if len(sizes) != 1 or sizes == {()}:
        raise ValueError(f"batch must be arrays of one length; got shapes {[*map(jnp.shape, jax.tree.leaves(batch))]}")
    return int(sizes.pop()[0])


def _as_varying(tree: Any, axis_name: str) -> Any:
    """Arrays that each device has for itself, such as the parameters that it differentiates.

    `jax.shard_map` would otherwise sum the gradients to parameters that are alike on all devices, before the mean is
    taken of them; where nothing tracks that, this does nothing.
    """
    return jax.tree.map(lambda leaf: jax.lax.pcast(leaf, axis_name, to="varying"), tree)


def _means(values: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), values)
