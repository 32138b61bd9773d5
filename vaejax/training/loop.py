"""Many steps: the driver that pauses for reports and saves."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vaejax.checks import check_count
from vaejax.training.gradients import Metrics
from vaejax.training.hosts import agree
from vaejax.training.parallel import place
from vaejax.training.step import Skipped, Step, TrainState
from vaejax.types import Array

# How long a run goes without a pause, in which it can save and be stopped.
PAUSE_SECONDS = 0.5


class Snapshot(NamedTuple):
    """What a run goes back to when its loss is no longer finite."""

    state: TrainState  # as it was at the last report
    uses: Array  # [] int32, how often since then


class Progress(NamedTuple):
    """A run between two steps: all that it needs to go on as if it had never stopped."""

    state: TrainState
    totals: Metrics  # the metrics summed since the last report without skipped steps, at least float32
    num_summed: Array  # [*M] int32, how many
    bad: Metrics  # the metrics of the last step that was not finite; 0 before there is one
    snapshot: Snapshot | tuple[()] = ()


class Report(NamedTuple):
    """What is said of the steps since the last report."""

    step: int  # steps done in all
    num_steps: int  # steps of this report
    metrics: dict[str, np.ndarray]  # each averaged over the steps
    seconds_per_step: float
    skipped: np.ndarray  # [*M] steps left out in all, since they were not finite


class NotFinite(FloatingPointError):
    """A step whose loss, gradient or outcome is not finite, and no policy that goes on.

    `progress` is that before the step: its state is finite, and the same step can be taken again.
    """

    def __init__(self, message: str, progress: Progress):
        super().__init__(message)
        self.progress = progress


class Feed(NamedTuple):
    """How a step gets its batches, as `resident` and `streamed` make it."""

    # (progress, step at which to stop) to the progress there, or before a step that failed; the progress is donated
    advance: Callable[[Progress, int], Progress]
    # the state to what a step logs, without running one
    metrics_of: Callable[[TrainState], Any]
    # a tree of arrays of a run to their shardings; None: wherever they are
    sharding_of: Callable[[Any], Any] | None = None


def begin(feed: Feed, state: TrainState, *, with_snapshot: bool = False) -> Progress:
    """The progress before the first step. The state is copied, since its buffers will be donated.

    Args:
      feed: of the run.
      state: from `init_state`.
      with_snapshot: keep the state of each report, to which the run goes back when a step is not finite.
    """
    progress = _first(feed, with_snapshot, state)
    return progress if feed.sharding_of is None else place(progress, feed.sharding_of(progress))


def progress_like(feed: Feed, state: Any, *, with_snapshot: bool = False) -> Any:
    """The shapes of a run's progress, with which `load_newest` reads it; `state` may be one of shapes too."""
    return jax.eval_shape(partial(_first, feed, with_snapshot), state)


def _first(feed: Feed, with_snapshot: bool, state: TrainState) -> Progress:
    shapes = jax.eval_shape(feed.metrics_of, state)
    zeros = lambda: jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    # A sum of truth values, bytes or half floats does not fit in their own type.
    totals = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.promote_types(leaf.dtype, jnp.float32)), shapes)
    copy = lambda: jax.tree.map(jnp.copy, state)
    snapshot = Snapshot(copy(), jnp.zeros((), jnp.int32)) if with_snapshot else ()
    return Progress(copy(), totals, jnp.zeros_like(state.step), zeros(), snapshot)


def fit(
    feed: Feed,
    progress: Progress,
    *,
    num_steps: int,
    report_every: int,
    on_report: Callable[[Report, Progress], Any] = lambda report, progress: None,
    on_pause: Callable[[Progress], Any] = lambda progress: None,
    max_rollbacks: int = 3,
) -> Progress:
    """Run to step `num_steps`, with a report every `report_every` steps.

    How far a run has come is in its progress. One that is taken up again makes the same steps and reports, to the
    bit, whenever it was left off.

    Args:
      feed: `resident` or `streamed`.
      progress: where to start, from `begin`, `fit` or a checkpoint; it is donated, so use what is returned instead.
      num_steps: steps in all, those that are done already among them.
      report_every: steps between reports.
      on_report: called with each report and the progress after it; what is true ends the run, what it raises too.
      on_pause: called every half second or so, between two steps, and after each report; likewise.
      max_rollbacks: with a snapshot, how often a run goes back to it between two reports before it gives up.

    Raises:
      NotFinite: a step failed for which the state stands still (see `make_train_step`, `max_skipped`), or the metrics
        of an unguarded step are not finite.
    """
    check_count("num_steps", num_steps)
    check_count("report_every", report_every)
    done, length, ended = int(steps_done(progress.state)), 1, False
    clock = _Clock()
    while done < num_steps and not ended:
        goal = min(num_steps, (done // report_every + 1) * report_every)
        stop = min(goal, done + length)
        start = time.perf_counter()
        progress = feed.advance(progress, stop)
        reached = int(steps_done(progress.state))
        seconds = time.perf_counter() - start
        clock.add(reached - done, seconds)
        length = _next_length(length, seconds)
        done = reached
        if reached < stop:
            progress = _go_back(progress, max_rollbacks)
            done = int(steps_done(progress.state))
        # The step that was left out may be the last before a report.
        if done == goal:
            report, progress = _report(progress, goal - (goal - 1) // report_every * report_every, clock.restart())
            ended = bool(on_report(report, progress))
        ended = bool(on_pause(progress)) or ended
    return progress


def _next_length(length: int, seconds: float) -> int:
    """How many steps to go without a pause, after so many took so long; alike on all hosts."""
    longer, shorter = seconds < PAUSE_SECONDS / 2, seconds > PAUSE_SECONDS
    return agree(2 * length if longer else max(1, length // 2) if shorter else length)[0]


def _go_back(progress: Progress, max_rollbacks: int) -> Progress:
    """The progress with which a run goes on after a step that failed: the snapshot, with that step left out."""
    failed = int(steps_done(progress.state))
    terms = sorted(name for name, value in jax.device_get(progress.bad).items() if not np.all(np.isfinite(value)))
    message = (
        f"the loss is {float(np.ravel(progress.bad['loss'])[0])} at step {failed}, with "
        f"{', '.join(terms) or 'the state after it'} not finite: check the data for NaN, lower the learning rate, "
        f"or bound the scales"
    )
    if not isinstance(progress.snapshot, Snapshot):
        raise NotFinite(message, progress)
    if int(progress.snapshot.uses) >= max_rollbacks:
        raise NotFinite(f"{message} (after {max_rollbacks} returns to step {progress.snapshot.state.step})", progress)
    skipped = Skipped(progress.state.skipped.total, jnp.zeros_like(progress.state.skipped.in_row))
    state = jax.tree.map(jnp.copy, progress.snapshot.state)
    state = state._replace(step=progress.state.step + 1, skipped=skipped)
    return progress._replace(state=state, snapshot=progress.snapshot._replace(uses=progress.snapshot.uses + 1))


def _report(progress: Progress, num_steps: int, seconds_per_step: float) -> tuple[Report, Progress]:
    """What there is to say of the last steps, and the progress that begins anew."""
    state = progress.state
    done, skipped, count, totals = jax.device_get(
        (state.step, state.skipped.total, progress.num_summed, progress.totals)
    )
    with np.errstate(invalid="ignore"):
        # NaN where all of the steps were left out.
        metrics = {name: total / _over(count, total) for name, total in totals.items()}
    if not np.all(np.isfinite(totals["loss"])):
        raise NotFinite(
            f"the loss is not finite between steps {np.max(done) - num_steps} and {np.max(done)}: a step made with "
            f"max_skipped names the one and leaves it out",
            progress,
        )
    report = Report(int(np.max(done)), num_steps, metrics, seconds_per_step, skipped)
    zeros = jax.tree.map(jnp.zeros_like, (progress.totals, progress.num_summed))
    snapshot = progress.snapshot
    if isinstance(snapshot, Snapshot):
        snapshot = Snapshot(jax.tree.map(jnp.copy, state), jnp.zeros_like(snapshot.uses))
    return report, progress._replace(totals=zeros[0], num_summed=zeros[1], snapshot=snapshot)


def _over(count: np.ndarray, total: np.ndarray) -> np.ndarray:
    """The count of each member, to divide totals that may have more axes."""
    return count.reshape(count.shape + (1,) * (total.ndim - count.ndim))


class _Clock:
    """Seconds per step since the last report, of those steps that were done here."""

    def __init__(self) -> None:
        self.steps, self.seconds = 0, 0.0

    def add(self, steps: int, seconds: float) -> None:
        self.steps, self.seconds = self.steps + steps, self.seconds + seconds

    def restart(self) -> float:
        each = self.seconds / max(self.steps, 1)
        self.steps, self.seconds = 0, 0.0
        return each


def steps_done(state: TrainState) -> Array:
    """The steps of a state, or of the member of a sweep that is furthest."""
    return jnp.max(state.step)


def advance_one(step: Step, progress: Progress, batch: Any) -> Progress:
    """One step, and its metrics added up."""
    before = progress.state
    state, metrics = step(before, batch)
    bad = state.skipped.total > before.skipped.total
    went = ~bad & (state.step > before.step)
    return progress._replace(
        state=state,
        totals=jax.tree.map(lambda total, each: total + _where(went, each, 0), progress.totals, metrics),
        num_summed=progress.num_summed + went,
        bad=jax.tree.map(lambda old, each: _where(bad, each, old), progress.bad, metrics),
    )


def _where(condition: Array, value: Array, other: Any) -> Array:
    """`jnp.where` with a condition over the leading axes."""
    condition = condition.reshape(condition.shape + (1,) * (jnp.ndim(value) - condition.ndim))
    return jnp.where(condition, value, other)
