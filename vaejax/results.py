"""What a finished run has to say, as a record and as `results.json`."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from vaejax.evaluation import Estimate
from vaejax.folder import RESULTS, read_json, write_json


class RunResult(NamedTuple):
    """What a finished run has to say."""

    folder: Path
    test: dict[str, Estimate]  # per example, in nats but for the squared error
    active_units: int
    seconds: float  # of training, in all
    examples_per_second: float  # median over the epochs
    peak_memory: dict[str, int]  # bytes: "host" and, where the backend tells, "device"
    steps: int
    measured_step: int  # after how many of them the weights were measured: the best, where there are validation figures
    skipped: int  # steps that were left out, since they were not finite
    pictures: list[Path]


def write_result(result: RunResult) -> None:
    """Write `results.json`, which makes a run a finished one."""
    estimates = {
        name: {"mean": float(each.mean), "standard_error": float(each.standard_error)}
        for name, each in result.test.items()
    }
    content = {**result._asdict(), "test": estimates, "pictures": [path.name for path in result.pictures]}
    del content["folder"]
    write_json(result.folder / RESULTS, content)


def read_result(folder: Path) -> RunResult:
    """What a run has written.

    Raises:
      ValueError: the file is damaged.
    """
    path = folder / RESULTS
    content = read_json(path)
    try:
        test = {
            name: Estimate(np.float32(each["mean"]), np.float32(each["standard_error"]))  # type: ignore[arg-type]
            for name, each in content["test"].items()
        }
        pictures = [folder / name for name in content["pictures"]]
        return RunResult(**{**content, "folder": folder, "test": test, "pictures": pictures})
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
