"""The nets, the annealed free energy and the optimizer of Rezende and Mohamed's table."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from vaejax import Normal, data, experiment

ROOT = Path(__file__).parent.parent
planar = experiment.load_experiment(str(ROOT / "experiments" / "static_mnist_planar_flow.py"))
SMALL = {"latent_size": 3, "hidden_sizes": (6,), "window": 2, "batch_size": 10}


@pytest.fixture
def x(monkeypatch):
    pixels = np.random.default_rng(0).binomial(1, 1 / 3, (60, 4, 4, 1)).astype(np.uint8)
    dataset = data.Dataset("binarized_mnist", data.Split(pixels[:40]), data.Split(pixels[40:]), max_value=1)
    monkeypatch.setattr(data, "load", lambda name, folder=None: dataset)
    return jnp.asarray(pixels[:7], jnp.float32)


def maxout(net, x):
    """The formula of Goodfellow et al. for two pieces each."""
    pieces = x @ net["hidden"]["kernel"] + net["hidden"]["bias"]
    return np.maximum(pieces[..., ::2], pieces[..., 1::2]) @ net["outputs"]["kernel"] + net["outputs"]["bias"]


def moved(raw, z):
    """The paper's equations 10 and 12 for what the encoder gives: the point and the sum of ln |det|."""
    total = 0.0
    for start in range(2, raw.shape[-1], 3):
        w, u, b = raw[..., start], raw[..., start + 1], raw[..., start + 2].mean(-1)
        inner = (w * u).sum(-1, keepdims=True)
        u = u + (np.log1p(np.exp(inner)) - 1 - inner) * w / (w**2).sum(-1, keepdims=True)
        t = (w * z).sum(-1) + b
        total = total + np.log(1 + (u * w).sum(-1) / np.cosh(t) ** 2)
        z = z + u * np.tanh(t)[..., None]
    return z, total


@pytest.mark.parametrize("count", [0, 2, 9])
def test_the_free_energy_is_that_of_the_paper(x, key, count):
    init_key, move_key, noise_key = jax.random.split(key, 3)
    built = planar.build(planar.Settings(flow_layers=count, num_samples=4, **SMALL))
    leaves, structure = jax.tree.flatten(built.model.init(init_key))
    # Far from the start, where a flow hardly moves.
    leaves = [
        leaf + 0.3 * jax.random.normal(jax.random.fold_in(move_key, number), leaf.shape)
        for number, leaf in enumerate(leaves)
    ]
    params = jax.tree.unflatten(structure, leaves)
    terms = built.objective(params, noise_key, x, weight=0.3)
    z, flat = np.asarray(terms.latents, np.float64), np.asarray(x, np.float64).reshape(7, 16)
    values = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    raw = maxout(values["encoder"], flat).reshape(7, 3, -1)
    assert raw.shape[-1] == 2 + 3 * count
    if count:
        first = np.asarray(terms.posterior.bijector.inverse(terms.latents)[0], np.float64)
    else:
        assert isinstance(terms.posterior, Normal)
        first = z
    last, log_det = moved(raw, first)
    np.testing.assert_allclose(last, z, atol=1e-4)
    log_q = stats.norm.logpdf(first, raw[..., 0], np.exp(raw[..., 1])).sum(-1) - log_det
    logits = maxout(values["decoder"], z)
    joint = (flat * logits - np.logaddexp(0, logits)).sum(-1) + stats.norm.logpdf(z).sum(-1)
    np.testing.assert_allclose(terms.value, (0.3 * joint - log_q).mean(0), rtol=1e-4)
    np.testing.assert_allclose(
        built.objective(params, jax.random.clone(noise_key), x).value, (joint - log_q).mean(0), rtol=1e-4
    )
    gradient = jax.grad(lambda params: jnp.sum(built.objective(params, jax.random.clone(noise_key), x).value))(params)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient))


def test_each_of_eighty_flows_begins_at_a_determinant_of_ln_2(x, key):
    built = planar.build(planar.Settings(**SMALL))
    terms = built.objective(built.model.init(key), jax.random.fold_in(key, 1), x)
    assert terms.posterior.bijector.bijectors[79].weight.shape == (7, 3)
    # sech^2 takes a part of it away again where a point is off the plane of a flow.
    assert np.all((terms.kl > -0.9 * 80 * np.log(np.log(2))) & (terms.kl < -80 * np.log(np.log(2)) + 1.0))


def test_the_weight_of_the_joint_density_rises_to_one(x):
    weight = planar.build(planar.Settings(**SMALL)).schedules["weight"]
    np.testing.assert_allclose(weight(jnp.array([0, 100, 5000, 9900, 50_000])), [0.01, 0.02, 0.51, 1.0, 1.0], rtol=1e-5)


def test_the_optimizer_is_rmsprop_with_momentum(x):
    optimizer = planar.build(planar.Settings(**SMALL)).optimizer
    gradients, w = [3.0, -1.0, 2.0], jnp.array(1.0)
    state, square, momentum = optimizer.init(w), 0.0, 0.0
    for gradient in gradients:
        update, state = optimizer.update(jnp.array(gradient), state, w)
        square = 0.9 * square + 0.1 * gradient**2
        momentum = 0.9 * momentum + gradient / np.sqrt(square)
        np.testing.assert_allclose(update, -1e-5 * momentum, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"training": experiment.Training()}, "optimizer must be rmsprop, which this is the recipe of; got adam"),
        ({"hidden_sizes": (8, 6)}, r"hidden_sizes must be one, that of the hidden layer; got \(8, 6\)"),
        ({"beta": 0.5}, "beta must be 1"),
        ({"flow_layers": -1}, "flow_layers must be"),
        ({"annealing_steps": 0}, "annealing_steps must be"),
        ({"window": 0}, "window must be"),
    ],
)
def test_what_is_not_the_recipe_is_refused(x, change, said):
    with pytest.raises(ValueError, match=said):
        planar.build(planar.Settings(**{**SMALL, **change}))
