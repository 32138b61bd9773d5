"""Sweeps: one program for all members, each of which is the run of its own settings."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vaejax import cli, experiment, nets, run, sweep, sweep_report, training
from vaejax.settings import Training
from vaejax.types import MarginalTerms

ROOT = Path(__file__).parent.parent
TINY = ["--epochs", "2", "--hidden-sizes", "8", "--batch-size", "256"]
tiny = experiment.load_experiment(str(Path(__file__).with_name("tiny.py")))


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("VAEJAX_TRACEBACK", "")


def digits(output, **changes):
    module = experiment.load_experiment("digits_vae")
    settings = module.Settings(
        epochs=2, hidden_sizes=(8,), batch_size=256, running=experiment.Running(output=str(output)), **changes
    )
    return module, settings


@pytest.mark.usefixtures("shared_programs")
def test_a_member_is_the_run_of_its_seed_and_settings(bank):
    swept = bank("swept")
    assert re_table(swept.with_suffix(".out").read_text())[1] == [
        "beta",
        "learning_rate",
        "ema_decay",
        "seeds",
        "-ELBO",
    ]
    members = json.loads((swept / "results.json").read_text())["members"]
    assert len(members) == 8
    check_member(swept, 7, bank("validated"), seed=1, beta=1.0, learning_rate=1e-3, ema_decay=0.9)
    with pytest.raises(IndexError, match="member must be from 0 to 7; got 8"):
        sweep.load_member(swept, 8)
    with pytest.raises(FileNotFoundError, match="plain is no sweep"):
        sweep.load_member(bank("plain"), 0)


def check_member(swept, index, solo, **values):
    """A member of a sweep is the run by itself, in the figures and in the state."""
    member = json.loads((swept / "results.json").read_text())["members"][index]
    assert member["values"] == values
    chex.assert_trees_all_close(member["test"], json.loads((solo / "results.json").read_text())["test"], rtol=1e-5)
    _, _, alone = run.load_run(solo)
    _, settings, state = sweep.load_member(swept, index)
    assert (settings.seed, settings.beta) == (values["seed"], values["beta"])
    assert settings.training.ema_decay == values["ema_decay"]
    chex.assert_trees_all_close(state._replace(key=()), alone._replace(key=()), rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_equal(jax.random.key_data(state.key), jax.random.key_data(alone.key))


@pytest.mark.slow("another experiment, and other values")
@pytest.mark.usefixtures("without_pictures")
def test_a_member_is_the_run_of_its_seed_and_settings_on_digits(tmp_path):
    words = ["sweep", "digits_vae", *TINY, "--seed", "3", "--seeds", "2", "--output", str(tmp_path / "sweep")]
    words += ["--over", "beta=0.5,4", "--over", "learning-rate=3e-3", "--over", "ema_decay=0.5,0.9"]
    assert cli.main(words) == 0
    solo = ["train", "digits_vae", *TINY, "--seed", "4", "--beta", "4", "--learning-rate", "3e-3", "--ema-decay", "0.9"]
    assert cli.main([*solo, "--output", str(tmp_path / "solo")]) == 0
    values = {"seed": 4, "beta": 4.0, "learning_rate": 3e-3, "ema_decay": 0.9}
    check_member(tmp_path / "sweep", 7, tmp_path / "solo", **values)


def re_table(out):
    """The rows of the printed table, in words."""
    return [line.split()[:5] for line in out.splitlines()]


def square(params, key, x, beta):
    """A bound on nothing, whose gradient is quick to compile."""
    value = -beta * jnp.mean((x - params) ** 2, axis=(-3, -2, -1))
    return MarginalTerms(value, value, jnp.zeros_like(value))


@pytest.mark.parametrize("count", [8, pytest.param(1, marks=pytest.mark.slow("another number of members"))])
def test_all_members_are_one_program_traced_once(count):
    settings, traced = tiny.Settings(training=Training(micro_batches=1)), []

    def build(settings):
        def objective(params, key, x):
            traced.append(settings)
            return square(params, key, x, settings.beta)

        model = nets.Model(lambda key: jnp.ones(()), lambda params, x: x, lambda params, z: z)
        return tiny.build(settings)._replace(model=model, objective=objective, optimizer=optax.sgd(0.1), prior=None)

    values = sweep.member_values(settings, {"beta": [1.0 + each for each in range(count)]}, 1)
    program = sweep.make_sweep_program(settings, build, build(settings), values)
    progress = program.begin()
    before = len(traced)
    for stop in (1, 2, 5, 9):
        progress = program.feed.advance(progress, stop)
    assert progress.state.step.tolist() == [9] * count
    # The forward pass is traced once, for the one program that is compiled.
    assert len(traced) - before == 1


@pytest.mark.slow("two sweeps of digits")
def test_a_member_that_diverges_stops_alone(tmp_path, capsys):
    words = ["sweep", "digits_vae", *TINY, "--seeds", "2", "--over", "learning_rate=1e-3,1e30"]
    assert cli.main([*words, "--output", str(tmp_path / "all")]) == 0
    assert "0 of 2 (others diverged)" in capsys.readouterr().out
    assert cli.main(["sweep", "digits_vae", *TINY, "--seeds", "2", "--output", str(tmp_path / "good")]) == 0
    all_of_them, good = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("all", "good"))
    chex.assert_trees_all_close(
        [m["test"] for m in all_of_them["members"][:2]], [m["test"] for m in good["members"]], rtol=1e-5
    )
    assert [m["diverged"] is None for m in all_of_them["members"]] == [True, True, False, False]
    assert all(m["test"] is None for m in all_of_them["members"][2:])
    lines = [json.loads(line) for line in (tmp_path / "all" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["skipped"] == [0, 0, 1, 1]
    # What was not computed is nothing, and no 0.
    assert [value is None for value in lines[-1]["loss"]] == [False, False, True, True]


DIVERGING = ["sweep", tiny.__file__, "--over", "learning_rate=1e30", "--output"]


def test_where_all_diverge_it_is_an_error(tmp_path, capsys, monkeypatch):
    class Trainer(contextlib.nullcontext):
        def __init__(self, *arguments, **options):
            super().__init__(self)

        def train(self):
            raise training.NotFinite("the loss is nan at step 3", None)

    monkeypatch.setattr(sweep, "Trainer", Trainer)
    assert cli.main([*DIVERGING, str(tmp_path / "x")]) == 1
    assert "error: all members diverged: the loss is nan at step 3" in capsys.readouterr().err


@pytest.mark.slow("trains until all have diverged")
def test_where_all_diverge_by_themselves_it_is_an_error(tmp_path, capsys):
    assert cli.main([*DIVERGING, str(tmp_path / "x")]) == 1
    assert "error: all members diverged: the loss is" in capsys.readouterr().err


@pytest.mark.slow("two sweeps of digits, and a sweep goes on as a run does")
def test_a_sweep_goes_on_where_it_was_stopped(tmp_path):
    class Stop(Exception):
        pass

    def stop(report, state):
        raise Stop

    running = {"checkpoint_seconds": 0.0}
    for name in ("straight", "stopped"):
        module, settings = digits(tmp_path / name)
        settings = settings.__class__(
            **{**vars(settings), "running": experiment.Running(output=str(tmp_path / name), **running)}
        )
        if name == "stopped":
            with pytest.raises(Stop):
                sweep.sweep("digits_vae", settings, module.build, {"beta": [1.0, 2.0]}, callbacks=[stop])
        sweep.sweep("digits_vae", settings, module.build, {"beta": [1.0, 2.0]})
    straight, stopped = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("straight", "stopped"))
    assert straight["members"] == stopped["members"]


BAD = {
    "no such setting": (["--over", "bet=1"], "bet cannot be swept: it must be one of the real numbers beta, clip_norm"),
    "a shape": (["--over", "latent_size=1,2"], "latent_size cannot be swept"),
    "a way to run": (["--over", "checkpoint_seconds=1"], "checkpoint_seconds cannot be swept"),
    "no number": (["--over", "beta=one"], "over must be SETTING=VALUE,VALUE,... with numbers; got beta=one"),
    "no value": (["--over", "beta"], "over must be SETTING=VALUE,VALUE,... with numbers; got beta"),
    "a value that cannot be": (["--over", "beta=1,-1"], "beta must be at least 0 and finite; got -1.0"),
    "no seeds": (["--seeds", "0"], "seeds must be at least 1; got 0"),
    "a step count": (["--over", "warm_up=0,1"], "warm_up cannot be swept: this experiment decides by its value"),
    "no number of its own": (["--over", "schedule_options=1"], "schedule_options cannot be swept"),
    "a value twice": (["--over", "beta=1,1"], "beta must have values that differ, at least one; got [1.0, 1.0]"),
    "a setting twice": (["--over", "beta=1", "--over", "beta=2"], "over must name each setting once"),
    "held-out examples": (["--validation-size", "100"], "validation_size is not for a sweep"),
    "no devices": (["--devices", "0"], "devices must be at least 1; got 0"),
    "a seed too large": (["--seed", "4294967295"], "seed must be below 2**31; got 4294967295"),
    "a policy of one": (["--not-finite", "roll_back"], "not_finite must be raise or skip in a sweep"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_sweeps_are_one_line_and_leave_nothing(case, tmp_path, capsys):
    words, message = BAD[case]
    assert cli.main(["sweep", "digits_vae", *TINY, *words, "--output", str(tmp_path / "x")]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_a_setting_that_decides_what_is_computed_is_named(tmp_path):
    module, settings = digits(tmp_path / "x")

    def build(settings):
        return module.build(settings)._replace(couples_batch=bool(settings.beta > 1))

    with pytest.raises(ValueError, match="beta cannot be swept: this experiment decides"):
        sweep.sweep("digits_vae", settings, build, {"beta": [1.0, 2.0]})


def test_the_table_has_means_and_standard_errors():
    def member(seed, beta, kl):
        return {"values": {"seed": seed, "beta": beta}, "test": {"kl": {"mean": kl, "standard_error": 9.0}}}

    members = [member(0, 1.0, 10.0), member(1, 1.0, 12.0), member(0, 2.0, 5.0), {**member(1, 2.0, 0.0), "test": None}]
    assert sweep_report.table(members) == [
        ["beta", "seeds", "KL"],
        ["1", "2", "11.00 ± 1.00"],  # the deviation of two values a distance of 2 apart is sqrt 2
        ["2", "1 of 2 (others diverged)", "5.00"],
    ]


@pytest.mark.slow("a sweep in a process of its own, and another here")
def test_members_are_split_over_devices_and_stay_what_they_are(tmp_path):
    words = ["sweep", "digits_vae", *TINY, "--seeds", "4", "--over", "beta=1,2"]
    code = """
import sys
from vaejax import cli, sweep
from vaejax.cli import sweep as command
seen = []
def see(report, state):
    seen.append((state.step.sharding.num_devices, state.step.addressable_shards[0].data.shape))
command.sweep = lambda *arguments, callbacks, **options: sweep.sweep(*arguments, callbacks=[see], **options)
assert cli.main(sys.argv[1:]) == 0
assert seen[0] == (8, (1,)), seen
"""
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", code, *words, "--output", str(tmp_path / "eight")]
    result = subprocess.run(command, check=False, env=os.environ | flags, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert cli.main([*words, "--output", str(tmp_path / "one")]) == 0
    eight, one = (json.loads((tmp_path / name / "results.json").read_text())["members"] for name in ("eight", "one"))
    chex.assert_trees_all_close([m["test"] for m in eight], [m["test"] for m in one], rtol=1e-4)
    assert np.isfinite(one[0]["test"]["kl"]["mean"])
