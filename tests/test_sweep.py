"""Sweeps: one program for all members, each of which is the run of its own settings."""

import json
import os
import subprocess
import sys
from pathlib import Path

import chex
import jax
import numpy as np
import pytest

from vaejax import cli, experiment, run, sweep, sweep_report

ROOT = Path(__file__).parent.parent
TINY = ["--epochs", "2", "--hidden-sizes", "8", "--batch-size", "256"]


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("VAEJAX_TRACEBACK", "")


def tiny(output, **changes):
    module = experiment.load_experiment("digits_vae")
    settings = module.Settings(
        epochs=2, hidden_sizes=(8,), batch_size=256, running=experiment.Running(output=str(output)), **changes
    )
    return module, settings


def test_a_member_is_the_run_of_its_seed_and_settings(tmp_path, capsys):
    words = ["sweep", "digits_vae", *TINY, "--seed", "3", "--seeds", "2", "--output", str(tmp_path / "sweep")]
    words += ["--over", "beta=0.5,4", "--over", "learning-rate=3e-3", "--over", "ema_decay=0.5,0.9"]
    assert cli.main(words) == 0
    assert re_table(capsys.readouterr().out)[1] == ["beta", "learning_rate", "ema_decay", "seeds", "-ELBO"]
    members = json.loads((tmp_path / "sweep" / "results.json").read_text())["members"]
    assert len(members) == 8
    index = 7
    assert members[index]["values"] == {"seed": 4, "beta": 4.0, "learning_rate": 3e-3, "ema_decay": 0.9}

    solo = ["train", "digits_vae", *TINY, "--seed", "4", "--beta", "4", "--learning-rate", "3e-3", "--ema-decay", "0.9"]
    assert cli.main([*solo, "--output", str(tmp_path / "solo")]) == 0
    figures = json.loads((tmp_path / "solo" / "results.json").read_text())["test"]
    chex.assert_trees_all_close(members[index]["test"], figures, rtol=1e-5)
    _, _, alone = run.load_run(tmp_path / "solo")
    _, settings, member = sweep.load_member(tmp_path / "sweep", index)
    assert (settings.seed, settings.beta, settings.training.ema_decay) == (4, 4.0, 0.9)
    chex.assert_trees_all_close(member._replace(key=()), alone._replace(key=()), rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_equal(jax.random.key_data(member.key), jax.random.key_data(alone.key))
    with pytest.raises(IndexError, match="member must be from 0 to 7; got 8"):
        sweep.load_member(tmp_path / "sweep", 8)
    with pytest.raises(FileNotFoundError, match="solo is no sweep"):
        sweep.load_member(tmp_path / "solo", 0)


def re_table(out):
    """The rows of the printed table, in words."""
    return [line.split()[:5] for line in out.splitlines()]


def test_eight_members_are_one_program_traced_once(tmp_path):
    def traces(count):
        module, settings = tiny(tmp_path)
        traced = []

        def build(settings):
            made = module.build(settings)

            def objective(*arguments, **scheduled):
                traced.append(settings)
                return made.objective(*arguments, **scheduled)

            return made._replace(objective=objective)

        values = sweep.member_values(settings, {"beta": [1.0 + each for each in range(count)]}, 1)
        program = sweep.make_sweep_program(settings, build, build(settings), values)
        progress = program.begin()
        before = len(traced)
        for stop in (1, 2, 5, 9):
            progress = program.feed.advance(progress, stop)
        assert progress.state.step.tolist() == [9] * count
        return len(traced) - before

    # The forward pass is traced once, for the one program that is compiled.
    assert traces(8) == traces(1) == 1


@pytest.mark.slow
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


def test_where_all_diverge_it_is_an_error(tmp_path, capsys):
    words = ["sweep", "digits_vae", *TINY, "--over", "learning_rate=1e30", "--output", str(tmp_path / "x")]
    assert cli.main(words) == 1
    assert "error: all members diverged: the loss is" in capsys.readouterr().err


@pytest.mark.slow
def test_a_sweep_goes_on_where_it_was_stopped(tmp_path):
    class Stop(Exception):
        pass

    def stop(report, state):
        raise Stop

    running = {"checkpoint_seconds": 0.0}
    for name in ("straight", "stopped"):
        module, settings = tiny(tmp_path / name)
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
    module, settings = tiny(tmp_path / "x")

    def build(settings):
        return module.build(settings)._replace(couples_batch=bool(settings.beta > 1))

    with pytest.raises(ValueError, match="beta cannot be swept: this experiment decides by its value"):
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


@pytest.mark.slow
def test_members_are_split_over_devices_and_stay_what_they_are(tmp_path):
    words = ["sweep", "digits_vae", *TINY, "--seeds", "4", "--over", "beta=1,2"]
    code = """
import sys, jax
from vaejax import cli, sweep
seen = []
cli.sweep = lambda *a, callbacks, **k: sweep.sweep(*a, callbacks=[lambda report, state: seen.append((state.step.sharding, state.step.addressable_shards[0].data.shape))], **k)
assert cli.main(sys.argv[1:]) == 0
assert seen[0][0].num_devices == 8 and seen[0][1] == (1,), seen
"""
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", code, *words, "--output", str(tmp_path / "eight")]
    result = subprocess.run(command, check=False, env=os.environ | flags, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert cli.main([*words, "--output", str(tmp_path / "one")]) == 0
    eight, one = (json.loads((tmp_path / name / "results.json").read_text())["members"] for name in ("eight", "one"))
    chex.assert_trees_all_close([m["test"] for m in eight], [m["test"] for m in one], rtol=1e-4)
    assert np.isfinite(one[0]["test"]["kl"]["mean"])
