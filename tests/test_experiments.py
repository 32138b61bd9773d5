"""Every experiment at a small size: its step trains here, and is a program for every accelerator."""

import re
from functools import lru_cache
from pathlib import Path

import chex
import jax
import numpy as np
import pytest

from tests.parameters import random_params
from vaejax import data, experiment, program

ROOT = Path(__file__).parent.parent
SMALL = {"batch_size": 4, "hidden_sizes": (8,)}
# Settings of each experiment that make it small.
EXPERIMENTS = {
    "digits_ae": SMALL,
    "digits_vae": SMALL,
    "digits_vae_2d": SMALL,
    "dsprites_vae": SMALL,
    "vae": {**SMALL, "dataset": "mnist"},
    "mnist_aevb": SMALL,
    "mnist_iwae": {**SMALL, "num_samples": 2},
    "mnist_iwae_two_layers": {**SMALL, "num_samples": 2},
    "mnist_ladder": {**SMALL, "latent_size": 4, "upper_sizes": (3,), "hidden_sizes": (8, 6)},
    "mnist_vae": SMALL,
    "static_mnist_flow": {**SMALL, "flow_hidden_size": 8},
    "static_mnist_iwae": {**SMALL, "num_samples": 2},
    "static_mnist_planar_flow": {**SMALL, "flow_layers": 2},
    "static_mnist_vae": SMALL,
    "static_mnist_vamp": {**SMALL, "pseudo_inputs": 3},
    "static_mnist_vampprior": {**SMALL, "pseudo_inputs": 3, "hidden_sizes": (8, 6)},
    "static_mnist_vampprior_two_levels": {**SMALL, "pseudo_inputs": 3, "hidden_sizes": (8, 6)},
}
# Why some are only lowered in the fast tier.
SLOW = {
    "digits_vae": "the fixture finished_runs trains it",
    "digits_vae_2d": "digits_vae with two latents",
    "static_mnist_vae": "mnist_vae on other data",
    "static_mnist_iwae": "mnist_iwae on other data",
    "mnist_iwae_two_layers": "mnist_iwae with another layer",
    "mnist_ladder": "its bound is compiled in test_ladder_table",
    "static_mnist_planar_flow": "its bound is compiled in test_flow_table",
    "static_mnist_vampprior": "its bound is compiled in test_vampprior_table",
    "static_mnist_vampprior_two_levels": "static_mnist_vampprior with another level",
}
SHAPES = {"mnist": (28, 28, 1), "binarized_mnist": (28, 28, 1), "dsprites": (64, 64, 1)}
# Custom calls that say how arrays are sharded. Any other is a kernel that one platform has.
PORTABLE = {"Sharding", "SPMDFullToShardShape", "SPMDShardToFullShape"}


def test_there_is_a_small_size_of_every_experiment(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert set(experiment.experiment_names()) == set(EXPERIMENTS)


@pytest.fixture
def noise(monkeypatch):
    """Noise with the shape of each data set in its place."""
    load = data.load

    def load_noise(name, *arguments, **options):
        if name not in SHAPES:
            return load(name, *arguments, **options)
        random = np.random.default_rng(0)
        highest = 255 if name == "mnist" else 1
        images = lambda count: random.integers(0, highest + 1, (count, *SHAPES[name]), np.uint8)
        # Some hold out ten thousand.
        train, validation = (
            images(10_200 if name == "mnist" else 200),
            images(20) if name == "binarized_mnist" else None,
        )
        return data.from_arrays(train, test=images(20), validation=validation, max_value=highest, name=name)

    monkeypatch.setattr(data, "load", load_noise)


@lru_cache(maxsize=1)
def traced_step(name):
    """The train step of a small experiment, and a state and a batch to call it with."""
    module = experiment.load_experiment(str(ROOT / "experiments" / f"{name}.py"))
    settings = module.Settings(**EXPERIMENTS[name])
    built = module.build(settings)
    # Zeros but for the parameters: a program that draws them takes longer to compile than a step.
    shapes = jax.eval_shape(lambda: program.initial_state(built, settings))
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes._replace(params=(), key=()))
    state = state._replace(params=random_params(built.model, 0.05), key=jax.random.key(0))
    batch = np.asarray(built.dataset.train.examples[: settings.batch_size])
    return jax.jit(program.make_step(built, settings)).trace(state, batch), state, batch


@pytest.mark.usefixtures("noise")
@pytest.mark.parametrize("name", EXPERIMENTS, scope="module")
def test_every_experiment_lowers_for_every_accelerator(name):
    # One program for all: it holds what each platform has of its own.
    text = traced_step(name)[0].lower(lowering_platforms=("cuda", "tpu", "rocm")).as_text()
    assert set(re.findall(r"custom_call @(\w+)", text)) <= PORTABLE


@pytest.mark.usefixtures("noise")
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow(SLOW[name]) if name in SLOW else ()) for name in EXPERIMENTS],
    scope="module",  # next to the test above, with which it shares what is traced
)
def test_every_experiment_trains_two_steps(name):
    traced, state, batch = traced_step(name)
    step, before = traced.lower().compile(), state.params
    for _ in range(2):
        state, metrics = step(state, batch)
    assert state.step == 2
    assert state.skipped.total == 0
    chex.assert_tree_all_finite((state.params, metrics))
    moved = [not np.array_equal(*pair) for pair in zip(*map(jax.tree.leaves, (before, state.params)), strict=True)]
    assert any(moved)
