"""The experiment `vae` on data of any meaning: the likelihood that fits, its units, and what is missing."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

import vaejax
from tests.parameters import random_params
from vaejax import data, outcome, program, stages
from vaejax.data import Meaning
from vaejax.experiment import load_experiment
from vaejax.settings import settings_from
from vaejax.training import init_state

vae = load_experiment(str(Path(__file__).parent.parent / "experiments" / "vae.py"))
RANDOM = np.random.default_rng(0)
GREY = RANDOM.random((60, 4, 4, 1)).astype(np.float32)
UNITS, CENTRES = np.float32([1.0, 1000.0, 1e-3]), np.float32([0.0, 1287.0, 5.0])
TABLE = (CENTRES + UNITS * RANDOM.normal(size=(60, 3))).astype(np.float32)
COUNTS = RANDOM.poisson([1e6, 3.0, 0.0], (60, 3)).astype(np.int32)
KINDS = {
    "binary": (np.round(GREY), Meaning.BINARY, 1, vaejax.Bernoulli),
    "levels": (np.uint8(255 * GREY), Meaning.INTENSITY, 255, vaejax.DiscretizedLogistic),
    "levels as floats": (np.round(4095 * GREY), Meaning.INTENSITY, 4095, vaejax.DiscretizedLogistic),
    "shares of white": (GREY, Meaning.INTENSITY, 1, vaejax.ContinuousBernoulli),
    "0 and 1 that are grey": (np.round(GREY), Meaning.INTENSITY, 1, vaejax.ContinuousBernoulli),
    "floats up to 255": (255 * GREY, Meaning.INTENSITY, 255, vaejax.ContinuousBernoulli),
    "counts": (COUNTS, Meaning.COUNTS, COUNTS.max(), vaejax.NegativeBinomial),
    "real": (TABLE, Meaning.REAL, np.abs(TABLE).max(), vaejax.Normal),
    "a series": (TABLE.reshape(20, 3, 3), Meaning.REAL, np.abs(TABLE).max(), vaejax.Normal),
}
SETTINGS = {"latent_size": 2, "hidden_sizes": (5,), "batch_size": 10}


def build(monkeypatch, examples, meaning, max_value, **settings):
    """The experiment on examples, of which the last tenth is the test set."""
    train, test = data.Split(examples[: -len(examples) // 10]), data.Split(examples[-len(examples) // 10 :])
    missing = bool(np.isnan(examples).any())
    dataset = data.Dataset("some", train, test, float(max_value), meaning, missing=missing)
    monkeypatch.setattr(data, "load", lambda *_, **__: dataset)
    settings = vae.Settings(**SETTINGS | settings)
    return vae.build(settings), settings


def with_missing(examples):
    holes = RANDOM.random(examples.shape) < 0.3
    return np.where(holes, np.nan, examples).astype(np.float32)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_likelihood_fits_the_meaning(monkeypatch, kind, missing):
    """`check_fit` compares the values with its support; nothing is compiled."""
    examples, meaning, max_value, expected = KINDS[kind]
    built, settings = build(monkeypatch, with_missing(examples) if missing else examples, meaning, max_value)
    params = jax.eval_shape(built.model.init, jax.random.key(0))
    decode = lambda params: built.model.decode(params, np.zeros((7, 2), np.float32))
    p = jax.eval_shape(decode, params)
    assert isinstance(p, vaejax.Masked) is missing
    assert isinstance(p.base if missing else p, expected)
    assert jax.eval_shape(lambda params: decode(params).mean, params).shape == (7, *built.dataset.shape)
    monkeypatch.setattr(program, "check_step", lambda *_: None)
    program.check_fit(built, settings)


def test_levels_are_seen_in_every_split():
    split = lambda value: data.Split(np.full((3, 2), value, np.float32))
    dataset = data.Dataset("some", split(1.0), split(1.5), 255.0, Meaning.INTENSITY)
    assert not vae.has_levels(dataset)
    assert vae.has_levels(dataset._replace(test=split(np.nan)))
    assert not vae.has_levels(dataset._replace(test=split(2.0), max_value=254.5))
    lazy = data.Lazy(lambda rows: np.ones((len(rows), 2)), (3, 2), np.dtype(np.float32), "ones")
    assert not vae.has_levels(dataset._replace(test=data.Split(lazy)))


def test_real_numbers_are_standardized_by_what_is_trained_on(monkeypatch):
    """In the units of the data, whatever they are: a test set or validation examples do not move them."""
    far = np.concatenate([TABLE, TABLE[-20:] + 1e6])
    built, _ = build(monkeypatch, far, Meaning.REAL, 2e6, training=vae.experiment.Training(validation_size=12))
    params = jax.tree.map(lambda leaf: 0 * leaf, random_params(built.model, 0.1))
    p = built.model.decode(params, np.zeros(2, np.float32))
    np.testing.assert_allclose(p.mean, TABLE.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(p.scale, TABLE.std(axis=0), rtol=1e-4)


def test_counts_begin_at_their_means(monkeypatch):
    """Of a million, too, which the bound on what a net gives out would keep away."""
    built, _ = build(monkeypatch, COUNTS, Meaning.COUNTS, COUNTS.max())
    params = jax.tree.map(lambda leaf: 0 * leaf, random_params(built.model, 0.1))
    mean = built.model.decode(params, np.zeros(2, np.float32)).mean
    np.testing.assert_allclose(mean, [*COUNTS[:54].mean(axis=0)[:2], 1 / 54], rtol=1e-4)


def test_what_is_missing_is_in_no_figure(monkeypatch):
    examples = with_missing(TABLE)
    built, _ = build(monkeypatch, examples, Meaning.REAL, np.nanmax(np.abs(examples)))
    params, x = random_params(built.model, 0.1), examples[:3]

    @jax.jit
    def figures(x):
        z = built.model.encode(params, x).mean
        figures = outcome.example_figures(built, 10.0)
        each = jax.vmap(lambda x: figures(params, jax.random.key(0), x))(x)
        return each, built.model.decode(params, z).mean

    found, mean = figures(x)
    np.testing.assert_allclose(found["squared_error"], np.nansum(((x - mean) / 10) ** 2, axis=1), rtol=1e-4)
    assert all(np.isfinite(each).all() for each in found.values())


def test_a_step_on_missing_numbers_is_finite_in_all_its_stages(monkeypatch):
    examples = with_missing(TABLE)
    built, settings = build(monkeypatch, examples, Meaning.REAL, np.nanmax(np.abs(examples)))
    state = init_state(jax.random.key(1), random_params(built.model, 0.1), built.optimizer)
    first = stages.take_apart(built, settings, state, (3, 1, 4))
    for name in ("parameters", "images", "x"):
        assert (stage := next(first)).name == name
        assert stage.is_finite
    built.dataset.train.examples[1, 0] = np.inf
    assert [
        each.examples for each in stages.take_apart(built, settings, state, (3, 1, 4)) if each.name == "images"
    ] == [(1,)]


def test_settings_come_back_from_json_as_they_were():
    settings = vae.Settings(meaning=Meaning.COUNTS, max_value=9.0, axes="NHW")
    there = json.loads(json.dumps(vae.dataclasses.asdict(settings)))
    assert settings_from(vae.Settings, there) == settings
    assert settings_from(vae.Settings, there).meaning is Meaning.COUNTS
    assert settings_from(vae.Settings, there | {"meaning": None}).meaning is None
    with pytest.raises(ValueError, match="'grey' is not a valid Meaning"):
        settings_from(vae.Settings, there | {"meaning": "grey"})
