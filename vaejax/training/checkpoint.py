"""Saving and loading a train state with orbax."""

import os
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from vaejax.training.step import TrainState


def save_checkpoint(folder: str | os.PathLike[str], state: TrainState) -> None:
    """Write a state to a new folder; it appears whole or not at all, by a rename.

    Raises:
      FileExistsError: the folder exists; nothing is overwritten.
    """
    path = Path(folder).absolute()
    if path.exists():
        raise FileExistsError(f"{folder} exists: a checkpoint never overwrites another")
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, state)


def load_checkpoint(folder: str | os.PathLike[str], like: TrainState) -> TrainState:
    """Read a state as it was saved, bit for bit.

    Args:
      folder: where `save_checkpoint` wrote it.
      like: a state of the same structure, shapes and dtypes; `jax.eval_shape` gives one for nothing.

    Raises:
      FileNotFoundError: there is no such folder.
      ValueError: the checkpoint belongs to another model; the first leaf that differs is named.
    """
    path = Path(folder).absolute()
    if not path.is_dir():
        raise FileNotFoundError(f"{folder} is no checkpoint: there is no such folder")
    # Onto a device that is here now, whatever it was saved from.
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), like)
    with ocp.StandardCheckpointer() as checkpointer:
        saved = checkpointer.metadata(path).item_metadata
        if saved is None:
            raise FileNotFoundError(f"{folder} is no checkpoint, or an unfinished one")
        _check_same(folder, saved, like)
        return checkpointer.restore(path, like)


def _check_same(folder: str | os.PathLike[str], saved: object, like: TrainState) -> None:
    found, expected = _leaves(saved), _leaves(like)
    for name in [*expected, *found]:
        if found.get(name) != expected.get(name):
            raise ValueError(
                f"{folder} belongs to another model: {name} is {found.get(name, 'missing')} there and "
                f"{expected.get(name, 'missing')} here"
            )


def _leaves(tree: object) -> dict[str, str]:
    """Each leaf's path, its keys written alike for tuples, records and dicts, and its shape and dtype."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {".".join(_key_name(key) for key in path): _describe(leaf) for path, leaf in flat}


def _key_name(key: Any) -> str:
    return str(next(getattr(key, name) for name in ("name", "key", "idx") if hasattr(key, name)))


def _describe(leaf: Any) -> str:
    if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        # On disk a typed key is the integers behind it.
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    return f"{leaf.dtype}{list(leaf.shape)}"
