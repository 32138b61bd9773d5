"""Weights & Biases and MLflow, where they are installed and asked for."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vaejax.durable import write_durably
from vaejax.writers._base import Values, require, scalars


class WeightsAndBiases:
    """A run of Weights & Biases, which its own environment variables (`WANDB_MODE`, ...) direct.

    A run that goes on in the same folder goes on there too, with what has not been written yet.

    Args:
      project: where the run is listed.
      name: of the run.
      config: the settings, by name.
      folder: of the run; it keeps the id in `wandb.json`, and W&B's files unless `WANDB_DIR` is set.

    Raises:
      ValueError: wandb is not installed, or `wandb.json` is damaged.
    """

    def __init__(self, project: str, name: str, config: Mapping[str, Any], folder: str | os.PathLike[str]):
        self._wandb = require("wandb")
        id_file = Path(folder).absolute() / "wandb.json"
        known = _read_id(id_file)
        self._run = self._wandb.init(
            project=project,
            name=name,
            config=dict(config),
            dir=os.environ.get("WANDB_DIR", str(id_file.parent)),
            id=known,
            resume=None if known is None else "allow",
            allow_val_change=True,  # of the config, by a run that goes on for more epochs
        )
        if known is None:
            write_durably(id_file, json.dumps({"id": self._run.id}).encode())

    def write(self, step: int, values: Values) -> None:
        """Log the numbers of the report, unless a step as late has been logged."""
        # What a run repeats after a crash W&B would refuse, with a warning for each report.
        if step >= self._run.step:
            self._run.log(scalars(values), step=int(step), commit=True)

    def write_image(self, name: str, path: str | os.PathLike[str], step: int) -> None:
        """Log the picture of a PNG file, at the first step that is still free."""
        self._run.log({name: self._wandb.Image(str(path))}, step=max(int(step), self._run.step), commit=True)

    def close(self) -> None:
        """Finish the run; this waits for what is still to be sent."""
        self._run.finish()


class MLflow:
    """A run of MLflow, at `MLFLOW_TRACKING_URI` or MLflow's own default.

    A run that goes on in the same folder goes on there too. MLflow forgets nothing: steps that are repeated after a
    crash are there twice.

    Args:
      experiment: where the run is listed.
      name: of the run.
      config: the settings, by name; those of a mapping in it get names with dots.
      folder: of the run; it keeps the id in `mlflow.json`.

    Raises:
      ValueError: mlflow is not installed, or `mlflow.json` is damaged.
    """

    def __init__(self, experiment: str, name: str, config: Mapping[str, Any], folder: str | os.PathLike[str]):
        self._mlflow = require("mlflow")
        id_file = Path(folder) / "mlflow.json"
        known = _read_id(id_file)
        if known is not None:
            self._mlflow.start_run(run_id=known)
            self._id = known
        else:
            self._mlflow.set_experiment(experiment)
            self._id = self._mlflow.start_run(run_name=name).info.run_id
            # Never again: MLflow refuses settings that have changed.
            self._mlflow.log_params(dict(_flatten(config)), run_id=self._id)
            write_durably(id_file, json.dumps({"id": self._id}).encode())

    def write(self, step: int, values: Values) -> None:
        """Log the numbers of the report."""
        self._mlflow.log_metrics(scalars(values), step=int(step), run_id=self._id)

    def write_image(self, name: str, path: str | os.PathLike[str], step: int) -> None:
        """Log a PNG file as an artifact, which has its file's name and no step."""
        self._mlflow.log_artifact(str(path), run_id=self._id)

    def close(self) -> None:
        """End the run."""
        self._mlflow.end_run()


def _flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _read_id(path: Path) -> str | None:
    if not path.is_file():
        return None
    try:
        known = json.loads(path.read_text())["id"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: it must hold the id of a run") from error
    if not isinstance(known, str):
        raise ValueError(f"{path} is damaged: the id must be text; got {type(known).__name__}")
    return known
