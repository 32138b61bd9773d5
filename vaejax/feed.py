"""Which examples each step of a run sees, and whether they wait for it on the device or on the host."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax

from vaejax.data import Dataset, batches_from, epoch_indices, read_all
from vaejax.memory import EXAMPLES_SHARE, device_capacity
from vaejax.settings import FeedChoice, Running, Settings
from vaejax.training import Feed, agree, optimistic, place_examples, resident, streamed
from vaejax.training.step import Step
from vaejax.types import Array


def seed_streams(settings: Settings) -> Array:
    """The three streams of a seed: parameters, noise and the order of the examples."""
    return jax.random.split(jax.random.key(settings.seed), 3)


def make_plan(dataset: Dataset, settings: Settings) -> Callable[[Any], Array]:
    """The number of an epoch to the examples of each of its steps."""
    order_key = seed_streams(settings)[2]
    return partial(
        epoch_indices,
        order_key,
        num_examples=settings.num_training(dataset),
        batch_size=settings.examples_per_step(dataset),
    )


def make_feed(
    step: Step, dataset: Dataset, settings: Settings, *, unguarded: Step | None = None, **placement: Any
) -> Feed:
    """The feed of a run: the same batches wherever they come from.

    Args:
      step: of the run.
      dataset: whose training examples it takes.
      settings: of the run.
      unguarded: the same step without a guard against what is not finite, to be taken as long as nothing is.
      placement: the mesh, and where on it a run's own arrays lie.
    """
    make = _feed_maker(dataset, settings, **placement)
    return make(step) if unguarded is None else optimistic(make(unguarded), make(step))


def _feed_maker(dataset: Dataset, settings: Settings, **placement: Any) -> Callable[[Step], Feed]:
    """A step to its feed; feeds of several steps share the examples."""
    plan, examples = make_plan(dataset, settings), dataset.train.examples
    if is_resident(dataset, settings.running):
        epoch = settings.steps_per_epoch(dataset)
        on_device = place_examples(read_all(examples), placement.get("mesh"))
        return lambda step: resident(step, on_device, plan, steps_per_epoch=epoch, **placement)
    share = (jax.process_index(), jax.process_count())
    source = partial(batches_from, plan, examples, share=share, num_threads=settings.running.reader_threads)
    return lambda step: streamed(step, source, **placement)


def is_resident(dataset: Dataset, running: Running) -> bool:
    """Whether the examples stay on the devices: as asked for, or else by their size; alike on all hosts."""
    if running.feed is not FeedChoice.AUTO:
        return running.feed is FeedChoice.RESIDENT
    (too_large,) = agree(int(dataset.train.examples.nbytes > EXAMPLES_SHARE * device_capacity()))
    return not too_large


def describe_feed(dataset: Dataset, running: Running) -> str:
    """Where the examples of a run are, in words.

    >>> import numpy as np
    >>> from vaejax.data import Dataset, Split
    >>> split = Split(np.zeros((1024, 32, 32, 1), np.uint8))
    >>> describe_feed(Dataset("zeros", split, split, 255), Running())
    '1.0 MiB of examples stay on the device'
    """
    size = f"{dataset.train.examples.nbytes / 2**20:,.1f} MiB of examples"
    if is_resident(dataset, running):
        return f"{size} stay on the device"
    return f"{size} are streamed from the host by {running.reader_threads} threads"
