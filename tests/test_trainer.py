"""A run as a whole: stopped and taken up again, steps that are not finite, and the options of training."""

import re
import signal
from functools import partial
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vaejax
from vaejax import experiment, pictures, program, run, trainer, training
from vaejax.settings import Running

tiny = experiment.load_experiment(str(Path(__file__).with_name("tiny.py")))


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch):
    monkeypatch.setattr(pictures, "draw", lambda *_: iter(()))


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """What runs of some settings give that nobody disturbs."""
    known = {}

    def outcome(*words):
        if words not in known:
            folder = tmp_path_factory.mktemp("unbroken")
            assert tiny.train(folder, *words) == 0
            known[words] = tiny.outcome(folder)
        return known[words]

    return outcome


# Few programs, since most of the time is theirs.
POISON = ("--poison", "28", "29", "30")
WATCHED = ("--ema-decay", "0.9", "--validation-size", "10")
STOPS = {
    "in the middle of an epoch": (signal.SIGTERM, 31, (), ()),
    "after an epoch": (signal.SIGINT, 25, (), ()),
    "streamed": (signal.SIGINT, 33, (), ("--feed", "streamed")),
    "with averaged weights and the best of them": (signal.SIGTERM, 12, WATCHED, ()),
    "after a step that was left out": (signal.SIGTERM, 29, (*POISON, "--not-finite", "skip"), ()),
    "after it went back": (signal.SIGTERM, 31, (*POISON, "--not-finite", "roll_back"), ()),
}  # fmt: skip


# The others differ in what is saved; these in when or how.
SLOW = {"after an epoch", "streamed"}


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow) if case in SLOW else case for case in STOPS]
)
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(case, tmp_path, monkeypatch, capsys, unbroken):
    number, step, settings, how = STOPS[case]
    with monkeypatch.context() as patched:
        tiny.stop_at(patched, step, number)
        assert tiny.train(tmp_path / "run", *settings, *how) == 128 + number
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said == f"vaejax: error: stopped by {number.name}; the same command goes on from there"
    assert training.saved_steps(tmp_path / "run" / "checkpoints")[-1] == step
    assert not (tmp_path / "run" / "results.json").exists()
    assert tiny.train(tmp_path / "run", *settings, *how) == 0
    assert tiny.outcome(tmp_path / "run") == unbroken(*settings, *how)


def test_a_streamed_run_is_the_run_but_for_rounding(unbroken):
    """It is another program."""
    for line, expected in zip(unbroken("--feed", "streamed")[0], unbroken()[0], strict=True):
        assert line.keys() == expected.keys()
        for name, value in line.items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_nothing_of_a_run_depends_on_how_often_it_saves(tmp_path, unbroken):
    assert tiny.train(tmp_path, "--checkpoint-seconds", "0", "--keep", "1") == 0
    assert tiny.outcome(tmp_path) == unbroken()
    assert len(training.saved_steps(tmp_path / "checkpoints")) == 1


def test_a_finished_run_says_its_summary_and_trains_nothing(tmp_path, capsys, monkeypatch):
    assert tiny.train(tmp_path) == 0
    summary, before = capsys.readouterr().out, tiny.outcome(tmp_path)
    monkeypatch.setattr(run, "Trainer", None)
    assert tiny.train(tmp_path) == 0
    again = capsys.readouterr().out
    assert [line for line in again.splitlines() if "MiB" not in line] == [
        line for line in summary.splitlines() if "MiB" not in line
    ]
    assert tiny.outcome(tmp_path) == before


# -- steps that are not finite


def test_a_step_that_is_not_finite_ends_the_run_and_is_kept(tmp_path, capsys):
    assert tiny.train(tmp_path, *POISON) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    # The KL and the gradient are finite: only what comes from the likelihood is named.
    expected = r"the loss is nan at step 28, with loss, negative_elbo, reconstruction not finite: "
    assert re.match(f"vaejax: error: {expected}.*vaejax replay {tmp_path}", said)
    settings = tiny.Settings(poison=(28, 29, 30))
    like = program.make_program(tiny.build(settings), settings).like().state
    failed = training.load_checkpoint(tmp_path / "failed", like)
    assert failed.step == 28
    chex.assert_tree_all_finite(failed._replace(key=()))
    # Nothing but the finished epoch is reported, and the same again fails the same.
    assert [line["step"] for line in tiny.lines(tmp_path)] == [25]
    assert tiny.train(tmp_path, *POISON) == 1
    assert capsys.readouterr().err.strip().splitlines()[-1] == said


def test_a_step_that_is_skipped_is_counted_and_in_no_figure(tmp_path, capsys):
    assert tiny.train(tmp_path, *POISON, "--not-finite", "skip") == 0
    assert "skipped 3 steps that were not finite" in capsys.readouterr().out
    lines = tiny.lines(tmp_path)
    assert [line["skipped"] for line in lines] == [0, 3, 3]
    # It is 1 at those steps, which the means leave out.
    assert [line["poisoned"] for line in lines] == [0, 0, 0]
    assert tiny.figures(tmp_path)["skipped"] == 3
    tiny.newest(tmp_path)


def test_a_run_goes_back_and_leaves_the_steps_out(tmp_path):
    """To go back is to go on from the last report with the step after the one that failed."""
    assert tiny.train(tmp_path, *POISON, "--not-finite", "roll_back") == 0
    assert [(line["step"], line["skipped"]) for line in tiny.lines(tmp_path)] == [(25, 0), (50, 3), (75, 3)]
    _, settings, state = run.load_run(tmp_path)
    made = program.make_program(tiny.build(settings), settings)
    fit = partial(training.fit, made.feed, report_every=25)
    progress = fit(made.begin(), num_steps=25)
    progress = fit(progress._replace(state=progress.state._replace(step=jnp.int32(31))), num_steps=75)
    chex.assert_trees_all_equal(state.params, progress.state.params)
    chex.assert_trees_all_equal(state.opt_state, progress.state.opt_state)


def test_too_many_returns_end_the_run(tmp_path, capsys):
    assert tiny.train(tmp_path, *POISON, "--not-finite", "roll_back", "--max-not-finite", "2") == 1
    assert re.search(r"at step 30.*after 2 returns to step 25", capsys.readouterr().err.strip().splitlines()[-1])
    assert (tmp_path / "failed" / "seal.json").is_file()


# -- options of training


def watch(monkeypatch, *values):
    """Validation figures as they are given, one for each epoch."""
    figures = iter(values)
    monkeypatch.setattr(run, "make_validation", lambda *_: lambda params: {"validation_loss": next(figures)})


def test_a_run_ends_when_the_validation_figure_gets_no_better(tmp_path, capsys, monkeypatch):
    """What has been seen of the figures outlives a stop, and the best weights outlive later checkpoints."""
    words = (*WATCHED, "--patience", "2", "--epochs", "9", "--keep", "1")
    watch(monkeypatch, 5.0, 3.0)
    with monkeypatch.context() as patched:
        tiny.stop_at(patched, 60, signal.SIGTERM)
        assert tiny.train(tmp_path, *words) == 143
    watch(monkeypatch, 4.0, 3.0)
    assert tiny.train(tmp_path, *words) == 0
    assert [line["step"] for line in tiny.lines(tmp_path)] == [25, 50, 75, 100]
    figures = tiny.figures(tmp_path)
    assert (figures["steps"], figures["measured_step"]) == (100, 50)
    assert "measured at step 50 of 100, the best on the validation examples" in capsys.readouterr().out
    # What is measured is what `load_run` gives back.
    built, _, state = run.load_run(tmp_path)
    assert state.step == 50
    assert figures["test"]["kl"]["mean"] == float(run.measure(built, state.ema).estimates()["kl"].mean)


def test_the_best_of_a_warm_up_is_not_what_is_measured(tmp_path, monkeypatch):
    """While the weight of the KL rises the figure may too; what was best before it is full is forgotten."""
    watch(monkeypatch, 1.0, 5.0, 4.0, 3.0, 6.0)
    words = ("--epochs", "5", "--patience", "5", "--patience-warm-up", "2")
    assert tiny.train(tmp_path, *WATCHED, *words) == 0
    assert tiny.figures(tmp_path)["measured_step"] == 100


def test_a_callback_that_returns_something_true_ends_the_run(tmp_path):
    settings = tiny.Settings(running=Running(output=str(tmp_path)))
    result = run.train(tiny.__file__, settings, tiny.build(settings), [lambda report, state: report.step >= 50])
    assert (result.steps, result.measured_step) == (50, 50)
    assert [line["step"] for line in tiny.lines(tmp_path)] == [25, 50]
    # Also where it is killed before it is measured.
    (tmp_path / "results.json").unlink()
    assert run.train(tiny.__file__, settings, tiny.build(settings)).steps == 50


def test_the_weight_of_the_kl_is_scheduled_and_logged(tmp_path):
    assert tiny.train(tmp_path, "--beta", "2", "--kl-schedule", "linear", "--kl-epochs", "2") == 0
    # Means over the steps 0 to 24, 25 to 49 and 50 to 74 of a ramp over 50.
    np.testing.assert_allclose([line["beta"] for line in tiny.lines(tmp_path)], [0.48, 1.48, 2.0], rtol=1e-5)


def test_micro_batches_give_the_whole_batch(tmp_path, unbroken):
    assert tiny.train(tmp_path, "--micro-batches", "2") == 0
    for line, expected in zip(tiny.lines(tmp_path), unbroken()[0], strict=True):
        np.testing.assert_allclose(line["loss"], expected["loss"], rtol=1e-5)
        np.testing.assert_allclose(line["kl_per_axis"], expected["kl_per_axis"], rtol=1e-4)
        assert line["active_units"] == expected["active_units"]


def test_half_precision_trains_and_is_another_run(tmp_path, unbroken):
    assert tiny.train(tmp_path, "--precision", "bfloat16") == 0
    losses = [line["loss"] for line in tiny.lines(tmp_path)]
    expected = [line["loss"] for line in unbroken()[0]]
    np.testing.assert_allclose(losses, expected, rtol=0.02)
    assert losses != expected
    assert losses[-1] < losses[0]


def test_averaged_weights_are_what_is_measured(tmp_path, unbroken):
    """The weights are those of a run without an average, and their average is not."""
    assert tiny.train(tmp_path, *WATCHED) == 0
    lines = tiny.lines(tmp_path)
    assert [line["loss"] for line in lines] == [line["loss"] for line in unbroken()[0]]
    assert min(line["validation_negative_elbo"] for line in lines) == lines[-1]["validation_negative_elbo"]
    built, _, state = run.load_run(tmp_path)
    measured = tiny.figures(tmp_path)["test"]["negative_elbo"]["mean"]
    of = lambda params: float(run.measure(built, params).estimates()["negative_elbo"].mean)
    assert measured == of(state.ema)
    assert abs(measured - of(state.params)) > 1e-3


@pytest.mark.filterwarnings("always")
def test_where_the_best_is_damaged_the_last_is_measured(tmp_path, capsys, monkeypatch):
    watch(monkeypatch, 1.0, 2.0, 3.0)
    train, damaged = trainer.Trainer.train, []

    def damage(self):
        progress = train(self)
        damaged.append(max((tmp_path / "checkpoints" / "000000025" / "state").glob("_*")))
        damaged[0].write_bytes(b"\0")
        return progress

    monkeypatch.setattr(trainer.Trainer, "train", damage)
    assert tiny.train(tmp_path, *WATCHED) == 0
    assert tiny.figures(tmp_path)["measured_step"] == 75
    expected = f"vaejax: warning: {damaged[0]} is damaged: 1 bytes.*; measuring the last state in place of the best"
    assert [line for line in capsys.readouterr().err.splitlines() if re.fullmatch(expected, line)]


def test_the_log_does_not_depend_on_whose_posterior_it_is():
    """numpyro's Normal, whose batch shape vmap does not see, gives the step that ours gives."""
    import numpyro.distributions as numpyro

    settings = tiny.Settings()
    built = tiny.build(settings)

    def metrics(encode):
        objective = lambda params, key, x: vaejax.elbo(
            key, x, encode(params), partial(built.model.decode, params), kl=vaejax.monte_carlo_kl
        )
        state = jax.jit(partial(program.initial_state, built, settings))()
        step = jax.jit(program.make_step(built._replace(objective=objective, prior=None), settings))
        return step(state, built.dataset.train.examples[:4])[1]

    ours = lambda params: partial(built.model.encode, params)
    theirs = lambda params: lambda x: numpyro.Normal(*vars_of(ours(params)(x))).to_event(1)
    vars_of = lambda q: (q.loc, q.scale)
    chex.assert_trees_all_close(metrics(theirs), metrics(ours), rtol=1e-5)


def test_an_objective_of_the_whole_batch_is_told_how_to_say_so():
    settings = tiny.Settings()
    built = tiny.build(settings)

    def objective(params, key, x):
        encode, decode = (partial(function, params) for function in (built.model.encode, built.model.decode))
        return vaejax.recipes.beta_tc_vae(dataset_size=100)(key, x, encode, decode)

    coupled = built._replace(objective=objective, report=built.objective)
    with pytest.raises(
        ValueError, match=r"tc_decomposition couples .*; an objective of the whole batch says couples_b"
    ):
        program.check_fit(coupled, settings)
    program.check_fit(coupled._replace(couples_batch=True), settings)


def test_data_are_looked_at_in_parts(monkeypatch):
    """All of them, and no more at once than fit."""
    settings, sizes = tiny.Settings(), []
    built = tiny.build(settings)
    monkeypatch.setattr(program, "CHECKED_AT_ONCE", 32)

    def prepare(key, images):
        sizes.append(images.shape[0])
        return built.prepare(key, images)

    program.check_fit(built._replace(prepare=prepare), settings)
    assert max(sizes) <= 32
    assert sizes[:4] == [32, 32, 32, 32]
    images = built.dataset.train.examples.copy()
    images[-1] = 7
    bad = built._replace(dataset=built.dataset._replace(train=built.dataset.train._replace(examples=images)))
    with pytest.raises(
        ValueError, match=r"data set tiny must be in the support of the likelihood Bernoulli; got values"
    ):
        program.check_fit(bad, settings)
