"""The nets, the annealed free energy and the optimizer of Rezende and Mohamed's table."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from tests.parameters import random_params
from vaejax import Normal, data, experiment

ROOT = Path(__file__).parent.parent
planar = experiment.load_experiment(str(ROOT / "experiments" / "static_mnist_planar_flow.py"))
SMALL = {"latent_size": 3, "hidden_sizes": (6,), "window": 2, "batch_size": 10}


@pytest.fixture
def x(monkeypatch):
    pixels = np.random.default_rng(0).binomial(1, 1 / 3, (60, 4, 4, 1)).astype(np.uint8)
    dataset = data.Dataset("binarized_mnist", data.Split(pixels[:40]), data.Split(pixels[40:]), max_value=1)
    monkeypatch.setattr(data, "load", lambda name, folder=None: dataset)
    return pixels[:7].astype(np.float32)


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


@pytest.mark.parametrize("count", [0, 2, pytest.param(9, marks=pytest.mark.slow("a longer flow"))])
def test_the_free_energy_is_that_of_the_paper(x, key, count):
    built = planar.build(planar.Settings(flow_layers=count, num_samples=4, **SMALL))
    # Far from the start, where a flow hardly moves.
    params = random_params(built.model, 0.4)

    @jax.jit
    def compute(params, weights):
        terms = jax.vmap(lambda weight: built.objective(params, jax.random.clone(key), x, weight=weight))(weights)
        posterior, z = jax.tree.map(lambda leaf: leaf[0], (terms.posterior, terms.latents))
        assert count or isinstance(posterior, Normal)
        return terms.value, posterior.bijector.inverse(z)[0] if count else z, z

    values, first, z = jax.tree.map(
        lambda leaf: np.asarray(leaf, np.float64), compute(params, np.array([0.3, 1.0], np.float32))
    )
    params = jax.tree.map(lambda leaf: leaf.astype(np.float64), params)
    flat = x.astype(np.float64).reshape(7, 16)
    raw = maxout(params["encoder"], flat).reshape(7, 3, -1)
    assert raw.shape[-1] == 2 + 3 * count
    last, log_det = moved(raw, first)
    np.testing.assert_allclose(last, z, atol=1e-4)
    log_q = stats.norm.logpdf(first, raw[..., 0], np.exp(raw[..., 1])).sum(-1) - log_det
    logits = maxout(params["decoder"], z)
    joint = (flat * logits - np.logaddexp(0, logits)).sum(-1) + stats.norm.logpdf(z).sum(-1)
    np.testing.assert_allclose(values[0], (0.3 * joint - log_q).mean(0), rtol=1e-4)
    np.testing.assert_allclose(values[1], (joint - log_q).mean(0), rtol=1e-4)


@pytest.mark.slow("compiles the gradient of a bound that is tested without it")
@pytest.mark.parametrize("count", [0, 2, 9])
def test_every_parameter_has_a_gradient(x, key, count):
    built = planar.build(planar.Settings(flow_layers=count, num_samples=4, **SMALL))
    energy = lambda params: jnp.sum(built.objective(params, key, x, weight=1.0).value)
    gradient = jax.jit(jax.grad(energy))(random_params(built.model, 0.4))
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient))


@pytest.mark.slow("a fact of the table's recipe")
@pytest.mark.parametrize("count", [8, 80])
def test_each_flow_begins_at_a_determinant_of_ln_2(x, key, count):
    built = planar.build(planar.Settings(**SMALL, flow_layers=count))

    @jax.jit
    def compute(key):
        init_key, noise_key = jax.random.split(key)
        terms = built.objective(built.model.init(init_key), noise_key, x)
        return terms, -terms.posterior.bijector.inverse(terms.latents[0])[1]

    terms, minus_log_det = compute(key)
    assert terms.posterior.bijector.bijectors[count - 1].weight.shape == (7, 3)
    whole = -count * np.log(np.log(2))
    # sech^2 takes a part of it away again where a point is off the plane of a flow.
    assert np.all((minus_log_det > 0.9 * whole) & (minus_log_det <= 1.0001 * whole))
    if count == 80:
        assert np.all((terms.kl > 0.9 * whole) & (terms.kl < whole + 1.0))


def test_the_weight_of_the_joint_density_rises_to_one(x):
    weight = planar.build(planar.Settings(**SMALL)).schedules["weight"]
    steps = np.array([0, 100, 5000, 9900, 50_000])
    np.testing.assert_allclose(jax.jit(weight)(steps), [0.01, 0.02, 0.51, 1.0, 1.0], rtol=1e-5)


def test_the_optimizer_is_rmsprop_with_momentum(x):
    optimizer = planar.build(planar.Settings(**SMALL)).optimizer
    state, square, momentum = jax.jit(optimizer.init)(np.float32(1.0)), 0.0, 0.0
    compiled = jax.jit(optimizer.update)
    for gradient in (3.0, -1.0, 2.0):
        update, state = compiled(np.float32(gradient), state, np.float32(1.0))
        square = 0.9 * square + 0.1 * gradient**2
        momentum = 0.9 * momentum + gradient / np.sqrt(square)
        np.testing.assert_allclose(update, -1e-5 * momentum, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"training": experiment.Training()}, "optimizer must be rmsprop.*adam"),
        ({"hidden_sizes": (8, 6)}, r"hidden_sizes must be one.*\(8, 6\)"),
        ({"beta": 0.5}, "beta must be 1"),
        ({"flow_layers": -1}, "flow_layers must be"),
        ({"annealing_steps": 0}, "annealing_steps must be"),
        ({"window": 0}, "window must be"),
    ],
)
def test_what_is_not_the_recipe_is_refused(x, change, said):
    with pytest.raises(ValueError, match=said):
        planar.build(planar.Settings(**{**SMALL, **change}))
