"""What a finished run has to say, as a record and as `results.json`, and what was measured of each test example."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vaejax.data.files import npz_keys, read_npz
from vaejax.durable import write_durably
from vaejax.evaluation import Estimate
from vaejax.folder import RESULTS, read_json, write_json
from vaejax.outcome import Measured

# What makes the files of a finished run anew.
AGAIN = "remove {folder}/results.json and give the training command again with --output {folder}"
MEASURED, ASSESSED, FIGURE = "measured.npz", "evaluation.npz", "figure."


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
    kl_per_axis: list[float] | None = None  # nats, mean over the test examples; None where it has no closed form
    report: Path | None = None  # the page for a browser


def write_result(result: RunResult) -> None:
    """Write `results.json`, which makes a run a finished one."""
    estimates = {
        name: {"mean": float(each.mean), "standard_error": float(each.standard_error)}
        for name, each in result.test.items()
    }
    content = {**result._asdict(), "test": estimates, "pictures": [path.name for path in result.pictures]}
    content["report"] = result.report and result.report.name
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
        report = content.get("report") and folder / content["report"]
        # What was not finite is null in JSON.
        kl = content.get("kl_per_axis") and np.array(content["kl_per_axis"], float).tolist()
        known = {"folder": folder, "test": test, "pictures": pictures, "report": report, "kl_per_axis": kl}
        found = {**content, **known}
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: {error!r}") from error
    _check_fields(path, RunResult, found)
    return RunResult(**found)


def write_measured(folder: Path, measured: Measured) -> None:
    """Write what was measured of each test example to `measured.npz`, with which runs are compared."""
    latents = {name: each for name, each in measured._asdict().items() if name != "figures" and each is not None}
    figures = {FIGURE + name: each for name, each in measured.figures.items()}
    _write_arrays(folder / MEASURED, figures | latents)


def read_measured(folder: Path) -> Measured:
    """What was measured of each test example of a run.

    Raises:
      FileNotFoundError: the run has not been measured.
      ValueError: the file is damaged.
    """
    path = folder / MEASURED
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no {MEASURED}: {AGAIN.format(folder=folder)}")
    arrays = read_npz(path, npz_keys(path))
    figures = {name.removeprefix(FIGURE): arrays.pop(name) for name in list(arrays) if name.startswith(FIGURE)}
    found: dict[str, Any] = {"figures": figures, "variances": None, "kl_per_axis": None, **arrays}
    _check_fields(path, Measured, found)
    return Measured(**found)


def write_assessed(folder: Path, per_example: Mapping[str, np.ndarray]) -> None:
    """Write the likelihood of each evaluated example to `evaluation.npz`; none where it has none."""
    if not per_example:
        (folder / ASSESSED).unlink(missing_ok=True)
        return
    _write_arrays(folder / ASSESSED, per_example)


def read_assessed(folder: Path) -> dict[str, np.ndarray]:
    """What `write_assessed` wrote; nothing where a run has not been evaluated.

    Raises:
      ValueError: the file is damaged.
    """
    path = folder / ASSESSED
    if not path.is_file():
        return {}
    found = read_npz(path, npz_keys(path))
    lacking = sorted({"fingerprint", "log_likelihood", "num_samples"} - set(found))
    if lacking:
        raise ValueError(
            f"{path} lacks {lacking[0]}: it was written by another version; vaejax evaluate writes it again"
        )
    return found


def _check_fields(path: Path, kind: Any, found: Mapping[str, Any]) -> None:
    """Raise where a file of another version has other fields."""
    unknown = sorted(set(found) - set(kind._fields))
    lacking = sorted(set(kind._fields) - set(kind._field_defaults) - set(found))
    if unknown or lacking:
        said = f"has {unknown[0]}" if unknown else f"lacks {lacking[0]}"
        raise ValueError(f"{path} {said}: it was written by another version; {AGAIN.format(folder=path.parent)}")


def _write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    write_durably(path, buffer.getvalue())
