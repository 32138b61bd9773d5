from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vaejax import data, training
from vaejax.training import Feed

EXAMPLES = jnp.arange(36.0).reshape(12, 3).at[5].set(jnp.nan)
EPOCH = 4
ADAM = optax.adam(0.1)


def plan(epoch, poisoned=None):
    """Batches of 3; in one step of the run an example of NaN is among them."""
    rows = data.epoch_indices(jax.random.key(5), epoch, num_examples=12, batch_size=3)
    rows = jnp.where(rows == 5, 6, rows)
    if poisoned is None:
        return rows
    return rows.at[:, 1].set(jnp.where(epoch * EPOCH + jnp.arange(EPOCH) == poisoned, 5, rows[:, 1]))


def loss_fn(params, key, x):
    return jnp.mean((x + jax.random.normal(key, x.shape) - params) ** 2), {}


def feeds(poisoned, optimizer=ADAM):
    """The fast one, the careful one, and how often each was used."""
    uses = []

    def made(name, max_skipped):
        step = training.make_train_step(loss_fn, optimizer, max_skipped=max_skipped)
        feed = training.resident(step, EXAMPLES, partial(plan, poisoned=poisoned), steps_per_epoch=EPOCH)

        def advance(progress, stop):
            uses.append(name)
            return feed.advance(progress, stop)

        return Feed(advance, feed.metrics_of)

    return made("fast", None), made("careful", 0), uses


def start(optimizer=ADAM):
    return training.init_state(jax.random.key(1), jnp.zeros(3), optimizer)


def run(feed, num_steps=10, optimizer=ADAM):
    return training.fit(feed, training.begin(feed, start(optimizer)), num_steps=num_steps, report_every=EPOCH)


def numbers(state):
    return state._replace(key=jax.random.key_data(state.key))


def test_without_faults_no_step_is_guarded():
    fast, careful, uses = feeds(None)
    state = run(training.optimistic(fast, careful)).state
    assert set(uses) == {"fast"}
    chex.assert_trees_all_equal(numbers(state), numbers(run(fast).state))


def test_the_step_that_fails_is_found_and_the_state_before_it_kept():
    fast, careful, uses = feeds(6)
    with pytest.raises(training.NotFinite, match="at step 6, with gradient_norm, loss not finite") as ours:
        run(training.optimistic(fast, careful))
    assert "careful" in uses
    with pytest.raises(training.NotFinite) as theirs:
        run(careful)
    chex.assert_trees_all_close(numbers(ours.value.progress.state), numbers(theirs.value.progress.state), rtol=1e-6)
    assert np.all(np.isfinite(ours.value.progress.state.params))


def overflowing():
    """Gradients that are finite, and parameters that are not after the third step."""
    return optax.scale_by_schedule(lambda count: jnp.where(count == 2, jnp.inf, -0.1))


def test_parameters_that_overflow_are_seen():
    fast, careful, _ = feeds(None, overflowing())
    with pytest.raises(training.NotFinite, match="at step 2, with the state after it not finite"):
        run(training.optimistic(fast, careful), optimizer=overflowing())


def test_a_best_value_that_begins_infinite_is_no_fault():
    best = optax.GradientTransformation(
        lambda params: jnp.inf, lambda updates, state, params=None: (updates, jnp.asarray(jnp.inf))
    )
    optimizer = optax.chain(optax.sgd(0.1), best)
    fast, careful, uses = feeds(None, optimizer)
    run(training.optimistic(fast, careful), optimizer=optimizer)
    assert set(uses) == {"fast"}


def test_what_it_is_given_is_kept_until_the_steps_are_done():
    fast, careful, _ = feeds(2)
    feed = training.optimistic(fast, careful)
    progress = feed.advance(training.begin(feed, start()), 4)
    # It stands before the step that failed.
    assert progress.state.step == 2
