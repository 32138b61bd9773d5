"""A checkpoint: a folder that orbax writes and that is sealed when it is whole.

    STEP/state/     what orbax writes: it appears by a rename
    STEP/seal.json  size and SHA-256 of every file there, and what else the run wants to remember

The seal comes last, after the files have reached the disk. A folder without one is an unfinished save. A file that is
not as the seal says is damaged, and is named before anything reads it.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from vaejax import durable
from vaejax.strict_json import dump_json
from vaejax.training.hosts import agree, is_first_host

SEAL, STATE = "seal.json", "state"


class DamagedCheckpoint(ValueError):
    """A checkpoint that is not as it was written."""


def save_checkpoint(folder: str | os.PathLike[str], tree: Any, about: Mapping[str, Any] | None = None) -> None:
    """Write a tree of arrays, such as a `TrainState`, to a new folder; it counts once it is whole.

    Args:
      folder: the new folder.
      tree: the arrays.
      about: what else to remember, as JSON can say it; `read_about` gives it back.

    Raises:
      FileExistsError: the folder exists; nothing is overwritten.
      TypeError: `about` is nothing that JSON can say.
      OSError: it cannot be written.
    """
    path = Path(folder).absolute()
    about = as_json(about)
    # What the first host sees, for all of them: it alone makes the folder.
    if agree(int(is_first_host() and path.exists()))[0]:
        raise FileExistsError(f"{folder} exists: a checkpoint never overwrites another")
    with ocp.StandardCheckpointer() as checkpointer:
        start_save(checkpointer, path, tree)
        finish_save(checkpointer, path, about)


def load_checkpoint(folder: str | os.PathLike[str], like: Any, sharding_of: Callable[[Any], Any] | None = None) -> Any:
    """Read a tree of arrays as it was saved, bit for bit.

    Args:
      folder: where `save_checkpoint` wrote it.
      like: a tree of the same structure, shapes and dtypes; `jax.eval_shape` gives one for nothing.
      sharding_of: the tree to where its arrays shall lie. Where None they are on the first device and committed to
        none, as arrays that were just made: a program on any devices takes them.

    Raises:
      FileNotFoundError: there is no such folder, or it is unfinished.
      DamagedCheckpoint: a `ValueError` that names the file that is not as it was written.
      ValueError: the checkpoint belongs to another model; the first leaf that differs is named.
    """
    path = Path(folder).absolute()
    if not path.is_dir():
        raise FileNotFoundError(f"{folder} is no checkpoint: there is no such folder")
    check_whole(path)
    # Onto devices that are here now, whatever it was saved from.
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shardings = jax.tree.map(lambda leaf: here, like) if sharding_of is None else sharding_of(like)
    like = jax.tree.map(lambda leaf, at: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at), like, shardings)
    with ocp.StandardCheckpointer() as checkpointer:
        saved = checkpointer.metadata(path / STATE).item_metadata
        if saved is None:
            raise DamagedCheckpoint(f"{folder} is no checkpoint: it says nothing of what is in it")
        _check_same(folder, saved, like)
        loaded = checkpointer.restore(path / STATE, like)
    return jax.tree.map(_uncommitted, loaded) if sharding_of is None else loaded


def _uncommitted(leaf: jax.Array) -> jax.Array:
    """The same array by way of the host: orbax puts each on a device on purpose, and JAX then keeps it there."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_uncommitted(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
    return jnp.asarray(np.asarray(leaf))


def read_about(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """What a checkpoint was saved with besides its arrays."""
    about: dict[str, Any] = _read_seal(Path(folder))["about"]
    return about


def as_json(about: Mapping[str, Any] | None) -> dict[str, Any]:
    """What JSON gives back of a mapping, in which all keys are text.

    Raises:
      TypeError: it can say no such thing.
    """
    try:
        found: dict[str, Any] = json.loads(dump_json(dict(about or {})))
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"about must be what JSON can say: {error}") from error
    return found


def start_save(checkpointer: ocp.StandardCheckpointer, path: Path, tree: Any) -> None:
    """Begin to write in the background; the tree may be donated as soon as this returns."""
    if jax.default_backend() == "cpu":
        # There orbax would write from the very buffers that the next step takes.
        tree = jax.tree.map(jnp.copy, tree)
    try:
        if is_first_host():
            # Where orbax cannot make a folder its threads wait for it for minutes, and the process for them.
            path.mkdir(parents=True, exist_ok=True)
        checkpointer.save(path / STATE, tree)
    except Exception as error:
        raise _cannot_write(path, error) from error


def finish_save(checkpointer: ocp.StandardCheckpointer, path: Path, about: Mapping[str, Any]) -> None:
    """Wait until all is written and on the disk, and seal it."""
    try:
        checkpointer.wait_until_finished()
        if is_first_host():
            _seal(path, about)
    # Orbax and the store below it raise many kinds.
    except Exception as error:
        raise _cannot_write(path, error) from error


def _cannot_write(path: Path, error: Exception) -> OSError:
    reason = getattr(error, "strerror", None) or next(iter(str(error).splitlines()), type(error).__name__)
    return OSError(f"the checkpoint {path} could not be written: {reason}")


def check_whole(path: Path) -> None:
    """Raise where a checkpoint is unfinished or a file of it is not as it was written."""
    for name, (size, digest) in _read_seal(path)["files"].items():
        file = path / name
        if ".." in Path(name).parts or Path(name).is_absolute():
            raise DamagedCheckpoint(f"{path / SEAL} is damaged: {name} is outside the checkpoint")
        if not file.is_file():
            raise DamagedCheckpoint(f"{file} is missing from the checkpoint")
        if file.stat().st_size != size:
            raise DamagedCheckpoint(f"{file} is damaged: {file.stat().st_size} bytes where {size} were written")
        if _digest(file) != digest:
            raise DamagedCheckpoint(f"{file} is damaged: its checksum is not that of what was written")


def _seal(path: Path, about: Mapping[str, Any]) -> None:
    inside = sorted((path / STATE).rglob("*"))
    files = {str(each.relative_to(path)): (each.stat().st_size, _digest(each)) for each in inside if each.is_file()}
    # A folder says which files there are, so each has to be on the disk too, and the one that says that this one is.
    for each in (*inside, path / STATE, path, path.parent):
        durable.to_disk(each)
    content = {"files": files, "about": dict(about)}
    durable.write_durably(path / SEAL, json.dumps({"content": content, "sha256": _digest_of(content)}).encode())


def _read_seal(path: Path) -> dict[str, Any]:
    seal = path / SEAL
    if not seal.is_file():
        raise FileNotFoundError(f"{path} is no checkpoint, or an unfinished one: it has no {SEAL}")
    try:
        sealed = json.loads(seal.read_text())
        if sealed["sha256"] != _digest_of(sealed["content"]):
            raise ValueError("its checksum is wrong")
        files = {name: (int(size), str(digest)) for name, (size, digest) in sealed["content"]["files"].items()}
        return {"files": files, "about": dict(sealed["content"]["about"])}
    # Whatever JSON can say may be in it.
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedCheckpoint(f"{seal} is damaged: {error}") from error


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_of(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _check_same(folder: str | os.PathLike[str], saved: object, like: Any) -> None:
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
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        # On disk a typed key is the integers behind it.
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    return f"{leaf.dtype}{list(leaf.shape)}"
