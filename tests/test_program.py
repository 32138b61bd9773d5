from functools import partial

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


def test_elsewhere_than_on_a_cpu_a_batch_is_one_part(monkeypatch):
    monkeypatch.setattr(program.jax, "default_backend", lambda: "gpu")
    trained = built(CONV(), (32, 32, 1))
    assert program.micro_batches(program.make_loss(trained), trained, Settings()) == 1
