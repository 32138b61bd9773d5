"""Batches from an iterator, read ahead onto the device: for data that do not fit there."""

import queue
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
from jax.sharding import Mesh

from vaejax.checks import check_callable, check_count
from vaejax.training.loop import Feed, Progress, advance_one, steps_done
from vaejax.training.parallel import batch_sharding, state_shardings
from vaejax.training.step import Step, TrainState

# The first step to the batches from it on; of each, this host's share: a pytree of arrays [batch_size / hosts, ...].
Source = Callable[[int], Iterator[Any]]


def streamed(
    step: Step,
    source: Source,
    *,
    mesh: Mesh | None = None,
    sharding_of: Callable[[Any], Any] | None = None,
    prefetch: int = 2,
    timeout: float = 300.0,
    retries: int = 2,
) -> Feed:
    """Batches from a source that can be opened at any step, read by a thread while the step before runs.

    Args:
      step: `(state, batch) -> (state, metrics)`; with a mesh, as `on_mesh` makes it.
      source: the number of a step to an iterator of the batches from that step on. The batch of a step must be a
        function of its number: a run that goes on after a fault opens the source again.
      mesh: over which the batches are laid out; each host gives those of its devices, in the order of the hosts.
      sharding_of: where a run's own arrays lie on it; `state_shardings` where None.
      prefetch: batches to read ahead.
      timeout: seconds to wait for a batch.
      retries: how often the source is opened again at a step where it failed.

    Raises (from the feed):
      TimeoutError: no batch came in time; the step is named.
      OSError: the source failed at the same step `retries + 1` times, or ended.
    """
    check_callable("source", source)
    check_count("prefetch", prefetch)
    check_count("retries", retries, minimum=0)
    if mesh is not None:
        sharding_of = sharding_of or partial(state_shardings, mesh=mesh)
    compiled = jax.jit(partial(advance_one, step), donate_argnums=0)
    reader = _Reader(source, partial(_to_devices, mesh=mesh), prefetch, timeout, retries)

    def advance(progress: Progress, stop: int) -> Progress:
        for number in range(int(steps_done(progress.state)), stop):
            progress = compiled(progress, reader.read(number))
        return progress

    def metrics_of(state: TrainState) -> Any:
        return step(state, reader.read(0))[1]

    return Feed(advance, metrics_of, sharding_of)


def _to_devices(batch: Any, mesh: Mesh | None) -> Any:
    if mesh is None:
        return jax.device_put(batch)
    place = partial(jax.make_array_from_process_local_data, batch_sharding(mesh))
    return jax.tree.map(place, batch)


class _Reader:
    """Batches by the number of their step, in the order in which a thread reads them."""

    def __init__(self, source: Source, place: Callable[[Any], Any], prefetch: int, timeout: float, retries: int):
        self.source, self.place = source, place
        self.prefetch, self.timeout, self.retries = prefetch, timeout, retries
        self.next_step: int | None = None
        self.batches: queue.Queue[Any] = queue.Queue()
        self.abandoned = threading.Event()

    def read(self, step: int) -> Any:
        failures = 0
        while True:
            if step != self.next_step:
                self._open(step)
            try:
                batch = self.batches.get(timeout=self.timeout)
            except queue.Empty as error:
                self.next_step = None
                raise TimeoutError(f"the data source gave no batch for step {step} in {self.timeout:g} s") from error
            if not isinstance(batch, _Failure):
                self.next_step = step + 1
                return batch
            self.next_step = None
            failures += 1
            if failures > self.retries:
                raise OSError(f"the data source failed at step {step}: {batch.reason}") from batch.error

    def _open(self, step: int) -> None:
        self.abandoned.set()
        self.batches, self.abandoned = queue.Queue(self.prefetch), threading.Event()
        # The thread knows nothing of the reader, with which it is to end.
        arguments = (self.source, self.place, step, self.batches, self.abandoned)
        threading.Thread(target=_fill, args=arguments, daemon=True, name="vaejax-reader").start()
        self.next_step = step

    def __del__(self) -> None:
        self.abandoned.set()


def _fill(
    source: Source,
    place: Callable[[Any], Any],
    step: int,
    batches: "queue.Queue[Any]",
    abandoned: threading.Event,
) -> None:
    try:
        for batch in source(step):
            if not _put(batches, place(batch), abandoned):
                return
        failure = _Failure("it ended")
    # Whatever a source raises, the run has to hear of it.
    except Exception as error:
        failure = _Failure(f"{type(error).__name__}: {error}", error)
    _put(batches, failure, abandoned)


class _Failure:
    def __init__(self, reason: str, error: Exception | None = None):
        self.reason, self.error = reason, error


def _put(batches: "queue.Queue[Any]", item: Any, abandoned: threading.Event) -> bool:
    """Whether the item could be handed over before nobody waited for it any more."""
    while not abandoned.is_set():
        try:
            batches.put(item, timeout=0.1)
        except queue.Full:
            continue
        return True
    return False
