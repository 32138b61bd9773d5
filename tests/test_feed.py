"""Where the examples of a run are, and what is said of data that do not fit a likelihood."""

import dataclasses
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from vaejax import data, experiment, feed, nets, program, stages
from vaejax.cli.settings import say_what_begins
from vaejax.settings import FeedChoice, Running

tiny = experiment.load_experiment(str(Path(__file__).with_name("tiny.py")))
BYTES = 100 * 16


def dataset_of(values, meaning, max_value, **changes):
    split = data.Split(values)
    return data.Dataset("mine", split, split, max_value, meaning, **changes)


@pytest.mark.parametrize(
    ("capacity", "choice", "expected"),
    [
        (4 * BYTES, FeedChoice.AUTO, True),
        (4 * BYTES - 4, FeedChoice.AUTO, False),
        (4, FeedChoice.RESIDENT, True),
        (2**40, FeedChoice.STREAMED, False),
    ],
)
def test_a_quarter_of_the_memory_decides_unless_somebody_does(monkeypatch, capacity, choice, expected):
    monkeypatch.setattr(feed, "device_capacity", lambda: capacity)
    dataset, running = tiny.build(tiny.Settings()).dataset, Running(feed=choice)
    assert dataset.train.examples.nbytes == BYTES
    assert feed.is_resident(dataset, running) is expected
    assert ("stay on the device" in feed.describe_feed(dataset, running)) is expected


@pytest.mark.slow("trains what is proved of the choice; test_trainer.py trains a streamed run")
@pytest.mark.usefixtures("without_pictures")
def test_what_does_not_fit_on_the_device_trains_all_the_same(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(feed, "device_capacity", lambda: 100)
    asked = []
    monkeypatch.setattr(feed, "resident", lambda *_, **__: asked.append(1))
    assert tiny.train(tmp_path / "run", "--epochs", "1") == 0
    assert not asked
    assert "examples are streamed from the host by 8 threads" in capsys.readouterr().err


def test_one_host_that_has_no_room_streams_for_all(monkeypatch):
    """Feeds are programs with collectives: hosts that chose differently would wait for each other for ever."""
    monkeypatch.setattr(feed, "device_capacity", lambda: 2**40)
    monkeypatch.setattr(feed, "agree", lambda *values: tuple(max(value, 1) for value in values))
    assert not feed.is_resident(tiny.build(tiny.Settings()).dataset, Running())


def test_a_plan_leaves_out_what_is_held_out():
    settings = tiny.Settings()
    held_out = dataclasses.replace(settings, training=dataclasses.replace(settings.training, validation_size=30))
    dataset = tiny.build(settings).dataset
    for each, count in ((settings, 100), (held_out, 70)):
        rows = np.asarray(feed.make_plan(dataset, each)(0))
        assert rows.shape == (count // 4, 4)
        assert rows.max() < count


def test_a_batch_larger_than_the_data_is_all_of_them(capsys):
    """Whatever reads how large a batch is: the plan, the steps, the first step, its parts, and what is said."""
    large, whole = tiny.Settings(batch_size=128, epochs=3), tiny.Settings(batch_size=100, epochs=3)
    built = tiny.build(large)
    rows = [np.asarray(feed.make_plan(built.dataset, each)(2)) for each in (large, whole)]
    np.testing.assert_array_equal(*rows)
    assert rows[0].shape == (1, 100)
    assert large.num_steps(built.dataset) == 3
    assert large.examples_per_step(built.dataset) == 100
    program.check_fit(built, large)
    assert len(stages.batch_of(built, large, 2)) == 100
    for settings, said in ((large, "all 100 training examples"), (whole, "")):
        say_what_begins("tiny", settings, built.dataset)
        err = capsys.readouterr().err
        assert said in err
        assert ("training examples" in err) is bool(said)


@pytest.mark.slow("trains twice what the test above compares before the training")
@pytest.mark.usefixtures("without_pictures")
def test_a_batch_larger_than_the_data_trains_as_all_of_them(tmp_path):
    for size in ("128", "100"):
        assert tiny.train(tmp_path / size, "--batch-size", size, "--checkpoint-seconds", "0") == 0
    assert tiny.outcome(tmp_path / "128") == tiny.outcome(tmp_path / "100")
    assert tiny.lines(tmp_path / "128")[-1]["step"] == 3


GREY = np.random.default_rng(0).integers(0, 256, (32, 4, 4, 1)).astype(np.uint8)


@pytest.mark.parametrize(
    ("values", "meaning", "max_value", "remedies"),
    [
        (
            GREY,
            "intensity",
            255,
            ["data.binarize", r"data.to_unit, for nets.heads.continuous_bernoulli\(\)", r"categorical\(256\)"],
        ),
        (GREY.astype(np.int32), "counts", 255, [r"poisson\(\)", r"negative_binomial\(\)"]),
        (GREY / np.float32(10) - 9, "real", 16.5, ["learned_normal", "data.standardize"]),
        (GREY // 128 * 2, "binary", 1, [r"pass them as they are, to nets.heads.bernoulli\(\)"]),
    ],
)
@pytest.mark.parametrize("lazy", [False, pytest.param(True, marks=pytest.mark.slow("the same of lazy examples"))])
def test_data_outside_the_support_are_refused_with_what_would_fit(values, meaning, max_value, remedies, lazy):
    if lazy:
        read = data.Lazy(lambda rows: values[rows], values.shape, values.dtype, "values")
        dataset = dataset_of(read, data.Meaning(meaning), max_value)
    else:
        dataset = dataset_of(values, data.Meaning(meaning), max_value)
    as_stored = tiny.build(tiny.Settings())._replace(dataset=dataset, prepare=lambda key, images: images * 1.0)
    message = "the data set mine must be in the support of the likelihood Bernoulli; got "
    with pytest.raises(ValueError, match=message) as caught:
        program.check_fit(as_stored, tiny.Settings())
    assert "\n" not in str(caught.value)
    for remedy in remedies:
        assert re.search(remedy, str(caught.value))


@pytest.mark.parametrize(
    "prepare", [lambda key, images: images, partial(data.binarize, max_value=1)], ids=["as stored", "drawn"]
)
def test_missing_numbers_are_refused_by_a_likelihood_that_has_no_mask(prepare):
    values = np.where(GREY > 9, GREY / np.float32(255), np.nan)
    dataset = dataset_of(values, data.Meaning.INTENSITY, 1)._replace(missing=True)
    with pytest.raises(ValueError, match=r"the data set mine.*got NaN; .*vaejax.Masked\(p\)") as caught:
        program.check_fit(tiny.build(tiny.Settings())._replace(dataset=dataset, prepare=prepare), tiny.Settings())
    assert "\n" not in str(caught.value)


STORED, UNIT = (lambda key, images: images), (lambda key, images: data.to_unit(images, 255))
OTHER_REMEDY = pytest.mark.slow("another remedy")


@pytest.mark.parametrize(
    ("prepare", "likelihood"),
    [
        (STORED, nets.heads.categorical(256)),
        pytest.param(partial(data.binarize, max_value=255), nets.heads.bernoulli(), marks=OTHER_REMEDY),
        pytest.param(UNIT, nets.heads.continuous_bernoulli(), marks=OTHER_REMEDY),
        pytest.param(UNIT, nets.heads.normal(), marks=OTHER_REMEDY),
        pytest.param(STORED, nets.likelihoods.discretized_logistic(256), marks=OTHER_REMEDY),
    ],
    ids=["categorical", "bernoulli", "continuous bernoulli", "normal", "discretized logistic"],
)
def test_each_remedy_for_grey_images_is_one(prepare, likelihood):
    """What the message says is tried."""
    dataset = dataset_of(GREY, data.Meaning.INTENSITY, 255)
    model = nets.mlp((4, 4, 1), 3, hidden_sizes=(4,), likelihood=likelihood)
    objective = partial(objective_of, model)
    fitting = tiny.build(tiny.Settings())._replace(dataset=dataset, prepare=prepare, model=model, objective=objective)
    program.check_fit(fitting, tiny.Settings())


def objective_of(model, params, key, x):
    from vaejax import elbo

    return elbo(key, x, partial(model.encode, params), partial(model.decode, params))
