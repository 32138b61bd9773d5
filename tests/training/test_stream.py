"""Batches from an iterator: the same run as with resident examples, and sources that fail, stall and end."""

import functools
import gc
import itertools
import subprocess
import sys
import threading
import time
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.typed_keys import as_numbers
from vaejax import data, training

EXAMPLES = np.random.default_rng(0).normal(size=(22, 3)).astype(np.float32)
BATCH, EPOCH, STEPS = 4, 5, 17
OPTIMIZER = optax.adam(1e-2)


@jax.jit
def plan(epoch):
    return data.epoch_indices(jax.random.key(2), epoch, num_examples=len(EXAMPLES), batch_size=BATCH)


def loss_fn(params, key, batch):
    return jnp.mean((params - batch) ** 2), {"mean": jnp.mean(batch)}


def noisy_loss_fn(params, key, batch):
    return loss_fn(params, None, batch + 0.1 * jax.random.normal(key, batch.shape))


STEP = training.make_train_step(loss_fn, OPTIMIZER)
# For the tests that compare with resident examples, where the noise and the guard have to be the same too.
NOISY = training.make_train_step(noisy_loss_fn, OPTIMIZER, max_skipped=0)


def source(first_step, examples=EXAMPLES):
    return data.batches_from(plan, examples, first_step)


def run(feed, **options):
    """The reports of a run, and the progress at its end."""
    state = training.init_state(jax.random.key(1), np.zeros(3, np.float32), OPTIMIZER)
    reports = []
    progress = training.fit(
        feed, training.begin(feed, state, **options), num_steps=STEPS, report_every=EPOCH,
        on_report=lambda report, progress: reports.append((report.step, report.skipped, report.metrics)),
    )  # fmt: skip
    return reports, as_numbers(progress._replace(snapshot=()))


def failing(step, error, times):
    """A source that raises in place of the batch of a step, so many times."""
    opened, left = [], itertools.repeat(error, times)

    def open_at(first_step):
        opened.append(first_step)
        for number, batch in enumerate(source(first_step), start=first_step):
            if number == step and (failure := next(left, None)):
                raise failure
            yield batch

    return open_at, opened


@functools.cache
def expected():
    """The run whose source never fails."""
    return run(training.streamed(STEP, source))


def check_both_feeds(examples, **options):
    """The reports of a run from an iterator, which are those with resident examples."""
    streamed = run(training.streamed(NOISY, partial(source, examples=examples)), **options)
    resident = run(training.resident(NOISY, examples, plan, steps_per_epoch=EPOCH), **options)
    # Two programs, one of which is a loop, may round differently.
    chex.assert_trees_all_close(streamed, resident, rtol=1e-5, atol=1e-7)
    return streamed[0]


def test_it_is_the_run_with_resident_examples():
    assert [step for step, _, _ in check_both_feeds(EXAMPLES)] == [5, 10, 15, 17]


@pytest.mark.slow("compiles two programs more")
def test_it_goes_back_as_a_run_with_resident_examples_does():
    bad = EXAMPLES.copy()
    bad[7] = np.nan
    *_, (_, skipped, _) = check_both_feeds(bad, with_snapshot=True)
    assert skipped > 0


@pytest.mark.parametrize(
    "step", [3, *(pytest.param(step, marks=pytest.mark.slow("another step of the same law")) for step in (0, 12))]
)
def test_a_source_that_fails_for_a_while_is_opened_again(step):
    open_at, opened = failing(step, ConnectionError("reset"), 2)
    chex.assert_trees_all_equal(run(training.streamed(STEP, open_at, retries=2)), expected())
    assert opened[-1] == step
    assert len(opened) >= 3


def test_a_source_that_keeps_failing_ends_the_run_with_the_step():
    open_at, opened = failing(9, ConnectionError("reset by peer"), 99)
    with pytest.raises(OSError, match=r"^the data source failed at step 9: ConnectionError: reset by peer$") as raised:
        run(training.streamed(STEP, open_at, retries=2))
    assert isinstance(raised.value.__cause__, ConnectionError)
    # The one that failed was open already.
    assert opened[-2:] == [9, 9]
    assert 9 not in opened[:-2]


def test_a_source_that_cannot_be_opened_is_one_that_fails():
    def closed(first_step):
        raise PermissionError("no key")

    with pytest.raises(OSError, match="failed at step 0: PermissionError: no key"):
        run(training.streamed(STEP, closed, retries=0))


def test_a_source_that_ends_is_one_that_fails():
    with pytest.raises(OSError, match=r"^the data source failed at step 6: it ended$"):
        run(training.streamed(STEP, lambda first_step: itertools.islice(source(first_step), max(6 - first_step, 0))))


def test_a_source_that_stalls_is_named_and_can_be_asked_again():
    stalled = threading.Event()
    # Nothing is compiled when it is opened, which may take longer than the source is waited for.
    batches = list(itertools.islice(source(0), STEPS + 3))

    def slow(first_step):
        for number in range(first_step, len(batches)):
            if number == 7 and not stalled.is_set():
                stalled.set()
                threading.Event().wait()
            yield batches[number]

    feed = training.streamed(STEP, slow, timeout=0.8)
    state = training.init_state(jax.random.key(1), np.zeros(3, np.float32), OPTIMIZER)
    kept = []

    def keep(progress):
        kept.append(jax.tree.map(jnp.copy, progress))

    with pytest.raises(TimeoutError, match=r"^the data source gave no batch for step 7 in 0\.8 s$"):
        training.fit(feed, training.begin(feed, state), num_steps=STEPS, report_every=EPOCH, on_pause=keep)
    progress = training.fit(feed, kept[-1], num_steps=STEPS, report_every=EPOCH)
    chex.assert_trees_all_equal(progress.state.params, expected()[1].state.params)


def test_it_reads_as_far_ahead_as_it_is_told():
    openings = []

    def counted(first_step):
        # Each opening counts for itself: the thread of one that was left may still read a batch.
        read = []
        openings.append(read)
        return (read.append(None) or batch for batch in source(first_step))

    feed = training.streamed(STEP, counted, prefetch=3)
    state = training.init_state(jax.random.key(1), np.zeros(3, np.float32), OPTIMIZER)
    feed.advance(training.begin(feed, state), 2)
    # Two that were used, three that wait, and one in the hands of the thread.
    assert wait_until(lambda: len(openings[-1]) == 6)
    time.sleep(0.3)
    assert len(openings[-1]) == 6


def readers():
    return [thread for thread in threading.enumerate() if thread.name == "vaejax-reader"]


def wait_until(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def test_the_thread_ends_with_the_feed():
    before = set(readers())
    feed = training.streamed(STEP, source)
    feed.advance(training.begin(feed, training.init_state(jax.random.key(1), np.zeros(3, np.float32), OPTIMIZER)), 2)
    assert set(readers()) - before
    # A process that ends does not wait for them.
    assert all(thread.daemon for thread in readers())
    del feed
    gc.collect()
    assert wait_until(lambda: not set(readers()) - before)


@pytest.mark.slow("a process of its own for threads that are daemons")
def test_a_program_ends_while_a_source_hangs():
    code = """
import jax, jax.numpy as jnp, optax, threading
from vaejax import training
def hang(first_step):
    yield jnp.ones(2)
    threading.Event().wait()
optimizer = optax.sgd(0.1)
step = training.make_train_step(lambda params, key, batch: (jnp.mean(params * batch), {}), optimizer)
feed = training.streamed(step, hang)
progress = training.begin(feed, training.init_state(jax.random.key(0), jnp.zeros(()), optimizer))
print(int(feed.advance(progress, 1).state.step))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "1\n", "")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: training.streamed(STEP, iter([])), TypeError, "source must be a function"),
        (lambda: training.streamed(STEP, source, prefetch=0), ValueError, "prefetch must be at least 1; got 0"),
        (lambda: training.streamed(STEP, source, retries=-1), ValueError, "retries must be at least 0; got -1"),
    ],
)
def test_bad_arguments_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()
