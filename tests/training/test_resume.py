"""A run that is stopped, saved, loaded and taken up again is the run that never stopped, bit for bit."""

import functools
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import vaejax
from tests.typed_keys import as_numbers
from vaejax import data, training
from vaejax.training import loop

EPOCH, STEPS, REPORT_EVERY = 4, 11, 3
EXAMPLES = np.random.default_rng(0).normal(size=(13, 5)).astype(np.float32)
EXAMPLES[-1] = np.nan
OPTIMIZER = optax.adam(1e-2)
# What each policy does with the steps that are not finite.
POLICIES = {
    "plain": ((), {"max_skipped": None}, False),
    "skip": ((1, 2, 5, 8), {"max_skipped": 2}, False),
    "go back": ((1, 4, 5, 8, 10), {"max_skipped": 0}, True),
}


class Stopped(Exception):
    """What a run is stopped by."""


def loss_fn(params, extra, key, x):
    encode = lambda x: vaejax.Normal(x @ params["up"], 0.5)
    loss, terms = vaejax.negative_elbo(key, x, encode, lambda z: vaejax.Normal(z @ params["down"], 1.0))
    return loss, (
        {"kl": jnp.mean(terms.kl), "kl_per_axis": jnp.mean(terms.latents**2, axis=0)},
        0.9 * extra + 0.1 * loss,
    )


def plan(epoch, poisoned):
    rows = data.epoch_indices(jax.random.key(5), epoch, num_examples=12, batch_size=3)
    bad = jnp.isin(epoch * EPOCH + jnp.arange(EPOCH), jnp.array(poisoned, jnp.int32))
    return rows.at[:, 1].set(jnp.where(bad, 12, rows[:, 1]))


def start():
    normal = np.random.default_rng(1).normal
    params = {"up": normal(0, 0.1, (5, 2)).astype(np.float32), "down": normal(0, 0.1, (2, 5)).astype(np.float32)}
    return training.init_state(jax.random.key(1), params, OPTIMIZER, np.float32(0.0), with_ema=True)


class Run:
    """A feed, and the progress and the reports of a run that nothing stopped."""

    def __init__(self, policy):
        poisoned, options, self.with_snapshot = POLICIES[policy]
        self.num_poisoned = len(poisoned)
        step = training.make_stateful_train_step(loss_fn, OPTIMIZER, ema_decay=0.9, **options)
        self.feed = training.resident(step, EXAMPLES, partial(plan, poisoned=poisoned), steps_per_epoch=EPOCH)
        self.straight, self.reports = self.go(self.begin())

    def begin(self):
        return training.begin(self.feed, start(), with_snapshot=self.with_snapshot)

    def go(self, progress, on_pause=lambda progress: None):
        """The progress at the end, or where the run was stopped, and all reports until then."""
        reports = []
        keep = lambda report, _: reports.append(report._replace(seconds_per_step=0))
        options = {"num_steps": STEPS, "report_every": REPORT_EVERY, "on_report": keep}
        try:
            return training.fit(self.feed, progress, on_pause=on_pause, **options), reports
        except Stopped as stopped:
            return stopped.args[0], reports


straight_run = functools.cache(Run)


SKIP = pytest.mark.slow("another policy of the same law")


@pytest.fixture(params=["plain", pytest.param("skip", marks=SKIP), "go back"])
def run(request):
    return straight_run(request.param)


def check_same(run, progress, reports):
    chex.assert_trees_all_equal(as_numbers(progress), as_numbers(run.straight))
    chex.assert_trees_all_equal(as_numbers(reports), as_numbers(run.reports))


def stops():
    """Each policy and each step to stop at; the policy that goes back keeps the most, so that it stands for the others."""
    for policy in POLICIES:
        for step in range(1, 2 * EPOCH + 2):
            fast = step in {"plain": (3, 5), "skip": (), "go back": (1, 5, 6, 8)}[policy]
            marks = [] if fast else [pytest.mark.slow("other steps of the same law")]
            yield pytest.param(policy, step, marks=marks, id=f"{policy}-{step}")


@pytest.mark.parametrize(("run", "stop_at"), [*stops()], indirect=["run"])
def test_stopped_at_any_step_it_is_the_same_run(run, stop_at, tmp_path, monkeypatch):
    # Each step is followed by a pause.
    monkeypatch.setattr(loop, "PAUSE_SECONDS", 0.0)

    def stop(progress):
        if progress.state.step >= stop_at:
            raise Stopped(progress)

    progress, before = run.go(run.begin(), stop)
    assert progress.state.step == stop_at
    training.save_checkpoint(tmp_path / "saved", progress)
    like = loop.progress_like(run.feed, jax.eval_shape(start), with_snapshot=run.with_snapshot)
    progress, after = run.go(training.load_checkpoint(tmp_path / "saved", like))
    check_same(run, progress, before + after)


def test_the_runs_have_what_they_are_about(run):
    """Reports that are not at the end of an epoch, and every poisoned step left out."""
    assert [report.step for report in run.reports] == [3, 6, 9, 11]
    assert run.straight.state.skipped.total == run.num_poisoned
    assert run.straight.state.extra > 0


@pytest.mark.parametrize("seconds", [0.0, 1e-3, 1e9])
def test_the_length_of_the_pauses_changes_no_bit(run, seconds, monkeypatch):
    monkeypatch.setattr(loop, "PAUSE_SECONDS", seconds)
    steps = []
    check_same(run, *run.go(run.begin(), lambda progress: steps.append(int(progress.state.step))))
    if seconds == 0:
        assert steps == [*range(1, STEPS + 1)]
    if seconds == 1e9 and not run.with_snapshot:
        # 1, 2 and then as far as the next report.
        assert steps == [1, 3, 6, 9, 11]


def test_a_run_stopped_at_every_step_is_the_same_run(run, monkeypatch):
    """Nothing that matters is outside the progress."""
    monkeypatch.setattr(loop, "PAUSE_SECONDS", 0.0)

    def stop(progress):
        raise Stopped(progress)

    progress, reports = run.begin(), []
    while progress.state.step < STEPS:
        progress, more = run.go(progress, stop)
        reports += more
    check_same(run, progress, reports)


def test_more_steps_go_on_from_where_a_run_ended(run):
    """Ended at the last step of a report, a longer run is the one that was longer from the start."""
    options = {"report_every": REPORT_EVERY}
    progress = training.fit(run.feed, run.begin(), num_steps=6, **options)
    progress = training.fit(run.feed, progress, num_steps=STEPS, **options)
    chex.assert_trees_all_equal(as_numbers(progress), as_numbers(run.straight))
