"""A step of a run taken again, and apart: which part of it is the first that is not finite."""

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from vaejax import run
from vaejax.checks import check_count
from vaejax.experiment import Experiment
from vaejax.folder import differences
from vaejax.program import Program, initial_state, make_program
from vaejax.settings import Settings
from vaejax.stages import Examples, Leaf, Stage, batch_of, take_apart
from vaejax.trainer import CHECKPOINTS, FAILED
from vaejax.training import (
    DamagedCheckpoint,
    Progress,
    TrainState,
    fit,
    load_checkpoint,
    path_of,
    saved_steps,
)

# What a train step looks at before it keeps its outcome.
DECISIVE = ("loss", "gradient norm", "optimizer state after", "parameters after")
# So many leaves of a stage, and so many examples, are shown.
MAX_SHOWN = 8


class Replay(NamedTuple):
    """A step that was taken again."""

    folder: Path
    step: int  # how many were done before it
    batch: Examples  # as they are numbered in the training data
    stages: tuple[Stage, ...]  # as `take_apart` gives them
    device: str
    differences: tuple[str, ...]  # between the run and what it was replayed with, in words

    @property
    def loss(self) -> float:
        """The loss of the step."""
        return self._number("loss")

    @property
    def gradient_norm(self) -> float:
        """The global norm of its gradient, before the optimizer."""
        return self._number("gradient norm")

    @property
    def failed(self) -> Stage | None:
        """The first stage that is not finite; None where a train step would keep its outcome."""
        if all(stage.is_finite for stage in self.stages if stage.name in DECISIVE):
            return None
        return next(stage for stage in self.stages if not stage.is_finite)

    def _number(self, name: str) -> float:
        return next(stage.leaves[0].low for stage in self.stages if stage.name == name)


def replay(folder: str | os.PathLike[str], step: int | None = None) -> Replay:
    """Take a step of a run again, with the batch and the noise that it had, and look at every part of it.

    The folder is only read.

    Args:
      folder: of the run.
      step: how many steps were done before it. The run is trained up to there in memory, from the newest checkpoint
        that is not later, or from its beginning. Where None, the step that failed.

    Raises:
      FileNotFoundError: the folder is no run, or no step of it has failed and none is named.
      ValueError: a step that the run has not come to; a sweep; an experiment that is unknown or has become another
        model.
      NotFinite: a step before the one that is named is not finite here.
    """
    path = Path(folder)
    config, module, settings = run.read_run(path)
    if "members" in config:
        raise ValueError(f"{folder} is a sweep: train one of its members by itself, and replay that run")
    experiment = run.rebuild(folder, module, settings)
    state = _failed_state(path, experiment, settings) if step is None else _state_at(path, experiment, settings, step)
    # On one device, wherever it was trained.
    device = jax.local_devices()[0]
    state = jax.device_put(state, device)
    batch = batch_of(experiment, settings, int(state.step))
    stages = tuple(take_apart(experiment, settings, state, batch))
    different = differences(config, run.describe(config["experiment"], settings, experiment), with_soft=True)
    return Replay(path, int(state.step), batch, stages, device.device_kind, tuple(different))


def _failed_state(folder: Path, experiment: Experiment, settings: Settings) -> TrainState:
    """The state before the step that failed."""
    path = folder / FAILED
    if not path.is_dir():
        raise FileNotFoundError(f"no step of {folder} has failed: name the one to replay (--step)")
    state: TrainState = load_checkpoint(path, jax.eval_shape(partial(initial_state, experiment, settings)))
    return state


def _state_at(folder: Path, experiment: Experiment, settings: Settings, step: int) -> TrainState:
    """The state before any step that the run has come to."""
    check_count("step", step, minimum=0)
    program = make_program(experiment, settings)
    reached = [0, *saved_steps(folder / CHECKPOINTS)]
    with suppress(FileNotFoundError, DamagedCheckpoint):
        reached.append(int(_failed_state(folder, experiment, settings).step))
    last = min(max(reached), program.num_steps - 1)
    if step > last:
        raise ValueError(f"step must be at most {last}, the last that is saved of {folder}; got {step}")
    progress = _progress_before(folder, program, step)
    if int(progress.state.step) == step:
        return progress.state
    every, rollbacks = program.steps_per_epoch, settings.training.max_not_finite
    return fit(program.feed, progress, num_steps=step, report_every=every, max_rollbacks=rollbacks).state


def _progress_before(folder: Path, program: Program, step: int) -> Progress:
    """The newest whole checkpoint that is not later than a step, or the beginning of the run."""
    checkpoints = folder / CHECKPOINTS
    for saved in reversed([each for each in saved_steps(checkpoints) if each <= step]):
        try:
            progress: Progress = load_checkpoint(path_of(checkpoints, saved), program.like(), program.feed.sharding_of)
        except DamagedCheckpoint as error:
            warnings.warn(f"{error}; going back to what is before it", stacklevel=4)
        else:
            return progress
    return program.begin()


def describe(replay: Replay) -> str:
    """A replay in words: its stages, and which of them is the first that is not finite.

    >>> stages = [Stage(name, (Leaf("", True, 2.0, 2.0),)) for name in DECISIVE]
    >>> print(describe(Replay(Path("runs/a/001"), 7, (4, 2), tuple(stages), "cpu", ())))
    step 7 of runs/a/001, with its 2 examples, on cpu
      loss                   2
      gradient norm          2
      optimizer state after  2
      parameters after       2
    the step is finite here: loss 2, gradient norm 2
    """
    count = len(replay.batch)
    rows = [row for stage in replay.stages for row in _rows(stage, count)]
    width = max(len(name) for name, _ in rows)
    return "\n".join(
        [
            f"step {replay.step} of {replay.folder}, with its {count} examples, on {replay.device}",
            *(f"  unlike the run: {each}" for each in replay.differences),
            *(f"  {name:<{width}}  {text}" for name, text in rows),
            _verdict(replay),
        ]
    )


def _verdict(replay: Replay) -> str:
    failed = replay.failed
    if failed is None:
        return f"the step is finite here: loss {replay.loss:.9g}, gradient norm {replay.gradient_norm:.9g}"
    leaves = _some([leaf.name for leaf in failed.leaves if not leaf.is_finite and leaf.name])
    name = f"{failed.name} ({leaves})" if leaves else failed.name
    return f"the first that is not finite: {name}{_where(failed.examples, len(replay.batch))}"


def _rows(stage: Stage, count: int) -> Iterator[tuple[str, str]]:
    """A stage and its leaves, of many only those that are not finite: the name, and what there is to say."""
    # NaN only where all are.
    low = float(np.fmin.reduce([leaf.low for leaf in stage.leaves]))
    high = float(np.fmax.reduce([leaf.high for leaf in stage.leaves]))
    yield stage.name, _range(Leaf(stage.name, stage.is_finite, low, high, stage.examples), count)
    shown = stage.leaves
    if len(shown) > MAX_SHOWN:
        shown = tuple(leaf for leaf in shown if not leaf.is_finite)[:MAX_SHOWN]
    yield from ((f"  {leaf.name}", _range(leaf, count)) for leaf in shown if leaf.name)


def _range(leaf: Leaf, count: int) -> str:
    text = " to ".join(dict.fromkeys(f"{number:.6g}" for number in (leaf.low, leaf.high)))
    if leaf.is_finite:
        return text
    return f"{text}, not finite{_where(leaf.examples, count)}"


def _where(examples: Examples, count: int) -> str:
    if len(examples) in (0, count):
        return " in all examples" if examples else ""
    return f" in {len(examples)} of {count} examples: {_some(examples)}"


def _some(items: Sequence[Any]) -> str:
    """The first of some items, and how many there are besides."""
    more = [f"{len(items) - MAX_SHOWN} more"] if len(items) > MAX_SHOWN else []
    return ", ".join([*map(str, items[:MAX_SHOWN]), *more])
