"""Steps without a guard, and the guarded ones where something was not finite."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.typed_keys import as_numbers
from vaejax import data, training
from vaejax.training import Feed

EXAMPLES = np.arange(36.0, dtype=np.float32).reshape(12, 3)
EPOCH = 4
ADAM = optax.adam(0.1)
NEVER = -1


def plan(epoch):
    return data.epoch_indices(jax.random.key(5), epoch, num_examples=12, batch_size=3)


def loss_fn(params, extra, key, x, step):
    """A loss whose batch is NaN in one step, which is all that extra holds: one program serves all runs."""
    x = jnp.where(step == extra, jnp.nan, x)
    return jnp.mean((x + jax.random.normal(key, x.shape) - params) ** 2), ({}, extra)


@functools.cache
def compiled_feed(max_skipped, optimizer):
    options = {"schedules": {"step": lambda step: step}, "max_skipped": max_skipped}
    step = training.make_stateful_train_step(loss_fn, optimizer, **options)
    return training.resident(step, EXAMPLES, plan, steps_per_epoch=EPOCH)


def feeds(optimizer=ADAM):
    """The fast one, the careful one, and how often each was used."""
    uses = []

    def counted(name, feed):
        def advance(progress, stop):
            uses.append(name)
            return feed.advance(progress, stop)

        return Feed(advance, feed.metrics_of)

    return counted("fast", compiled_feed(None, optimizer)), counted("careful", compiled_feed(0, optimizer)), uses


def start(poisoned=NEVER, optimizer=ADAM):
    return training.init_state(jax.random.key(1), np.zeros(3, np.float32), optimizer, np.int32(poisoned))


def run(feed, poisoned=NEVER, optimizer=ADAM):
    return training.fit(feed, training.begin(feed, start(poisoned, optimizer)), num_steps=10, report_every=EPOCH)


def test_without_faults_no_step_is_guarded():
    fast, careful, uses = feeds()
    state = run(training.optimistic(fast, careful)).state
    assert set(uses) == {"fast"}
    chex.assert_trees_all_equal(as_numbers(state), as_numbers(run(fast).state))


def test_the_step_that_fails_is_found_and_the_state_before_it_kept():
    fast, careful, uses = feeds()
    with pytest.raises(training.NotFinite, match="at step 6, with gradient_norm, loss not finite") as ours:
        run(training.optimistic(fast, careful), poisoned=6)
    assert "careful" in uses
    with pytest.raises(training.NotFinite) as theirs:
        run(careful, poisoned=6)
    chex.assert_trees_all_close(
        as_numbers(ours.value.progress.state), as_numbers(theirs.value.progress.state), rtol=1e-6
    )
    assert np.all(np.isfinite(ours.value.progress.state.params))


def overflowing():
    """Gradients that are finite, and parameters that are not after the third step."""
    return optax.scale_by_schedule(lambda count: jnp.where(count == 2, jnp.inf, -0.1))


@pytest.mark.slow("another fault; compiles two programs more")
def test_parameters_that_overflow_are_seen():
    optimizer = overflowing()
    fast, careful, _ = feeds(optimizer)
    with pytest.raises(training.NotFinite, match="at step 2, with the state after it not finite"):
        run(training.optimistic(fast, careful), optimizer=optimizer)


@pytest.mark.slow("another optimizer; compiles a program more")
def test_a_best_value_that_begins_infinite_is_no_fault():
    best = optax.GradientTransformation(
        lambda params: jnp.inf, lambda updates, state, params=None: (updates, jnp.asarray(jnp.inf))
    )
    optimizer = optax.chain(optax.sgd(0.1), best)
    fast, careful, uses = feeds(optimizer)
    run(training.optimistic(fast, careful), optimizer=optimizer)
    assert set(uses) == {"fast"}


def test_what_it_is_given_is_kept_until_the_steps_are_done():
    fast, careful, _ = feeds()
    feed = training.optimistic(fast, careful)
    progress = feed.advance(training.begin(feed, start(poisoned=2)), 4)
    # It stands before the step that failed.
    assert progress.state.step == 2
