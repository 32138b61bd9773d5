"""What is measured of a test set does not depend on how it is cut, and its x are the same for every run."""

import itertools
from functools import cache, partial
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.parameters import random_params
from vaejax import data, nets, outcome
from vaejax.evaluation import Verdict
from vaejax.experiment import load_experiment
from vaejax.settings import Training

tiny = load_experiment(str(Path(__file__).with_name("tiny.py")))
N = 103
IMAGES = np.random.default_rng(0).integers(0, 17, (N, 4, 4, 1)).astype(np.uint8)


def experiment_of(images=IMAGES, **changes):
    """The tiny experiment on grey images, binarized afresh whenever they are used."""
    split = data.Split(images)
    dataset = data.Dataset("grey", split, split, 16)
    prepare = partial(data.binarize, max_value=16)
    return tiny.build(tiny.Settings())._replace(dataset=dataset, prepare=prepare, **changes)


@cache
def params_of_tiny(scale=0.5):
    """Parameters of the tiny experiment, whatever its data are."""
    return random_params(tiny.build(tiny.Settings()).model, scale)


def mapped(experiment):
    each = outcome.stored_figures(experiment, outcome.shades_of(experiment).spread, outcome.evaluation_keys())
    return outcome.map_examples(each)


def figures_of(experiment, examples):
    return mapped(experiment)(params_of_tiny(), examples)


def counted():
    """The experiment, and a list that grows with each trace of it."""
    traces = []

    def prepare(key, images):
        traces.append(images.shape)
        return data.binarize(key, images, max_value=16)

    return experiment_of()._replace(prepare=prepare), traces


@pytest.fixture(scope="module")
def whole_and_traces():
    experiment, traces = counted()
    return figures_of(experiment, IMAGES), len(traces)


@pytest.fixture(scope="module")
def whole(whole_and_traces):
    return whole_and_traces[0]


def lazy(images):
    return data.Lazy(lambda rows: images[rows], images.shape, images.dtype, "images")


@pytest.mark.parametrize(
    ("at_once", "kind"),
    [
        case if case == (10, np.asarray)
        else pytest.param(*case, marks=pytest.mark.slow("other sizes of a part"))
        for case in itertools.product([1, 7, 10, 103, 200], [np.asarray, lazy])
    ],
)  # fmt: skip
def test_the_figures_of_103_examples_whatever_is_measured_at_once(monkeypatch, whole_and_traces, at_once, kind):
    """All parts are one program."""
    monkeypatch.setattr(outcome, "MEASURED_AT_ONCE", at_once * 16)
    whole, traces_of_whole = whole_and_traces
    experiment, traces = counted()
    found = figures_of(experiment, kind(IMAGES))
    assert len(traces) == traces_of_whole
    assert {name: each.shape for name, each in found.items()} == dict.fromkeys(whole, (N,))
    chex.assert_trees_all_close(found, whole, rtol=1e-5, atol=1e-6)


@pytest.mark.slow("measures another test set")
def test_an_example_has_the_same_x_and_noise_in_a_smaller_test_set(whole):
    # A part of one size is one program, of whatever set it is.
    figures_of = mapped(experiment_of(IMAGES[:31]))
    first = figures_of(params_of_tiny(), IMAGES[:31])
    chex.assert_trees_all_close(first, {name: each[:31] for name, each in whole.items()}, rtol=1e-5, atol=1e-6)
    # As it would not have, were its noise that of its neighbour.
    second = figures_of(params_of_tiny(), IMAGES[1:32])
    assert not np.allclose(second["negative_elbo"], whole["negative_elbo"][1:32])


def test_a_likelihood_that_is_wider_than_the_data_is_called_so():
    """`heads.normal()` on grey images in [0, 1], of which a part is missing: the posterior collapses, and why."""
    grey = np.where(np.random.default_rng(1).random(IMAGES.shape) < 0.2, np.nan, IMAGES / 16).astype(np.float32)
    likelihood = nets.heads.with_missing(nets.heads.normal(1.5))
    experiment = experiment_of(grey)._replace(
        model=nets.mlp((4, 4, 1), 3, hidden_sizes=(), likelihood=likelihood),
        prepare=lambda key, x: jnp.asarray(x),
        objective=lambda params, key, x: tiny.build(tiny.Settings()).objective(params, key, jnp.nan_to_num(x)),
    )
    measured = outcome.measure(experiment, params_of_tiny(0.0))
    np.testing.assert_allclose(measured.relative_width, 1.5**2 / np.nanvar(grey, axis=0).mean(), rtol=1e-5)
    assert measured.collapse().status is Verdict.FULL
    assert "learned_normal" in measured.collapse().text
    assert "learned_normal" not in measured._replace(relative_width=np.asarray(1.0)).collapse().text


def test_there_is_no_verdict_from_too_few_examples():
    measured = outcome.Measured({}, np.zeros(1, np.uint32), np.zeros((1, 2), np.float32), None, np.ones((1, 2)))
    assert measured.collapse().status is Verdict.UNKNOWN


def test_examples_that_are_alike_are_binarized_differently():
    same = np.full((50, 4, 4, 1), 8, np.uint8)
    experiment, keys = experiment_of(same), outcome.evaluation_keys()
    x = jax.jit(jax.vmap(partial(outcome.prepare_example, experiment, keys)))(np.arange(50), same)
    assert len({each.tobytes() for each in np.asarray(x)}) == 50
    assert abs(np.mean(x) - 0.5) < 5 * 0.5 / np.sqrt(50 * 16)


def test_examples_that_are_alike_are_measured_with_noise_of_their_own():
    same = np.full((50, 4, 4, 1), 8, np.uint8)
    experiment = experiment_of(same)._replace(prepare=lambda key, images: data.to_unit(images, 16))
    experiment = experiment._replace(report=noisy_report)
    assert len(set(figures_of(experiment, same)["negative_elbo"].tolist())) == 50


def test_noise_and_preparation_have_streams_of_their_own_and_validation_has_others():
    """What is drawn for x says nothing of what is drawn for the figures."""
    draw = lambda key, x: jax.random.normal(key, jnp.shape(x)[:1])
    report = lambda params, key, x: noisy_report(params, jax.random.clone(key), x)._replace(
        log_likelihood=draw(jax.random.clone(key), x), kl=jnp.mean(x, axis=(1, 2, 3))
    )
    prepare = lambda key, images: jnp.broadcast_to(draw(key, images)[:, None, None, None], images.shape)
    experiment = experiment_of()._replace(prepare=prepare, report=report)
    params = params_of_tiny()
    each = [
        outcome.map_examples(outcome.stored_figures(experiment, 1.0, outcome.evaluation_keys(seed)))(
            params, IMAGES[:40]
        )
        for seed in (outcome.EVALUATION_SEED, outcome.VALIDATION_SEED)
    ]
    drawn = [array for figures in each for array in (-figures["reconstruction"], figures["kl"])]
    assert np.abs(np.corrcoef(drawn) - np.eye(4)).max() < 5 / np.sqrt(40)


def noisy_report(params, key, x):
    terms = tiny.build(tiny.Settings()).objective(params, jax.random.clone(key), jnp.round(x))
    return terms._replace(log_likelihood=jax.random.normal(key, terms.log_likelihood.shape))


@pytest.mark.parametrize(
    ("prepare", "expected"),
    [
        (lambda key, images: data.to_unit(images, 16), (0, 1, 1)),
        (lambda key, images: jnp.asarray(images), (0, 16, 16)),
        (lambda key, images: 1 - data.to_unit(images, 16), (0, 1, 1)),
        (lambda key, images: 2 * data.to_unit(images, 16) - 1, (-1, 1, 2)),
        (lambda key, images: data.to_unit(images, 16) - 1, (-1, 0, 1)),
        (partial(data.binarize, max_value=16), (0, 1, 1)),
        (lambda key, images: images / jnp.std(jnp.asarray(images, jnp.float32)), (0, 1, 1)),
    ],
    ids=["unit", "levels", "inverse", "symmetric", "negative", "binary", "standardized"],
)
def test_shades_are_those_of_the_data_and_not_of_the_brightest_example(prepare, expected):
    assert outcome.shades_of(experiment_of(np.minimum(IMAGES, 3))._replace(prepare=prepare)) == expected


def test_real_numbers_have_shades_on_both_sides_of_0():
    experiment = experiment_of()._replace(prepare=lambda key, x: jnp.asarray(x))
    real = data.from_arrays(IMAGES.astype(np.float32) - 6)
    assert outcome.shades_of(experiment._replace(dataset=real)) == (-10, 10, 10)


def test_means_and_figures_are_of_the_same_x(whole):
    experiment = experiment_of()
    params = params_of_tiny()
    measured = outcome.measure(experiment, params)
    means = measured.means
    assert means.shape == (N, 3)
    chex.assert_trees_all_close(measured.figures, whole, rtol=1e-5)
    np.testing.assert_allclose(measured.kl_per_axis.sum(axis=1), whole["kl"], rtol=1e-4)
    keys = outcome.evaluation_keys()

    @jax.jit
    def errors_of(images, means):
        x = jax.vmap(partial(outcome.prepare_example, experiment, keys))(jnp.arange(N), images)
        return jnp.sum((x - experiment.model.decode(params, means).mean) ** 2, axis=(1, 2, 3))

    errors = errors_of(IMAGES, means)
    np.testing.assert_allclose(errors, whole["squared_error"], rtol=1e-4)


def test_a_validation_split_of_its_own_is_used_and_training_keeps_its_examples(monkeypatch):
    own = data.Split(np.concatenate([IMAGES, IMAGES])[::-1][:120])
    plain = experiment_of()
    given = plain._replace(dataset=plain.dataset._replace(validation=own))
    settings = tiny.Settings(training=Training(validation_size=20))
    assert settings.num_training(plain.dataset) == N - 20
    assert settings.num_training(given.dataset) == N
    held_out = plain._replace(dataset=data.hold_out(plain.dataset, 20))
    first = given._replace(dataset=plain.dataset._replace(validation=data.Split(own.examples[:20])))
    measured = []

    def measure(params, examples):
        measured.append(examples)
        return {"kl": np.float32([1.0, 2.0]), "negative_elbo": np.float32([5.0, 7.0])}

    monkeypatch.setattr(outcome, "map_examples", lambda function: measure)
    for each in (plain, given, held_out, first):
        figures = outcome.make_validation(each, settings)(None)
        # That which is watched is the first.
        assert list(figures.items()) == [("validation_negative_elbo", 6.0), ("validation_kl", 1.5)]
    # The last 20 training examples, or the first 20 of a validation split of its own.
    for examples, expected in zip(measured, [IMAGES[-20:], own.examples[:20]] * 2, strict=True):
        np.testing.assert_array_equal(examples, expected)
    too_many = tiny.Settings(training=Training(validation_size=121))
    with pytest.raises(ValueError, match=r"validation_size must be at most the 120 .*; got 121"):
        too_many.num_training(given.dataset)


def test_a_fingerprint_is_of_x_and_of_nothing_else():
    experiment = experiment_of()
    inverted = experiment._replace(prepare=lambda key, images: 1 - data.binarize(key, images, 16))
    fingerprints_of = lambda experiment: outcome.map_examples(
        lambda *each: outcome.stored_latents(experiment, outcome.evaluation_keys())(*each)["fingerprint"]
    )
    of_plain = fingerprints_of(experiment)
    first, second = (of_plain(params_of_tiny(scale), IMAGES) for scale in (0.5, 0.3))
    np.testing.assert_array_equal(first, second)
    assert len(np.unique(first)) == N
    assert not np.any(fingerprints_of(inverted)(params_of_tiny(), IMAGES) == first)


def test_a_fingerprint_changes_with_a_bit_a_place_and_a_sign():
    x = np.arange(1, 25, dtype=np.float32).reshape(4, 6)
    bit, place, sign = x.copy(), x.copy(), x.copy()
    bit[1, 2] += 2**-20
    place[0] = x[0, ::-1]
    sign[3, 3] *= -1
    compiled = jax.jit(outcome.fingerprint)
    assert len({int(compiled(each)) for each in (x, bit, place, sign, x + 1)}) == 5
