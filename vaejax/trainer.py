"""What happens to a run in its folder while it is trained: reports, saves, and reasons to end."""

import shutil
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vaejax.program import Program, final_params
from vaejax.settings import Settings
from vaejax.training import (
    Checkpoints,
    DamagedCheckpoint,
    Interrupted,
    Interrupts,
    NotFinite,
    Progress,
    Report,
    Stopping,
    TrainState,
    agree,
    best_step,
    fit,
    init_stopping,
    is_first_host,
    load_checkpoint,
    load_newest,
    path_of,
    save_checkpoint,
    saved_steps,
    should_stop,
    update_stopping,
)
from vaejax.types import Params
from vaejax.writers import JsonLines, MLflow, Several, TensorBoard, WeightsAndBiases, Writer, read_json_lines

CHECKPOINTS, FAILED, METRICS = "checkpoints", "failed", "metrics.jsonl"

# Called after every epoch with its report and the state; something true ends the training. The buffers of the state are
# taken by the next step: what is kept of it must be copied.
Callback = Callable[[Report, TrainState], Any]
# Params to figures of the examples that are held out; the first of them is watched.
Validate = Callable[[Params], dict[str, np.ndarray]]


class Trainer:
    """A run in its folder, from where it was left off; a context, which closes what it writes to."""

    def __init__(
        self,
        folder: Path,
        program: Program,
        settings: Settings,
        config: dict[str, Any],
        *,
        validate: Validate | None = None,
        callbacks: Iterable[Callback] = (),
    ):
        self.folder, self.program, self.settings = folder, program, settings
        self.validate, self.callbacks = validate, [*callbacks]
        self.progress, self.stopping, self.ended = _where_it_was(folder, program)
        self.checkpoints = Checkpoints(folder / CHECKPOINTS, keep=settings.running.keep)
        # What was found damaged will be made again, once no host reads it any more.
        agree(0)
        self.checkpoints.drop_after(done(self.progress))
        self.interrupts, self.saved_at = Interrupts(), time.monotonic()
        self.writers = _open_writers(folder, settings, config, done(self.progress))

    def __enter__(self) -> "Trainer":
        return self

    def __exit__(self, *error: object) -> None:
        self.writers.close()

    def train(self) -> Progress:
        """Train to the end, with everything saved that was done, whatever ends it."""
        with self.checkpoints:
            if self._is_over():
                return self.progress
            try:
                with self.interrupts:
                    progress = fit(
                        self.program.feed,
                        self.progress,
                        num_steps=self.program.num_steps,
                        report_every=self.program.steps_per_epoch,
                        on_report=self._on_report,
                        on_pause=self._on_pause,
                        max_rollbacks=self.settings.training.max_not_finite,
                    )
            except NotFinite as error:
                raise NotFinite(f"{error}; {self._keep_failed(error.progress)}", error.progress) from error
            self._save(progress)
        return progress

    def history(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`."""
        return read_json_lines(self.folder / METRICS)

    def best(self, progress: Progress) -> TrainState:
        """The state that is measured: of the best validation figure, or the last where there is none."""
        step = best_step(self.folder / CHECKPOINTS)
        if step is None or step == done(progress):
            return progress.state
        path = path_of(self.folder / CHECKPOINTS, step)
        try:
            best: Progress = load_checkpoint(path, self.program.like(), self.program.feed.sharding_of)
        except DamagedCheckpoint as error:
            warnings.warn(f"{error}; measuring the last state in place of the best", stacklevel=2)
            return progress.state
        return best.state

    def _on_report(self, report: Report, progress: Progress) -> bool:
        figures = {} if self.validate is None else self.validate(final_params(progress.state))
        report = report._replace(metrics={**report.metrics, **figures})
        seconds = report.seconds_per_step * report.num_steps
        self.writers.write(report.step, {"seconds": seconds, "skipped": report.skipped, **report.metrics})
        ended = [bool(callback(report, progress.state)) for callback in self.callbacks]
        self.ended = bool(agree(int(any(ended)))[0])
        if figures:
            # After the line is written: a run that goes on from here does not write it again.
            self._watch(report.step, next(iter(figures.values())), progress)
        return self._is_over()

    def _watch(self, step: int, cost: Any, progress: Progress) -> None:
        warm_up = self.settings.training.patience_warm_up * self.program.steps_per_epoch
        before, self.stopping = self.stopping, update_stopping(self.stopping, step, cost, warm_up=warm_up)
        if self.stopping.best_step == step and self.stopping != before:
            # What is best before the warm-up ends is forgotten at its end.
            self._save(progress, cost=float(cost) if step >= warm_up else None)

    def _is_over(self) -> bool:
        patience = self.settings.training.patience
        return self.ended or (patience > 0 and should_stop(self.stopping, patience))

    def _on_pause(self, progress: Progress) -> None:
        self.checkpoints.poll()
        self.interrupts.has_work = True
        waited = time.monotonic() - self.saved_at
        signal, due = agree(self.interrupts.received, int(waited >= self.settings.running.checkpoint_seconds))
        if signal or due:
            self._save(progress)
        if signal:
            self.checkpoints.wait()
            raise Interrupted(signal)

    def _save(self, progress: Progress, cost: float | None = None) -> None:
        about = {"stopping": self.stopping._asdict(), "ended": self.ended, "cost": cost}
        # Numbers that are not finite stay out of a checkpoint.
        finite = progress._replace(bad=jax.tree.map(jnp.zeros_like, progress.bad))
        # A checkpoint is never ahead of the record, whatever a crash leaves of either.
        self.writers.sync()
        self.checkpoints.save(done(progress), finite, about)
        self.saved_at = time.monotonic()

    def _keep_failed(self, progress: Progress) -> str:
        """Save the state before a step that failed, and say how to look at it."""
        path = self.folder / FAILED
        if is_first_host():
            shutil.rmtree(path, ignore_errors=True)
        agree(0)
        save_checkpoint(path, progress.state)
        return f"vaejax replay {self.folder} takes the step apart"


def _where_it_was(folder: Path, program: Program) -> tuple[Progress, Stopping, bool]:
    """The progress of the newest checkpoint that is whole, or that before the first step; and whether it has ended."""
    checkpoints = folder / CHECKPOINTS
    if not saved_steps(checkpoints):
        return program.begin(), init_stopping(), False
    progress, about = load_newest(checkpoints, program.like(), program.feed.sharding_of)
    return progress, Stopping(**about["stopping"]), about["ended"]


def done(progress: Progress | TrainState) -> int:
    """The steps that are done."""
    state = progress.state if isinstance(progress, Progress) else progress
    return int(np.max(jax.device_get(state.step)))


def _open_writers(folder: Path, settings: Settings, config: dict[str, Any], step: int) -> Several:
    """Where the numbers of a run go; on the first host only."""
    if not is_first_host():
        return Several()
    board = folder / "tensorboard"
    writers: list[Writer] = [
        JsonLines(folder / METRICS, resume_step=step),
        TensorBoard(board, resume_step=step if board.exists() else None),
    ]
    running = settings.running
    # One name for the run wherever it is logged.
    arguments = ("/".join(folder.parts[-2:]), config, folder)
    if running.wandb is not None:
        writers.append(WeightsAndBiases(running.wandb, *arguments))
    if running.mlflow is not None:
        writers.append(MLflow(running.mlflow, *arguments))
    return Several(*writers)
