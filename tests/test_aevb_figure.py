"""The recipe of Kingma and Welling's figure on MNIST."""

from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import vaejax
from vaejax import data, experiment

ROOT = Path(__file__).parent.parent
aevb = experiment.load_experiment(str(ROOT / "experiments" / "mnist_aevb.py"))


@pytest.fixture
def built(monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (50, 4, 4, 1), np.uint8)
    dataset = data.Dataset("mnist", data.Split(images[:40]), data.Split(images[40:]), 255, data.Meaning.INTENSITY)
    monkeypatch.setattr(data, "load", lambda name, folder=None: dataset)
    return aevb.build(aevb.Settings(hidden_sizes=(200,), latent_size=3, batch_size=10))


def test_all_parameters_begin_as_draws_of_one_normal(built, key):
    params = built.model.init(key)
    leaves = jax.tree.leaves(params)
    drawn = np.concatenate([np.ravel(leaf) for leaf in leaves])
    assert abs(drawn.std() - 0.1) < 5 * 0.1 / np.sqrt(2 * drawn.size)
    assert all(np.any(leaf) for leaf in leaves)
    assert len({np.ravel(leaf)[:3].tobytes() for leaf in leaves}) == len(leaves)


def test_the_nets_are_of_tanh_and_the_bound_is_the_elbo(built, key):
    init_key, noise_key = jax.random.split(key)
    params = built.model.init(init_key)
    x = jnp.asarray(np.random.default_rng(1).integers(0, 2, (4, 4, 1)), jnp.float32)
    first, last = params["encoder"]["layers"][0], params["encoder"]["layers"][1]
    raw = jnp.tanh(x.ravel() @ first["kernel"] + first["bias"]) @ last["kernel"] + last["bias"]
    np.testing.assert_allclose(built.model.encode(params, x).mean, raw.reshape(3, 2)[:, 0], rtol=1e-4, atol=1e-5)
    found = built.objective(params, noise_key, x)
    divergence = vaejax.kl_divergence(found.posterior, vaejax.standard_normal.expand((3,)))
    decoded = built.model.decode(params, found.latents).log_prob(x).mean(0)
    np.testing.assert_allclose(found.value, decoded - divergence, rtol=1e-5)


def test_steps_are_those_of_adagrad_to_the_largest_posterior_of_the_parameters(built, key):
    """Against the update written out: with 40 training examples the prior's gradient is a 40th of the parameter."""
    ours = {"w": jnp.array([0.5, -2.0, 0.0])}
    theirs, sums, state = np.array([0.5, -2.0, 0.0]), np.zeros(3), built.optimizer.init(ours)
    for step in range(4):
        gradient = jax.random.normal(jax.random.fold_in(key, step), (3,))
        updates, state = built.optimizer.update({"w": gradient}, state, ours)
        ours = optax.apply_updates(ours, updates)
        g = np.asarray(gradient) + theirs / 40
        sums = sums + g**2
        theirs = theirs - 0.02 * g / np.sqrt(sums + 1e-7)
    chex.assert_trees_all_close(ours["w"], theirs.astype(np.float32), rtol=1e-4)


def test_another_optimizer_is_refused(built):
    with pytest.raises(ValueError, match="optimizer must be adagrad"):
        aevb.build(aevb.Settings(training=experiment.Training(optimizer="adam")))
