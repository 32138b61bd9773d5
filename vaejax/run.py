"""A run: an experiment trained, measured and drawn into a folder of its own."""

import dataclasses
import hashlib
import importlib.metadata
import os
import statistics
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from vaejax.experiment import Experiment, Settings, experiment_path, load_experiment
from vaejax.findings import read_findings
from vaejax.folder import CONFIG, RESULTS, differences, open_folder, read_config
from vaejax.memory import peak_memory
from vaejax.outcome import make_validation, measure
from vaejax.program import check_fit, final_params, make_program
from vaejax.results import RunResult, read_measured, read_result, write_measured, write_result
from vaejax.settings import Running, settings_from
from vaejax.trainer import CHECKPOINTS, METRICS, Callback, Trainer, done
from vaejax.training import (
    TrainState,
    best_step,
    is_first_host,
    load_checkpoint,
    load_newest,
    path_of,
    saved_steps,
    to_host,
)
from vaejax.types import Params


def train(
    name: str, settings: Settings, experiment: Experiment, callbacks: Iterable[Callback] = ()
) -> RunResult | None:
    """Train an experiment and write its run folder, or go on with one that was left off.

    Everything that can be wrong with the settings and the data is found before the folder is made, which then holds
    `config.json`, `metrics.jsonl` (a line per epoch), `tensorboard/`, `checkpoints/`, `results.json` and the pictures.
    What is trained is the same to the bit however often the run was stopped or killed.

    Args:
      name: of the experiment, or the path of its file.
      settings: what `build` was called with.
      experiment: what it returned.
      callbacks: called after every epoch with its report and the state; one that returns something true ends training.

    Returns:
      The result; None on all hosts but the first.

    Raises:
      ValueError, TypeError: settings or data that do not fit the model; a folder with another run.
      OSError: the folder is in use, or cannot be written.
      NotFinite: the loss was not finite; what is needed to take the step again is in the folder `failed`.
      Interrupted: a signal ended the run, which goes on when the same is asked for again.
    """
    check_fit(experiment, settings)
    program = make_program(experiment, settings)
    config = describe(name, settings, experiment)
    with open_folder(Path("runs") / Path(name).stem, settings.running, config) as folder:
        if (folder / RESULTS).exists():
            return read_result(folder) if is_first_host() else None
        validate = make_validation(experiment, settings)
        with Trainer(folder, program, settings, config, validate=validate, callbacks=callbacks) as trainer:
            state = trainer.best(trainer.train())
            params = to_host(final_params(state))
            if not is_first_host():
                return None
            result = _conclude(folder, config, experiment, settings, params, done(state), trainer.history())
            for picture in result.pictures:
                trainer.writers.write_image(picture.stem, picture, result.steps)
    return result


def _conclude(
    folder: Path,
    config: dict[str, Any],
    experiment: Experiment,
    settings: Settings,
    params: Params,
    measured_step: int,
    history: list[dict[str, Any]],
) -> RunResult:
    """Measure and draw, and write down that the run is finished."""
    if not history:
        raise ValueError(
            f"{folder / METRICS} holds no report of the run: it was changed, and the run cannot be concluded"
        )
    steps = np.diff([0, *(line["step"] for line in history)])
    seconds = [line["seconds"] for line in history]
    # The first epoch holds the compilation, which says nothing about the speed.
    size = settings.examples_per_step(experiment.dataset)
    speeds = [size * count / max(each, 1e-9) for count, each in zip(steps, seconds, strict=True)]
    # Matplotlib comes with them, which no first step should wait for.
    from vaejax.pictures import draw  # noqa: PLC0415
    from vaejax.run_report import write_report  # noqa: PLC0415

    measured = measure(experiment, params)
    write_measured(folder, measured)
    pictures = list(draw(experiment, params, measured, history, folder))
    result = RunResult(
        folder=folder,
        test=measured.estimates(),
        active_units=measured.active_units(),
        kl_per_axis=measured.mean_kl_per_axis(),
        seconds=sum(seconds),
        examples_per_second=statistics.median(speeds[1:] or speeds),
        peak_memory=peak_memory(),
        steps=history[-1]["step"],
        measured_step=measured_step,
        skipped=history[-1]["skipped"],
        pictures=pictures,
    )
    result = result._replace(report=write_report(folder, config, experiment, params, result, measured, {}))
    write_result(result)
    return result


def load_run(folder: str | os.PathLike[str]) -> tuple[Experiment, Settings, TrainState]:
    """A run: its experiment, its settings and the state that it was or would be measured with.

    Raises:
      FileNotFoundError: the folder is no run, or has no checkpoint yet, or the files of its data set are gone.
      ValueError: its experiment is unknown or has become another model, or a file is damaged.
    """
    return _load(folder)[1:]


def _load(folder: str | os.PathLike[str]) -> tuple[dict[str, Any], Experiment, Settings, TrainState]:
    """The config of a run, and what `load_run` gives."""
    config, module, settings = read_run(folder)
    if "members" in config:
        raise ValueError(
            f"{folder} is a sweep, whose members are not runs: vaejax train {config['experiment']} with the seed and "
            "settings of one makes a run"
        )
    checkpoints = Path(folder) / CHECKPOINTS
    if not saved_steps(checkpoints):
        raise FileNotFoundError(f"{folder} holds no checkpoint: the run has not come to its first one yet")
    experiment = rebuild(folder, module, settings)
    program = make_program(experiment, settings)
    step = best_step(checkpoints)
    if step is None:
        return config, experiment, settings, load_newest(checkpoints, program.like())[0].state
    return config, experiment, settings, load_checkpoint(path_of(checkpoints, step), program.like()).state


class OpenRun(NamedTuple):
    """A run to look at."""

    folder: Path
    config: dict[str, Any]
    experiment: Experiment
    settings: Settings
    params: Params
    step: int  # after how many steps the weights are these


def open_run(folder: str | os.PathLike[str]) -> OpenRun:
    """A run with the weights that it was or would be measured with, to look at.

    It warns where the run was made by other versions or another experiment file, which may be why it now differs.

    Raises:
      FileNotFoundError: the folder is no run, or has no checkpoint yet.
      ValueError: what `load_run` refuses, or the data of the run are others now.
    """
    config, experiment, settings, state = _load(folder)
    different = differences(config, describe(config["experiment"], settings, experiment), with_soft=True)
    others = [each for each in different if each.startswith("data.")]
    if others:
        raise ValueError(f"{folder} was made with other data: {others[0]}")
    if different:
        warnings.warn(f"{folder}: {'; '.join(different)}", stacklevel=2)
    return OpenRun(Path(folder), config, experiment, settings, final_params(state), done(state))


def rewrite_report(opened: OpenRun) -> Path:
    """Write the report of a run from all that its folder holds.

    Raises:
      FileNotFoundError: the run is not finished.
      ValueError: a file of it is damaged.
    """
    from vaejax.run_report import write_report  # noqa: PLC0415

    folder = opened.folder
    if not (folder / RESULTS).is_file():
        raise FileNotFoundError(f"{folder} is not finished: it has no {RESULTS}; train it to its end")
    result, measured = read_result(folder), read_measured(folder)
    found = read_findings(folder)
    return write_report(folder, opened.config, opened.experiment, opened.params, result, measured, found)


def read_run(folder: str | os.PathLike[str]) -> tuple[dict[str, Any], Any, Any]:
    """The config of a run or a sweep, the module of its experiment and the settings.

    Raises:
      FileNotFoundError: the folder is no run, or there is no file of its experiment.
      ValueError: its experiment has other settings now, or the config is damaged.
    """
    config = read_config(Path(folder))
    if config is None:
        why = f"it has no {CONFIG}" if Path(folder).is_dir() else "there is no such folder"
        raise FileNotFoundError(f"{folder} is no run folder: {why}")
    file = experiment_path(config["experiment"])
    if not file.is_file():
        raise FileNotFoundError(
            f"{folder} is a run of {config['experiment']}, and there is no file {file.absolute()}: run this from the "
            "folder in which it was trained"
        )
    module = load_experiment(config["experiment"])
    settings = settings_from(module.Settings, config["settings"])
    # Where and how it went is no matter here: what was trained on many devices is read on one.
    return config, module, dataclasses.replace(settings, running=Running(devices=1, feed=settings.running.feed))


def rebuild(folder: str | os.PathLike[str], module: Any, settings: Settings) -> Experiment:
    """The experiment of a run, for which its data are read again.

    Raises:
      FileNotFoundError: the files of its data set are gone.
    """
    try:
        experiment: Experiment = module.build(settings)
    except OSError as error:
        raise FileNotFoundError(
            f"{folder} is opened with the files of its data set: {error} (what vaejax export writes needs none)"
        ) from error
    return experiment


def describe(name: str, settings: Settings, experiment: Experiment) -> dict[str, Any]:
    """All that is needed to make the run again."""
    packages = ("vaejax", "jax", "jaxlib", "flax", "optax", "numpy")
    return {
        "experiment": name,
        "settings": dataclasses.asdict(settings),
        "data": {"name": experiment.dataset.name, "sha256": experiment.dataset.sha256},
        "source": hashlib.sha256(experiment_path(name).read_bytes()).hexdigest(),
        "versions": {"python": sys.version.split()[0]} | {p: importlib.metadata.version(p) for p in packages},
        "devices": [device.device_kind for device in jax.devices()],
        "prng": str(jax.random.key_impl(jax.random.key(0))),
    }
