"""The recipe of Kingma and Welling's figure on MNIST."""

from pathlib import Path

import chex
import jax
import numpy as np
import pytest

from tests.parameters import random_params
from vaejax import data, experiment

ROOT = Path(__file__).parent.parent
aevb = experiment.load_experiment(str(ROOT / "experiments" / "mnist_aevb.py"))


@pytest.fixture
def built(monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (50, 4, 4, 1), np.uint8)
    dataset = data.Dataset("mnist", data.Split(images[:40]), data.Split(images[40:]), 255, data.Meaning.INTENSITY)
    monkeypatch.setattr(data, "load", lambda name, folder=None: dataset)
    return aevb.build(aevb.Settings(hidden_sizes=(200,), latent_size=3, batch_size=10))


@pytest.mark.slow("a table's recipe")
def test_all_parameters_begin_as_draws_of_one_normal(built, key):
    params = jax.jit(built.model.init)(key)
    leaves = jax.tree.leaves(params)
    drawn = np.concatenate([np.ravel(leaf) for leaf in leaves])
    assert abs(drawn.std() - 0.1) < 5 * 0.1 / np.sqrt(2 * drawn.size)
    assert all(np.any(leaf) for leaf in leaves)
    assert len({np.ravel(leaf)[:3].tobytes() for leaf in leaves}) == len(leaves)


def test_the_nets_are_of_tanh_and_the_bound_is_the_elbo(built, key):
    x = np.random.default_rng(1).integers(0, 2, (4, 4, 1)).astype(np.float32)

    params = random_params(built.model, 0.1)
    found = jax.tree.map(np.asarray, jax.jit(built.objective)(params, key, x))

    def apply(net, inputs):
        first, last = net["layers"][0], net["layers"][1]
        return np.tanh(inputs @ first["kernel"] + first["bias"]) @ last["kernel"] + last["bias"]

    mean, log_scale = apply(params["encoder"], x.ravel()).reshape(3, 2).T
    np.testing.assert_allclose(found.posterior.loc, mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.posterior.scale, np.exp(log_scale), rtol=1e-4)
    divergence = 0.5 * np.sum(mean**2 + np.exp(2 * log_scale) - 1 - 2 * log_scale)
    logits = apply(params["decoder"], found.latents)
    decoded = np.sum(x.ravel() * logits - np.logaddexp(0, logits), axis=-1).mean(0)
    np.testing.assert_allclose(found.value, decoded - divergence, rtol=1e-4)


def test_steps_are_those_of_adagrad_to_the_largest_posterior_of_the_parameters(built):
    """Against the update written out: with 40 training examples the prior's gradient is a 40th of the parameter."""
    ours = {"w": np.array([0.5, -2.0, 0.0], np.float32)}
    theirs, sums, state = np.array([0.5, -2.0, 0.0]), np.zeros(3), jax.jit(built.optimizer.init)(ours)
    update, random = jax.jit(built.optimizer.update), np.random.default_rng(0)
    for _ in range(4):
        gradient = random.normal(size=3).astype(np.float32)
        updates, state = update({"w": gradient}, state, ours)
        ours = {"w": ours["w"] + np.asarray(updates["w"])}
        g = np.asarray(gradient) + theirs / 40
        sums = sums + g**2
        theirs = theirs - 0.02 * g / np.sqrt(sums + 1e-7)
    chex.assert_trees_all_close(ours["w"], theirs.astype(np.float32), rtol=1e-4)


def test_another_optimizer_is_refused(built):
    with pytest.raises(ValueError, match="optimizer must be adagrad"):
        aevb.build(aevb.Settings(training=experiment.Training(optimizer="adam")))
