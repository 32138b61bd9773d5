"""What an export is made of."""

import hashlib
import importlib
from pathlib import Path
from typing import Any

FORMAT = 1
ABOUT, WEIGHTS = "export.json", "weights.safetensors"
FUNCTIONS = ("encode", "decode", "generate")
PLATFORMS = ("cpu", "cuda", "tpu")
# Part of the functions: another has keys of another shape.
PRNG = "threefry2x32"


def is_export(path: Path) -> bool:
    """Whether a path is a folder with an export and nothing else."""
    known = {ABOUT, WEIGHTS, *(f"{name}.jax" for name in FUNCTIONS)}
    return (path / ABOUT).is_file() and {each.name for each in path.iterdir()} <= known


def checksum(content: bytes) -> str:
    """The SHA-256 of a file."""
    return hashlib.sha256(content).hexdigest()


def require(module: str) -> Any:
    """A module of a package that exports need."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        raise ModuleNotFoundError(f'exports need {package}: pip install {package}, or "vaejax[train]"') from error
