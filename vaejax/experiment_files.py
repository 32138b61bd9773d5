"""Where experiments are: Python files with a dataclass `Settings` and a function `build(settings)`."""

import difflib
import importlib.util
import re
import sys
from pathlib import Path
from typing import Any


def load_experiment(name: str) -> Any:
    """The module of an experiment: a name in the folder `experiments`, or the path of a Python file.

    Raises:
      ValueError: there is none of that name, or the file is not an experiment.
    """
    path = experiment_path(name)
    if not path.is_file():
        if name.endswith(".py"):
            raise ValueError(f"unknown experiment {name}: there is no file {path.absolute()}")
        known = experiment_names()
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"perhaps {close[0]}; " if close else ""
        raise ValueError(f"unknown experiment {name}: {hint}there are {', '.join(known) or 'none in experiments/'}")
    spec = importlib.util.spec_from_file_location(f"vaejax_experiment_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by its name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    if not (hasattr(module, "Settings") and hasattr(module, "build")):
        raise ValueError(f"{path} is no experiment: it must define Settings and build(settings)")
    return module


def experiment_path(name: str) -> Path:
    """The file of an experiment, whether it is there or not."""
    return Path(name) if name.endswith(".py") else Path("experiments") / f"{name}.py"


def experiment_names() -> list[str]:
    """The experiments of the folder `experiments` here: the files that define `build`."""
    files = sorted(Path("experiments").glob("*.py"))
    return [path.stem for path in files if re.search(r"^(def build\b|build =)", path.read_text(), re.MULTILINE)]
