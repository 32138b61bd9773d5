"""Steps that are not finite: left out, or the end of the run, or a way back; never in the state."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vaejax import data, training
from vaejax.training import loop

EXAMPLES = np.random.default_rng(0).normal(size=(13, 3)).astype(np.float32)
# The last example is the poison, which no epoch reads unless it is put there.
EXAMPLES[-1] = np.nan
EPOCH = 4
OPTIMIZER = optax.adam(0.05)


def plan(epoch, poisoned=()):
    """Batches of 3 out of 12 examples; in some steps of the run the poison is one of them."""
    rows = data.epoch_indices(jax.random.key(5), epoch, num_examples=12, batch_size=3)
    steps = epoch * EPOCH + jnp.arange(EPOCH)
    bad = jnp.isin(steps, jnp.array(poisoned, jnp.int32))
    return rows.at[:, 1].set(jnp.where(bad, 12, rows[:, 1]))


def loss_fn(params, extra, key, x):
    noisy = x + 0.1 * jax.random.normal(key, x.shape)
    reconstruction = jnp.mean((noisy - params["loc"]) ** 2)
    loss = reconstruction + 0.01 * jnp.sum(params["loc"] ** 2)
    return loss, ({"reconstruction": reconstruction, "constant": jnp.ones(())}, {"mean": jnp.mean(noisy)})


def start(optimizer=OPTIMIZER):
    params = {"loc": jnp.array([1.0, -2.0, 3.0])}
    return training.init_state(jax.random.key(1), params, optimizer, {"mean": jnp.zeros(())}, with_ema=True)


def make_step(max_skipped, loss_fn=loss_fn, optimizer=OPTIMIZER):
    return training.make_stateful_train_step(loss_fn, optimizer, ema_decay=0.9, max_skipped=max_skipped)


def feed_of(poisoned, max_skipped, **options):
    step = make_step(max_skipped, **options)
    return training.resident(step, EXAMPLES, partial(plan, poisoned=poisoned), steps_per_epoch=EPOCH)


def train(feed, num_steps, with_snapshot=False, **options):
    progress = training.begin(feed, start(), with_snapshot=with_snapshot)
    return training.fit(feed, progress, num_steps=num_steps, report_every=EPOCH, **options)


def by_hand(num_steps, poisoned, start_at=None):
    """The states before each step, and what each logs, without any guard: a poisoned step is not taken."""
    step = jax.jit(make_step(None))
    state = start() if start_at is None else start_at
    states, logged = [state], []
    for count in range(int(state.step), num_steps):
        taken, metrics = step(state, EXAMPLES[plan(count // EPOCH)[count % EPOCH]])
        state = state._replace(step=state.step + 1) if count in poisoned else taken
        states.append(state)
        logged.append(None if count in poisoned else jax.device_get(metrics))
    return states, logged


def numbers(state):
    """The state with its typed key as integers, and without its counters."""
    return state._replace(key=jax.random.key_data(state.key), skipped=())


def trained(state):
    return state.params, state.opt_state, state.ema, state.extra


def check_finite(progress):
    chex.assert_tree_all_finite((*trained(progress.state), progress.totals))


def test_a_step_that_is_not_finite_changes_two_counters_and_nothing_else():
    step = jax.jit(make_step(3))
    before, _ = step(start(), EXAMPLES[:3])
    after, metrics = step(before, EXAMPLES[-3:])
    assert np.isnan(metrics["loss"])
    chex.assert_trees_all_equal(trained(after), trained(before))
    assert after.step == before.step + 1 == 2
    assert after.skipped == (1, 1)
    assert jnp.all(jax.random.key_data(after.key) == jax.random.key_data(before.key))
    # One that is finite ends the row.
    recovered, _ = step(after, EXAMPLES[:3])
    assert recovered.skipped == (1, 0)
    assert np.any(recovered.params["loc"] != after.params["loc"])


def test_a_guard_changes_nothing_in_a_run_without_faults():
    guarded, plain = (train(feed_of((), max_skipped), 9).state for max_skipped in (0, None))
    chex.assert_trees_all_close(numbers(guarded), numbers(plain), rtol=1e-6)
    assert guarded.skipped == (0, 0)


def test_a_run_leaves_the_steps_out_and_its_reports_do_not_count_them():
    """An epoch that lost steps is the mean of the others; one that lost all says NaN and goes on."""
    poisoned, reports = (1, 2, 8, 9, 10, 11, 13), []
    progress = train(feed_of(poisoned, 4), 14, on_report=lambda report, progress: reports.append(report))
    states, logged = by_hand(14, poisoned)
    chex.assert_trees_all_close(numbers(progress.state), numbers(states[-1]), rtol=1e-5)
    assert progress.state.skipped == (7, 1)
    assert [(report.step, report.skipped) for report in reports] == [(4, 2), (8, 2), (12, 6), (14, 7)]
    for report in reports:
        counted = [each for each in logged[report.step - report.num_steps : report.step] if each]
        for name, value in report.metrics.items():
            expected = np.mean([each[name] for each in counted]) if counted else np.nan
            np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert np.isnan(reports[2].metrics["loss"])
    assert reports[0].metrics["constant"] == 1.0


def test_too_many_in_a_row_end_the_run_with_the_step_and_the_term():
    feed = feed_of((2, 5, 6, 7), 2)
    with pytest.raises(
        training.NotFinite,
        match=r"the loss is nan at step 7, with gradient_norm, loss, reconstruction not finite: check",
    ) as caught:
        train(feed, 20)
    progress = caught.value.progress
    states, _ = by_hand(7, (2, 5, 6))
    assert progress.state.step == 7
    assert progress.state.skipped == (4, 3)
    chex.assert_trees_all_close(numbers(progress.state), numbers(states[-1]), rtol=1e-5)
    check_finite(progress)
    # The same step can be taken again, and fails again; so does the run that goes on from there.
    batch = EXAMPLES[plan(1, (7,))[3]]
    assert np.isnan(jax.jit(make_step(None))(progress.state, batch)[1]["loss"])
    assert training.has_failed(progress.state, 2)
    with pytest.raises(training.NotFinite, match="at step 7, with gradient_norm, loss, reconstruction not finite"):
        training.fit(feed, progress, num_steps=20, report_every=EPOCH)


def test_a_stream_of_batches_ends_likewise(monkeypatch):
    """Its batches go on to the next pause after the step that failed, and change nothing."""
    monkeypatch.setattr(loop, "PAUSE_SECONDS", 1e9)
    poisoned, caught = (2, 5, 6, 7), []
    source = lambda first: (EXAMPLES[plan(n // EPOCH, poisoned)[n % EPOCH]] for n in range(first, 20))
    for feed in (training.streamed(make_step(2), source), feed_of(poisoned, 2)):
        progress = training.begin(feed, start())
        with pytest.raises(training.NotFinite, match="the loss is nan at step 7, with gradient_norm, loss, ") as error:
            training.fit(feed, progress, num_steps=20, report_every=20)
        caught.append(error.value.progress)
    streamed, resident = (progress._replace(state=numbers(progress.state)) for progress in caught)
    chex.assert_trees_all_close(streamed, resident, rtol=1e-5)
    assert caught[0].state.skipped == (4, 3)


def test_no_failing_step_is_allowed_where_none_may_be_left_out():
    with pytest.raises(training.NotFinite, match="the loss is nan at step 0"):
        train(feed_of((0,), 0), 20)


@pytest.mark.parametrize(
    ("loss_fn", "optimizer", "message"),
    [
        # sqrt has an infinite slope at 0, where its value is finite; clipped, its step is finite as well.
        (
            lambda params, extra, key, x: (jnp.sum(jnp.sqrt(params["loc"] - start().params["loc"])), ({}, extra)),
            optax.chain(optax.clip(1.0), optax.sgd(0.1)),
            "the loss is 0.0 at step 0, with gradient_norm not finite",
        ),
        (
            lambda params, extra, key, x: (jnp.sum(params["loc"]), ({}, extra)),
            optax.chain(optax.scale(3e38), optax.scale(10.0)),
            "the loss is 2.0 at step 0, with the state after it not finite",
        ),
        (
            lambda params, extra, key, x: (jnp.sum(params["loc"]), ({}, {"mean": jnp.log(extra["mean"])})),
            OPTIMIZER,
            "the loss is 2.0 at step 0, with the state after it not finite",
        ),
        (
            lambda params, extra, key, x: (jnp.sum(params["loc"]) / 0.0, ({}, extra)),
            OPTIMIZER,
            "the loss is inf at step 0, with gradient_norm, loss not finite",
        ),
    ],
)
def test_whatever_is_not_finite_in_a_step_is_found(loss_fn, optimizer, message):
    step = training.make_stateful_train_step(loss_fn, optimizer, max_skipped=0)
    feed = training.resident(step, EXAMPLES, plan, steps_per_epoch=EPOCH)
    state = training.init_state(jax.random.key(1), start().params, optimizer, {"mean": jnp.zeros(())})
    with pytest.raises(training.NotFinite, match=message) as caught:
        training.fit(feed, training.begin(feed, state), num_steps=3, report_every=3)
    chex.assert_trees_all_equal(trained(caught.value.progress.state), trained(state))


def test_without_a_guard_the_report_says_between_which_steps_it_was():
    with pytest.raises(
        training.NotFinite, match="the loss is not finite between steps 4 and 8: a step made with max_sk"
    ):
        train(feed_of((6,), None), 20)


def test_the_way_back_is_the_state_of_the_last_report_without_the_step():
    """Steps 4, 5 and 6 are made, 6 fails, and from the state of step 4 the run goes on with step 7."""
    reports = []
    progress = train(
        feed_of((6,), 0), 10, with_snapshot=True, on_report=lambda report, progress: reports.append(report)
    )
    states, logged = by_hand(6, ())
    after, logged_after = by_hand(10, (), start_at=states[4]._replace(step=jnp.int32(7)))
    chex.assert_trees_all_close(numbers(progress.state), numbers(after[-1]), rtol=1e-5)
    assert progress.state.skipped == (1, 0)
    assert progress.snapshot.uses == 0
    assert [(report.step, report.skipped) for report in reports] == [(4, 0), (8, 1), (10, 1)]
    # What was made and given up is counted too: it was finite.
    made = [each["loss"] for each in (logged[4], logged[5], logged_after[0])]
    np.testing.assert_allclose(reports[1].metrics["loss"], np.mean(made), rtol=1e-5)


@pytest.mark.parametrize("failing", [7, 9])
def test_a_report_comes_also_where_its_last_step_is_left_out(failing):
    """The last before a report in the middle, and the last of all."""
    steps = []
    progress = train(
        feed_of((failing,), 0), 10, with_snapshot=True, on_report=lambda report, progress: steps.append(report.step)
    )
    assert steps == [4, 8, 10]
    assert progress.state.step == 10


def test_a_run_that_goes_back_is_the_same_run_each_time():
    once, again = (train(feed_of((1, 6, 7), 0), 12, with_snapshot=True) for _ in range(2))
    chex.assert_trees_all_equal(numbers(once.state), numbers(again.state))
    assert once.state.skipped == (3, 0)


def test_it_goes_back_only_so_often_between_two_reports():
    # Twice before each of two reports: the count begins anew.
    assert train(feed_of((1, 2, 5, 6), 0), 8, with_snapshot=True, max_rollbacks=2).state.step == 8
    with pytest.raises(training.NotFinite, match=r"at step 6, .*\(after 2 returns to step 4\)") as caught:
        train(feed_of((4, 5, 6), 0), 8, with_snapshot=True, max_rollbacks=2)
    check_finite(caught.value.progress)
    assert caught.value.progress.state.step == 6


def members():
    return jax.vmap(lambda key: start()._replace(key=key))(jax.random.split(jax.random.key(8), 3))


def test_one_failing_member_of_several_stands_still_alone():
    """Each member has its own batches; that of the one in the middle are poisoned from some step on."""
    poisons = [(2,), (5, 6, 9, 10), ()]
    plan_of_all = lambda epoch: jnp.stack([plan(epoch, poisoned) for poisoned in poisons])
    step = make_step(1)
    feed = training.resident(jax.vmap(step), EXAMPLES, plan_of_all, steps_per_epoch=EPOCH)
    reports = []
    progress = training.fit(
        feed, training.begin(feed, members()), num_steps=16, report_every=EPOCH,
        on_report=lambda report, progress: reports.append(report),
    )  # fmt: skip
    assert progress.state.step.tolist() == [16, 6, 16]
    assert progress.state.skipped.total.tolist() == [1, 2, 0]
    assert training.has_failed(progress.state, 1).tolist() == [False, True, False]
    assert np.stack([report.skipped for report in reports]).tolist() == [[1, 0, 0], [1, 2, 0], [1, 2, 0], [1, 2, 0]]
    # The one that stands still has nothing to say.
    assert (
        np.isfinite([report.metrics["loss"] for report in reports]).tolist()
        == [[True] * 3] * 2 + [[True, False, True]] * 2
    )
    keys = jax.random.split(jax.random.key(8), 3)
    for number, (poisoned, key) in enumerate(zip(poisons, keys, strict=True)):
        alone = training.resident(step, EXAMPLES, partial(plan, poisoned=poisoned), steps_per_epoch=EPOCH)
        begun = training.begin(alone, start()._replace(key=key))
        try:
            expected = training.fit(alone, begun, num_steps=16, report_every=EPOCH).state
        except training.NotFinite as error:
            assert number == 1
            expected = error.progress.state
        member = jax.tree.map(lambda leaf, number=number: leaf[number], numbers(progress.state))
        chex.assert_trees_all_close(member, numbers(expected), rtol=1e-5, atol=1e-7)


def test_the_run_ends_when_all_members_stand_still():
    feed = training.resident(
        jax.vmap(make_step(0), (0, None)), EXAMPLES, partial(plan, poisoned=(5,)), steps_per_epoch=EPOCH
    )
    with pytest.raises(training.NotFinite, match="at step 5"):
        training.fit(feed, training.begin(feed, members()), num_steps=16, report_every=EPOCH)


def squeeze(slope, optimizer, num_steps, **options):
    """Steps along one slope, each of them guarded."""
    loss = lambda params, extra, key, batch: (jnp.sum(slope * params["w"]), ({}, extra))
    step = jax.jit(training.make_stateful_train_step(loss, optimizer, max_skipped=9, **options))
    state = training.init_state(jax.random.key(0), {"w": jnp.ones(())}, optimizer, with_ema=True)
    for _ in range(num_steps):
        state, metrics = step(state, None)
        assert np.isfinite(metrics["gradient_norm"])
    return state


def test_an_optimizer_never_holds_what_is_not_finite():
    """The third square of a gradient makes the sum of Adagrad infinite, and the parameters stay finite with it."""
    slope, optimizer = 1.2e19, optax.adagrad(0.1, initial_accumulator_value=0.0)
    state = squeeze(slope, optimizer, 3)
    assert state.skipped == (1, 1)
    chex.assert_trees_all_equal(trained(state), trained(squeeze(slope, optimizer, 2)))
    chex.assert_tree_all_finite(trained(state))


def test_an_average_that_is_not_finite_is_found():
    """A decay that is NaN spoils nothing else."""
    state = squeeze(1.0, optax.sgd(0.1), 1, ema_decay=jnp.nan)
    assert state.skipped == (1, 1)
    assert state.ema["w"] == state.params["w"] == 1.0


def test_what_an_optimizer_begins_with_may_be_infinite():
    """The best value so far of `reduce_on_plateau`, which a step without the loss leaves as it was."""
    best = optax.GradientTransformation(
        lambda params: (jnp.float32(jnp.inf), jnp.zeros(())),
        lambda updates, state, params=None: (updates, (state[0], state[1] + 1.0)),
    )
    state = squeeze(1.0, optax.chain(optax.sgd(0.1), best), 3)
    assert state.skipped == (0, 0)
    np.testing.assert_allclose(state.params["w"], 0.7, rtol=1e-6)
    assert state.opt_state[1] == (np.inf, 3.0)
    # What was finite is held against the step also beside it.
    worse = optax.chain(optax.sgd(0.1), best, optax.trace(3e38), optax.scale(0.0))
    found = squeeze(1.5, worse, 3)
    assert found.skipped.total == 1
    chex.assert_tree_all_finite(found.opt_state[2])


@pytest.mark.parametrize("max_skipped", [None, 0])
def test_numbers_in_extra_are_arrays(max_skipped):
    """Python's numbers, at the start and from the loss; one program for all steps, and an infinite one is found."""
    count = []

    def loss(params, extra, key, batch):
        count.append(1)
        return jnp.sum(params["w"]), ({}, {"rate": 0.5, "old": extra["rate"], "number": 3})

    step = jax.jit(training.make_stateful_train_step(loss, optax.sgd(0.1), max_skipped=max_skipped))
    extra = {"rate": 2.0, "old": 0.0, "number": 1}
    state = training.init_state(jax.random.key(0), {"w": jnp.ones(2)}, optax.sgd(0.1), extra)
    for _ in range(3):
        state, _ = step(state, None)
    assert state.extra == {"rate": 0.5, "old": 0.5, "number": 3}
    assert len(count) == 1
