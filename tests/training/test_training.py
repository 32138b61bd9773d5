"""The step and the loop around it."""

import functools
import re
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import vaejax
from tests.typed_keys import as_numbers
from vaejax import data, evaluation, training
from vaejax.training import loop

IMAGES = np.random.default_rng(0).integers(0, 2, (40, 8, 8, 1)).astype(np.uint8)
PARAMS = {
    name: (0.1 * np.random.default_rng(1).normal(size=shape)).astype(np.float32)
    for name, shape in {"encoder": (64, 3), "decoder": (3, 64)}.items()
}
OPTIMIZER = optax.adam(1e-3)
PLAN = partial(data.epoch_indices, num_examples=40, batch_size=8)


def loss_fn(params, key, images):
    """Of a model with few operations, which compiles fast."""
    x = images.reshape(len(images), -1).astype(float)
    encode = lambda x: vaejax.Normal(x @ params["encoder"], 1.0)
    loss, terms = vaejax.negative_elbo(key, x, encode, lambda z: vaejax.Bernoulli(z @ params["decoder"]))
    return loss, evaluation.batch_metrics(terms)


begin = jax.jit(lambda seed: training.init_state(jax.random.key(seed), PARAMS, OPTIMIZER))
plan_of_epoch = jax.jit(lambda epoch: PLAN(jax.random.key(2), epoch))


def start(seed=1):
    return begin(np.uint32(seed))


def make_feed(loss=loss_fn):
    step = training.make_train_step(loss, OPTIMIZER)
    return training.resident(step, IMAGES, plan_of_epoch, steps_per_epoch=5)


# Compiled once for all tests that run it.
shared_feed = functools.cache(make_feed)


@functools.cache
def shared_step():
    """The compiled step, and a list that grows by one each time that it is traced."""
    traces = []

    def counted(params, key, images):
        traces.append(1)
        return loss_fn(params, key, images)

    return jax.jit(training.make_train_step(counted, OPTIMIZER)), traces


def train(num_steps, state=None, feed=None, report_every=5, **options):
    feed = feed or shared_feed()
    progress = training.begin(feed, start() if state is None else state)
    return training.fit(feed, progress, num_steps=num_steps, report_every=report_every, **options).state


def batches(num_steps):
    return IMAGES[np.concatenate([plan_of_epoch(epoch) for epoch in range(num_steps // 5 + 1)])[:num_steps]]


def test_a_step_is_gradient_descent():
    """Against the update written out, with the key of the step."""

    @jax.jit
    def both(state, images):
        taken = training.make_train_step(loss_fn, optax.sgd(0.1))(state, images)
        key = jax.random.fold_in(jax.random.key(1), 5)
        return taken, jax.value_and_grad(loss_fn, has_aux=True)(state.params, key, images)

    before = start()._replace(step=np.int32(5), opt_state=optax.sgd(0.1).init(()))
    (after, metrics), ((loss, _), gradient) = both(before, IMAGES[:8])
    expected = jax.tree.map(lambda p, g: np.asarray(p) - 0.1 * np.asarray(g), before.params, gradient)
    chex.assert_trees_all_close(after.params, expected, rtol=1e-5, atol=1e-7)
    assert after.step == 6
    chex.assert_trees_all_close(metrics["loss"], loss, rtol=1e-6)
    norm = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(gradient)))
    chex.assert_trees_all_close(metrics["gradient_norm"], norm, rtol=1e-5)


def test_metrics_tell_the_parts():
    _, metrics = shared_step()[0](start(), IMAGES[:8])
    assert set(metrics) == {
        "loss", "gradient_norm", "negative_elbo", "reconstruction", "kl", "kl_per_axis", "active_units"
    }  # fmt: skip
    chex.assert_shape(metrics["kl_per_axis"], (3,))
    metrics = jax.device_get(metrics)
    np.testing.assert_allclose(np.sum(metrics["kl_per_axis"]), metrics["kl"], rtol=1e-5)
    np.testing.assert_allclose(metrics["reconstruction"] + metrics["kl"], metrics["negative_elbo"], rtol=1e-5)


def test_it_traces_once_for_ten_steps_and_moves_nothing_to_the_host():
    step, traces = shared_step()
    state, batch = jax.device_put((start(), IMAGES[:8]))
    with jax.transfer_guard("disallow"):
        for _ in range(10):
            state, _ = step(state, batch)
    assert state.step == 10
    assert len(traces) == 1


def test_the_loop_is_traced_once_however_many_pauses(monkeypatch):
    count = []

    def counted(params, key, images):
        count.append(1)
        return jnp.mean((params["w"] - images) ** 2), {}

    feed = make_feed(counted)
    progress = training.begin(feed, training.init_state(jax.random.key(1), {"w": np.float32(0.0)}, OPTIMIZER))
    # What a step logs is known from its shapes alone.
    before, pauses = len(count), []
    monkeypatch.setattr(loop, "PAUSE_SECONDS", 0.0)
    training.fit(feed, progress, num_steps=20, report_every=7, on_pause=lambda progress: pauses.append(1))
    assert len(pauses) == 20
    assert len(count) - before == 1


def test_nothing_is_changed_in_place():
    state = start()
    before = jax.tree.map(np.array, as_numbers(state))
    images = IMAGES.copy()
    train(10, state)
    chex.assert_trees_all_equal(as_numbers(state), before)
    np.testing.assert_array_equal(IMAGES, images)


def test_the_progress_that_goes_in_is_used_up():
    feed = shared_feed()
    progress = training.begin(feed, start())
    training.fit(feed, progress, num_steps=1, report_every=1)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(progress.state.params))


def test_the_loop_on_the_device_is_the_python_loop():
    """The state, and in each report the means of what the steps logged; the last report is a short one."""
    reports = []
    looped = train(12, on_report=lambda report, progress: reports.append(report))
    step, _ = shared_step()
    state, logged = start(), []
    for batch in batches(12):
        state, metrics = step(state, batch)
        logged.append(jax.device_get(metrics))
    chex.assert_trees_all_close(as_numbers(looped), as_numbers(state), rtol=1e-5, atol=1e-6)
    assert [(report.step, report.num_steps, report.skipped) for report in reports] == [
        (5, 5, 0),
        (10, 5, 0),
        (12, 2, 0),
    ]
    for report in reports:
        part = logged[report.step - report.num_steps : report.step]
        chex.assert_trees_all_close(report.metrics, jax.tree.map(lambda *each: np.mean(each, axis=0), *part), rtol=1e-5)
        assert report.seconds_per_step > 0


def test_reports_do_not_change_a_bit_and_training_lowers_the_loss():
    losses = []
    often = train(100, report_every=10, on_report=lambda report, progress: losses.append(report.metrics["loss"]))
    chex.assert_trees_all_equal(as_numbers(often), as_numbers(train(100, report_every=64)))
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("hook", ["on_report", "on_pause"])
def test_a_hook_can_end_the_run(hook):
    seen = []

    def end(*arguments):
        seen.append(int(arguments[-1].state.step))
        return seen[-1] >= 5

    state = train(20, **{hook: end})
    assert state.step == seen[-1] == 5


def test_a_run_that_is_done_does_nothing_more():
    feed = shared_feed()
    progress = training.fit(feed, training.begin(feed, start()), num_steps=3, report_every=5)
    say = lambda *arguments: pytest.fail("there is nothing to report")
    again = training.fit(feed, progress, num_steps=3, report_every=5, on_report=say, on_pause=say)
    assert again.state.step == 3


def test_the_noise_of_every_step_is_its_own():
    optimizer = optax.sgd(0.1)
    loss = lambda params, key, batch: (jnp.sum(params**2), {"draw": jax.random.normal(key, (2,))})
    step = training.make_train_step(loss, optimizer)
    state = training.init_state(jax.random.key(1), np.ones(2, np.float32), optimizer)
    _, metrics = jax.jit(lambda state: jax.lax.scan(step, state, length=20))(state)
    assert len(np.unique(metrics["draw"])) == 2 * 20


def test_two_runs_with_one_seed_are_equal_and_two_seeds_are_not():
    once, again = (train(10) for _ in range(2))
    chex.assert_trees_all_equal(as_numbers(once), as_numbers(again))
    other = train(10, start(seed=9))
    assert any(
        np.any(a != b) for a, b in zip(*map(jax.tree.leaves, jax.device_get((once.params, other.params))), strict=True)
    )


def test_the_average_of_the_parameters():
    """Against its recursion in numpy, young steps with the smaller weight; a state without one is refused."""
    optimizer = optax.sgd(0.1)
    step = jax.jit(
        training.make_train_step(lambda params, key, batch: (jnp.sum(params**2), {}), optimizer, ema_decay=0.3)
    )
    expected = np.array([1.0, -2.0])
    state = training.init_state(jax.random.key(0), np.array([1.0, -2.0], np.float32), optimizer, with_ema=True)
    for count in range(6):
        state, _ = step(state, None)
        decay = min(0.3, (1 + count) / (10 + count))
        expected = decay * expected + (1 - decay) * np.asarray(state.params)
        chex.assert_trees_all_close(state.ema, expected, rtol=1e-5)
    with pytest.raises(ValueError, match="ema_decay needs a state that keeps a moving average"):
        step(training.init_state(jax.random.key(0), np.ones(2, np.float32), optimizer), None)


def test_the_average_of_half_precision_is_in_single():
    """At a decay of 0.999 an average in bfloat16 stays at 0.5, whatever the parameters."""
    optimizer = optax.sgd(0.0)
    step = jax.jit(training.make_train_step(lambda params, key, batch: (params, {}), optimizer, ema_decay=0.999))
    state = training.init_state(jax.random.key(0), jnp.ones((), jnp.bfloat16), optimizer, with_ema=True)
    state, _ = step(state._replace(step=jnp.int32(100_000), ema=state.ema / 2), None)
    assert state.params.dtype == jnp.bfloat16
    np.testing.assert_allclose(state.ema, 0.5005, rtol=1e-5)


def test_what_is_scheduled_reaches_the_loss_and_the_log():
    optimizer = optax.sgd(1.0)
    loss = lambda params, key, batch, *, beta: (beta * params, {})
    by_example = training.per_example(lambda params, key, example, *, beta: (beta * params, {}))
    schedules = {"beta": lambda step: 10.0 + step}

    @jax.jit
    def both(state):
        whole = training.make_train_step(loss, optimizer, schedules=schedules)
        each = training.make_train_step(by_example, optimizer, num_micro_batches=2, schedules=schedules)
        return whole(state, jnp.zeros(6)), each(state, jnp.zeros(6))

    state = training.init_state(jax.random.key(0), np.float32(0.0), optimizer)._replace(step=np.int32(4))
    for after, metrics in both(state):
        assert (after.params, metrics["beta"]) == (-14.0, 14.0)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: training.make_train_step(None, OPTIMIZER), TypeError, "loss_fn must be a function"),
        (lambda: training.make_train_step(loss_fn, 1e-3), TypeError, "optimizer must be an optax.*got float"),
        (lambda: training.init_state(0, {}, OPTIMIZER), TypeError, "key must be a typed PRNG key"),
        (
            lambda: training.make_train_step(loss_fn, OPTIMIZER, max_skipped=-1),
            ValueError,
            "max_skipped must be at least 0",
        ),
        (
            lambda: training.make_train_step(loss_fn, OPTIMIZER, num_micro_batches=0),
            ValueError,
            "num_micro_batches must",
        ),
        (lambda: training.per_example(None), TypeError, "loss_fn must be a function"),
        (lambda: train(0), ValueError, "num_steps must be at least 1"),
        (lambda: train(5, report_every=0), ValueError, "report_every must be at least 1"),
        (
            lambda: training.resident(None, IMAGES, None, steps_per_epoch=0),
            ValueError,
            "steps_per_epoch must be at least 1",
        ),
    ],
)
def test_bad_arguments_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_the_optimizer_sees_the_parameters():
    """Weight decay pulls at parameters that have no gradient."""
    optimizer = optax.adamw(0.1, weight_decay=0.5)
    state = training.init_state(jax.random.key(1), np.ones(2, np.float32), optimizer)
    step = training.make_train_step(lambda params, key, batch: (0.0 * jnp.sum(params), {}), optimizer)
    state, _ = jax.jit(step)(state, None)
    np.testing.assert_allclose(state.params, [0.95, 0.95], rtol=1e-6)


@pytest.mark.slow("another type")
def test_a_whole_run_in_double_precision(x64):
    state = training.init_state(jax.random.key(1), jax.tree.map(np.float64, PARAMS), OPTIMIZER)
    state = train(10, state, make_feed())
    assert state.step == 10
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {np.dtype(np.float64)}
    chex.assert_tree_all_finite(state.params)


@pytest.mark.parametrize("kind", ["resident", pytest.param("streamed", marks=pytest.mark.slow("another feed"))])
def test_a_mean_over_many_steps_is_that_of_the_numbers_whatever_their_type(kind):
    """300 times 1: a byte ends at 255, bfloat16 at 256, and truth values have no sum at all."""
    ones = {name: np.ones(2, name) for name in ("bool", "uint8", "int32", "float16", "bfloat16", "float32")}
    loss = lambda params, key, x: (jnp.sum(params**2), jax.tree.map(jnp.asarray, ones))
    step = training.make_train_step(loss, optax.sgd(0.0), max_skipped=0)
    plan = lambda epoch: jnp.zeros((10, 1), jnp.int32)
    if kind == "resident":
        feed = training.resident(step, np.zeros(1), plan, steps_per_epoch=10)
    else:
        feed = training.streamed(step, lambda first: (np.zeros(1) for _ in range(first, 300)))
    reports = []
    state = training.init_state(jax.random.key(0), np.ones(2, np.float32), optax.sgd(0.0))
    progress = training.begin(feed, state)
    assert {str(progress.totals[name].dtype) for name in ones} == {"float32"}
    assert progress.num_summed.dtype == jnp.int32
    training.fit(feed, progress, num_steps=300, report_every=300, on_report=lambda r, p: reports.append(r))
    for name in ones:
        np.testing.assert_array_equal(reports[0].metrics[name], [1.0, 1.0], name)


def stateful(returned):
    return training.make_stateful_train_step(lambda params, extra, key, batch: returned(jnp.sum(params)), OPTIMIZER)


@pytest.mark.parametrize(
    ("step", "expected", "got"),
    [
        (training.make_train_step(lambda *_: jnp.ones(()), OPTIMIZER), "(loss, metrics)", "an array of shape ()"),
        (training.make_train_step(lambda *_: jnp.ones(2), OPTIMIZER), "(loss, metrics)", "an array of shape (2,)"),
        (training.make_train_step(lambda *_: (1.0, {}, 0), OPTIMIZER), "(loss, metrics)", "tuple of 3"),
        (training.make_train_step(lambda *_: None, OPTIMIZER), "(loss, metrics)", "NoneType"),
        (
            training.make_train_step(training.per_example(lambda params, key, x: x), OPTIMIZER),
            "(loss, metrics)", "an array of shape ()",
        ),
        (stateful(lambda loss: loss), "(loss, (metrics, extra))", "an array of shape ()"),
        (stateful(lambda loss: (loss, {})), "(loss, (metrics, extra))", "a loss and dict"),
    ],
)  # fmt: skip
def test_a_loss_that_returns_something_else_is_told_what_is_wanted(step, expected, got):
    with pytest.raises(TypeError, match=re.escape(f"loss_fn must return {expected}; got {got}") + r"(\n|$)"):
        trace(step, np.ones(4, np.float32))


def trace(step, batch):
    """A step that is traced and not run."""
    state = training.init_state(jax.random.key(0), np.ones(2, np.float32), OPTIMIZER)
    jax.eval_shape(step, state, batch)


@pytest.mark.parametrize("name", ["loss", "gradient_norm", "beta"])
def test_a_metric_never_takes_the_place_of_another(name):
    loss = lambda params, key, batch, beta: (beta * jnp.sum(params), {name: jnp.ones(())})
    step = training.make_train_step(loss, OPTIMIZER, schedules={"beta": training.constant(2.0)})
    with pytest.raises(ValueError, match=f"the metrics of loss_fn must not be called {name}: the step logs"):
        trace(step, None)
    if name != "beta":
        with pytest.raises(ValueError, match=f"schedules must not be called {name}: the step logs"):
            training.make_train_step(loss, OPTIMIZER, schedules={name: training.constant(2.0)})


def test_micro_batches_of_half_precision_are_added_up_in_single():
    """In bfloat16 a sum of ones stops at 256."""
    loss = training.per_example(lambda params, key, x: (params * x, {}))
    step = jax.jit(training.make_train_step(loss, optax.sgd(1.0), num_micro_batches=512))
    state = training.init_state(jax.random.key(0), jnp.zeros((), jnp.bfloat16), optax.sgd(1.0))
    state, metrics = step(state, np.ones(512, jnp.bfloat16))
    assert (state.params, state.params.dtype) == (-1.0, jnp.bfloat16)
    assert metrics["gradient_norm"] == 1.0
