import warnings
from functools import partial

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import vaejax
from vaejax import data, experiment, nets, program
from vaejax.settings import Settings, Training


def built(model, shape, **options):
    split = data.Split(np.zeros((128, *shape), np.uint8))

    def objective(params, key, x):
        return vaejax.elbo(key, x, partial(model.encode, params), partial(model.decode, params))

    dataset = data.Dataset("zeros", split, split, 1)
    return experiment.Experiment(
        dataset, model, partial(data.binarize, max_value=1), objective, optax.sgd(0.1), **options
    )


OTHER_SCALE = pytest.mark.slow("another likelihood or scale")
CONV = partial(nets.conv, (32, 32, 1), 2, channels=(32, 64))


@pytest.mark.parametrize(
    ("make", "options", "settings", "expected"),
    [
        # The first layer makes 128 x 16 x 16 x 32 numbers of four bytes: four times what is cached.
        (CONV, {}, {}, 4),
        (CONV, {}, {"batch_size": 16}, 1),
        (CONV, {}, {"batch_size": 96}, 3),
        # Divisors of 70 only.
        (CONV, {}, {"batch_size": 70}, 5),
        (CONV, {}, {"training": Training(micro_batches=2)}, 2),
        (CONV, {"couples_batch": True}, {}, 1),
        (partial(nets.mlp, (32, 32, 1), 2, hidden_sizes=(4096,)), {}, {}, 1),
    ],
)
def test_in_how_many_parts_a_batch_is_computed(make, options, settings, expected):
    trained, settings = built(make(), (32, 32, 1), **options), Settings(**settings)
    assert program.micro_batches(program.make_loss(trained), trained, settings) == expected


TABLE = np.random.default_rng(0).normal(size=(128, 3)).astype(np.float32)
HEADS = {
    "fixed": nets.heads.normal(),
    "learned": nets.heads.learned_normal(),
    "predicted": nets.heads.predicted_normal(),
    "missing": nets.heads.with_missing(nets.heads.learned_normal()),
}


@pytest.mark.parametrize(
    ("head", "scale", "warns"),
    [
        ("fixed", 1.0, False),
        ("learned", 2775.0, True),
        pytest.param("learned", 1e-4, True, marks=OTHER_SCALE),
        pytest.param("learned", 3.0, False, marks=OTHER_SCALE),
        pytest.param("predicted", 1e6, True, marks=OTHER_SCALE),
        pytest.param("missing", 2775.0, True, marks=OTHER_SCALE),
    ],
)
def test_real_numbers_far_from_the_scale_of_their_likelihood_are_warned_of(monkeypatch, head, scale, warns):
    """A table from -200 to 2,775 has losses of 1e15 that nothing trains."""
    monkeypatch.setattr(program, "check_step", lambda *_: None)
    trained = built(nets.mlp((3,), 2, hidden_sizes=(4,), likelihood=HEADS[head]), (3,))
    split = data.Split(np.where(TABLE > 2, np.nan, scale * TABLE) if head == "missing" else scale * TABLE)
    dataset = data.Dataset("table", split, split, 4 * scale, data.Meaning.REAL, missing=head == "missing")
    trained = trained._replace(dataset=dataset, prepare=lambda key, x: jnp.asarray(x, jnp.float32))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        program.check_fit(trained, Settings())
        assert ["data.standardize" in str(each.message) for each in caught] == [True] * warns
        # As soon as they are standardized, nothing is said.
        program.check_fit(trained._replace(prepare=data.standardize(split.examples)), Settings())
    assert len(caught) == warns


def test_elsewhere_than_on_a_cpu_a_batch_is_one_part(monkeypatch):
    monkeypatch.setattr(program.jax, "default_backend", lambda: "gpu")
    trained = built(CONV(), (32, 32, 1))
    assert program.micro_batches(program.make_loss(trained), trained, Settings()) == 1
