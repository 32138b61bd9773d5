"""One step on many devices: the batch cut along a mesh, the state on each of them or cut as well."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vaejax.checks import check_callable, check_count
from vaejax.training.gradients import Metrics
from vaejax.training.step import Step, TrainState

# Smaller leaves are kept whole: gathering them costs more than they take.
MIN_SHARDED_SIZE = 2**14


def data_mesh(num_devices: int | None = None) -> Mesh:
    """A mesh with the one axis `data`, over the first `num_devices` devices of all hosts, or all of them.

    Raises:
      ValueError: there are not so many.
    """
    devices = jax.devices()
    if num_devices is not None:
        check_count("num_devices", num_devices)
        if num_devices > len(devices):
            raise ValueError(f"num_devices must be at most the {len(devices)} devices there are; got {num_devices}")
    # Auto: the compiler chooses, and merging the axes of samples and batch is allowed.
    return Mesh(np.array(devices[:num_devices]), ("data",), axis_types=(AxisType.Auto,))


def state_shardings(state: Any, mesh: Mesh, *, shard_params: bool = False) -> Any:
    """Where each leaf of a state lies: whole on every device, or cut along the mesh.

    With `shard_params` each leaf of at least 16,384 elements is cut along its longest axis that the devices divide
    (fully sharded data parallelism): parameters, moments and averages take a share of the memory each.
    """
    size = mesh.size

    def spec(leaf: Any) -> NamedSharding:
        axes = [axis for axis, length in enumerate(np.shape(leaf)) if length % size == 0]
        if not (shard_params and axes and leaf.size >= MIN_SHARDED_SIZE):
            return NamedSharding(mesh, PartitionSpec())
        longest = max(axes, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*[None] * longest, *mesh.axis_names))

    return jax.tree.map(spec, state)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Arrays cut along their first axis."""
    return NamedSharding(mesh, PartitionSpec(*mesh.axis_names))


def on_mesh(step: Step, mesh: Mesh, *, shard_params: bool = False) -> Step:
    """The same pure step with its batch and its state laid out over the mesh, for a program around it to be compiled.

    Under `jax.jit` a step means the global batch wherever its parts lie. So noise, means over the batch and objectives
    that couple its examples are those of one device; only the order of summation differs.
    """
    check_callable("step", step)

    def cut(batch: Any) -> Any:
        check_divides(batch, mesh)
        return jax.tree.map(lambda _: batch_sharding(mesh), batch)

    return laid_out(step, cut, partial(state_shardings, mesh=mesh, shard_params=shard_params))


def laid_out(step: Step, batch_shardings: Callable[[Any], Any], sharding_of: Callable[[Any], Any]) -> Step:
    """The same step with its batch and the state after it where two functions of their trees say."""

    def placed(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        after, metrics = step(state, jax.lax.with_sharding_constraint(batch, batch_shardings(batch)))
        return jax.lax.with_sharding_constraint(after, sharding_of(after)), metrics

    return placed


def data_parallel(
    step: Step, mesh: Mesh, *, shard_params: bool = False
) -> Callable[[TrainState, Any], tuple[TrainState, Metrics]]:
    """A step compiled for a mesh: `jax.jit` over a batch that is cut along it; the state is donated.

    Args:
      step: `(state, batch) -> (state, metrics)`, as `make_train_step` makes it.
      mesh: with one axis, as `data_mesh` makes it.
      shard_params: cut large parameters, and what the optimizer keeps of them, along the mesh too.

    Returns:
      `step(state, batch)`; the state that goes in is used up. The result differs from one device's by rounding, its
      noise not at all. Both arguments are laid out over the mesh first, wherever they were, so that one program does
      all steps.

    Raises (when it is used):
      ValueError: a batch that the devices do not divide.

    >>> import jax, jax.numpy as jnp, optax
    >>> from vaejax.training import init_state, make_train_step
    >>> optimizer = optax.sgd(0.5)
    >>> step = make_train_step(lambda params, key, batch: (jnp.mean((params - batch) ** 2), {}), optimizer)
    >>> state = init_state(jax.random.key(0), jnp.zeros(()), optimizer)
    >>> state, metrics = data_parallel(step, data_mesh(1))(state, jnp.ones(8))
    >>> state.params.item()
    1.0
    """
    compiled = jax.jit(on_mesh(step, mesh, shard_params=shard_params), donate_argnums=0)

    def placed(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        check_divides(batch, mesh)
        state = place(state, state_shardings(state, mesh, shard_params=shard_params))
        after: tuple[TrainState, Metrics] = compiled(state, place(batch, jax.tree.map(lambda _: cut, batch)))
        return after

    cut = batch_sharding(mesh)
    return placed


def place(tree: Any, shardings: Any) -> Any:
    """Lay arrays out, each as its sharding says; with several hosts each has the whole and keeps its share."""
    if jax.process_count() == 1:
        return jax.device_put(tree, shardings)
    return jax.tree.map(_from_host, tree, shardings)


def _from_host(leaf: Any, sharding: NamedSharding) -> Any:
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return jax.device_put(leaf, sharding)
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_from_host(jax.random.key_data(leaf), sharding), impl=jax.random.key_impl(leaf))
    array = np.asarray(leaf)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def to_host(tree: Any) -> Any:
    """Arrays whole in this process, also those that are cut over several hosts; to be called on all of them."""
    if jax.process_count() == 1:
        return tree
    from jax.experimental import multihost_utils  # noqa: PLC0415

    return multihost_utils.process_allgather(tree, tiled=True)


def check_divides(batch: Any, mesh: Mesh) -> None:
    """Raise `ValueError` where the devices of a mesh do not divide the examples of a batch."""
    for leaf in jax.tree.leaves(batch):
        shape = np.shape(leaf)
        if not shape or shape[0] % mesh.size:
            found = shape[0] if shape else "an array without axes"
            raise ValueError(f"the examples of a batch must be a multiple of the {mesh.size} devices; got {found}")
