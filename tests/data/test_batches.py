"""Batches that are read on the host are those that are taken from the device."""

import functools
import itertools
import threading
import time
from functools import partial

import chex
import jax
import numpy as np
import pytest

from tests.tiers import slow_but
from vaejax import data, training

IMAGES = np.random.default_rng(0).integers(0, 256, (10, 4, 4, 1)).astype(np.uint8)


@functools.cache
def plan(batch_size=2, num_examples=10):
    """Compiled once for all tests."""
    return jax.jit(partial(data.epoch_indices, jax.random.key(3), num_examples=num_examples, batch_size=batch_size))


def lazy(images=IMAGES):
    return data.Lazy(lambda rows: images[rows], images.shape, images.dtype, "images")


def resident_batches(examples, batch_size, count):
    """What a resident feed gives its step."""
    seen = []
    step = lambda state, batch: (state._replace(step=state.step + 1), {"loss": 0.0, **keep(batch)})
    keep = lambda batch: jax.debug.callback(lambda each: seen.append(np.asarray(each)), batch, ordered=True) or {}
    feed = training.resident(step, examples, plan(batch_size), steps_per_epoch=10 // batch_size)
    progress = training.begin(feed, training.init_state(jax.random.key(0), {}, NOTHING))
    jax.block_until_ready(feed.advance(progress, count))
    jax.effects_barrier()
    # What is traced for the shapes of the metrics is no step.
    return seen[-count:]


class NOTHING:
    init = staticmethod(lambda params: ())


@pytest.mark.parametrize("batch_size", [pytest.param(2, marks=pytest.mark.slow("batches that fill an epoch")), 3])
@pytest.mark.parametrize("kind", slow_but({"array"}, ("array", "mapped", "lazy"), "another kind of array"))
def test_both_feeds_give_the_same_batches_to_the_bit(kind, batch_size, tmp_path):
    np.save(tmp_path / "images.npy", IMAGES)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    examples = {"array": IMAGES, "mapped": mapped, "lazy": lazy()}[kind]
    read = data.batches_from(plan(batch_size), examples, 0, num_threads=2)
    resident = resident_batches(IMAGES, batch_size, 7)
    assert len({batch.tobytes() for batch in resident}) == 7, "a step repeats another"
    for here, there in zip(itertools.islice(read, 7), resident, strict=True):
        assert here.dtype == there.dtype == np.uint8
        np.testing.assert_array_equal(here, there)


@pytest.mark.parametrize("first", slow_but({2}, (0, 2, 5, 7, 1000), "other steps to begin with"))
def test_batches_from_any_step_on_whole_or_in_the_shares_of_two_hosts(first):
    examples = {"x": np.arange(20.0).reshape(10, 2), "label": np.arange(10), "image": lazy()}
    rows = np.concatenate([plan()(epoch) for epoch in range(first // 5, first // 5 + 3)])[first % 5 : first % 5 + 7]
    read = lambda **share: itertools.islice(data.batches_from(plan(), examples, first, **share), 7)
    for row, whole, left, right in zip(rows, read(), read(share=(0, 2)), read(share=(1, 2)), strict=True):
        np.testing.assert_array_equal(whole["label"], row)
        np.testing.assert_array_equal(whole["x"], examples["x"][row])
        np.testing.assert_array_equal(whole["image"], IMAGES[row])
        chex.assert_trees_all_equal(whole, jax.tree.map(lambda *parts: np.concatenate(parts), left, right))


@pytest.mark.parametrize("threads", [1, 8])
def test_the_order_does_not_depend_on_which_thread_is_first(threads):
    def slow(rows):
        time.sleep(0.02 * (rows[0] % 3))
        return IMAGES[rows]

    slowly = data.Lazy(slow, IMAGES.shape, IMAGES.dtype, "slow")
    read = data.batches_from(plan(), slowly, 3, num_threads=threads)
    rows = np.concatenate([plan()(epoch) for epoch in range(4)])[3:15]
    for row, batch in zip(rows, read, strict=False):
        np.testing.assert_array_equal(batch, IMAGES[row])


def test_reading_is_parallel_and_no_further_ahead_than_asked_for():
    together, most, calls = threading.Barrier(4, timeout=30), [], []

    def meet(rows):
        calls.append(rows)
        if len(calls) <= 4:
            most.append(together.wait())  # passes only where four threads read at once
        return IMAGES[rows]

    met = data.Lazy(meet, IMAGES.shape, IMAGES.dtype, "met")
    read = data.batches_from(plan(), met, 0, num_threads=4, prefetch=4)
    for _ in range(4):
        next(read)
    assert sorted(most) == [0, 1, 2, 3]
    time.sleep(0.2)
    assert len(calls) <= 4 + 4 + 4


def test_what_a_reader_raises_is_raised_where_the_batch_is_asked_for():
    def broken(rows):
        raise ValueError("photo.png is truncated")

    read = data.batches_from(plan(), data.Lazy(broken, IMAGES.shape, IMAGES.dtype, "broken"), 0)
    with pytest.raises(ValueError, match=r"photo\.png is truncated"):
        next(read)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": (0, 3)}, "batch_size must be a multiple of the 3 hosts; got 2"),
        ({"num_threads": 0}, "num_threads must be at least 1; got 0"),
        ({"prefetch": 0}, "prefetch must be at least 1; got 0"),
        ({"first_step": -1}, "first_step must be at least 0; got -1"),
    ],
)
def test_impossible_readings_are_refused(options, message):
    arguments = {"first_step": 0} | options
    with pytest.raises(ValueError, match=message):
        data.batches_from(plan(), IMAGES, **arguments)
