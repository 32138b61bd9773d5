"""A step taken again: the part, the leaf and the example that are named, and that it is the step of the run."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from vaejax import cli, pictures, run, run_report, training
from vaejax import replay as replays
from vaejax.experiment import load_experiment
from vaejax.outcome import Measured
from vaejax.replay import describe, replay
from vaejax.settings import FeedChoice, Running, Training

EXPERIMENT = Path(__file__).parent / "white_image.py"
WHITE = 13
ALL = ("parameters", "images", "x", "posterior", "latents", "likelihood", "terms", "loss", "gradient", "gradient norm",
       "update", "optimizer state after", "parameters after")  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def without_figures():
    with pytest.MonkeyPatch.context() as patch:
        nothing = Measured({}, np.zeros(1, np.uint32), np.zeros((1, 1), np.float32), None, None)
        patch.setattr(run, "measure", lambda *arguments: nothing)
        patch.setattr(pictures, "draw", lambda *arguments: ())
        patch.setattr(run_report, "write_report", lambda *arguments: None)
        yield


def train(folder, path=EXPERIMENT, feed=FeedChoice.AUTO, **settings):
    module = load_experiment(str(path))
    running = Running(output=str(folder), checkpoint_seconds=0.0, keep=100, feed=feed)
    settings = module.Settings(running=running, **settings)
    return run.train(str(path), settings, module.build(settings))


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def leaves(replayed, name):
    return {leaf.name: leaf for leaf in next(stage for stage in replayed.stages if stage.name == name).leaves}


FAULTS = {
    "x": ("x", [""], (WHITE,)),
    "posterior": ("posterior", ["scale"], (WHITE,)),
    "likelihood": ("terms", ["log_likelihood", "value"], (WHITE,)),
    "gradient": ("gradient", ["decoder.gain"], (WHITE,)),
    "parameters": ("parameters after", ["spare"], ()),
}


@pytest.mark.parametrize(
    ("fault", "objective"), [*((fault, "elbo") for fault in FAULTS), ("posterior", "coupled"), ("gradient", "coupled")]
)
def test_the_first_part_that_is_not_finite_is_named(fault, objective, tmp_path):
    stage, names, examples = FAULTS[fault]
    folder = tmp_path / "run"
    # As many samples as examples: their axes must not be taken for each other.
    with pytest.raises(training.NotFinite, match=f"vaejax replay {folder}") as error:
        train(folder, fault=fault, objective=objective, num_samples=8)
    before = files(folder)
    found = replay(folder)
    assert files(folder) == before
    assert found.step == int(re.search(r"at step (\d+)", str(error.value))[1])
    assert tuple(each.name for each in found.stages) == ALL
    assert found.failed.name == stage
    assert [leaf.name for leaf in found.failed.leaves if not leaf.is_finite] == names
    if fault == "gradient" and objective == "coupled":
        examples = ()  # a gradient of all examples at once
    assert found.failed.examples == examples
    assert all(each.examples in {(), examples} for each in found.stages[: ALL.index("loss")])
    assert (WHITE in found.batch) == (fault != "parameters")
    assert all(each.is_finite for each in found.stages[: ALL.index(stage)])
    last = describe(found).splitlines()[-1]
    assert last.startswith(f"the first that is not finite: {stage}")
    assert all(name in last for name in names)
    assert last.endswith(f"in 1 of 8 examples: {WHITE}") == bool(examples)


CASES = {
    "each example by itself": {},
    "in micro-batches, streamed": {"training": Training(micro_batches=2, ema_decay=0.9), "feed": FeedChoice.STREAMED},
    "the batch as a whole": {"objective": "coupled", "num_samples": 2},
    "a bound without latents": {"objective": "marginal"},
}


@pytest.mark.parametrize("case", CASES)
def test_a_step_that_went_well_is_that_of_the_run(case, tmp_path):
    """Two steps are an epoch, and the mean of two replays what the run has logged of it."""
    folder, options = tmp_path / "run", dict(CASES[case])
    train(folder, num_examples=4, batch_size=2, **options)
    before = files(folder)
    found = [replay(folder, step) for step in (2, 3)]
    assert files(folder) == before
    logged = json.loads((folder / "metrics.jsonl").read_text().splitlines()[1])
    np.testing.assert_allclose(np.mean([each.loss for each in found]), logged["loss"], rtol=1e-6)
    np.testing.assert_allclose(np.mean([each.gradient_norm for each in found]), logged["gradient_norm"], rtol=1e-6)
    assert sorted(found[0].batch + found[1].batch) == [0, 1, 2, 3]
    for each in found:
        assert each.failed is None
        # Two examples: the least and the largest value are all there are.
        value, images = leaves(each, "terms")["value"], leaves(each, "images")[""]
        assert 0 <= images.low < images.high < 100
        np.testing.assert_allclose(-(value.low + value.high) / 2, each.loss, rtol=1e-6)
        assert leaves(each, "gradient norm")[""].low == each.gradient_norm
        assert describe(each).endswith(f"finite here: loss {each.loss:.9g}, gradient norm {each.gradient_norm:.9g}")
    missing = {"posterior", "latents", "likelihood"} if case == "a bound without latents" else set()
    assert [each.name for each in found[0].stages] == [name for name in ALL if name not in missing]
    # What a step leaves is what the next one finds.
    for name, leaf in leaves(found[0], "parameters after").items():
        np.testing.assert_allclose(leaf[2:4], leaves(found[1], "parameters")[name][2:4], rtol=1e-6)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of six steps, each of them saved, by a file of its own; and the file."""
    folder = tmp_path_factory.mktemp("replay")
    path = shutil.copy(EXPERIMENT, folder / "mine.py")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vaejax.training.loop.PAUSE_SECONDS", 0.0)
        train(folder / "run", path, num_examples=4, batch_size=2, epochs=3)
    return folder / "run", Path(path)


def test_it_starts_from_the_newest_checkpoint_that_is_whole(trained, tmp_path, monkeypatch):
    folder = shutil.copytree(trained[0], tmp_path / "run")
    assert training.saved_steps(folder / "checkpoints") == [1, 2, 3, 4, 5, 6]
    begun, fit = [], training.fit

    def spy(feed, progress, **options):
        begun.append(int(progress.state.step))
        return fit(feed, progress, **options)

    monkeypatch.setattr(replays, "fit", spy)
    straight = replay(folder, 4)
    assert begun == []
    damaged = next((folder / "checkpoints" / "000000004" / "state").rglob("*.*"))
    damaged.write_bytes(damaged.read_bytes() + b"!")
    with pytest.warns(UserWarning, match="000000004.* is damaged"):
        assert replay(folder, 4) == straight
    shutil.rmtree(folder / "checkpoints")
    (folder / "checkpoints").mkdir()
    shutil.copytree(trained[0] / "checkpoints" / "000000006", folder / "checkpoints" / "000000006")
    assert replay(folder, 4) == straight
    assert begun == [3, 0]


def test_a_run_of_another_file_is_told(trained, tmp_path):
    folder = shutil.copytree(trained[0], tmp_path / "run")
    config = json.loads((folder / "config.json").read_text())
    config["versions"]["jax"] = "0.0.1"
    (folder / "config.json").write_text(json.dumps(config))
    (difference,) = replay(folder, 6 - 1).differences
    assert difference.startswith("versions.jax is 0.0.1 there")


def test_what_cannot_be_replayed_is_one_line(trained, tmp_path, capsys):
    folder, path = trained
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "config.json").write_text(
        json.dumps({"experiment": str(path), "settings": {}, "data": {}, "versions": {}, "devices": [], "members": {}})
    )
    cases = [
        ([tmp_path / "none"], r"none is no run folder: there is no such folder"),
        ([tmp_path], r"is no run folder: it has no config.json"),
        ([tmp_path / "sweep"], r"is a sweep: train one of its members"),
        ([folder], r"no step of .*run has failed: name the one to replay \(--step\)"),
        ([folder, "--step", "6"], r"step must be at most 5, the last that is saved of .*run; got 6"),
        ([folder, "--step", "-1"], r"step must be at least 0; got -1"),
    ]
    for words, message in cases:
        assert cli.main(["replay", *map(str, words)]) == 2
        out, err = capsys.readouterr()
        assert re.fullmatch(rf"vaejax: error: .*{message}.*\n", err), err
        assert out == ""
    assert cli.main(["replay", str(folder), "--step", "5"]) == 0
    assert capsys.readouterr().out.startswith(f"step 5 of {folder}, with its 2 examples, on")
