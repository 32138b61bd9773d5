"""Data of every kind through the command line: what trains, what is drawn, and what of it goes on to the bit."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest

from tests.tiers import slow_but
from vaejax import cli, data, experiment, feed, outcome, pictures, program, sweep
from vaejax.settings import FeedChoice, Running

PATH = str(Path(__file__).with_name("kinds.py"))
tiny = experiment.load_experiment(str(Path(__file__).with_name("tiny.py")))
kinds = experiment.load_experiment(PATH)
OF_IMAGES = {"reconstructions.png", "samples.png", "manifold.png", "traversals.png", "interpolations.png"}
WITHOUT_IMAGES = {"vectors", "counts", "two channels"}
OF_ALL = {"curves.png", "latents.png", "kl_per_axis.png"}
OTHER_KIND = "another kind of data"


def train(folder, kind, *words):
    return cli.main(["train", PATH, "--kind", kind, "--output", str(folder), *words])


STREAMED = ("--feed", "streamed", "--epochs", "3")


def check_pictures(kind, folder):
    drawn = {path.name for path in folder.glob("*.png")}
    assert drawn == (OF_ALL if kind in WITHOUT_IMAGES else OF_ALL | OF_IMAGES)


def check_figures(folder):
    results = json.loads((folder / "results.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert results["test"]["squared_error"]["mean"] > 0


@pytest.mark.parametrize("kind", slow_but({"counts"}, sorted(WITHOUT_IMAGES), OTHER_KIND))
def test_of_what_is_no_image_the_codes_are_drawn(kind, tmp_path):
    experiment = kinds.build(kinds.Settings(kind=kind))
    codes = np.random.default_rng(0).normal(size=(len(experiment.dataset.test.examples), 2))
    measured = outcome.Measured({}, np.zeros(len(codes), np.uint32), codes, np.ones_like(codes), codes**2)
    history = [{"step": step, "negative_elbo": 3.0 - step} for step in (1, 2)]
    for path in pictures.draw(experiment, None, measured, history, tmp_path):
        assert path.stat().st_size > 0
    check_pictures(kind, tmp_path)


@pytest.mark.slow("trains every kind of data, and draws it")
@pytest.mark.parametrize("kind", kinds.KINDS)
def test_every_kind_of_data_trains_and_what_can_be_shown_is_drawn(kind, tmp_path, capsys):
    folder = tmp_path / "run"
    assert train(folder, kind) == 0, capsys.readouterr().err
    check_pictures(kind, folder)
    check_figures(folder)


def check_going_on(straight, stopped, kind, *words):
    with pytest.MonkeyPatch.context() as patch:
        tiny.stop_at(patch, 13, signal.SIGINT)
        assert train(stopped, kind, *words) == 130
    assert train(stopped, kind, *words) == 0
    assert tiny.lines(stopped) == tiny.lines(straight)
    assert tiny.figures(stopped) == tiny.figures(straight)


@pytest.mark.slow("trains three times what is proved of lazy examples and of streams")
@pytest.mark.usefixtures("without_pictures", "shared_programs")
def test_lazy_examples_train_and_go_on_to_the_bit(tmp_path):
    assert train(tmp_path / "straight", "lazy once", *STREAMED) == 0
    check_figures(tmp_path / "straight")
    check_going_on(tmp_path / "straight", tmp_path / "stopped", "lazy once", *STREAMED)


@pytest.mark.slow("levels, another feed and held-out examples")
@pytest.mark.usefixtures("without_pictures", "shared_programs")
@pytest.mark.parametrize("choice", ["resident", "streamed"])
def test_lazy_levels_go_on_to_the_bit(choice, tmp_path):
    words = ("--feed", choice, "--validation-size", "8", "--epochs", "3")
    assert train(tmp_path / "straight", "lazy", *words) == 0
    check_going_on(tmp_path / "straight", tmp_path / "stopped", "lazy", *words)


@pytest.mark.parametrize("kind", slow_but({"lazy"}, ("lazy", "once", "lazy once"), OTHER_KIND))
def test_a_sweep_of_them_has_their_examples(kind, monkeypatch):
    settings = kinds.Settings(kind=kind)
    experiment, fed = kinds.build(settings), []
    monkeypatch.setattr(sweep, "resident", lambda step, examples, *_, **__: fed.append(examples))
    values = sweep.member_values(settings, {"beta": [0.5, 2.0]}, 1)
    sweep.make_sweep_program(settings, kinds.build, experiment, values)
    (examples,) = fed
    np.testing.assert_array_equal(examples, experiment.dataset.train.examples[np.arange(len(examples))])
    assert len(examples) == len(experiment.dataset.train.examples)


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.slow("trains what is proved of the examples and of the members of a sweep")
@pytest.mark.parametrize("kind", ["lazy", "once", "lazy once"])
def test_a_sweep_of_them_is_the_runs(kind, tmp_path):
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
    with pytest.raises(ValueError, match=r"a sweep keeps .* streamed .*feed=resident"):
        sweep._check_sweepable(settings, kinds.build, values, dataset)
    resident = kinds.Settings(kind="lazy", running=Running(feed=FeedChoice.RESIDENT))
    sweep._check_sweepable(resident, kinds.build, values, dataset)


def test_little_is_read_to_see_whether_data_fit(monkeypatch):
    """Not the whole of a large set, and not much of it at once."""
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


@pytest.mark.parametrize("split", ["validation", pytest.param("test", marks=pytest.mark.slow("another split"))])
def test_values_outside_the_support_are_found_in_every_split(split):
    experiment = kinds.build(kinds.Settings(kind="once"))
    dataset = experiment.dataset._replace(validation=experiment.dataset.test)
    bad = dataset.splits[split].examples.copy()
    bad[-1, 0, 0, 0] = 2
    experiment = experiment._replace(dataset=dataset._replace(**{split: data.Split(np.asarray(bad))}))
    with pytest.raises(ValueError, match=r"data set grey .*likelihood Bernoulli"):
        program.check_fit(experiment, kinds.Settings(kind="once"))
