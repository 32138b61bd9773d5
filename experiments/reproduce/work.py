"""A row at a size: its seeds trained, or taken up where they were left, and measured."""

import dataclasses
import hashlib
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vaejax import outcome, run, sweep
from vaejax.experiment import experiment_path, load_experiment
from vaejax.folder import read_config
from vaejax.program import final_params
from vaejax.progress import TrainingProgress
from vaejax.results import read_measured
from vaejax.settings import Running, settings_from
from vaejax.strict_json import dump_json
from vaejax.trainer import METRICS
from vaejax.training import Report, TrainState
from vaejax.writers.json_lines import read_json_lines

from ..benchmarks.report import environment
from .measures import Measure, Trained
from .records import Record
from .tables import Row, Size


def settings_of(row: Row, size: Size, module: Any, seed: int) -> Any:
    """The settings of a seed of a row.

    Raises:
      ValueError: the table names a setting that the experiment does not have.
    """
    return settings_from(module.Settings, {**row.settings, **size.settings, "seed": seed})


def identity(settings: Any) -> dict[str, Any]:
    """The settings but for where it runs, as JSON has them."""
    content = json.loads(dump_json(dataclasses.asdict(settings)))
    del content["running"]
    return content


def made_with(record: Record, module: Any) -> dict[str, Any] | None:
    """The settings of a record; those that the experiment has got since had what is now their default.

    None where it has lost or renamed one.
    """
    try:
        return identity(settings_from(module.Settings, record.settings))
    except ValueError:
        return None


def in_folder(row: Row, settings: Any, parent: Path, what: str) -> Any:
    """The settings with a folder of their own: with other ones, or another experiment file, a run begins anew."""
    source = experiment_path(row.experiment).read_bytes()
    content = json.dumps({**identity(settings), "seed": None}, sort_keys=True).encode()
    name = f"{what}-{hashlib.sha256(source + content).hexdigest()[:8]}"
    return dataclasses.replace(settings, running=Running(output=str(parent / name)))


def missing_seeds(row: Row, size: Size, kept: Mapping[int, Record]) -> list[int]:
    """The seeds of which nothing is kept that was made with these settings and measured as this size wants it."""
    module = load_experiment(row.experiment)

    def is_kept(seed: int) -> bool:
        record = kept.get(seed)
        return (
            record is not None
            and made_with(record, module) == identity(settings_of(row, size, module, seed))
            and (record.num_examples, record.num_samples) == (size.num_examples, size.num_samples)
        )

    return [seed for seed in range(size.num_seeds) if not is_kept(seed)]


def run_row(row: Row, size: Size, measure: Measure, seeds: Sequence[int], folder: Path) -> Iterator[tuple[int, Record]]:
    """Train and measure the seeds, each as soon as it can be; what an earlier call left in the folder goes on.

    Raises:
      Interrupted: a signal ended the training, which goes on when this is called again.
      and what `vaejax.run.train` and `vaejax.sweep.sweep` raise.
    """
    train = train_together if size.together else train_alone
    for trained in train(row, size, seeds, folder):
        yield trained.seed, record_of(row, size, measure, trained)


def train_alone(row: Row, size: Size, seeds: Sequence[int], folder: Path) -> Iterator[Trained]:
    """A run for each seed, one after the other."""
    module = load_experiment(row.experiment)
    for seed in seeds:
        settings = in_folder(row, settings_of(row, size, module, seed), folder, f"seed-{seed}")
        experiment = module.build(settings)
        dataset = experiment.dataset
        with TrainingProgress(settings.num_steps(dataset), settings.examples_per_step(dataset)) as progress:
            result = run.train(row.experiment, settings, experiment, [progress.update])
        assert result is not None
        opened = run.open_run(result.folder)
        measured = read_measured(result.folder)
        history = read_json_lines(result.folder / METRICS)
        yield Trained(
            seed, settings, opened.experiment, opened.params, measured, opened.config, result.seconds, history
        )


def train_together(row: Row, size: Size, seeds: Sequence[int], folder: Path) -> Iterator[Trained]:
    """All seeds of the size as one sweep, of which those that are asked for are taken."""
    module = load_experiment(row.experiment)
    settings = in_folder(row, settings_of(row, size, module, 0), folder, f"{size.num_seeds}-seeds")
    result = sweep.sweep(row.experiment, settings, module.build, {}, num_seeds=size.num_seeds, callbacks=[say_step])
    for seed in seeds:
        experiment, own, state = sweep.load_member(result.folder, seed)
        params = final_params(state)
        config = read_config(result.folder)
        assert config is not None
        measured = outcome.measure(experiment, params)
        yield Trained(seed, own, experiment, params, measured, config, result.seconds / size.num_seeds)


def say_step(report: Report, state: TrainState) -> None:
    """A line for each report of a sweep."""
    del state
    losses = ", ".join(f"{loss:.2f}" for loss in np.ravel(report.metrics["loss"]))
    print(f"step {report.step}  loss of each seed {losses}", file=sys.stderr, flush=True)


def record_of(row: Row, size: Size, measure: Measure, trained: Trained) -> Record:
    """What the table compares, and what is needed to make the figure again."""
    start = time.perf_counter()
    taken = measure.take(size, trained)
    return Record(
        value=taken.value,
        standard_error=taken.standard_error,
        negative_elbo=float(np.mean(trained.measured.figures["negative_elbo"], dtype=np.float64)),
        active_units=trained.measured.active_units(),
        unreliable=taken.unreliable,
        num_examples=size.num_examples,
        num_samples=size.num_samples,
        train_seconds=trained.seconds,
        measure_seconds=time.perf_counter() - start,
        settings=identity(trained.settings),
        experiment={"name": row.experiment, "sha256": trained.config["source"]},
        data=trained.config["data"],
        environment=environment(),
        scores=dict(taken.scores),
        curve=[list(point) for point in taken.curve],
    )
