"""An experiment as data: a Python file with a dataclass `Settings` and a function `build(settings)`.

`build` returns an `Experiment`. The way of the data through one is short: stored images, `prepare`,
`objective`, a step.
"""

import dataclasses
import difflib
import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import optax

from vaejax.checks import check_count
from vaejax.data import Dataset
from vaejax.evaluation import Terms
from vaejax.nets import Model
from vaejax.types import Array, Distribution, Params


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings that every experiment has; an experiment adds its own."""

    seed: int = 0
    """Seed of the parameters, the order of the examples and all noise."""
    epochs: int = 100
    """Passes over the training data."""
    batch_size: int = 128
    """Examples per step."""
    learning_rate: float = 1e-3
    """Step size of Adam."""
    latent_size: int = 8
    """Number of latents."""
    hidden_sizes: tuple[int, ...] = (128,)
    """Widths of the encoder's hidden layers; the decoder has them in reverse."""
    output: str | None = None
    """Folder of the run, which must not exist; by default runs/EXPERIMENT/NUMBER."""

    def check(self) -> None:
        """Raise `TypeError` or `ValueError` on a setting that cannot be."""
        for name in ("epochs", "batch_size"):
            check_count(name, getattr(self, name))
        check_count("seed", self.seed, minimum=0)
        if not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"learning_rate must be positive and finite; got {self.learning_rate}")


@dataclasses.dataclass(frozen=True)
class VaeSettings(Settings):
    """The settings of a variational autoencoder."""

    num_samples: int = 1
    """Monte-Carlo samples of the likelihood term."""
    beta: float = 1.0
    """Weight of the KL term in training; the figures reported never use it."""


class Experiment(NamedTuple):
    """What is trained on what."""

    dataset: Dataset
    model: Model
    # (key, images [*B, H, W, C] uint8) to the x that the model sees; a key per step, a fixed one for testing
    prepare: Callable[[Array, Any], Array]
    # (params, key, x) to the terms of which the value is maximised
    objective: Callable[[Params, Array, Array], Terms]
    optimizer: optax.GradientTransformation
    # params to p(z) over one latent [Z]; None where there is nothing to sample from
    prior: Callable[[Params], Distribution] | None = None
    # (params, key, x) to the terms that are reported of the test set, example by example; the objective where None
    report: Callable[[Params, Array, Array], Terms] | None = None


def load_experiment(name: str) -> Any:
    """The module of an experiment: a name in the folder `experiments`, or the path of a Python file.

    Raises:
      ValueError: there is none of that name, or the file is not an experiment.
    """
    path = Path(name) if name.endswith(".py") else Path("experiments") / f"{name}.py"
    if not path.is_file():
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


def experiment_names() -> list[str]:
    """The experiments of the folder `experiments` here: the files that define `build`."""
    files = sorted(Path("experiments").glob("*.py"))
    return [path.stem for path in files if re.search(r"^(def build\b|build =)", path.read_text(), re.MULTILINE)]
