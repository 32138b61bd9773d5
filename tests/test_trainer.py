"""A run as a whole: stopped and taken up again, steps that are not finite, and the options of training."""

import re
import shutil
import signal
from functools import partial
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vaejax
from vaejax import experiment, feed, outcome, program, run, trainer, training
from vaejax.cli.settings import read_settings
from vaejax.settings import NotFinitePolicy, Running, Training

tiny = experiment.load_experiment(str(Path(__file__).with_name("tiny.py")))


pytestmark = pytest.mark.usefixtures("without_pictures", "shared_programs")

STOPS = {
    "in the middle of an epoch": (signal.SIGTERM, 31, "plain"),
    "after an epoch": (signal.SIGINT, 25, "plain"),
    "streamed": (signal.SIGINT, 33, "streamed"),
    "with averaged weights and the best of them": (signal.SIGTERM, 12, "validated"),
    "after a step that was left out": (signal.SIGTERM, 29, "skip"),
    "after it went back": (signal.SIGTERM, 31, "roll back"),
}
SLOW = {
    "after an epoch": "the plain run stopped at another step",
    "streamed": "another feed of the plain run",
    "after a step that was left out": "between the plain run and the one that goes back",
    "after it went back": "compiles two programs more; test_resume.py proves it of the loop",
}  # fmt: skip


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=pytest.mark.slow(SLOW[case])) if case in SLOW else case for case in STOPS],
)
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(case, tmp_path, monkeypatch, capsys, bank):
    number, step, name = STOPS[case]
    words = tiny.BANK[name][1:]
    with monkeypatch.context() as patched:
        tiny.stop_at(patched, step, number)
        assert tiny.train(tmp_path / "run", *words) == 128 + number
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said == f"vaejax: error: stopped by {number.name}; the same command goes on from there"
    assert training.saved_steps(tmp_path / "run" / "checkpoints")[-1] == step
    assert not (tmp_path / "run" / "results.json").exists()
    assert tiny.train(tmp_path / "run", *words) == 0
    assert tiny.outcome(tmp_path / "run") == tiny.outcome(bank(name))


def test_a_streamed_run_is_the_run_but_for_rounding(bank):
    """It is another program."""
    for line, expected in zip(tiny.lines(bank("streamed")), tiny.lines(bank("plain")), strict=True):
        assert line.keys() == expected.keys()
        for name, value in line.items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.slow("runs that are stopped save in between, and are the same")
def test_nothing_of_a_run_depends_on_how_often_it_saves(tmp_path, bank):
    assert tiny.train(tmp_path, "--checkpoint-seconds", "0", "--keep", "1") == 0
    assert tiny.outcome(tmp_path) == tiny.outcome(bank("plain"))
    assert len(training.saved_steps(tmp_path / "checkpoints")) == 1


def test_a_finished_run_says_its_summary_and_trains_nothing(tmp_path, capsys, monkeypatch, bank):
    folder = Path(shutil.copytree(bank("plain"), tmp_path / "run"))
    summary = bank("plain").with_suffix(".out").read_text().replace(str(bank("plain")), str(folder))
    before = tiny.outcome(folder)
    monkeypatch.setattr(run, "Trainer", None)
    assert tiny.train(folder) == 0
    assert capsys.readouterr().out == summary
    assert tiny.outcome(folder) == before


# -- steps that are not finite


def check_what_failed(folder, said, step):
    """The error names the step and the terms, and the state before the step is kept."""
    # The KL and the gradient are finite: only what comes from the likelihood is named.
    expected = f"the loss is nan at step {step}, with loss, negative_elbo, reconstruction not finite"
    assert re.match(f"vaejax: error: {expected}.*vaejax replay {folder}", said)
    settings = tiny.Settings(poison=(28, 29, 30))
    like = run.make_program(tiny.build(settings), settings).like().state
    failed = training.load_checkpoint(folder / "failed", like)
    assert failed.step == step
    chex.assert_tree_all_finite(failed._replace(key=()))


@pytest.mark.slow("compiles another policy, which ends as the run below that has gone back too often")
def test_a_step_that_is_not_finite_ends_the_run_and_is_kept(tmp_path, capsys):
    assert tiny.train(tmp_path, *tiny.POISON) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    check_what_failed(tmp_path, said, 28)
    # Nothing but the finished epoch is reported, and the same again fails the same.
    assert [line["step"] for line in tiny.lines(tmp_path)] == [25]
    assert tiny.train(tmp_path, *tiny.POISON) == 1
    assert capsys.readouterr().err.strip().splitlines()[-1] == said


@pytest.mark.parametrize("name", ["roll back", pytest.param("skip", marks=pytest.mark.slow("another policy"))])
def test_a_step_that_is_left_out_is_counted_and_in_no_figure(name, bank):
    folder = bank(name)
    assert "skipped 3 steps that were not finite" in folder.with_suffix(".out").read_text()
    lines = tiny.lines(folder)
    assert [line["skipped"] for line in lines] == [0, 3, 3]
    # It is 1 at those steps, which the means leave out.
    assert [line["poisoned"] for line in lines] == [0, 0, 0]
    assert tiny.figures(folder)["skipped"] == 3
    tiny.newest(folder)


def test_steps_in_a_row_are_skipped_by_the_policy_alone():
    of = lambda policy: program.max_skipped(tiny.Settings(training=Training(not_finite=policy, max_not_finite=7)))
    assert [of(policy) for policy in NotFinitePolicy] == [0, 7, 0]
    assert [*NotFinitePolicy] == ["raise", "skip", "roll_back"]


def test_a_run_goes_back_and_leaves_the_steps_out(bank):
    """To go back is to go on from the last report with the step after the one that failed."""
    folder = bank("roll back")
    assert [line["step"] for line in tiny.lines(folder)] == [25, 50, 75]
    _, settings, state = run.load_run(folder)
    made = run.make_program(tiny.build(settings), settings)
    fit = partial(training.fit, made.feed, report_every=25)
    progress = fit(made.begin(), num_steps=25)
    progress = fit(progress._replace(state=progress.state._replace(step=jnp.int32(31))), num_steps=75)
    chex.assert_trees_all_equal(state.params, progress.state.params)
    chex.assert_trees_all_equal(state.opt_state, progress.state.opt_state)


def test_too_many_returns_end_the_run(tmp_path, capsys):
    assert tiny.train(tmp_path, *tiny.POISON, "--not-finite", "roll_back", "--max-not-finite", "2") == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "after 2 returns to step 25" in said
    check_what_failed(tmp_path, said, 30)
    assert (tmp_path / "failed" / "seal.json").is_file()


# -- options of training


def watch(monkeypatch, *values):
    """Validation figures as they are given, one for each epoch."""
    figures = iter(values)
    monkeypatch.setattr(run, "make_validation", lambda *_: lambda params: {"validation_loss": next(figures)})


def test_a_run_ends_when_the_validation_figure_gets_no_better(tmp_path, capsys, monkeypatch):
    """What has been seen of the figures outlives a stop, and the best weights outlive later checkpoints."""
    words = (*tiny.WATCHED, "--patience", "2", "--epochs", "9", "--keep", "1")
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
    assert tiny.train(tmp_path, *tiny.WATCHED, *words) == 0
    assert tiny.figures(tmp_path)["measured_step"] == 100


def test_a_callback_that_returns_something_true_ends_the_run(tmp_path):
    settings = tiny.Settings(running=Running(output=str(tmp_path)))
    result = run.train(tiny.__file__, settings, tiny.build(settings), [lambda report, state: report.step >= 50])
    assert (result.steps, result.measured_step) == (50, 50)
    assert [line["step"] for line in tiny.lines(tmp_path)] == [25, 50]
    # Also where it is killed before it is measured.
    (tmp_path / "results.json").unlink()
    assert run.train(tiny.__file__, settings, tiny.build(settings)).steps == 50


RAMP = ("--beta", "2", "--kl-schedule", "linear", "--kl-epochs", "2")
# Means over the steps 0 to 24, 25 to 49 and 50 to 74 of a ramp over 50.
RAMP_OF_EPOCHS = [0.48, 1.48, 2.0]


def test_the_weight_of_the_kl_is_scheduled():
    _, settings = read_settings("train", tiny.__file__, list(RAMP))
    beta = jax.jit(tiny.build(settings).schedules["beta"])(np.arange(75))
    np.testing.assert_allclose(np.reshape(beta, (3, 25)).mean(axis=1), RAMP_OF_EPOCHS, rtol=1e-5)


@pytest.mark.slow("a run of its own for what is proved of the schedule and of what a step logs")
def test_the_weight_of_the_kl_is_logged(tmp_path):
    assert tiny.train(tmp_path, *RAMP) == 0
    np.testing.assert_allclose([line["beta"] for line in tiny.lines(tmp_path)], RAMP_OF_EPOCHS, rtol=1e-5)


@pytest.mark.slow("a run of its own for what tests/training proves of a step")
def test_micro_batches_give_the_whole_batch(tmp_path, bank):
    assert tiny.train(tmp_path, "--micro-batches", "2") == 0
    for line, expected in zip(tiny.lines(tmp_path), tiny.lines(bank("plain")), strict=True):
        np.testing.assert_allclose(line["loss"], expected["loss"], rtol=1e-5)
        np.testing.assert_allclose(line["kl_per_axis"], expected["kl_per_axis"], rtol=1e-4)
        assert line["active_units"] == expected["active_units"]


def test_half_precision_is_that_of_the_products():
    """And of nothing that is stored."""
    _, settings = read_settings("train", tiny.__file__, ["--precision", "bfloat16"])
    model = tiny.build(settings).model
    params = jax.eval_shape(lambda: model.init(jax.random.key(0)))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {"float32"}
    made = str(jax.make_jaxpr(lambda params: model.decode(params, jnp.zeros(3)).logits)(params))
    assert re.search(r":bf16\[[\d,]*\] = (dense|dot_general)", made)
    assert not re.search(r":f32\[[\d,]*\] = (dense|dot_general)", made)


@pytest.mark.slow("trains what is proved of the products")
def test_half_precision_trains(tmp_path, bank):
    assert tiny.train(tmp_path, "--precision", "bfloat16") == 0
    losses = [line["loss"] for line in tiny.lines(tmp_path)]
    expected = [line["loss"] for line in tiny.lines(bank("plain"))]
    np.testing.assert_allclose(losses, expected, rtol=0.02)
    assert losses != expected
    assert losses[-1] < losses[0]


def test_averaged_weights_are_what_is_measured(bank):
    """The average of the weights, and not the weights."""
    lines = tiny.lines(bank("validated"))
    assert [line["loss"] for line in lines] == [line["loss"] for line in tiny.lines(bank("plain"))]
    assert min(line["validation_negative_elbo"] for line in lines) == lines[-1]["validation_negative_elbo"]
    built, _, state = run.load_run(bank("validated"))
    measured = tiny.figures(bank("validated"))["test"]["negative_elbo"]["mean"]
    of = lambda params: float(run.measure(built, params).estimates()["negative_elbo"].mean)
    assert measured == of(state.ema)
    assert abs(measured - of(state.params)) > 1e-3


def test_examples_that_are_held_out_are_not_trained_on(monkeypatch):
    settings = tiny.Settings(training=Training(validation_size=10))
    dataset = tiny.build(settings).dataset
    validated = []
    monkeypatch.setattr(outcome, "map_examples", lambda of: lambda params, examples: validated.append(examples) or {})
    outcome.make_validation(tiny.build(settings), settings)(())
    np.testing.assert_array_equal(validated[0], dataset.train.examples[100:110])
    assert sorted(np.ravel(feed.make_plan(dataset, settings)(0))) == [*range(100)]


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
    assert tiny.train(tmp_path, *tiny.WATCHED) == 0
    assert tiny.figures(tmp_path)["measured_step"] == 75
    expected = f"vaejax: warning: {damaged[0]} is damaged: 1 bytes.*; measuring the last state in place of the best"
    assert [line for line in capsys.readouterr().err.splitlines() if re.fullmatch(expected, line)]


def with_posterior(of, built, params, key, x):
    """The ELBO with another posterior, made from the location and the scale of the model's."""

    def encode(x):
        q = built.model.encode(params, x)
        return of(q.loc, q.scale)

    return vaejax.elbo(key, x, encode, partial(built.model.decode, params), kl=vaejax.monte_carlo_kl)


def of_numpyro(loc, scale):
    import numpyro.distributions as numpyro

    return numpyro.Normal(loc, scale, validate_args=False).to_event(1)


@pytest.mark.slow("compiles two losses; tests/objectives proves it of the terms")
def test_the_log_does_not_depend_on_whose_posterior_it_is():
    """numpyro's Normal, whose batch shape vmap does not see, logs what ours logs."""
    built = tiny.build(tiny.Settings())

    @jax.jit
    def both(key, images):
        params_key, noise_key = jax.random.split(key)
        params, keys = built.model.init(params_key), jax.random.split(noise_key, 4)

        def logged(of):
            objective = partial(with_posterior, of, built)
            loss = program.make_loss(built._replace(objective=objective, prior=None))
            value, metrics = loss.loss(params, jax.random.clone(keys), images)
            return {**loss.summarize(metrics), "loss": value}

        return logged(vaejax.Normal), logged(of_numpyro)

    ours, theirs = both(jax.random.key(0), built.dataset.train.examples[:4])
    assert "active_units" in ours
    chex.assert_trees_all_close(theirs, ours, rtol=1e-5)


@pytest.mark.slow("compiles two steps for what is proved of the loss")
def test_a_step_does_not_depend_on_whose_posterior_it_is():
    settings = tiny.Settings()
    built = tiny.build(settings)

    def metrics(of):
        objective = partial(with_posterior, of, built)
        state = jax.jit(partial(program.initial_state, built, settings))()
        step = jax.jit(program.make_step(built._replace(objective=objective, prior=None), settings))
        return step(state, built.dataset.train.examples[:4])[1]

    chex.assert_trees_all_close(metrics(of_numpyro), metrics(vaejax.Normal), rtol=1e-5)


def test_an_objective_of_the_whole_batch_is_told_how_to_say_so_and_needs_a_report():
    settings = tiny.Settings()
    built = tiny.build(settings)

    def objective(params, key, x):
        encode, decode = (partial(function, params) for function in (built.model.encode, built.model.decode))
        return vaejax.recipes.beta_tc_vae(dataset_size=100)(key, x, encode, decode)

    coupled = built._replace(objective=objective, report=built.objective)
    with pytest.raises(ValueError, match=r"tc_decomposition couples.*says couples_batch"):
        program.check_fit(coupled, settings)
    with pytest.raises(ValueError, match=r"single test example.*tc_decomposition.*report"):
        program.check_fit(coupled._replace(couples_batch=True, report=None), settings)
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
    with pytest.raises(ValueError, match=r"data set tiny .*Bernoulli; got 7"):
        program.check_fit(bad, settings)
