"""An export as plain functions."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from vaejax.checks import check_array, check_key, is_concrete
from vaejax.export.layout import ABOUT, FORMAT, FUNCTIONS, PRNG, WEIGHTS, checksum, require
from vaejax.types import Array, ArrayLike


class Exported(NamedTuple):
    """A model that was exported, as plain functions; `jax.jit` takes them in, `jax.grad` and `jax.vmap` do not."""

    encode: Callable[[ArrayLike], dict[str, Array]]  # x [N, *E] as prepared -> mean, variance where known: [N, *Z]
    decode: Callable[[ArrayLike], dict[str, Array]]  # z [N, *Z] -> mean of p(x|z) [N, *E]
    generate: Callable[[Array, ArrayLike], dict[str, Array]]  # key, numbers [N] -> z [N, *Z], mean, draw [N, *E]
    about: dict[str, Any]  # what export.json says
    params: dict[str, Array]  # the weights, by dotted names


def load_export(folder: str | os.PathLike[str]) -> Exported:
    """Read what `export_run` wrote.

    Raises:
      FileNotFoundError: the folder is no export.
      ValueError: a file is damaged or missing, or the export is of another format or of a JAX that this one cannot
        read.
    """
    require("flatbuffers")
    path = Path(folder)
    about = _read_about(path)
    contents = {name: _read_checked(path / name, each) for name, each in about["files"].items()}
    weights = {name: jnp.asarray(each) for name, each in require("safetensors.numpy").load_file(path / WEIGHTS).items()}
    calls = {name: _deserialize(path / f"{name}.jax", contents, about) for name in FUNCTIONS}

    def encode(x: ArrayLike) -> dict[str, Array]:
        return calls["encode"](weights, _check_input("x", x, about["x"]))

    def decode(z: ArrayLike) -> dict[str, Array]:
        return calls["decode"](weights, _check_input("z", z, about["z"]))

    def generate(key: Array, numbers: ArrayLike) -> dict[str, Array]:
        check_key(key)
        if str(jax.random.key_impl(key)) != PRNG:
            raise ValueError(f"key must be of the kind {PRNG}; got {jax.random.key_impl(key)}")
        rows = _check_input("numbers", numbers, {"shape": [], "dtype": "uint32"})
        return calls["generate"](weights, jax.random.key_data(key), rows)

    return Exported(encode, decode, generate, about, weights)


def _read_about(folder: Path) -> dict[str, Any]:
    path = folder / ABOUT
    if not path.is_file():
        why = f"it has no {ABOUT}" if folder.is_dir() else "there is no such folder"
        raise FileNotFoundError(f"{folder} is no export: {why}")
    try:
        about = json.loads(path.read_bytes())
        found, files, functions = about["format"], about["files"], about["functions"]
        said = {WEIGHTS, *(f"{name}.jax" for name in functions if name in FUNCTIONS)}
        is_whole = all({"shape", "dtype"} <= about[name].keys() for name in ("x", "z"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: export the run again") from error
    if found != FORMAT:
        raise ValueError(f"{folder} is an export of format {found}, and this is vaejax of format {FORMAT}")
    if not is_whole or said != set(files):
        raise ValueError(f"{path} is damaged: it does not say what the files are; export the run again")
    return about


def _read_checked(path: Path, expected: Any) -> bytes:
    if not path.is_file():
        raise ValueError(f"{path} is missing: export the run again")
    content = path.read_bytes()
    if checksum(content) != expected["sha256"]:
        raise ValueError(f"{path} is damaged: its checksum is not that in {ABOUT}; export the run again")
    return content


def _deserialize(path: Path, contents: dict[str, bytes], about: dict[str, Any]) -> Callable[..., dict[str, Array]]:
    """The function of a file; where it was left out, one that says so."""
    if path.name not in contents:
        why = about["left_out"].get(path.stem, "it was left out")

        def refuse(*_: Any) -> dict[str, Array]:
            raise ValueError(f"{path.parent} has no {path.stem}: {why}")

        return refuse
    try:
        return jax.jit(jax.export.deserialize(bytearray(contents[path.name])).call)
    except ValueError as error:
        made = about["versions"]["jax"]
        raise ValueError(f"{path} was made by jax {made}, and jax {jax.__version__} cannot read it: {error}") from error


def _check_input(name: str, value: Any, expected: Mapping[str, Any]) -> Array:
    """The value in the dtype that is expected, which changes no whole number."""
    check_array(name, value)
    shape, dtype = tuple(expected["shape"]), np.dtype(expected["dtype"])
    if jnp.shape(value)[1:] != shape or jnp.ndim(value) != len(shape) + 1 or not len(value):
        sizes = ", ".join(["N", *map(str, shape)])
        raise ValueError(f"{name} must be of shape [{sizes}], N at least 1; got shape {jnp.shape(value)}")
    if dtype.kind == "f" and not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(f"{name} must be {dtype}, as {ABOUT} says; got {value.dtype}")
    if dtype.kind != "f" and is_concrete(value):
        whole = np.asarray(value)
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        if not ((whole == np.floor(whole)) & (whole >= low) & (whole <= high)).all():
            raise ValueError(f"{name} must hold whole numbers from {low} to {high}; got others")
    return jnp.asarray(value, dtype)
