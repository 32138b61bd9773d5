"""Data of every kind through the command line: what trains, what is drawn, and what of it goes on to the bit."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest

from vaejax import cli, data, experiment, feed, sweep
from vaejax.settings import FeedChoice, Running

PATH = str(Path(__file__).with_name("kinds.py"))
tiny = experiment.load_experiment(str(Path(__file__).with_name("tiny.py")))
kinds = experiment.load_experiment(PATH)
OF_IMAGES = {"reconstructions.png", "samples.png", "manifold.png", "traversals.png", "interpolations.png"}
OF_ALL = {"curves.png", "latents.png", "kl_per_axis.png"}


def train(folder, kind, *words):
    return cli.main(["train", PATH, "--kind", kind, "--output", str(folder), *words])


# The others take the same ways through a run, and as long.
QUICK = ("vectors", "colour", "lazy once")


def each(names, quick=QUICK):
    return [pytest.param(name, marks=[] if name in quick else pytest.mark.slow) for name in names]


@pytest.mark.parametrize("kind", each(kinds.KINDS))
def test_every_kind_of_data_trains_and_what_can_be_shown_is_drawn(kind, tmp_path, capsys):
    folder = tmp_path / "run"
    assert train(folder, kind) == 0, capsys.readouterr().err
    drawn = {path.name for path in folder.glob("*.png")}
    assert drawn == (OF_ALL if kind in ("vectors", "counts", "two channels") else OF_ALL | OF_IMAGES)
    results = json.loads((folder / "results.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert results["test"]["squared_error"]["mean"] > 0


@pytest.mark.parametrize("choice", each(["resident", "streamed"], ["streamed"]))
def test_lazy_examples_go_on_to_the_bit(choice, tmp_path, monkeypatch, capsys):
    words = ("--feed", choice, "--validation-size", "8", "--epochs", "3")
    assert train(tmp_path / "straight", "lazy", *words) == 0
    tiny.stop_at(monkeypatch, 13, signal.SIGINT)
    assert train(tmp_path / "stopped", "lazy", *words) == 130
    assert train(tmp_path / "stopped", "lazy", *words) == 0
    assert tiny.lines(tmp_path / "stopped") == tiny.lines(tmp_path / "straight")
    assert tiny.figures(tmp_path / "stopped") == tiny.figures(tmp_path / "straight")


@pytest.mark.parametrize("kind", each(["lazy", "once", "lazy once"]))
def test_a_sweep_of_them_is_the_runs(kind, tmp_path, capsys):
    folder = tmp_path / "sweep"
    assert cli.main(["sweep", PATH, "--kind", kind, "--over", "beta=0.5,2", "--output", str(folder)]) == 0
    members = json.loads((folder / "results.json").read_text())["members"]
    assert train(tmp_path / "run", kind, "--beta", "2") == 0
    alone = json.loads((tmp_path / "run" / "results.json").read_text())["test"]
    assert members[1]["test"]["negative_elbo"]["mean"] == pytest.approx(alone["negative_elbo"]["mean"], rel=1e-4)


def test_a_sweep_over_what_does_not_fit_on_the_device_is_refused(monkeypatch):
    monkeypatch.setattr(feed, "device_capacity", lambda: 100)
    settings = kinds.Settings(kind="lazy")
    values = sweep.member_values(settings, {"beta": [0.5, 2.0]}, 1)
    dataset = kinds.build(settings).dataset
    with pytest.raises(ValueError, match=r"a sweep keeps its examples on the device: .* streamed .* \(feed=resident\)"):
        sweep._check_sweepable(settings, kinds.build, values, dataset)
    resident = kinds.Settings(kind="lazy", running=Running(feed=FeedChoice.RESIDENT))
    sweep._check_sweepable(resident, kinds.build, values, dataset)


def test_little_is_read_to_see_whether_data_fit(monkeypatch):
    """Not the whole of a large set, and not much of it at once."""
    from vaejax import program

    asked = []

    def count(rows):
        asked.append(len(rows))
        return kinds.GREY[rows]

    examples = data.Lazy(count, kinds.GREY.shape, kinds.GREY.dtype, "counted")
    experiment = kinds.build(kinds.Settings(kind="lazy"))
    split = data.Split(examples)
    experiment = experiment._replace(dataset=data.Dataset("counted", split, split, 255))
    monkeypatch.setattr(program, "MAX_READ", 30)
    monkeypatch.setattr(program, "NUMBERS_AT_ONCE", 7 * 16)
    program.check_fit(experiment, kinds.Settings(kind="lazy"))
    assert max(asked) <= 12
    # Parts of 7 of two splits, for 30 of each, and what the shapes of a step are taken from.
    assert sum(asked) == 2 * 35 + 12


@pytest.mark.parametrize("split", ["validation", "test"])
def test_values_outside_the_support_are_found_in_every_split(split):
    from vaejax import program

    experiment = kinds.build(kinds.Settings(kind="once"))
    dataset = experiment.dataset._replace(validation=experiment.dataset.test)
    bad = dataset.splits[split].examples.copy()
    bad[-1, 0, 0, 0] = 2
    experiment = experiment._replace(dataset=dataset._replace(**{split: data.Split(np.asarray(bad))}))
    with pytest.raises(ValueError, match="the data set grey must be in the support of the likelihood Bernoulli"):
        program.check_fit(experiment, kinds.Settings(kind="once"))
