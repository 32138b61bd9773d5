"""Steps that are not finite: left out, or the end of the run, or a way back; never in the state."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.typed_keys import as_numbers
from vaejax import data, training
from vaejax.training import loop

EXAMPLES = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
EPOCH = 4
OPTIMIZER = optax.adam(0.05)
plan = jax.jit(lambda epoch: data.epoch_indices(jax.random.key(5), epoch, num_examples=12, batch_size=3))


def loss_fn(params, extra, key, x, step):
    """A loss whose batch is NaN in the steps that extra names: one program serves all runs, wherever they fail."""
    x = jnp.where(jnp.any(extra["poisoned"] == step), jnp.nan, x)
    noisy = x + 0.1 * jax.random.normal(key, x.shape)
    reconstruction = jnp.mean((noisy - params["loc"]) ** 2)
    loss = reconstruction + 0.01 * jnp.sum(params["loc"] ** 2)
    metrics = {"reconstruction": reconstruction, "constant": jnp.ones(())}
    return loss, (metrics, {"mean": jnp.mean(noisy), "poisoned": extra["poisoned"]})


def start(poisoned=()):
    params = {"loc": np.array([1.0, -2.0, 3.0], np.float32)}
    steps = np.full(8, -1, np.int32)
    steps[: len(poisoned)] = poisoned
    extra = {"mean": np.float32(0.0), "poisoned": steps}
    return training.init_state(jax.random.key(1), params, OPTIMIZER, extra, with_ema=True)


def make_step(max_skipped):
    options = {"schedules": {"step": lambda step: step}, "ema_decay": 0.9, "max_skipped": max_skipped}
    return training.make_stateful_train_step(loss_fn, OPTIMIZER, **options)


@functools.cache
def compiled_step(max_skipped):
    return jax.jit(make_step(max_skipped))


@functools.cache
def feed_of(max_skipped):
    return training.resident(make_step(max_skipped), EXAMPLES, plan, steps_per_epoch=EPOCH)


def train(poisoned, max_skipped, num_steps, with_snapshot=False, **options):
    feed = feed_of(max_skipped)
    progress = training.begin(feed, start(poisoned), with_snapshot=with_snapshot)
    return training.fit(feed, progress, num_steps=num_steps, report_every=EPOCH, **options)


def batch_of(step, first_epoch=0):
    return EXAMPLES[np.asarray(plan(first_epoch + step // EPOCH))[step % EPOCH]]


def by_hand(num_steps, poisoned, start_at=None, first_epoch=0):
    """The states before each step, and what each logs, without any guard: a poisoned step is not taken."""
    step = compiled_step(None)
    state = start(poisoned) if start_at is None else start_at
    states, logged = [state], []
    for count in range(int(state.step), num_steps):
        taken, metrics = step(state, batch_of(count, first_epoch))
        state = state._replace(step=state.step + 1) if count in poisoned else taken
        states.append(state)
        logged.append(None if count in poisoned else jax.device_get(metrics))
    return states, logged


def numbers(state):
    """The state without its counters, which can be compared."""
    return as_numbers(state._replace(skipped=()))


def trained(state):
    return state.params, state.opt_state, state.ema, state.extra


def check_finite(progress):
    chex.assert_tree_all_finite((*trained(progress.state), progress.totals))


def test_a_step_that_is_not_finite_changes_two_counters_and_nothing_else():
    step = compiled_step(3)
    before, _ = step(start((1,)), EXAMPLES[:3])
    after, metrics = step(before, EXAMPLES[-3:])
    assert np.isnan(metrics["loss"])
    chex.assert_trees_all_equal(trained(after), trained(before))
    assert after.step == before.step + 1 == 2
    assert after.skipped == (1, 1)
    np.testing.assert_array_equal(jax.random.key_data(after.key), jax.random.key_data(before.key))
    # One that is finite ends the row.
    recovered, _ = step(after, EXAMPLES[:3])
    assert recovered.skipped == (1, 0)
    assert np.any(np.asarray(recovered.params["loc"]) != np.asarray(after.params["loc"]))


@pytest.mark.slow("a run with faults is compared with steps without a guard")
def test_a_guard_changes_nothing_in_a_run_without_faults():
    guarded, plain = (train((), max_skipped, 9).state for max_skipped in (0, None))
    chex.assert_trees_all_close(numbers(guarded), numbers(plain), rtol=1e-6)
    assert guarded.skipped == (0, 0)


def test_a_run_leaves_the_steps_out_and_its_reports_do_not_count_them():
    """An epoch that lost steps is the mean of the others; one that lost all says NaN and goes on."""
    poisoned, reports = (1, 2, 8, 9, 10, 11, 13), []
    progress = train(poisoned, 4, 14, on_report=lambda report, progress: reports.append(report))
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
    poisoned = (2, 5, 6, 7, 8, 9)
    with pytest.raises(
        training.NotFinite,
        match=r"the loss is nan at step 9, with gradient_norm, loss, reconstruction not finite: check",
    ) as caught:
        train(poisoned, 4, 20)
    progress = caught.value.progress
    states, _ = by_hand(9, poisoned)
    assert progress.state.step == 9
    assert progress.state.skipped == (6, 5)
    chex.assert_trees_all_close(numbers(progress.state), numbers(states[-1]), rtol=1e-5)
    check_finite(progress)
    # The same step can be taken again, and fails again; so does the run that goes on from there.
    assert np.isnan(compiled_step(None)(progress.state, batch_of(9))[1]["loss"])
    assert training.has_failed(progress.state, 4)
    with pytest.raises(training.NotFinite, match="at step 9, with gradient_norm, loss, reconstruction not finite"):
        training.fit(feed_of(4), progress, num_steps=20, report_every=EPOCH)


@pytest.mark.slow("another feed")
def test_a_stream_of_batches_ends_likewise(monkeypatch):
    """Its batches go on to the next pause after the step that failed, and change nothing."""
    monkeypatch.setattr(loop, "PAUSE_SECONDS", 1e9)
    source, caught = lambda first: map(batch_of, range(first, 20)), []
    for feed in (training.streamed(make_step(4), source), feed_of(4)):
        progress = training.begin(feed, start((2, 5, 6, 7, 8, 9)))
        with pytest.raises(training.NotFinite, match="the loss is nan at step 9, with gradient_norm, loss, ") as error:
            training.fit(feed, progress, num_steps=20, report_every=20)
        caught.append(error.value.progress)
    streamed, resident = (progress._replace(state=numbers(progress.state)) for progress in caught)
    chex.assert_trees_all_close(streamed, resident, rtol=1e-5)
    assert caught[0].state.skipped == (6, 5)


def test_no_failing_step_is_allowed_where_none_may_be_left_out():
    with pytest.raises(training.NotFinite, match="the loss is nan at step 0"):
        train((0,), 0, 20)


@pytest.mark.parametrize(
    ("loss_fn", "optimizer", "message"),
    [
        # sqrt has an infinite slope at 0, where its value is finite; clipped, its step is finite as well.
        (
            lambda params, extra, key, x: (jnp.sum(jnp.sqrt(params["loc"] - np.array([1.0, -2.0, 3.0]))), ({}, extra)),
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
    feed = training.resident(step, EXAMPLES, lambda epoch: jnp.zeros((EPOCH, 3), jnp.int32), steps_per_epoch=EPOCH)
    state = training.init_state(jax.random.key(1), start().params, optimizer, {"mean": np.float32(0.0)})
    with pytest.raises(training.NotFinite, match=message) as caught:
        training.fit(feed, training.begin(feed, state), num_steps=3, report_every=3)
    chex.assert_trees_all_equal(trained(caught.value.progress.state), trained(state))


def test_without_a_guard_the_report_says_between_which_steps_it_was():
    with pytest.raises(
        training.NotFinite, match="the loss is not finite between steps 4 and 8: a step made with max_sk"
    ):
        train((6,), None, 20)


def test_the_way_back_is_the_state_of_the_last_report_without_the_step():
    """Steps 4, 5 and 6 are made, 6 fails, and from the state of step 4 the run goes on with step 7."""
    reports = []
    progress = train((6,), 0, 10, with_snapshot=True, on_report=lambda report, progress: reports.append(report))
    states, logged = by_hand(6, (6,))
    after, logged_after = by_hand(10, (), start_at=states[4]._replace(step=np.int32(7)))
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
    keep = lambda report, progress: steps.append(report.step)
    progress = train((failing,), 0, 10, with_snapshot=True, on_report=keep)
    assert steps == [4, 8, 10]
    assert progress.state.step == 10


def test_a_run_that_goes_back_is_the_same_run_each_time():
    once, again = (train((1, 6, 7), 0, 12, with_snapshot=True) for _ in range(2))
    chex.assert_trees_all_equal(numbers(once.state), numbers(again.state))
    assert once.state.skipped == (3, 0)


def test_it_goes_back_only_so_often_between_two_reports():
    # Twice before each of two reports: the count begins anew.
    assert train((1, 2, 5, 6), 0, 8, with_snapshot=True, max_rollbacks=2).state.step == 8
    with pytest.raises(training.NotFinite, match=r"at step 6, .*\(after 2 returns to step 4\)") as caught:
        train((4, 5, 6), 0, 8, with_snapshot=True, max_rollbacks=2)
    check_finite(caught.value.progress)
    assert caught.value.progress.state.step == 6


def members(poisons):
    """The states of several runs, each with a key of its own."""
    keys = jax.random.split(jax.random.key(8), len(poisons))
    return [start(poisoned)._replace(key=key) for poisoned, key in zip(poisons, keys, strict=True)]


def stacked(states):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


def test_one_failing_member_of_several_stands_still_alone():
    """Each member is poisoned in steps of its own, the one in the middle too often; the last has other batches."""
    poisons = [(2,), (5, 6, 9, 10), ()]
    states = members(poisons)
    plan_of_all = lambda epoch: jnp.stack([plan(epoch), plan(epoch), plan(epoch + 7)])
    feed = training.resident(jax.vmap(make_step(1)), EXAMPLES, plan_of_all, steps_per_epoch=EPOCH)
    reports = []
    progress = training.fit(
        feed, training.begin(feed, stacked(states)), num_steps=16, report_every=EPOCH,
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
    for number, (state, num_steps, first_epoch) in enumerate(zip(states, (16, 6, 16), (0, 0, 7), strict=True)):
        alone, _ = by_hand(num_steps, poisons[number], state, first_epoch)
        member = jax.tree.map(lambda leaf, number=number: np.asarray(leaf)[number], numbers(progress.state))
        chex.assert_trees_all_close(member, numbers(alone[-1]), rtol=1e-5, atol=1e-7)


@pytest.mark.slow("a run of one ends above; compiles another program")
def test_the_run_ends_when_all_members_stand_still():
    feed = training.resident(jax.vmap(make_step(1), (0, None)), EXAMPLES, plan, steps_per_epoch=EPOCH)
    progress = training.begin(feed, stacked(members([(5, 6)] * 3)))
    with pytest.raises(training.NotFinite, match="at step 6"):
        training.fit(feed, progress, num_steps=16, report_every=EPOCH)


def squeeze(slope, optimizer, num_steps, **options):
    """The states before and after steps along one slope, each of them guarded."""
    loss = lambda params, extra, key, batch: (jnp.sum(slope * params["w"]), ({}, extra))
    step = jax.jit(training.make_stateful_train_step(loss, optimizer, max_skipped=9, **options))
    states = [training.init_state(jax.random.key(0), {"w": np.float32(1.0)}, optimizer, with_ema=True)]
    for _ in range(num_steps):
        state, metrics = step(states[-1], None)
        assert np.isfinite(metrics["gradient_norm"])
        states.append(state)
    return states


def test_an_optimizer_never_holds_what_is_not_finite():
    """The third square of a gradient makes the sum of Adagrad infinite, and the parameters stay finite with it."""
    *_, before, after = squeeze(1.2e19, optax.adagrad(0.1, initial_accumulator_value=0.0), 3)
    assert after.skipped == (1, 1)
    chex.assert_trees_all_equal(trained(after), trained(before))
    chex.assert_tree_all_finite(trained(after))


def test_an_average_that_is_not_finite_is_found():
    """A decay that is NaN spoils nothing else."""
    *_, state = squeeze(1.0, optax.sgd(0.1), 1, ema_decay=jnp.nan)
    assert state.skipped == (1, 1)
    assert state.ema["w"] == state.params["w"] == 1.0


def test_what_an_optimizer_begins_with_may_be_infinite():
    """The best value so far of `reduce_on_plateau`, which a step without the loss leaves as it was."""
    best = optax.GradientTransformation(
        lambda params: (jnp.float32(jnp.inf), jnp.zeros(())),
        lambda updates, state, params=None: (updates, (state[0], state[1] + 1.0)),
    )
    *_, state = squeeze(1.0, optax.chain(optax.sgd(0.1), best), 3)
    assert state.skipped == (0, 0)
    np.testing.assert_allclose(state.params["w"], 0.7, rtol=1e-6)
    assert state.opt_state[1] == (np.inf, 3.0)
    # What was finite is held against the step also beside it.
    worse = optax.chain(optax.sgd(0.1), best, optax.trace(3e38), optax.scale(0.0))
    *_, found = squeeze(1.5, worse, 3)
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
    state = training.init_state(jax.random.key(0), {"w": np.ones(2, np.float32)}, optax.sgd(0.1), extra)
    for _ in range(3):
        state, _ = step(state, None)
    assert state.extra == {"rate": 0.5, "old": 0.5, "number": 3}
    assert len(count) == 1
