"""A run: an experiment trained, measured and drawn into a folder of its own."""

import dataclasses
import importlib.metadata
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax

from vaejax.checks import check_support
from vaejax.data import batch_indices, count_steps
from vaejax.evaluation import Estimate, batch_metrics
from vaejax.experiment import Experiment, Settings, load_experiment
from vaejax.objectives import negative_mean
from vaejax.outcome import draw, example_figures, measure
from vaejax.training import (
    Chunk,
    TrainState,
    fit,
    init_state,
    load_checkpoint,
    make_train_step,
    save_checkpoint,
    scan_steps,
)
from vaejax.training.step import Metrics
from vaejax.types import Array, Distribution, Params


class RunResult(NamedTuple):
    """What a finished run has to say."""

    folder: Path
    test: dict[str, Estimate]  # per example, in nats but for the squared error
    active_units: int
    seconds: float  # of training
    examples_per_second: float  # median over the epochs
    pictures: list[Path]


def train(
    name: str, settings: Settings, experiment: Experiment, on_chunk: Callable[[Chunk], None] = lambda chunk: None
) -> RunResult:
    """Train an experiment and write its run folder.

    Everything that can be wrong with the settings and the data is found before the folder is made,
    which then holds `config.json`, `metrics.jsonl` (a line per epoch), `checkpoint/`, `results.json`
    and the pictures.

    Args:
      name: of the experiment, or the path of its file.
      settings: what `build` was called with.
      experiment: what it returned.
      on_chunk: called after every epoch.

    Raises:
      ValueError, TypeError: settings or data that do not fit the model.
      FileExistsError: the run folder exists.
      FloatingPointError: the loss was not finite.
    """
    check_fit(experiment, settings)
    folder = claim_folder(settings.output, Path("runs") / Path(name).stem)
    _write_json(folder / "config.json", _describe(name, settings, experiment))
    history: list[Chunk] = []
    start = time.perf_counter()
    with open(folder / "metrics.jsonl", "w") as log:

        def record(chunk: Chunk) -> None:
            history.append(chunk)
            line = {"step": chunk.step, "seconds": chunk.seconds} | {k: v.tolist() for k, v in chunk.metrics.items()}
            log.write(json.dumps(line) + "\n")
            log.flush()
            on_chunk(chunk)

        state = optimize(experiment, settings, record)
    seconds = time.perf_counter() - start
    save_checkpoint(folder / "checkpoint", state)
    # The first epoch holds the compilation, which says nothing about the speed.
    speeds = [chunk.num_steps * settings.batch_size / chunk.seconds for chunk in history[1:] or history]

    test, units = measure(experiment, state.params)
    pictures = list(draw(experiment, state.params, history, folder))
    result = RunResult(folder, test, units, seconds, statistics.median(speeds), pictures)
    _write_json(folder / "results.json", _summary(result))
    return result


def optimize(
    experiment: Experiment, settings: Settings, on_chunk: Callable[[Chunk], None] = lambda chunk: None
) -> TrainState:
    """Train an experiment in memory: `settings.epochs` chunks of an epoch each, one compiled program."""
    epoch = make_epoch(experiment, settings)
    return fit(epoch, initial_state(experiment, settings), experiment.dataset.train.images, settings.epochs, on_chunk)


def make_epoch(experiment: Experiment, settings: Settings) -> Callable[[TrainState, Any], tuple[TrainState, Metrics]]:
    """The steps of an epoch as one pure function of a state and the images, to be compiled."""
    num_examples = len(experiment.dataset.train.images)
    plan = partial(
        batch_indices,
        jax.random.split(jax.random.key(settings.seed), 3)[2],
        num_steps=count_steps(num_examples, settings.batch_size),
        num_examples=num_examples,
        batch_size=settings.batch_size,
    )
    return scan_steps(make_train_step(make_loss(experiment), experiment.optimizer), plan)


def initial_state(experiment: Experiment, settings: Settings) -> TrainState:
    """The state before the first step; the three streams of the seed are parameters, noise and order."""
    params_key, noise_key, _ = jax.random.split(jax.random.key(settings.seed), 3)
    return init_state(noise_key, experiment.model.init(params_key), experiment.optimizer)


def make_loss(experiment: Experiment) -> Callable[[Params, Array, Any], tuple[Array, Metrics]]:
    """The experiment as the loss of a train step: `(params, key, images)` to the loss and its metrics."""

    def loss_fn(params: Params, key: Array, images: Any) -> tuple[Array, Metrics]:
        prepare_key, objective_key = jax.random.split(key)
        x = experiment.prepare(prepare_key, images)
        loss, terms = negative_mean(experiment.objective(params, objective_key, x))
        return loss, batch_metrics(terms, experiment.prior(params) if experiment.prior else None)

    return loss_fn


def check_fit(experiment: Experiment, settings: Settings) -> None:
    """Raise where settings, data, model and likelihood do not fit each other; nothing is trained yet."""
    settings.check()
    dataset = experiment.dataset
    count_steps(len(dataset.train.images), settings.batch_size)
    # An abstract key: only the preparation of the data computes anything here.
    key = jax.eval_shape(lambda: jax.random.key(0))
    params = jax.eval_shape(experiment.model.init, key)

    def likelihood_of(params: Params, key: Array, x: Array) -> Distribution:
        return experiment.model.decode(params, experiment.model.encode(params, x).sample(key))

    for seed, images in enumerate((dataset.train.images, dataset.test.images)):
        x = experiment.prepare(jax.random.key(seed), images)
        likelihood = jax.eval_shape(likelihood_of, params, key, x)
        if callable(getattr(likelihood, "support", None)):
            expected = f"in the support of the likelihood {type(likelihood).__name__}"
            check_support(f"the data set {dataset.name}", x, likelihood.support, expected)
    jax.eval_shape(make_loss(experiment), params, key, dataset.train.images[: settings.batch_size])
    try:
        jax.eval_shape(example_figures(experiment, 1.0), params, key, x[0])
    except ValueError as error:
        hint = "give the experiment a report of its own"
        raise ValueError(f"the figures of a single test example: {error}; {hint}") from error


def load_run(folder: str | os.PathLike[str]) -> tuple[Experiment, Settings, TrainState]:
    """A finished run: its experiment, its settings and its trained state.

    Raises:
      FileNotFoundError: the folder is no run, or has no checkpoint yet.
      ValueError: its experiment is unknown or has become another model.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is no run folder: it has no config.json")
    config = json.loads(path.read_text())
    module = load_experiment(config["experiment"])
    settings = module.Settings(**{k: tuple(v) if isinstance(v, list) else v for k, v in config["settings"].items()})
    experiment = module.build(settings)
    state = jax.eval_shape(partial(initial_state, experiment, settings))
    return experiment, settings, load_checkpoint(Path(folder) / "checkpoint", state)


def claim_folder(output: str | None, parent: Path) -> Path:
    """Make the folder of a run: `output`, or the next free number in `parent`.

    Raises:
      FileExistsError: `output` exists; nothing in it is touched.
    """
    if output is not None:
        folder = Path(output)
        try:
            folder.mkdir(parents=True)
        except FileExistsError as error:
            raise FileExistsError(f"output {output} exists: name a new folder for the run") from error
        return folder
    parent.mkdir(parents=True, exist_ok=True)
    number = 1 + max((int(p.name) for p in parent.iterdir() if p.name.isdigit()), default=0)
    while True:
        folder = parent / f"{number:03d}"
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1  # another run took it in between
        else:
            return folder


def _describe(name: str, settings: Settings, experiment: Experiment) -> dict[str, Any]:
    """All that is needed to make the run again."""
    packages = ("vaejax", "jax", "jaxlib", "flax", "optax", "numpy")
    return {
        "experiment": name,
        "settings": dataclasses.asdict(settings),
        "data": {"name": experiment.dataset.name, "sha256": experiment.dataset.sha256},
        "versions": {"python": sys.version.split()[0]} | {p: importlib.metadata.version(p) for p in packages},
        "devices": [device.device_kind for device in jax.devices()],
        "prng": str(jax.random.key_impl(jax.random.key(0))),
    }


def _summary(result: RunResult) -> dict[str, Any]:
    return {
        "test": {
            name: {"mean": float(each.mean), "standard_error": float(each.standard_error)}
            for name, each in result.test.items()
        },
        "active_units": result.active_units,
        "seconds": result.seconds,
        "examples_per_second": result.examples_per_second,
    }


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
